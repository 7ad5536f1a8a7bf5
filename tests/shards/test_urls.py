import re
from pathlib import Path

import pytest

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
