"""Stands between a client and the real API server, and lets things go wrong on demand.

async with faults(plane.kubeconfig, tmp_path) as proxy:
    proxy.inject("GET", "watch=1", answer(410))       the next matching request gets this instead
    proxy.inject("PATCH", "/nodes/", CUT, times=2)    forwarded, but the answer is cut off
    proxy.cut_all()                                   every open connection is reset
    Session.open(proxy.kubeconfig)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from hostplane.kube import auth
from hostplane.kube.transport import Endpoint

CUT = b""


def answer(status: int, message: str = "injected", retry_after: float | None = None) -> bytes:
    """A refusal as an API server would write it."""
    details = {"retryAfterSeconds": retry_after} if retry_after is not None else {}
    body = json.dumps({"kind": "Status", "code": status, "message": message, "details": details}).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class Fault(msgspec.Struct):
    method: str
    part: str
    reply: bytes
    times: int


class FaultProxy:
    """`seen` is every request line that came in."""

    def __init__(self, upstream: Endpoint, headers: dict[str, str]) -> None:
        self.kubeconfig = ""
        self.seen: list[str] = []
        self._upstream, self._headers = upstream, headers
        self._faults: list[Fault] = []
        self._open: set[asyncio.StreamWriter] = set()

    def inject(self, method: str, part: str, reply: bytes, times: int = 1) -> None:
        """For the next `times` requests of `method` whose target contains `part`."""
        self._faults.append(Fault(method, part, reply, times))

    def cut_all(self) -> None:
        """Reset every connection."""
        for writer in self._open:
            writer.transport.abort()

    def _fault(self, method: str, target: str) -> Fault | None:
        for fault in self._faults:
            if fault.times > 0 and fault.method == method and fault.part in target:
                fault.times -= 1
                return fault
        return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        up: asyncio.StreamWriter | None = None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = head[0].split(" ")
            self.seen.append(f"{method} {target}")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            fault = self._fault(method, target)
            if fault and fault.reply is not CUT:
                writer.write(fault.reply)
                await writer.drain()
                return
            headers |= {**self._headers, "connection": "close", "host": self._upstream.host}
            up_reader, up = await asyncio.open_connection(
                self._upstream.host, self._upstream.port, ssl=self._upstream.tls, limit=2**20
            )
            lines = [head[0], *(f"{name}: {value}" for name, value in headers.items()), "", ""]
            up.write("\r\n".join(lines).encode() + body)
            while data := await up_reader.read(2**16):
                if fault:
                    return  # it happened, and nobody hears of it
                writer.write(data)
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            self._open.discard(writer)
            for each in (writer, up):
                if each is not None:
                    each.transport.abort()


@contextlib.asynccontextmanager
async def faults(kubeconfig: Path, folder: Path) -> AsyncIterator[FaultProxy]:
    """A proxy to the cluster of `kubeconfig`, with a kubeconfig of its own."""
    endpoint, who = auth.locate(kubeconfig)
    proxy = FaultProxy(endpoint, await who.headers())
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    content = {
        "current-context": "p",
        "clusters": [{"name": "p", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "p", "context": {"cluster": "p"}}],
    }
    path = folder / "faulty-kubeconfig"
    path.write_text(json.dumps(content))
    proxy.kubeconfig = str(path)
    try:
        yield proxy
    finally:
        proxy.cut_all()
        server.close()
        await server.wait_closed()
