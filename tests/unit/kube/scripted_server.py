"""An HTTP server that answers request n with script n: bytes to send, or a function that does it by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from hostplane.kube.auth import Credentials
from hostplane.kube.pace import TokenBucket
from hostplane.kube.session import Session
from hostplane.kube.transport import Endpoint, Pool

Script = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Request(msgspec.Struct):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


def answer(body: Any = b"", status: int = 200, **headers: str) -> bytes:
    """A complete answer; dicts become JSON."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(payload)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + payload


def chunked(*chunks: bytes) -> bytes:
    """The head of a chunked answer and these chunks, not ended."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


class Server:
    """`requests` is what came in; scripts are used in order, the last one again and again."""

    def __init__(self, scripts: list[Script]) -> None:
        self.scripts = scripts
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        self._writers.append(writer)
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append(Request(method, target, headers, body, connection))
                script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
                if isinstance(script, bytes):
                    writer.write(script)
                    await writer.drain()
                else:
                    await script(reader, writer)
        writer.close()

    def close_connections(self) -> None:
        for writer in self._writers:
            writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close without a word."""
    writer.close()
    raise EOFError


async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing until the client goes."""
    await reader.read()
    raise EOFError


@contextlib.asynccontextmanager
async def serving(*scripts: Script) -> AsyncIterator[tuple[Server, Endpoint]]:
    """A server with these scripts, and where it is."""
    served = Server(list(scripts))
    listener = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.port = listener.sockets[0].getsockname()[1]
    try:
        yield served, Endpoint(host="127.0.0.1", port=served.port, prefix="/base")
    finally:
        served.close_connections()
        listener.close()
        await listener.wait_closed()


@contextlib.asynccontextmanager
async def scripted(
    *scripts: Script, who: Credentials | None = None, connections: int = 4, timeout: float = 5
) -> AsyncIterator[tuple[Server, Session]]:
    """A server with these scripts, and a session with it."""
    bucket = TokenBucket(1000, 1000)
    async with serving(*scripts) as (served, endpoint):
        pools = Pool(endpoint, connections), Pool(endpoint, 1)
        async with Session(*pools, who or Credentials(token="secret"), "test", bucket, timeout) as session:
            yield served, session
