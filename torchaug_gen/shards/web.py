"""Files behind http(s) URLs: whole or in part, tried again where the connection fails."""

import io
import os
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from torchaug_gen.shards import stopping

# A connection on which less than this came in STALL_S seconds is taken for dead.
STALL_S = 60.0
SLOWEST_BYTES_PER_S = 100
# Waits of 0.5, 1, 2, 4 s between five tries: a server that restarts is back by then.
TRIES = 5
BACKOFF_S = 0.5

# The status of a range that a file does not have.
BEHIND_THE_END = 416

_CONNECT_S = 10.0
_PIECE = 1 << 18
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

T = TypeVar("T")


class WebError(OSError):
    """What a server answered cannot be used; ``passing`` says whether it may be otherwise later."""

    def __init__(self, reason: str, *, status: int = 0, passing: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.status, self.passing, self.wait_s = status, passing, wait_s


class SlowError(WebError):
    """Next to nothing came for a long time."""


def again(attempt: Callable[[], T]) -> T:
    """Return what ``attempt`` returns, trying again with growing waits where the network fails."""
    for tries in range(1, TRIES + 1):
        stopping.pause()
        try:
            return attempt()
        except (WebError, *_failures()) as error:  # type: ignore[misc]
            if tries == TRIES or not getattr(error, "passing", True):
                _give_up(error)
            stopping.pause(max(BACKOFF_S * 2 ** (tries - 1), getattr(error, "wait_s", 0.0)))
    raise AssertionError("unreachable")


def fetch(url: str, *, most: int, start: int = 0, end: int | None = None) -> bytes:
    """Return the bytes ``start..end`` of a file, all of it where no range is given.

    Raises:
        WebError: a status that is no success, a server that sends no ranges, a file that ends before, or more than
            ``most`` bytes.
        OSError: the network failed again and again.
    """

    def attempt() -> bytes:
        with _Answer(url, start, end) as answer:
            if answer.start != start:
                raise WebError(
                    "the server sends no parts of files, so samples cannot be read one by one: give cache_dir"
                )
            if end is not None and answer.total is not None and answer.total < end:
                raise WebError(f"the file ends after {answer.total} of {end} bytes", status=BEHIND_THE_END)
            size = answer.total if end is None else end
            if size is not None and size - start > most:
                raise WebError(f"{size - start} bytes, but at most {most} are read")
            return answer.rest(most) if size is None else answer.read(size - start)

    return again(attempt)


class WebFile(io.RawIOBase):
    """A file behind a URL, read from its start; where the connection breaks it goes on from there.

    Args:
        url: http or https.

    Raises:
        WebError: a status that is no success, or a file that changed in between.
        OSError: the network failed again and again without anything coming.
    """

    def __init__(self, url: str) -> None:
        self._url, self._at, self._slow = url, 0, 0
        self._answer: _Answer = again(lambda: _Answer(url, 0, None))
        self._total, self._tag = self._answer.total, self._answer.tag

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what comes next into ``buffer``."""
        content = again(lambda: self._next(len(buffer)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        """Close the connection."""
        self._answer.close()
        super().close()

    def _next(self, size: int) -> bytes:
        if self._answer.closed:
            self._reconnect()
        try:
            content = self._answer.some(size)
            if not content and self._total is not None and self._at < self._total:
                raise WebError(f"the connection ended after {self._at} of {self._total} bytes", passing=True)
            return content
        except SlowError as error:
            # Something comes each time, and so no try is the last: a file that drips would never end.
            self._slow += 1
            error.passing = self._slow < TRIES
            self._answer.close()
            raise
        except OSError:
            self._answer.close()
            raise
        except _failures():
            self._answer.close()
            raise

    def _reconnect(self) -> None:
        answer = _Answer(self._url, self._at, None)
        if (answer.total, answer.tag) != (self._total, self._tag):
            answer.close()
            raise WebError("the file changed while it was read")
        self._answer = answer
        # A server that sends no ranges begins anew.
        answer.skip(self._at - answer.start)


class _Answer:
    """What a server sends of a file.

    Attributes:
        start: the first byte that it sends.
        total: the size of the file, where it says.
        tag: tells versions of the file apart, where it says.
        partial: whether it answered with a part.
    """

    def __init__(self, url: str, start: int, end: int | None) -> None:
        headers = {"Accept-Encoding": "identity", **_login(url)}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-" + ("" if end is None else str(end - 1))
        self._response: Any = _pool(os.getpid()).request("GET", url, headers=headers, preload_content=False)
        self._since, self._came = time.monotonic(), 0
        self.closed = False
        status = self._response.status
        length = self._response.headers.get("Content-Length", "")
        self.total: int | None = int(length) if length.isdigit() else None
        self.start, self.partial = 0, status == 206
        self.tag = self._response.headers.get("ETag") or self._response.headers.get("Last-Modified")
        if status not in (200, 206):
            self._refuse(status)
        if self.partial:
            found = _RANGE.fullmatch(self._response.headers.get("Content-Range", ""))
            if not found or int(found[1]) != start:
                self.close()
                raise WebError("the server sent another range than it was asked for")
            self.start, self.total = start, None if found[3] == "*" else int(found[3])

    def _refuse(self, status: int) -> NoReturn:
        wait = self._response.headers.get("Retry-After", "")
        self.close()
        # No longer than a user waits without a word.
        wait_s = min(float(wait), 30.0) if wait.isdigit() and len(wait) < 6 else 0.0
        raise WebError(f"HTTP status {status}", status=status, passing=status in _PASSING, wait_s=wait_s)

    def some(self, size: int) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        stopping.pause()
        # What has come: read(n) would wait for all of it, however slowly it drips.
        content: bytes = self._response.read1(min(size, _PIECE), decode_content=False)
        self._came += len(content)
        if (passed := time.monotonic() - self._since) > STALL_S:
            if self._came < passed * SLOWEST_BYTES_PER_S:
                raise SlowError(f"{self._came} bytes came in {passed:.0f} s", passing=True)
            self._since, self._came = time.monotonic(), 0
        return content

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        pieces, missing = [], size
        while missing and (piece := self.some(missing)):
            pieces.append(piece)
            missing -= len(piece)
        if missing:
            raise WebError(f"the connection ended after {size - missing} of {size} bytes", passing=True)
        return b"".join(pieces)

    def rest(self, most: int) -> bytes:
        """Return what comes up to the end, of a file whose size is unknown."""
        pieces, size = [], 0
        while piece := self.some(_PIECE):
            pieces.append(piece)
            if (size := size + len(piece)) > most:
                raise WebError(f"more than {most} bytes")
        return b"".join(pieces)

    def skip(self, size: int) -> None:
        """Read ``size`` bytes and drop them."""
        while size:
            size -= len(self.read(min(size, _PIECE)))

    def close(self) -> None:
        """Close the connection: what was not read of it would be waited for."""
        self.closed = True
        stopping.wait_on(None)
        self._response.close()

    def __enter__(self) -> "_Answer":
        return self

    def __exit__(self, *_: object) -> None:
        stopping.wait_on(None)
        if self._response.closed or self._response._fp is None:
            return
        # A connection that was read to its end is used again.
        self._response.release_conn() if not self._response.length_remaining else self.close()


@lru_cache(maxsize=1)
def _pool(process: int) -> Any:
    """Return the connections of a process: those of a parent must not be used by two."""
    import urllib3

    timeout = urllib3.Timeout(connect=_CONNECT_S, read=STALL_S)
    retries = urllib3.Retry(connect=0, read=0, status=0, other=0, redirect=5, raise_on_status=False)
    return _Proxied(
        lambda proxy: _stoppable(
            urllib3.ProxyManager(proxy, maxsize=16, timeout=timeout, retries=retries)
            if proxy
            else urllib3.PoolManager(maxsize=16, timeout=timeout, retries=retries)
        ),
        getproxies(),
        proxy_bypass,
    )


def _stoppable(manager: Any) -> Any:
    """Let threads be stopped that wait for an answer to begin, or to go on."""

    def watched(kind: Any) -> Any:
        def getresponse(self: Any) -> Any:
            # Through a proxy's own encryption, a socket is within another.
            stopping.wait_on(getattr(self.sock, "socket", self.sock))
            return kind.getresponse(self)

        return type(kind.__name__, (kind,), {"getresponse": getresponse})

    manager.pool_classes_by_scheme = {
        scheme: type(pool.__name__, (pool,), {"ConnectionCls": watched(pool.ConnectionCls)})
        for scheme, pool in manager.pool_classes_by_scheme.items()
    }
    return manager


class _Proxied:
    """Sends each request through the proxy that the environment names for it."""

    def __init__(
        self, make: Callable[[str | None], Any], proxies: dict[str, str], bypass: Callable[[str], Any]
    ) -> None:
        self._make, self._proxies, self._bypass = lru_cache(make), proxies, bypass

    def request(self, method: str, url: str, **options: Any) -> Any:
        parts = urlsplit(url)
        proxy = None if self._bypass(parts.hostname or "") else self._proxies.get(parts.scheme)
        return self._make(proxy).request(method, url, **options)


def _login(url: str) -> dict[str, str]:
    """Return the header that a user's name and password in a URL ask for."""
    import urllib3

    parts = urlsplit(url)
    if parts.username is None:
        return {}
    return dict(urllib3.make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}"))


def _failures() -> tuple[type[Exception], ...]:
    import urllib3

    # urllib3's own errors are no OSErrors.
    return (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)


def _give_up(error: Exception) -> NoReturn:
    if isinstance(error, OSError):
        raise error
    # urllib3 writes the whole URL into some of its messages.
    raise WebError(f"the network failed {TRIES} times ({type(error).__name__})", passing=True) from None
