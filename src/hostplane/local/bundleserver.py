"""A small HTTP server for images on this machine, with ranges, as a registry's mirror or a plain web server has them.

It listens on loopback alone, which a virtual machine with a user-mode network reaches as 10.0.2.2. Whoever makes one
says which request is which file. Of a bundle only what an OCI layout consists of is served (oci-layout, index.json,
blobs by digest). For the demo and for tests; a site serves its bundles from a registry.
"""

from __future__ import annotations

import http.server
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

__all__ = ["BundleServer", "FileServer", "ranges_of"]

_ADDRESS = re.compile(r"/([a-z0-9.-]+)/(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})")
_RANGE = re.compile(r"(\d*)-(\d*)")
_MOST_RANGES = 256
_PIECE = 1 << 18
_BOUNDARY = "hostplane-ranges"
_SECONDS = 60.0


def ranges_of(header: str, size: int) -> list[tuple[int, int]] | None:
    """(offset, length) of each range that a Range header asks for of `size` bytes, cut at the end.

    Returns:
        None where the header is none that one has to obey: the whole is sent then. Empty: nothing of it can be had.
    """
    unit, _, rest = header.partition("=")
    asked = rest.split(",")
    if unit.strip() != "bytes" or len(asked) > _MOST_RANGES:
        return None
    found = []
    for one in asked:
        match = _RANGE.fullmatch(one.strip())
        if not match or match[0] == "-":
            return None
        first, last = match.groups()
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if first and last and int(last) < int(first):
            return None
        if begin < end:
            found.append((begin, end - begin))
    return found


class FileServer:
    """Serves while the context is open, from a thread of its own; `find` gives the file that a request's path names."""

    def __init__(self, find: Callable[[str], Path | None], *, port: int = 0) -> None:
        self._server = _Server(("127.0.0.1", port), find)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    @property
    def sent(self) -> int:
        """Bytes of all bodies so far."""
        return self._server.sent

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class BundleServer(FileServer):
    """Serves each bundle's directory below its name: `http://127.0.0.1:PORT/NAME/`."""

    def __init__(self, bundles: Mapping[str, Path], *, port: int = 0) -> None:
        served = dict(bundles)

        def find(path: str) -> Path | None:
            match = _ADDRESS.fullmatch(path)
            directory = served.get(match[1]) if match else None
            return directory / match[2] if match and directory else None

        super().__init__(find, port=port)

    def address(self, name: str, host: str = "127.0.0.1") -> str:
        """Where the bundle is, as an OSImage's ref; `host` is this machine's name for whoever fetches."""
        return f"http://{host}:{self.port}/{name}/"


class _Server(http.server.ThreadingHTTPServer):
    """What is served, and a count of what was sent."""

    daemon_threads = True
    block_on_close = False  # a guest whose power was cut would be waited for

    def __init__(self, address: tuple[str, int], find: Callable[[str], Path | None]) -> None:
        self.find = find
        self.sent = 0
        self._counting = threading.Lock()
        super().__init__(address, _Handler)

    def count(self, size: int) -> None:
        """So many bytes more."""
        with self._counting:
            self.sent += size

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's error here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS
    server: _Server

    def do_HEAD(self) -> None:
        """The same without a body."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """A file, or ranges of it."""
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

    def _answer(self, *, with_body: bool) -> None:
        path = self.server.find(self.path)
        try:
            if path is None:
                raise FileNotFoundError
            with path.open("rb") as file:
                self._send(file, with_body)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except OSError:
            self._head(404, 0)

    def _send(self, file: BinaryIO, with_body: bool) -> None:
        size = os.fstat(file.fileno()).st_size
        asked = self.headers.get("Range")
        parts = ranges_of(asked, size) if asked and with_body else None
        if parts is None:
            self._head(200, size)
            parts = [(0, size)]
        elif not parts:
            self._head(416, 0, ("Content-Range", f"bytes */{size}"))
            return
        elif len(parts) == 1:
            self._head(206, parts[0][1], ("Content-Range", _said(parts[0], size)))
        else:
            self._send_several(file, parts, size)
            return
        if with_body:
            self._copy(file, *parts[0])

    def _send_several(self, file: BinaryIO, parts: list[tuple[int, int]], size: int) -> None:
        heads = [
            f"\r\n--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\nContent-Range: {_said(part, size)}\r\n\r\n"
            for part in parts
        ]
        tail = f"\r\n--{_BOUNDARY}--\r\n"
        length = sum(map(len, heads)) + sum(part[1] for part in parts) + len(tail)
        self._head(206, length, ("Content-Type", f"multipart/byteranges; boundary={_BOUNDARY}"))
        for head, part in zip(heads, parts, strict=True):
            self.wfile.write(head.encode())
            self._copy(file, *part)
        self.wfile.write(tail.encode())

    def _copy(self, file: BinaryIO, offset: int, length: int) -> None:
        file.seek(offset)
        while length:
            piece = file.read(min(_PIECE, length))
            if not piece:
                self.close_connection = True  # it became shorter: what was promised cannot be kept
                return
            self.server.count(len(piece))  # first: whoever has the last byte may ask for the sum
            self.wfile.write(piece)
            length -= len(piece)

    def _head(self, status: int, length: int, *more: tuple[str, str]) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **dict(more)}
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _said(part: tuple[int, int], size: int) -> str:
    return f"bytes {part[0]}-{part[0] + part[1] - 1}/{size}"
