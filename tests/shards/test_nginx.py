"""Shards from nginx, as Debian and others have it, on the loopback."""

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from shard_files import FIELDS, labels_of, make_shards
from torch.utils.data import DataLoader

from torchaug_gen import AugmentedLoader
from torchaug_gen.shards.stream import ShardStream

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
TOTAL = 12
CONFIG = """
daemon off;
master_process off;
pid {scratch}/nginx.pid;
error_log {scratch}/error.log;
events {{}}
http {{
  access_log {scratch}/access.log;
  client_body_temp_path {scratch}/body;
  proxy_temp_path {scratch}/proxy;
  fastcgi_temp_path {scratch}/fastcgi;
  uwsgi_temp_path {scratch}/uwsgi;
  scgi_temp_path {scratch}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    location /slow/ {{ alias {root}/; limit_rate 40k; }}
    location /whole/ {{ alias {root}/; max_ranges 0; }}
    location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
  }}
}}
"""

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx-light)")


@contextmanager
def serving(root, scratch):
    """Serve a folder, and yield the URL and the log of what was asked for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scratch.mkdir()
    (scratch / "nginx.conf").write_text(CONFIG.format(scratch=scratch, root=root, port=port))
    command = [NGINX, "-p", str(scratch), "-c", str(scratch / "nginx.conf"), "-e", str(scratch / "error.log")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 10
        while True:
            assert process.poll() is None, process.stderr.read()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", scratch / "access.log"
    finally:
        process.terminate()
        process.communicate(timeout=10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    make_shards(root, [4, 4, 4], index=True)
    with serving(root, tmp_path_factory.mktemp("nginx") / "run") as (url, log):
        yield root, url, log


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("place", ["", "/slow", "/moved"])
@pytest.mark.parametrize("way", ["stream", "parts", "cache"])
def test_the_items_are_those_of_the_same_shards_on_a_disk(server, tmp_path, place, way):
    root, url, _ = server
    options = {"stream": {"index": None}, "parts": {}, "cache": {"cache_dir": tmp_path / "cache"}}[way]
    local = ShardStream(root, fields=FIELDS, shuffle=5, seed=3, index=options.get("index", "auto"))
    remote = ShardStream(
        f"{url}{place}/{{000..002}}.tar", fields=FIELDS, shuffle=5, seed=3, on_error="raise", **options
    )
    assert labels_of(remote) == labels_of(local)


def test_a_server_without_ranges_streams_and_otherwise_names_the_cache(server, tmp_path):
    _, url, _ = server
    shards = f"{url}/whole/{{000..002}}.tar"
    assert sorted(labels_of(ShardStream(shards, fields=FIELDS, index=None))) == list(range(TOTAL))
    with pytest.raises(ValueError, match="give cache_dir"):
        list(ShardStream(shards, fields=FIELDS, on_error="raise"))
    cached = ShardStream(shards, fields=FIELDS, cache_dir=tmp_path / "cache", on_error="raise")
    assert sorted(labels_of(cached)) == list(range(TOTAL))


def test_workers_resume_in_the_middle_and_ask_only_for_what_is_left(server):
    _, url, log = server

    def loader():
        stream = ShardStream(f"{url}/{{000..002}}.tar", fields=("png", "cls"), shuffle=5, batch_size=2)
        return AugmentedLoader(DataLoader(stream, 2, num_workers=2), device="cpu", dtype=None)

    whole = [labels.tolist() for _, labels in loader()]
    assert sorted(label for batch in whole for label in batch) == list(range(TOTAL))
    first = loader()
    batches = iter(first)
    for _ in range(4):
        next(batches)
    state = first.state_dict()
    del batches
    asked = len(log.read_text().splitlines())
    again = loader()
    again.load_state_dict(state)
    assert [labels.tolist() for _, labels in again] == whole[4:]
    lines = log.read_text().splitlines()[asked:]
    assert sum('" 206 ' in line for line in lines) == 4


def test_a_shard_that_is_not_there_is_named(server):
    _, url, _ = server
    with pytest.raises(ValueError, match=r"shard http.*/009\.tar: HTTP status 404"):
        list(ShardStream(f"{url}/009.tar", fields=FIELDS, index=None, on_error="raise"))
