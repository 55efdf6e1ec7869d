"""HTTP/1.1 to one server over asyncio: requests on a few kept connections, streams on connections of their own.

What the bytes mean is h11's affair; here are the sockets, the pool, the bounds and the time-outs. It exists because of
memory (docs/decisions/001): a proxy runs on every node within 40 MiB, and the usual client libraries spend 10 to 20 of
those on their import. An API server needs one request at a time on a connection, no redirects, no cookies, no
compression, no HTTP proxies.

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

import h11
import msgspec

from hostplane.errors import ClusterError, UnreachableError

__all__ = ["Answer", "Endpoint", "Pool", "Stream"]

_HEAD_LIMIT = 64 * 1024
_HEAD_READ = 16 * 1024  # a head is looked at after every read, so reads this small keep its limit exact
_READ_SIZE = 256 * 1024  # an API server makes thousands of small chunks: take all that arrived in one go
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


class _Connection:
    """One socket; `reusable` after an answer that leaves it open."""

    def __init__(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._host = (b"host", f"{host}:{endpoint.port}".encode())
        self._prefix = endpoint.prefix
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT - _HEAD_READ)
        self.headers: dict[str, str] = {}
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
        self._writer.write(self._encode(method, target, headers, body))
        await self._writer.drain()
        while not isinstance(event := self._http.next_event(), h11.Response):  # interim answers say nothing
            if event is h11.NEED_DATA and not await self._receive(_HEAD_READ):
                raise ConnectionError("the server closed the connection before it answered")
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        return event.status_code

    def _encode(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = [self._host, *((name.encode(), value.encode()) for name, value in headers.items())]
        if body or method not in ("GET", "HEAD"):
            lines.append((b"content-length", b"%d" % len(body)))
        send = self._http.send
        try:
            head = send(h11.Request(method=method, target=self._prefix + target, headers=lines))
            return head + (send(h11.Data(data=body)) if body else b"") + send(h11.EndOfMessage())
        except h11.LocalProtocolError:  # its message would show the header, and so perhaps a token
            raise ValueError("the path, a header or a credential holds what HTTP does not allow") from None

    async def _receive(self, size: int) -> bool:
        data = await self._reader.read(size)
        self._http.receive_data(data)
        return bool(data)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, piece by piece as it arrives. Sets `reusable` once it has ended properly."""
        while True:
            pieces: list[bytes] = []
            while isinstance(event := self._http.next_event(), h11.Data):
                pieces.append(event.data)
            if pieces:
                yield b"".join(pieces)
            if event is not h11.NEED_DATA:
                break
            await self._receive(_READ_SIZE)
        both_done = self._http.our_state is self._http.their_state is h11.DONE
        if both_done and self._http.trailing_data == (b"", False):  # nothing came after the answer, not even the end
            self._http.start_next_cycle()
            self.reusable = True

    async def body(self, limit: int) -> bytes:
        """The whole body; ClusterError AnswerTooLarge once it passes `limit` bytes."""
        if int(self.headers.get("content-length", 0)) > limit:
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


_BROKEN = (OSError, ValueError, h11.ProtocolError)  # TimeoutError and SSLError are OSErrors


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
