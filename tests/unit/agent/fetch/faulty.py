"""A web server that serves directories with ranges, and does what a test tells it to do wrong."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Asked(NamedTuple):
    """One request that came."""

    path: str
    range: str | None
    authorization: str | None
    host: str
    headers: dict[str, str]


Handler = http.server.BaseHTTPRequestHandler


class Faulty:
    """`before(handler, number)` is asked first, numbers counting from 0; true: it has answered."""

    def __init__(self, directory: Path | None = None, context: ssl.SSLContext | None = None) -> None:
        self.directory = directory
        self.before: Callable[[Handler, int], bool] = lambda handler, number: False
        self.asked: list[Asked] = []
        self.connections = 0
        self.over = threading.Event()
        faulty = self

        class Answering(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def setup(self) -> None:
                faulty.connections += 1
                super().setup()

            def do_GET(self) -> None:
                number = len(faulty.asked)
                headers = {key.lower(): value for key, value in self.headers.items()}
                asked = Asked(
                    self.path, headers.get("range"), headers.get("authorization"), headers.get("host", ""), headers
                )
                faulty.asked.append(asked)
                with contextlib.suppress(OSError):
                    if not faulty.before(self, number):
                        faulty.serve(self)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self.server = Quiet(("127.0.0.1", 0), Answering)
        if context is not None:
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self.server.server_port
        self.url = f"{'http' if context is None else 'https'}://localhost:{self.port}/"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def file(self, path: str) -> bytes | None:
        assert self.directory is not None
        target = self.directory / path.partition("?")[0].lstrip("/")
        return target.read_bytes() if target.is_file() else None

    def serve(self, handler: Handler) -> None:
        content = self.file(handler.path)
        if content is None:
            send(handler, 404, b"nothing here")
            return
        asked = handler.headers["Range"]
        if not asked:
            send(handler, 200, content)
            return
        first, _, last = asked[len("bytes=") :].partition("-")
        start, end = int(first), int(last) + 1 if last else len(content)
        send(handler, 206, content[start:end], **{"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"})

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


def send(handler: Handler, status: int, body: bytes = b"", **headers: str) -> None:
    """One whole answer."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
