"""HTTP/1.1 to one server over asyncio: requests on a few kept connections, streams on connections of their own.

It exists because of memory and CPU (docs/decisions/001): a proxy runs on every node within 40 MiB, and the usual client
libraries spend 10 to 20 MiB of that on their import. An API server needs little of HTTP, and this is that little: one
request at a time on a connection, no redirects, no cookies, no compression, no pipelining, no HTTP proxies.

It refuses what it cannot bound: a head over 64 KiB, a body over the caller's limit, an answer later than its deadline.
A connection is used again only after its answer was read to the end; a request cut short closes its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

import msgspec

from hostplane.errors import ClusterError, UnreachableError

__all__ = ["Answer", "Chunked", "Counted", "Endpoint", "Pool", "Stream", "UntilEnd"]

_HEAD_LIMIT = 64 * 1024
_READ_SIZE = 256 * 1024
_IDLE_SECONDS = 60.0  # the API server closes idle connections after 90 s; going first avoids the race


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is: `prefix` is a path before every path, `tls` None means plain http."""

    host: str
    port: int
    prefix: str = ""
    tls: ssl.SSLContext | None = None
    server_name: str | None = None

    @property
    def url(self) -> str:
        """The base URL, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"


class Answer(msgspec.Struct, frozen=True):
    """A complete answer; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Counted:
    """A body of `left` bytes. `feed` takes what arrived and returns what of it is body, until `done`."""

    needs_end = True  # the connection ending before `done` is an error

    def __init__(self, left: int) -> None:
        self._left = left
        self.overrun = False

    @property
    def done(self) -> bool:
        return self._left <= 0

    def feed(self, data: bytes) -> bytes:
        self._left -= len(data)
        self.overrun = self._left < 0
        return data[: self._left] if self.overrun else data


class UntilEnd:
    """A body that ends with the connection."""

    needs_end = False
    overrun = False
    done = False

    def feed(self, data: bytes) -> bytes:
        self.done = not data
        return data


class Chunked:
    """A body in chunks; an API server makes thousands of small ones, so all that arrived are taken in one go."""

    needs_end = True

    def __init__(self) -> None:
        self._rest = b""  # the beginning of a line
        self._left = 0  # of the chunk we are in
        self._after_chunk = self._in_trailers = False
        self.done = self.overrun = False

    def feed(self, data: bytes) -> bytes:
        """ValueError for what is not chunked."""
        data, at, found = self._rest + data, 0, []
        while at < len(data) and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                found.append(piece)
                self._left -= len(piece)
                at += len(piece)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            self._take_line(data[at:end])
            at = end + 2
        self._rest = data[at:]
        self.overrun = self.done and at < len(data)
        if len(self._rest) > _HEAD_LIMIT:
            raise ValueError("a chunk's head is too long")
        return b"".join(found)

    def _take_line(self, line: bytes) -> None:
        if self._in_trailers:
            self.done = not line
        elif self._after_chunk:
            if line:
                raise ValueError("a chunk is longer than it said")
            self._after_chunk = False
        else:
            size = line.partition(b";")[0].strip()
            if not size.isalnum():
                raise ValueError("not a chunk's size")
            self._left = int(size, 16)
            self._after_chunk, self._in_trailers = self._left > 0, self._left == 0


