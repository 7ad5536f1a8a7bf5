"""Damaged shards by the thousand: never a wrong pair, a hang or a crash."""

import gzip
import warnings
from collections import Counter

import numpy as np
import pytest
from shard_files import FIELDS, sample, shown, tar

from torchaug_gen.shards.index import index_folder
from torchaug_gen.shards.stream import ShardStream

KINDS = ("bits", "lost", "doubled", "swapped", "cut", "zeros", "noise", "inserted", "header", "gzip")
FIRST, COUNT = 300, 4
# The other shard has the same keys and other labels, so that blending would show.
ONE = tar([file for label in range(COUNT) for file in sample(label, key=f"{label + FIRST:06d}")])
OTHER = tar([file for label in range(FIRST, FIRST + COUNT) for file in sample(label)])
BLOCKS = len(ONE.rstrip(b"\0")) // 512 + 3
# Nothing in a tar archive tells when the digits of a label change.
LABELS = {ONE.rfind(b".cls", 0, at * 512) // 512 + 1 for at in range(1, BLOCKS)}
HEADERS = {at for at in range(BLOCKS) if ONE[at * 512 + 257 : at * 512 + 262] == b"ustar"}


def damage(content, kind, generator, spare=LABELS):
    """Return an archive with one kind of damage anywhere but in the blocks to spare."""
    # Two headers that change places make another archive, in which nothing is wrong.
    spare = {*spare, *HEADERS} if kind == "swapped" and spare else spare
    places = [at for at in range(BLOCKS) if at not in spare]
    first, second = (int(at) * 512 for at in generator.choice(places, size=2, replace=False))
    damaged = bytearray(content)
    match kind:
        case "bits":
            for at in (first, second):
                damaged[at + int(generator.integers(512))] ^= 1 << int(generator.integers(8))
        case "lost":
            del damaged[first : first + 512]
        case "doubled":
            damaged[first:first] = damaged[first : first + 512]
        case "swapped":
            damaged[first : first + 512], damaged[second : second + 512] = (
                content[second : second + 512],
                content[first : first + 512],
            )
        case "cut":
            del damaged[first + int(generator.integers(512)) :]
        case "zeros":
            damaged[first : first + 512] = bytes(512)
        case "noise":
            damaged[first : first + 512] = generator.bytes(512)
        case "inserted":
            damaged[first:first] = generator.bytes(int(generator.integers(1, 1500)))
        case "header":
            # A number, a kind or a name in a header, with a checksum that fits again.
            at = int(generator.choice(sorted(HEADERS))) * 512
            field = ((124, 12), (156, 1), (0, 8), (345, 20))[int(generator.integers(4))]
            damaged[at + field[0] + int(generator.integers(field[1]))] = int(generator.integers(256))
            damaged[at + 148 : at + 156] = b" " * 8
            damaged[at + 148 : at + 156] = f"{sum(damaged[at : at + 512]):06o}\0 ".encode()
        case "gzip":
            damaged = bytearray(gzip.compress(content, 1, mtime=0))
            for at in generator.integers(len(damaged), size=2).tolist():
                damaged[at] ^= 1 << int(generator.integers(8))
    return bytes(damaged)


def check(folder, kind, generator, delivered):
    (folder / "0.tar").write_bytes(damage(ONE, kind, generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = ShardStream(folder, fields=FIELDS, shuffle=int(generator.integers(3)), index=None)
        for image, label, key, url in stream:
            damaged = url.endswith("0.tar")
            name = int(key) - (FIRST if damaged else 0)
            # A name with a checksum that fits can be any name; the pair must be one all the same.
            assert shown(image) == label and (kind == "header" or label == name)
            delivered[damaged] += 1


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_thousand_damaged_shards_none_pairs_an_image_with_another_label(tmp_path, kind):
    trials(tmp_path, kind, seed=7, count=1000 // len(KINDS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_of_ten_thousand_none_does(tmp_path, kind):
    trials(tmp_path, kind, seed=11, count=10_000 // len(KINDS))


def trials(tmp_path, kind, *, seed, count):
    generator, delivered = np.random.default_rng(seed), Counter()
    (tmp_path / "1.tar").write_bytes(OTHER)
    for _ in range(count):
        check(tmp_path, kind, generator, delivered)
    # Of the whole shard all comes, and of the damaged ones something, but not all.
    assert delivered[False] == count * COUNT
    assert delivered[True] < count * COUNT and (delivered[True] or kind == "gzip")


@pytest.mark.parametrize("kind", ["bits", "swapped", "zeros", "noise", "header"])
def test_with_an_index_not_even_a_label_changes(tmp_path, kind):
    (tmp_path / "0.tar").write_bytes(ONE)
    (tmp_path / "1.tar").write_bytes(OTHER)
    index_folder(tmp_path)
    generator, lost = np.random.default_rng(5), 0
    for _ in range(40):
        (tmp_path / "0.tar").write_bytes(damage(ONE, kind, generator, spare=()))
        stream = ShardStream(tmp_path, fields=FIELDS, shuffle=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            items = list(stream)
        for image, label, key, url in items:
            assert shown(image) == label == int(key) - (FIRST if url.endswith("0.tar") else 0)
        assert len(items) + stream.stats["checksum"] == 2 * COUNT
        lost += stream.stats["checksum"]
    # A tar header says nothing that the index does not say as well.
    assert lost == 0 if kind == "header" else lost > 5
