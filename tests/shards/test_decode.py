import io
import json
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import encoded, sample, tar

from torchaug_gen.shards.decode import MAX_PIXELS, UndecodableError, decode
from torchaug_gen.shards.stream import ShardStream

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
RGB, RGBA = Image.fromarray(PIXELS[..., :3]), Image.fromarray(PIXELS)
GREY, GREY_ALPHA = Image.fromarray(PIXELS[..., 0]), Image.fromarray(PIXELS[..., :2].copy(), "LA")
PALETTE = RGB.convert("P", palette=Image.Palette.ADAPTIVE)


@pytest.mark.parametrize(
    ("image", "form", "mode"),
    [
        (RGB, "PNG", "RGB"),
        (RGBA, "PNG", "RGB"),
        (GREY, "PNG", "L"),
        (GREY_ALPHA, "PNG", "L"),
        (PALETTE, "PNG", "RGB"),
        (GREY.convert("1"), "PNG", "L"),
        (RGB, "JPEG", "RGB"),
        (GREY, "JPEG", "L"),
        (Image.fromarray(PIXELS, "CMYK"), "JPEG", "RGB"),
        (RGB, "WEBP", "RGB"),
        (RGBA, "WEBP", "RGB"),
        (PALETTE, "GIF", "RGB"),
    ],
)
def test_images_are_what_pillow_says(image, form, mode):
    content = encoded(image, form)
    expected = np.atleast_3d(np.asarray(Image.open(io.BytesIO(content)).convert(mode))).transpose(2, 0, 1)
    # The extension may be wrong, as it often is; content decides.
    for extension in ("jpg", "png", "seg.webp"):
        found = decode(extension, content)
        assert found.dtype is torch.uint8 and tuple(found.shape) == expected.shape
        # Libraries round the inverse cosine transform of a JPEG differently.
        assert np.abs(found.numpy().astype(int) - expected).max() <= (2 if form == "JPEG" else 0)


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(PIXELS[..., channel]) for channel in range(3)]
    assert decode("gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).shape == (3, 9, 7)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_damaged_images_raise_or_decode_but_never_crash(form):
    content = encoded(Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)), form)
    generator = np.random.default_rng(2)
    refused = 0
    for trial in range(100):
        damaged = bytearray(content)
        for at in generator.integers(0, len(damaged) if trial % 2 else 64, 3):
            damaged[at] ^= 1 << int(generator.integers(8))
        try:
            decode("png", bytes(damaged))
        except UndecodableError as error:
            assert error.kind == "image"
            refused += 1
    assert refused == 100 if form == "PNG" else refused > 0
    for length in (0, 1, 5, 40, len(content) // 2):
        with pytest.raises(UndecodableError):
            decode("png", content[:length])


def test_sixteen_bits_are_refused_by_name():
    with pytest.raises(UndecodableError, match="16-bit PNG"):
        decode("png", encoded(np.zeros((4, 4), np.uint16)))


def test_headers_that_claim_too_many_pixels_are_refused_before_decoding():
    png = bytearray(encoded(RGB))
    png[16:24] = struct.pack(">II", 30_000, 30_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    jpeg = bytearray(encoded(RGB, "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    for content in (png, jpeg):
        with pytest.raises(UndecodableError, match=rf"pixels: images must have at most {MAX_PIXELS}|exceeds limit"):
            decode("jpg", bytes(content))


def test_other_fields():
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    stream = io.BytesIO()
    np.save(stream, array)
    assert decode("cls", b" 17\n") == 17 and decode("id", b"-3") == -3
    assert decode("json", json.dumps({"a": [1, None]}).encode()) == {"a": [1, None]}
    assert decode("txt", "grün".encode()) == "grün"
    assert decode("npy", stream.getvalue()).equal(torch.arange(6, dtype=torch.int32).reshape(2, 3))
    assert decode("bin", b"\0\1") == b"\0\1"


def test_arrays_of_python_objects_are_refused():
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UndecodableError) as caught:
        decode("npy", stream.getvalue())
    assert caught.value.kind == "data"


@pytest.mark.parametrize(
    ("extension", "content", "kind"),
    [
        ("cls", b"", "label"),
        ("cls", b"cat", "label"),
        ("cls", b"1.0", "label"),
        ("cls", b"1_0", "label"),
        ("cls", "١".encode(), "label"),
        ("cls", b"9" * 19, "label"),
        ("json", b"{", "data"),
        ("json", b"[" * 100_000, "data"),
        ("txt", b"\xff", "data"),
        ("npy", b"\x93NUMPY", "data"),
    ],
)
def test_other_damage_has_a_kind(extension, content, kind):
    with pytest.raises(UndecodableError) as caught:
        decode(extension, content)
    assert caught.value.kind == kind


def test_a_stream_of_images_has_their_decoder_before_workers_start(tmp_path, monkeypatch):
    # Workers are forked in each epoch: what the process has not imported, each of them imports anew.
    (tmp_path / "0.tar").write_bytes(tar(sample(1)))
    monkeypatch.delitem(sys.modules, "torchvision.io")
    ShardStream(tmp_path, fields=("cls", "seg.npy"))
    assert "torchvision.io" not in sys.modules
    ShardStream(tmp_path, fields=("cls", "mask.jpg;png"))
    assert "torchvision.io" in sys.modules
