"""Shards from a real server on the loopback, which fails in many ways."""

import re
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from faulty_server import serving
from shard_files import FIELDS, labels_of, make_shards, rank_items
from torch.utils.data import DataLoader

from torchaug_gen.shards.index import INDEX_NAME
from torchaug_gen.shards.order import Place
from torchaug_gen.shards.remote import EndError
from torchaug_gen.shards.spans import SpanReader
from torchaug_gen.shards.stopping import Stop
from torchaug_gen.shards.stream import KINDS, ShardStream
from torchaug_gen.shards.web import _stoppable

TOTAL = 12
URLS = "{000..002}.tar"


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("torchaug_gen.shards.web.BACKOFF_S", 0.01)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    make_shards(folder, [4, 4, 4], index=True)
    with serving(folder) as (url, faults):
        yield url, faults


def stream(url, **options):
    return ShardStream(f"{url}/{URLS}", **{"fields": FIELDS, "shuffle": 5, "on_error": "raise", **options})


WAYS = {
    "stream": lambda tmp_path: {"index": None},
    "parts": lambda tmp_path: {},
    "cache": lambda tmp_path: {"cache_dir": tmp_path / "cache"},
    "cached stream": lambda tmp_path: {"cache_dir": tmp_path / "cache", "index": None},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", ["503", "500", "429", "hang up", "cut"])
def test_what_passes_is_tried_again_and_nothing_is_lost(server, tmp_path, way, fault):
    url, faults = server
    made = stream(url, **WAYS[way](tmp_path))
    faults.rules[fault] = 3
    assert sorted(labels_of(made)) == list(range(TOTAL))
    assert faults.rules[fault] <= 0


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_length_is_never_taken_for_an_end(server, tmp_path, way):
    url, faults = server
    made = stream(url, **WAYS[way](tmp_path))
    faults.rules["too long"] = 1
    try:
        assert sorted(labels_of(made)) == list(range(TOTAL))
    except ValueError as error:
        assert re.search(r"shard http.*(changed while it was read|ended after|range|status 416)", str(error))
    assert faults.rules["too long"] <= 0


@pytest.mark.parametrize("way", WAYS)
def test_what_does_not_pass_is_raised_or_counted(server, tmp_path, way):
    url, faults = server
    options = WAYS[way](tmp_path)
    faults.rules["403"] = 10**6
    made = stream(url, **options)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"shard http.*/00.\.tar: HTTP status 403"):
        list(made)
    made = stream(url, **options, on_error="skip")
    # Skipping is for some, not for all.
    with (
        pytest.warns(RuntimeWarning, match="HTTP status 403"),
        pytest.raises(ValueError, match=r"nothing of the epoch.*HTTP status 403"),
    ):
        list(made)
    # A shard is tried and counted once, not once for each of its samples.
    assert made.stats == {**dict.fromkeys(KINDS, 0), "read": 3}
    assert time.monotonic() - start < 2


def test_it_gives_up_a_server_that_never_works(server):
    url, faults = server
    made = stream(url)
    faults.rules["hang up"] = 10**6
    with pytest.raises(ValueError, match="the network failed 5 times"):
        list(made)


@pytest.mark.parametrize("way", ["stream", "parts", "cache"])
def test_a_slow_server_is_waited_for_and_a_dead_one_is_not(server, tmp_path, way, monkeypatch):
    url, faults = server
    faults.rules["slow"] = 0.005
    assert sorted(labels_of(stream(url, **WAYS[way](tmp_path)))) == list(range(TOTAL))
    faults.rules["slow"] = 0.02
    monkeypatch.setattr("torchaug_gen.shards.web.STALL_S", 0.05)
    monkeypatch.setattr("torchaug_gen.shards.web.SLOWEST_BYTES_PER_S", 10**9)
    monkeypatch.setattr("torchaug_gen.shards.web.TRIES", 2)
    made = ShardStream(f"{url}/000.tar", fields=FIELDS, on_error="raise", index=None)
    with pytest.raises(ValueError, match=r"bytes came in"):
        list(made)


