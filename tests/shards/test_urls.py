import re
import traceback
from pathlib import Path

import pytest
from shard_files import FIELDS, make_shards

from torchaug_gen.shards.stream import ShardStream
from torchaug_gen.shards.urls import expand, scheme


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/002.tar", "a/000.tar", "a/001.tar", "a/notes.txt", "b/000.tar", "b/[1]{x,y}.tar", "c:d.tar"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        ("a/000.tar", ["a/000.tar"]),
        (Path("a/000.tar"), ["a/000.tar"]),
        ("a/{000..002}.tar", ["a/000.tar", "a/001.tar", "a/002.tar"]),
        ("{a,b}/000.tar", ["a/000.tar", "b/000.tar"]),
        ("a/*.tar", ["a/000.tar", "a/001.tar", "a/002.tar"]),
        ("a", ["a/000.tar", "a/001.tar", "a/002.tar"]),
        ("a/", ["a/000.tar", "a/001.tar", "a/002.tar"]),
        ("b/[1]{x,y}.tar", ["b/[1]{x,y}.tar"]),
        (["b/000.tar", Path("a")], ["b/000.tar", "a/000.tar", "a/001.tar", "a/002.tar"]),
        ("http://host/{00..01}.tar?k=v", ["http://host/00.tar?k=v", "http://host/01.tar?k=v"]),
        ("{" + ",".join(f"a/00{n}.tar" for n in (0, 1, 2)) + "}", ["a/000.tar", "a/001.tar", "a/002.tar"]),
    ],
)
def test_what_urls_mean(folder, urls, expected):
    assert expand(urls, allow_pipe=False) == expected


def test_file_urls_are_paths(folder):
    assert expand(f"file://{folder}/a/00{{0..1}}.tar", allow_pipe=False) == [
        f"{folder}/a/000.tar",
        f"{folder}/a/001.tar",
    ]


def test_a_path_is_never_taken_for_a_command(folder):
    for path in (Path("c:d.tar"), Path("pipe:touch ran")):
        path.touch()
        (shard,) = expand(path, allow_pipe=False)
        assert not scheme(shard) and Path(shard).samefile(path)


@pytest.mark.parametrize(
    ("urls", "error", "reason"),
    [
        ("a/9.tar", FileNotFoundError, "'a/9.tar' does not exist"),
        ("a/{000..003}.tar", FileNotFoundError, "'a/003.tar' does not exist"),
        ("a/*.zip", FileNotFoundError, "no file matches 'a/*.zip'"),
        ("empty/", FileNotFoundError, "holds no *.tar"),
        ("", ValueError, "empty string"),
        ([], ValueError, "at least one shard"),
        (["a", "a/000.tar"], ValueError, "a/000.tar twice"),
        ("xy://bucket/000.tar?token=1", ValueError, "unknown scheme 'xy' in"),
        ("simplecache::s3://bucket/000.tar", ValueError, "unknown scheme 'simplecache'"),
        ("pipe:cat a/000.tar", ValueError, "allow_pipe=True"),
        ("PIPE:cat a/000.tar", ValueError, "allow_pipe=True"),
        ("file://a/000.tar", ValueError, "must be absolute"),
        ("a/{000..001.tar", ValueError, "braces do not match"),
        ([3], TypeError, "strings or paths"),
    ],
)
def test_what_is_no_shard_says_so_at_once(folder, urls, error, reason):
    with pytest.raises(error, match=re.escape(reason)):
        expand(urls, allow_pipe=False)


@pytest.mark.parametrize(
    "urls",
    [
        ["http://h/a.tar?token=SECRET"] * 2,
        ["pipe:curl -H SECRET h"] * 2,
        "http://me:SECRET@h/{0..1.tar?SECRET",
        "s3x://me:SECRET@h/a.tar#SECRET",
        "chained::s3://me:SECRET@h/a.tar",
        "file://me:SECRET@h/a.tar",
        "pipe:TOKEN=SECRET curl h",
        "pipe:SECRET",
    ],
)
def test_no_error_shows_a_secret(urls):
    with pytest.raises(ValueError, match="urls") as caught:
        expand(urls, allow_pipe=isinstance(urls, list))
    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert "SECRET" not in shown


def test_nor_does_what_is_delivered_or_warned_about(tmp_path):
    (path,) = make_shards(tmp_path, [2])
    commands = [f"pipe:cat {path}  # Bearer SECRET", "pipe:exit 3  # SECRET", f"pipe:cat {path}  # another SECRET"]
    stream = ShardStream(commands, fields=FIELDS, allow_pipe=True)
    with pytest.warns(RuntimeWarning, match="exit status 3") as caught:
        urls = {url for _, _, _, url in stream}
    assert all("SECRET" not in str(one.message) for one in caught)
    assert len(urls) == 2 and all(re.fullmatch(r"pipe:cat \.\.\. \([0-9a-f]{8}\)", url) for url in urls)


@pytest.mark.parametrize(
    "urls", [["a/000.tar", "a/../a/000.tar"], ["a/000.tar", "./a//000.tar"], ["a", "{folder}/a/001.tar"]]
)
def test_one_file_in_two_spellings_is_found(folder, urls):
    with pytest.raises(ValueError, match=r"00\d\.tar twice"):
        expand([url.format(folder=folder) for url in urls], allow_pipe=False)
