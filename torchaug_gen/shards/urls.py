"""From what a user writes to a list of shards."""

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from glob import glob, has_magic
from os.path import normpath
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

WEB = ("http", "https")
# What fsspec's own packages open; its wrappers, such as simplecache:: and reference://, are left out.
CLOUD = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "oss", "hdfs", "webhdfs", "sftp", "memory")

# Two letters at least: one is a Windows drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_LOGIN = re.compile(r"//[^/?#]*@")
_QUERY = re.compile(r"[?#]")
# Behind it stands a space: `TOKEN=... curl` begins with a secret.
_PROGRAM = re.compile(r"pipe:\s*[\w./-]+(?=\s)", re.IGNORECASE)

Urls = str | Path | Iterable[str | Path]


def scheme(url: str) -> str:
    """Return the URL's scheme in lower case, empty for a path."""
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def expand(urls: Urls, *, allow_pipe: bool) -> list[str]:
    """Return the shards that ``urls`` means, local ones as paths that exist.

    Args:
        urls: a path, a folder (all its ``*.tar``), a glob, a brace pattern such as ``"{000..099}.tar"``, a URL, or
            several of these. A ``Path`` is taken literally.
        allow_pipe: allow ``pipe:`` URLs, which run a shell command.

    Raises:
        FileNotFoundError: a path that does not exist, or a glob or folder without a shard.
        ValueError: an unknown scheme, ``pipe:`` without leave, a shard named twice, or none named at all.
    """
    given = [urls] if isinstance(urls, str | Path) else list(urls)
    shards = [shard for url in given for shard in _expand(url, allow_pipe)]
    if not shards:
        raise ValueError("urls must name at least one shard, got none")
    seen: set[str] = set()
    for shard in shards:
        # One file may be spelled in several ways.
        name = shard if scheme(shard) else normpath(Path(shard).absolute())
        if name in seen:
            raise ValueError(f"urls must name each shard once, got {shown(shard)} twice")
        seen.add(name)
    return shards


def _expand(url: str | Path, allow_pipe: bool) -> list[str]:
    from braceexpand import braceexpand

    if isinstance(url, Path):
        return _local(url)
    if not isinstance(url, str):
        raise TypeError(f"urls must be strings or paths, got {url!r}")
    if not url:
        raise ValueError("urls must not hold an empty string")
    if _exists(url):
        return _local(Path(url))
    try:
        spelled = list(braceexpand(url))
    except ValueError:
        # Its message holds the whole URL.
        raise ValueError(f"urls: braces do not match in {shown(url)!r}") from None
    return [shard for one in spelled for shard in _resolve(one, allow_pipe)]


def _resolve(url: str, allow_pipe: bool) -> list[str]:
    kind = scheme(url)
    if kind in WEB:
        return [url]
    if kind in CLOUD:
        _check_fsspec(kind, url)
        return [url]
    if kind == "pipe":
        if not allow_pipe:
            raise ValueError(f"urls: {shown(url)!r} runs a shell command; pass allow_pipe=True if you trust it")
        return [url]
    if kind == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"urls: file URLs must be absolute, file:///folder/000.tar, got {shown(url)!r}")
        url = url2pathname(parts.path)
    elif kind:
        known = ", ".join((*WEB, *CLOUD, "file", "pipe"))
        raise ValueError(
            f"urls: unknown scheme {kind!r} in {shown(url)!r}, expected a path or one of {known}; a pipe: command can "
            "fetch from anywhere, and a path with a colon can be passed as a Path"
        )
    if _exists(url) or not has_magic(url):
        return _local(Path(url))
    # Path.glob knows no absolute patterns.
    found = sorted(path for path in glob(url, recursive=True) if Path(path).is_file())  # noqa: PTH207
    if not found:
        raise FileNotFoundError(f"urls: no file matches {url!r}")
    return [_unmistakable(path) for path in found]


def beside(url: str, name: str) -> str:
    """Return the path or URL of a file in the same folder as another; the query, where tokens are, goes with it.

    >>> beside("https://host/train/000.tar?token=42", "index.jsonl")
    'https://host/train/index.jsonl?token=42'
    """
    if not scheme(url):
        return str(Path(url).parent / name)
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rpartition('/')[0]}/{name}"))


def name_of(url: str) -> str:
    """Return the name of a shard's file, without its folder."""
    return Path(url).name if not scheme(url) else unquote(urlsplit(url).path.rpartition("/")[2])


def shown(url: str) -> str:
    """Return a URL as it may be logged: without a user's name, password, or query, where tokens are.

    Of a command only the program is left, and a number that tells it from others.

    >>> shown("https://me:secret@host/000.tar?token=42")
    'https://host/000.tar?...'
    >>> shown("pipe:curl -H 'Authorization: secret' https://host/000.tar")
    'pipe:curl ... (5cf05e63)'
    """
    kind = scheme(url)
    if not kind:
        return url
    if kind == "pipe":
        program, number = _PROGRAM.match(url), hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        return f"{program[0] if program else 'pipe:'} ... ({number})"
    # Not taken apart as a URL: nobody knows what an unknown scheme means by one.
    bare = _LOGIN.sub("//", url)
    end = _QUERY.search(bare)
    return bare if end is None else f"{bare[: end.start()]}?..."


def _check_fsspec(kind: str, url: str) -> None:
    try:
        from fsspec import get_filesystem_class

        get_filesystem_class(kind)
    except ImportError as error:
        raise ValueError(f"urls: {shown(url)!r} needs fsspec and its package for {kind}: ({error})") from error


def _local(path: Path) -> list[str]:
    if not path.exists():
        raise FileNotFoundError(f"urls: {str(path)!r} does not exist")
    if not path.is_dir():
        return [_unmistakable(str(path))]
    found = sorted(str(shard) for shard in path.glob("*.tar") if shard.is_file())
    if not found:
        raise FileNotFoundError(f"urls: the folder {str(path)!r} holds no *.tar")
    return [_unmistakable(shard) for shard in found]


def _unmistakable(path: str) -> str:
    """Return a path that nobody takes for a URL, so that no file's name is ever run as a command."""
    return f"./{path}" if scheme(path) else path


def _exists(url: str) -> bool:
    """Return whether a string without a scheme is an existing path; a long list in braces is too long for one."""
    with suppress(OSError):
        return not scheme(url) and Path(url).exists()
    return False