def test_a_file_that_changes_in_between_is_not_joined(server):
    url, faults = server
    made = ShardStream(f"{url}/000.tar", fields=FIELDS, on_error="raise", index=None, shuffle=0)
    faults.rules.update({"cut": 1})
    items = iter(made)
    next(items)
    faults.rules["changed"] = 5
    with pytest.raises(ValueError, match="changed while it was read"):
        list(items)


def test_without_ranges_a_cut_stream_goes_on_and_parts_name_the_cache(server, tmp_path):
    url, faults = server
    faults.rules.update({"no ranges": True, "cut": 2})
    assert sorted(labels_of(stream(url, index=None))) == list(range(TOTAL))
    with pytest.raises(ValueError, match="give cache_dir"):
        list(stream(url))
    assert sorted(labels_of(stream(url, cache_dir=tmp_path / "cache"))) == list(range(TOTAL))


def test_an_index_that_cannot_be_read_is_no_missing_index(server, monkeypatch):
    url, _ = server
    monkeypatch.setattr("torchaug_gen.shards.catalogue.MAX_INDEX_BYTES", 10)
    with pytest.raises(OSError, match=rf"index http.*{INDEX_NAME} cannot be read.*index=None"):
        stream(url)


def test_tokens_are_sent_and_never_shown(server, tmp_path):
    url, faults = server
    secret = url.replace("http://", "http://me:pass%20word@") + "/000.tar?token=sesame"
    made = ShardStream(secret, fields=FIELDS, on_error="raise")
    urls = {url for _, _, _, url in made}
    assert urls == {f"{url}/000.tar?..."}
    assert all(path.endswith("?token=sesame") and login == "Basic bWU6cGFzcyB3b3Jk" for path, _, login in faults.log)
    faults.rules["403"] = 10**6
    with pytest.raises(ValueError, match="403") as caught:
        list(made)
    assert "sesame" not in str(caught.value) and "pass" not in str(caught.value)


def test_states_go_on_over_a_network_without_reading_what_came_before(server):
    url, faults = server
    made = stream(url)
    whole = labels_of(made)
    faults.log.clear()
    made.seek(10)
    assert labels_of(made) == whole[10:]
    assert len(faults.log) == 2


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "torchaug_gen shards"]


def seconds_to_end():
    """How long the threads that read ahead go on."""
    start = time.monotonic()
    while readers() and time.monotonic() < start + 5:
        time.sleep(0.01)
    return time.monotonic() - start


def test_workers_and_early_ends_leave_no_thread(server):
    url, _ = server
    loader = DataLoader(stream(url, batch_size=2), batch_size=2, num_workers=2, collate_fn=list)
    assert sorted(labels_of(item for batch in loader for item in batch)) == list(range(TOTAL))
    items = iter(stream(url))
    next(items)
    assert readers()
    items.close()
    assert seconds_to_end() < 2


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("way", ["parts", "cache"])
@pytest.mark.parametrize("how", ["slow", "silent", "503"])
def test_threads_end_with_their_consumer_however_slow_the_server(server, tmp_path, monkeypatch, way, how):
    def interrupt(*_):
        raise Interrupted

    url, faults = server
    monkeypatch.setattr("torchaug_gen.shards.web.BACKOFF_S", 20.0)
    items = iter(stream(url, **WAYS[way](tmp_path)))
    # Pieces of an answer, an answer, or tries come once in 20 s.
    faults.rules[how] = 20.0
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Interrupted) as kept:
            next(items)
    finally:
        signal.signal(signal.SIGALRM, before)
    # Who keeps the error keeps no thread.
    assert seconds_to_end() < 2 and kept.tb
    assert not list((tmp_path / "cache").glob("*.partial")) and not list((tmp_path / "cache").glob("*.tar"))


