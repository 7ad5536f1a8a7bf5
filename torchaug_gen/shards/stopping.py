"""Stop: ends threads that wait for a network, once nobody wants what they read."""

import socket
import threading
import time
from contextlib import suppress

_thread = threading.local()


class StoppedError(Exception):
    """Nobody wants what this thread reads any more."""


class Stop:
    """Tells threads to end, also those that wait for what another machine sends.

    Looking up a name, connecting, and what fsspec reads cannot be cut short: they take as long as their own limits say.
    """

    def __init__(self) -> None:
        self._set = threading.Event()
        self._lock = threading.Lock()
        self._sockets: dict[int, socket.socket] = {}

    def heed(self) -> None:
        """Make this thread end when the stop is set."""
        _thread.stop = self

    def set(self) -> None:
        """Let all threads that heed it end."""
        self._set.set()
        with self._lock:
            for waited_for in self._sockets.values():
                # Whoever reads from it sees its end; closing it would wake nobody. It may have closed by itself.
                with suppress(OSError):
                    socket.socket.shutdown(waited_for, socket.SHUT_RDWR)

    def is_set(self) -> bool:
        """Say whether threads are to end."""
        return self._set.is_set()


def pause(seconds: float = 0.0) -> None:
    """Wait.

    Raises:
        StoppedError: this thread is to end; also in the middle of the wait.
    """
    stop: Stop | None = getattr(_thread, "stop", None)
    if stop is None:
        time.sleep(seconds)
    elif stop._set.wait(seconds):
        raise StoppedError


def wait_on(connection: socket.socket | None) -> None:
    """Note on which connection this thread is going to wait, ``None`` for none.

    Raises:
        StoppedError: this thread is to end.
    """
    stop: Stop | None = getattr(_thread, "stop", None)
    if stop is None:
        return
    with stop._lock:
        if connection is None:
            stop._sockets.pop(threading.get_ident(), None)
            return
        stop._sockets[threading.get_ident()] = connection
    # Whoever sets it from now on knows the connection.
    pause()
