"""A plain door to the API server that notes who asks what: clients are told apart by their user agent.

Bytes pass unchanged, so what is counted is what the real clients send; only TLS ends here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from hostplane.local.controlplane import ControlPlane

__all__ = ["Relay", "Seen", "relay"]

_HEAD = re.compile(rb"^(GET|PUT|POST|PATCH|DELETE) (\S+) HTTP/1\.1\r$", re.MULTILINE)
_AGENT = re.compile(rb"^user-agent: (\S+)\r$", re.MULTILINE | re.IGNORECASE)


class Seen(msgspec.Struct, frozen=True):
    """One request."""

    who: str
    method: str
    path: str

    @property
    def is_watch(self) -> bool:
        """A watch, opened."""
        return "watch=1" in self.path

    @property
    def is_lease(self) -> bool:
        """A Lease, read or renewed."""
        return "/leases" in self.path


class Relay:
    """`seen` grows while it runs; `kubeconfig` leads through it."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path) -> None:
        self._plane, self.kubeconfig = plane, kubeconfig
        self._open: dict[asyncio.StreamWriter, asyncio.Event] = {}
        self.seen: list[Seen] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        target = urlsplit(self._plane.url)
        context = ssl.create_default_context(cafile=str(self._plane.ca))
        self._open[writer] = ended = asyncio.Event()
        try:
            from_server, to_server = await asyncio.open_connection(target.hostname, target.port, ssl=context)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, to_server, noting=True))
                group.create_task(self._copy(from_server, writer, noting=False))
        except* OSError:
            pass
        finally:
            writer.transport.abort()
            ended.set()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, noting: bool) -> None:
        who = ""
        try:
            while piece := await source.read(65536):
                if noting:
                    if found := _AGENT.search(piece):
                        who = found[1].decode().partition("/")[0]
                    self.seen += [Seen(who, m.decode(), path.decode()) for m, path in _HEAD.findall(piece)]
                sink.write(piece)
                await sink.drain()
        finally:
            sink.transport.abort()

    async def end(self) -> None:
        """Cut what is still open, and wait until nothing is."""
        for writer, ended in self._open.items():
            writer.transport.abort()
            await ended.wait()


@contextlib.asynccontextmanager
async def relay(plane: ControlPlane, kubeconfig: Path) -> AsyncIterator[Relay]:
    """A relay to `plane`; writes `kubeconfig`, which leads through it."""
    door = Relay(plane, kubeconfig)
    server = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _write(kubeconfig, port, plane.token)
    try:
        yield door
    finally:
        server.close()
        await door.end()


def _write(kubeconfig: Path, port: int, token: str) -> None:
    content = {
        "current-context": "relay",
        "clusters": [{"name": "relay", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "relay", "user": {"token": token}}],
        "contexts": [{"name": "relay", "context": {"cluster": "relay", "user": "relay"}}],
    }
    kubeconfig.touch(0o600)
    kubeconfig.write_bytes(msgspec.json.encode(content))
