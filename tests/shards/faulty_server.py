"""A real HTTP server with ranges, which fails as it is told."""

import http.server
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path


class Faults:
    """What goes wrong: ``rules`` map a fault's name to how many answers it spoils; ``log`` holds what was asked."""

    def __init__(self):
        self.rules, self.log, self.lock = {}, [], threading.Lock()

    def due(self, name):
        with self.lock:
            left = self.rules.get(name, 0)
            self.rules[name] = left - 1
            return left > 0


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args, folder, faults):
        self.folder, self.faults = folder, faults
        super().__init__(*args)

    def log_message(self, *_):
        pass

    def do_GET(self):
        name, faults = self.path.partition("?")[0].lstrip("/"), self.faults
        path = self.folder / name
        faults.log.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        if not path.is_file():
            return self._status(404)
        if faults.rules.get(f"503 for {name}"):
            return self._status(503)
        if name.endswith(".tar"):
            for status in (500, 503, 429, 403):
                if faults.due(str(status)):
                    return self._status(status)
            if faults.due("hang up"):
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
        if name.endswith(".tar"):
            time.sleep(faults.rules.get("silent", 0))
            time.sleep(faults.rules.get("silent", 0))
        content, status, headers = path.read_bytes(), 200, {"ETag": '"1"'}
        begin, end = 0, len(content)
        if (asked := self.headers.get("Range")) and not faults.rules.get("no ranges"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) + 1, end) if last else end
            if begin >= len(content):
                return self._status(416)
            status, headers["Content-Range"] = 206, f"bytes {begin}-{end - 1}/{len(content)}"
        part = content[begin:end]
        spoilt = name.endswith(".tar")
        claimed = len(part) + (1000 if spoilt and faults.due("too long") else 0)
        if spoilt and faults.due("changed"):
            headers["ETag"] = '"2"'
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(claimed)}.items():
            self.send_header(header, value)
        try:
            self.end_headers()
        except OSError:
            self.close_connection = True
            return
        if spoilt and faults.due("cut"):
            part = part[: len(part) // 2]
            claimed = None
        try:
            for at in range(0, len(part), 2048):
                self.wfile.write(part[at : at + 2048])
                if spoilt and faults.rules.get("slow"):
                    time.sleep(faults.rules["slow"])
        except OSError:
            self.close_connection = True
        if claimed != len(part):
            self.close_connection = True

    def _status(self, status):
        self.send_response(status)
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(folder: Path):
    """Serve a folder on the loopback; yield its URL, and the faults."""
    faults = Faults()
    handler = partial(_Handler, folder=folder, faults=faults)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", faults
        finally:
            server.shutdown()
            thread.join()
