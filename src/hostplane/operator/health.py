"""Three pages over plain HTTP for the kubelet and Prometheus: /healthz, /readyz and /metrics.

It answers GET and HEAD, one request per connection, and reads nothing but a request's head. A client may be slow,
endless or hostile: the head is bounded in bytes and seconds, the answer in seconds, and the connections in number; one
over the limit is closed at once. There is no encryption and no log-in, so it listens on loopback unless told otherwise,
and its pages say nothing that would have to be kept from the pod network.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from hostplane.errors import LocalError, Reason

__all__ = ["HealthServer"]

_log = structlog.get_logger(__name__)
_HEAD_BYTES = 8192
_TEXT = "text/plain; charset=utf-8"
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
Check = Callable[[], Reason | None]
Answer = tuple[int, str, bytes]


def _well() -> None:
    return None


class HealthServer:
    """Serves the pages of one process.

    Args:
        host: the address to listen on; loopback unless the kubelet or Prometheus must reach it.
        port: 0 takes a free one; `port` tells which once `run` has begun.
        live: why this process should be restarted, or None. A process that answers at all is alive by default.
        ready: why this process should get no work, or None.
        metrics: the page of metrics and its content type; none: /metrics is not found.
        seconds: for a client to send its head, and again for it to take the answer.
        connections: how many are served at once.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        live: Check = _well,
        ready: Check = _well,
        metrics: tuple[Callable[[], bytes], str] | None = None,
        seconds: float = 5.0,
        connections: int = 32,
    ) -> None:
        self.host, self.port = host, port
        self._checks = {"/healthz": live, "/readyz": ready}
        self._metrics = metrics
        self._seconds, self._connections = seconds, connections
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._listening = asyncio.Event()

    async def listening(self) -> None:
        """Waits until `run` listens, and `port` is the one it listens on."""
        await self._listening.wait()

    async def run(self) -> None:
        """Serves until cancelled, then closes every connection.

        Raises:
            LocalError: HealthPortTaken, the address cannot be listened on.
        """
        try:
            server = await asyncio.start_server(self._serve, self.host, self.port, limit=_HEAD_BYTES, backlog=64)
        except OSError as error:
            raise LocalError("HealthPortTaken", host=self.host, port=self.port, why=error.strerror) from error
        try:
            self.port = server.sockets[0].getsockname()[1]
            self._listening.set()
            await asyncio.Event().wait()  # serve_forever would wait for every client before it lets go
        finally:
            self._listening.clear()
            server.close()
            for writer in self._open.values():
                writer.transport.abort()
            if self._open:
                await asyncio.wait(self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= self._connections:
            writer.transport.abort()
            return
        self._open[task] = writer
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await self._converse(reader, writer)
        finally:
            writer.transport.abort()
            del self._open[task]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = "GET"
        try:
            async with asyncio.timeout(self._seconds):
                head = await reader.readuntil(b"\r\n\r\n")
            method, answer = self._answer(head)
        except TimeoutError:
            answer = _refuse(408)
        except asyncio.LimitOverrunError:
            answer = _refuse(431)
        status, kind, body = answer
        lines = (
            f"HTTP/1.1 {status} {_PHRASES[status]}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            *(["Allow: GET, HEAD"] if status == 405 else []),
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        )
        writer.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + (b"" if method == "HEAD" else body))
        async with asyncio.timeout(self._seconds):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    def _answer(self, head: bytes) -> tuple[str, Answer]:
        line = head.split(b"\r\n", 1)[0].split(b" ")
        if len(line) != 3 or not line[2].startswith(b"HTTP/1."):
            return "GET", _refuse(400)
        method, path = line[0].decode("latin-1"), line[1].split(b"?", 1)[0].decode("latin-1")
        if method not in ("GET", "HEAD"):
            return method, _refuse(405)
        try:
            return method, self._page(path)
        except Exception:  # a page that cannot be made must not look like a dead process
            _log.exception("health_page_failed", path=path)
            return method, _refuse(500)

    def _page(self, path: str) -> Answer:
        if check := self._checks.get(path):
            why = check()
            return (200, _TEXT, b"ok\n") if why is None else (503, _TEXT, f"{why}\n{why.remedy}\n".encode())
        if path == "/metrics" and self._metrics:
            render, kind = self._metrics
            return 200, kind, render()
        return _refuse(404)


def _refuse(status: int) -> Answer:
    return status, _TEXT, f"{status} {_PHRASES[status]}\n".encode()