@pytest.mark.parametrize("way", WAYS)
def test_a_dead_shard_costs_its_tries_once(tmp_path, monkeypatch, way):
    monkeypatch.setattr("torchaug_gen.shards.web.BACKOFF_S", 0.02)
    make_shards(tmp_path / "served", [60, 4], index=True)
    with serving(tmp_path / "served") as (url, faults):
        made = ShardStream(f"{url}/{{000..001}}.tar", fields=FIELDS, shuffle=0, **WAYS[way](tmp_path))
        faults.log.clear()
        faults.rules["503 for 000.tar"] = True
        start = time.monotonic()
        with pytest.warns(RuntimeWarning, match="HTTP status 503"):
            assert labels_of(made) == [60, 61, 62, 63]
        took = time.monotonic() - start
        tries = sum(path == "/000.tar" for path, *_ in faults.log)
    assert made.stats["read"] == 1
    # Eight threads read parts at the same time, all others open the shard one by one.
    assert tries <= 5 * (8 if way == "parts" else 1) and took < 5


def test_of_a_shard_cut_short_whatever_comes_before_its_end_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("torchaug_gen.shards.web.BACKOFF_S", 20.0)
    served = tmp_path / "served"
    (path,) = make_shards(served, [20], index=True)
    whole = path.read_bytes()
    with serving(served) as (url, faults):
        made = ShardStream(f"{url}/000.tar", fields=FIELDS, shuffle=0)
        place = made._catalogue.sample(0, 12)
        path.write_bytes(whole[: place.files["png"].offset + 10])
        reader = SpanReader(made._catalogue, ("png", "cls"), None)
        # Threads meet the end before those that read what lies before it.
        for late in (12, 19):
            with pytest.raises(EndError, match="the shard ends before"):
                reader.read(Place(0, late))
        assert reader.read(Place(0, 3)).files["cls"] == b"3"
        faults.log.clear()
        with pytest.warns(RuntimeWarning, match="the shard ends before"):
            assert labels_of(made) == list(range(12))
        # Nobody tries again what will not come.
        assert made.stats["read"] == 1 and len(faults.log) <= 20


def test_a_connection_within_another_is_stopped_too():
    ours, theirs = socket.socketpair()

    class Connection:
        sock = SimpleNamespace(socket=ours)

        def getresponse(self):
            return ours.recv(1)

    manager = SimpleNamespace(pool_classes_by_scheme={"https": type("Pool", (), {"ConnectionCls": Connection})})
    connection = _stoppable(manager).pool_classes_by_scheme["https"].ConnectionCls()
    stop, came = Stop(), []

    def read():
        stop.heed()
        came.append(connection.getresponse())

    with ours, theirs:
        thread = threading.Thread(target=read)
        thread.start()
        while not stop._sockets:
            time.sleep(0.001)
        stop.set()
        thread.join(5)
        assert not thread.is_alive() and came == [b""]


def test_the_order_is_that_of_the_same_shards_on_a_disk(server, tmp_path):
    url, _ = server
    local = ShardStream(tmp_path / "served", fields=FIELDS, shuffle=5)
    items, _ = rank_items(lambda: stream(url, batch_size=2), workers=2, batch_size=2)
    assert labels_of(items) == labels_of(local)


def test_fsspec_opens_other_urls(tmp_path):
    import fsspec

    make_shards(tmp_path, [5, 3], index=True)
    store = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        store.pipe(f"/bucket/{path.name}", path.read_bytes())
    try:
        whole = labels_of(ShardStream(tmp_path, fields=FIELDS, shuffle=3))
        for options in ({}, {"cache_dir": tmp_path / "cache"}):
            made = ShardStream("memory://bucket/00{0..1}.tar", fields=FIELDS, shuffle=3, on_error="raise", **options)
            assert len(made) == 8 and labels_of(made) == whole
        assert sorted(labels_of(ShardStream("memory://bucket/000.tar", fields=FIELDS, index=None))) == list(range(5))
        store.rm("/bucket/000.tar")
        for index in (None, "auto"):
            made = ShardStream("memory://bucket/000.tar", fields=FIELDS, on_error="raise", index=index)
            with pytest.raises(ValueError, match=r"shard memory://bucket/000\.tar"):
                list(made)
    finally:
        store.rm("/bucket", recursive=True)
