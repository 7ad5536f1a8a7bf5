"""Shards whose every image shows its own label, so that a wrong pair is seen."""

import io
import os
import tarfile
from collections import deque
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import _utils
from torch.utils.data._utils.worker import WorkerInfo

from torchaug_gen.shards.index import index_folder

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


def make_shards(folder: Path, sizes, index=False):
    """Write shards of these sizes with the labels 0, 1, 2, …; return their paths."""
    folder.mkdir(exist_ok=True, parents=True)
    label, paths = 0, []
    for number, size in enumerate(sizes):
        path = folder / f"{number:03d}.tar"
        path.write_bytes(tar([file for at in range(label, label + size) for file in sample(at)]))
        paths.append(path)
        label += size
    if index:
        index_folder(folder)
    return paths


@contextmanager
def consumer(worker=0, workers=0, rank=0, ranks=1):
    """Make this process look like a worker of a rank; without workers, like the rank itself."""
    kept = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks))
    if workers:
        _utils.worker._worker_info = WorkerInfo(id=worker, num_workers=workers, seed=worker, dataset=None)
    try:
        yield
    finally:
        _utils.worker._worker_info = None
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def rank_items(make, *, workers, batch_size, rank=0, ranks=1, states=None, batches=None):
    """What a DataLoader of one rank delivers, with the state of each worker's stream: a worker's turn is a batch."""
    streams, iterators, items = [], [], []
    for worker in range(max(workers, 1)):
        with consumer(worker, workers, rank, ranks):
            streams.append(make())
            if states is not None and states[worker] is not None:
                streams[-1].load_state_dict(states[worker])
            iterators.append(iter(streams[-1]))
    turns, told = deque(range(len(streams))), [None] * len(streams)
    while turns and (batches is None or batches > 0):
        worker = turns.popleft()
        with consumer(worker, workers, rank, ranks):
            batch = list(islice(iterators[worker], batch_size))
            told[worker] = streams[worker].state_dict()
        items += batch
        batches = None if batches is None else batches - bool(batch)
        if len(batch) == batch_size:
            turns.append(worker)
    return items, told


def labels_of(items):
    """The labels of (image, label, key, url) items, each checked against what its image shows and its key says."""
    labels = []
    for image, label, key, _ in items:
        assert shown(image) == label == int(key)
        labels.append(label)
    return labels
