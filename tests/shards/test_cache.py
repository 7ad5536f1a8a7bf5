import multiprocessing
import os
import threading
import time

import pytest
from faulty_server import serving
from shard_files import FIELDS, labels_of, make_shards

from torchaug_gen.shards.cache import ShardCache
from torchaug_gen.shards.stream import ShardStream


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("torchaug_gen.shards.web.BACKOFF_S", 0.01)


def copies(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def asked(faults):
    return [path for path, *_ in faults.log if path.endswith(".tar")]


@pytest.mark.parametrize("index", ["auto", None])
def test_shards_of_one_name_do_not_collide_and_are_fetched_once(tmp_path, index):
    make_shards(tmp_path / "www" / "train", [3], index=True)
    make_shards(tmp_path / "www" / "val", [5], index=True)
    with serving(tmp_path / "www") as (url, faults):
        for _ in range(2):
            for folder, count in (("train", 3), ("val", 5)):
                options = {"fields": FIELDS, "cache_dir": tmp_path / "cache", "index": index, "on_error": "raise"}
                assert sorted(labels_of(ShardStream(f"{url}/{folder}/000.tar", **options))) == list(range(count))
        assert len(asked(faults)) == 2
    names = copies(tmp_path / "cache")
    assert len(names) == 2 and all(name.endswith("-000.tar") for name in names)


def test_names_are_harmless(tmp_path):
    make_shards(tmp_path / "www", [2])
    cache = ShardCache(tmp_path / "cache", 10**9)
    url = f"memory://x/{'long' * 100}/..%2f..%2f$(rm).tar?token=secret"
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe(url.removeprefix("memory:/"), b"content")
    try:
        with cache.open(url, None) as file:
            assert file.read() == b"content"
    finally:
        store.rm("/x", recursive=True)
    (name,) = copies(tmp_path / "cache")
    assert len(name) < 110 and "secret" not in name and not set(name) & set("/$%()? ")


def test_its_size_is_bounded_and_what_was_used_last_stays(tmp_path):
    paths = make_shards(tmp_path / "www", [4] * 5, index=True)
    size = paths[0].stat().st_size
    with serving(tmp_path / "www") as (url, faults):
        for index in ("auto", None):
            folder = tmp_path / f"cache {index}"
            cache_gib = (size * 2.5) / (1 << 30)
            options = {"fields": FIELDS, "cache_dir": folder, "cache_gib": cache_gib, "index": index}
            stream = ShardStream(f"{url}/00{{0..4}}.tar", shuffle=0, on_error="raise", **options)
            assert labels_of(stream) == list(range(20))
            kept = sorted(name[-7:-4] for name in copies(folder))
            # With an index, several are fetched at a time.
            assert kept == ["003", "004"] if index is None else len(kept) == 2
            list(ShardStream(f"{url}/004.tar", on_error="raise", **options))
            faults.log.clear()
            last = ShardStream(f"{url}/004.tar", on_error="raise", **options)
            assert len(labels_of(last)) == 4 and not asked(faults)
            small = {**options, "cache_gib": size / 2 / (1 << 30)}
            gone = next(name for name in ("000", "001", "002") if name not in kept)
            with pytest.raises(ValueError, match="does not fit in cache_dir"):
                list(ShardStream(f"{url}/{gone}.tar", on_error="raise", **small))


def test_a_copy_that_is_not_what_was_indexed_is_not_kept(tmp_path):
    paths = make_shards(tmp_path / "www", [4], index=True)
    content = bytearray(paths[0].read_bytes())
    content[-1] ^= 1
    paths[0].write_bytes(content)
    with serving(tmp_path / "www") as (url, _):
        stream = ShardStream(f"{url}/000.tar", fields=FIELDS, cache_dir=tmp_path / "cache", on_error="raise")
        with pytest.raises(ValueError, match="SHA-256 differs"):
            list(stream)
    assert copies(tmp_path / "cache") == []


def test_a_download_that_breaks_leaves_nothing_behind(tmp_path):
    make_shards(tmp_path / "www", [4], index=True)
    with serving(tmp_path / "www") as (url, faults):
        stream = ShardStream(f"{url}/000.tar", fields=FIELDS, cache_dir=tmp_path / "cache", on_error="raise")
        faults.rules.update({"cut": 10**6, "no ranges": True})
        with pytest.raises(ValueError, match="shard http"):
            list(stream)
        assert not [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".lock")]  # noqa: PTH208
        faults.rules["cut"] = 0
        assert len(list(stream)) == 4


def _read(url, folder, found):
    stream = ShardStream(f"{url}/00{{0..2}}.tar", fields=FIELDS, cache_dir=folder, on_error="raise")
    found.put(sorted(labels_of(stream)))


@pytest.mark.parametrize("index", [True, False])
def test_processes_share_it_and_fetch_each_shard_once(tmp_path, index):
    make_shards(tmp_path / "www", [3, 3, 3], index=index)
    context = multiprocessing.get_context("fork")
    with serving(tmp_path / "www") as (url, faults):
        faults.rules["slow"] = 0.01
        found = context.Queue()
        readers = [context.Process(target=_read, args=(url, tmp_path / "cache", found)) for _ in range(3)]
        for reader in readers:
            reader.start()
        assert [found.get(timeout=20) for _ in readers] == [list(range(9))] * 3
        for reader in readers:
            reader.join()
        assert len(asked(faults)) == 3


def test_a_copy_deleted_while_it_is_read_stays_readable(tmp_path):
    paths = make_shards(tmp_path / "www", [6], index=True)
    with serving(tmp_path / "www") as (url, _):
        stream = ShardStream(f"{url}/000.tar", fields=FIELDS, cache_dir=tmp_path / "cache", index=None, shuffle=0)
        items = iter(stream)
        next(items)
        for name in copies(tmp_path / "cache"):
            (tmp_path / "cache" / name).unlink()
        assert len(list(items)) == 5
    assert paths


def test_what_a_dead_process_left_does_not_fill_it(tmp_path, monkeypatch):
    before = threading.active_count()
    paths = make_shards(tmp_path / "www", [4], index=True)
    size = paths[0].stat().st_size
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / ".x.tar.1.partial").write_bytes(bytes(size))
    old = time.time() - 10_000
    os.utime(folder / ".x.tar.1.partial", (old, old))
    with serving(tmp_path / "www") as (url, _):
        options = {"cache_dir": folder, "cache_gib": size * 1.5 / (1 << 30)}
        assert len(list(ShardStream(f"{url}/000.tar", fields=FIELDS, on_error="raise", **options))) == 4
    assert not (folder / ".x.tar.1.partial").exists()
    assert threading.active_count() < before + 20