class _Connection:
    """One socket. `fresh` until its first answer; `reusable` after an answer that leaves it open."""

    def __init__(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._line_end = f" HTTP/1.1\r\nhost: {self._host}:{endpoint.port}\r\n"
        self._prefix = endpoint.prefix
        self._reader, self._writer = reader, writer
        self._headers: dict[str, str] = {}
        self._without_body = False
        self.reusable = False
        self.idle_since = 0.0

    @classmethod
    async def open(cls, endpoint: Endpoint) -> _Connection:
        reader, writer = await asyncio.open_connection(
            endpoint.host,
            endpoint.port,
            ssl=endpoint.tls,
            server_hostname=(endpoint.server_name or endpoint.host) if endpoint.tls else None,
            limit=_READ_SIZE,
        )
        sock: socket.socket | None = writer.get_extra_info("socket")
        if sock is not None:  # a watch is silent for minutes: let the kernel notice a dead peer within one
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return cls(endpoint, reader, writer)

    @property
    def is_stale(self) -> bool:
        """Whether the server closed it while it was idle, or may be about to."""
        return (
            self._reader.at_eof()
            or self._writer.transport.is_closing()
            or time.monotonic() - self.idle_since > _IDLE_SECONDS
        )

    async def exchange(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> int:
        """Send a request, read the head of its answer; returns the status. The body is still to be read."""
        self.reusable = False
        lines = [method, " ", self._prefix, target, self._line_end]
        for name, value in headers.items():
            lines += (name, ": ", value, "\r\n")
        if body or method not in ("GET", "HEAD"):
            lines += ("content-length: ", str(len(body)), "\r\n")
        lines.append("\r\n")
        self._writer.write("".join(lines).encode("latin-1") + body)
        await self._writer.drain()
        status = 100
        while 100 <= status < 200:  # interim answers say nothing
            status = self._parse_head(await self._reader.readuntil(b"\r\n\r\n"))
        self._without_body = status in (204, 304) or method == "HEAD"
        return status

    def _parse_head(self, head: bytes) -> int:
        if len(head) > _HEAD_LIMIT:
            raise ValueError("head too long")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise ValueError("not HTTP/1")
        self._headers = headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(rest[:3])

    @property
    def headers(self) -> dict[str, str]:
        return self._headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, piece by piece as it arrives. Sets `reusable` once it has ended properly."""
        framing = self._framing()
        while not framing.done:
            data = await self._reader.read(_READ_SIZE)
            if not data and framing.needs_end:
                raise EOFError("the connection ended in the middle of an answer")
            if piece := framing.feed(data):
                yield piece
        close = framing.overrun or self._headers.get("connection", "").lower() == "close"
        self.reusable = framing.needs_end and not close

    def _framing(self) -> Counted | Chunked | UntilEnd:
        if self._without_body:
            return Counted(0)
        if self._headers.get("transfer-encoding", "").lower() == "chunked":
            return Chunked()
        if "content-length" in self._headers:
            return Counted(int(self._headers["content-length"]))
        return UntilEnd()

    async def body(self, limit: int) -> bytes:
        """The whole body; ClusterError AnswerTooLarge once it passes `limit` bytes."""
        if int(self._headers.get("content-length", 0)) > limit:
            raise ClusterError("AnswerTooLarge", limit=limit)
        pieces: list[bytes] = []
        total = 0
        async for piece in self.chunks():
            total += len(piece)
            if total > limit:
                raise ClusterError("AnswerTooLarge", limit=limit)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def abort(self) -> None:
        """Close at once; never waits."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close politely, but not for longer than a second."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()


_BROKEN = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)  # TimeoutError and SSLError are OSErrors


def _unreachable(endpoint: Endpoint, error: BaseException) -> UnreachableError:
    why = str(error) or type(error).__name__
    return UnreachableError("ServerUnreachable", url=endpoint.url, why=why[:300])


class Pool:
    """At most `connections` kept connections to an endpoint; callers queue in order."""

    def __init__(self, endpoint: Endpoint, connections: int) -> None:
        self.endpoint = endpoint
        self._free: list[_Connection] = []
        self._slots = asyncio.Semaphore(connections)
        self._closed = False

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, timeout: float, limit: int
    ) -> Answer:
        """One request and its answer. `timeout` in seconds counts from when a connection is free.

        Raises:
            UnreachableError: no complete answer; the server may or may not have acted.
            ClusterError: AnswerTooLarge.
        """
        async with self._slots:
            connection: _Connection | None = None
            try:
                async with asyncio.timeout(timeout):
                    connection = self._take() or await _Connection.open(self.endpoint)
                    status = await connection.exchange(method, target, headers, body)
                    payload = await connection.body(limit)
                return Answer(status, connection.headers, payload)
            except _BROKEN as error:
                raise _unreachable(self.endpoint, error) from error
            finally:
                if connection is not None:
                    self._give_back(connection)

    def _take(self) -> _Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.is_stale:
                return connection
            connection.abort()
        return None

    def _give_back(self, connection: _Connection) -> None:
        if connection.reusable and not self._closed:
            connection.idle_since = time.monotonic()
            self._free.append(connection)
        else:
            connection.abort()

    @contextlib.asynccontextmanager
    async def stream(
        self, target: str, headers: Mapping[str, str], *, timeout: float, silence: float
    ) -> AsyncIterator[Stream]:
        """GET on a connection of its own; `silence` is how many seconds may pass without a byte.

        Raises:
            UnreachableError: no head of an answer within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                connection = await _Connection.open(self.endpoint)
        except _BROKEN as error:
            raise _unreachable(self.endpoint, error) from error
        try:
            try:
                async with asyncio.timeout(timeout):
                    status = await connection.exchange("GET", target, headers, b"")
            except _BROKEN as error:
                raise _unreachable(self.endpoint, error) from error
            yield Stream(self.endpoint, connection, status, silence)
        finally:
            connection.abort()

    async def close(self) -> None:
        """Close what is idle; connections in use close when their request ends."""
        self._closed = True
        while self._free:
            await self._free.pop().close()


class Stream:
    """An answer being read while it is still written: a watch."""

    def __init__(self, endpoint: Endpoint, connection: _Connection, status: int, silence: float) -> None:
        self._endpoint, self._connection, self._silence = endpoint, connection, silence
        self.status = status
        self.headers = connection.headers

    async def body(self, limit: int) -> bytes:
        """The whole body, for answers that turned out to be errors."""
        try:
            async with asyncio.timeout(self._silence):
                return await self._connection.body(limit)
        except _BROKEN as error:
            raise _unreachable(self._endpoint, error) from error

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives; ends where the server ended it. UnreachableError when it breaks or falls silent."""
        chunks = self._connection.chunks()
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    piece = await anext(chunks, b"")
                if not piece:
                    return
                yield piece
        except _BROKEN as error:
            raise _unreachable(self._endpoint, error) from error
