"""Shards whose every image shows its own label, so that a wrong pair is seen."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FIELDS = ("png", "cls", "__key__", "__url__")


def picture(label):
    """A small image that holds its label in each pixel."""
    pixels = np.empty((20, 18, 3), np.uint8)
    pixels[:] = (label % 256, label // 256, 77)
    return pixels


def shown(image):
    """The label that an image holds."""
    assert image.dtype is torch.uint8
    red, green, blue = image.flatten(1).unbind(0)
    assert len(red.unique()) == len(green.unique()) == 1 and bool((blue == 77).all())
    return int(red[0]) + 256 * int(green[0])


def encoded(pixels, form="PNG", **options):
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, form, **options)
    return stream.getvalue()


def tar(files, **options):
    """A tar archive of (name, content) pairs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def sample(label, key=None):
    # Not compressed, an image fills three blocks of an archive.
    key = f"{label:06d}" if key is None else key
    return [(f"{key}.cls", str(label).encode()), (f"{key}.png", encoded(picture(label), compress_level=0))]


def make_shards(folder: Path, sizes):
    """Write shards of these sizes with the labels 0, 1, 2, …; return their paths."""
    folder.mkdir(exist_ok=True)
    label, paths = 0, []
    for number, size in enumerate(sizes):
        path = folder / f"{number:03d}.tar"
        path.write_bytes(tar([file for at in range(label, label + size) for file in sample(at)]))
        paths.append(path)
        label += size
    return paths


def labels_of(items):
    """The labels of (image, label, key, url) items, each checked against what its image shows and its key says."""
    labels = []
    for image, label, key, _ in items:
        assert shown(image) == label == int(key)
        labels.append(label)
    return labels
