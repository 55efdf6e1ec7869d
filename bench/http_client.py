"""What a Kubernetes client costs: CPU a request and an event, memory, import; the figures of docs/decisions/001.

    python bench/http_client.py [--kubeconfig F] [--nodes 3000] [--writes 2000] [--json]

Against a throw-away API server (`hostplane local up --hosts 0 --no-operator`): it makes and deletes Nodes named
bench-*. Each candidate runs in a process of its own and does the same: patch `writes` Nodes at 4, 8 and 100
connections, list all Nodes, then read the watch events that its own patches made. Lists and events are decoded into the
same trimmed msgspec type, except by lightkube as it is, which has types of its own. CPU is that process's own; the
server's is not counted. Candidates that are not installed are named and left out; this installs them into .venv:

    uv pip install --group bench
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hostplane.api.meta import ApiStruct, ObjectMeta, Resource


class Spec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What the operator's cache keeps of a Node's spec, about."""

    unschedulable: bool = False


class Node(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What the operator's cache keeps of a Node, about."""

    metadata: ObjectMeta
    spec: Spec = Spec()


NODE = Resource(Node, "", "v1", "Node", "nodes")
OURS = "kube/ on h11"
NEEDS = {
    "lightkube": "lightkube",
    "httpx2": "httpx2",
    "aiohttp": "aiohttp",
    OURS: "hostplane.kube.session",
    "lightkube.config + aiohttp": "lightkube",
}
IMPORTS = {
    "lightkube": "import asyncio, lightkube, lightkube.resources.core_v1",
    "httpx2": "import asyncio, ssl, msgspec, httpx2",
    "aiohttp": "import asyncio, ssl, msgspec, aiohttp",
    OURS: "import hostplane.kube.informer",
    "lightkube.config + aiohttp": "import asyncio, msgspec, lightkube.config.kubeconfig, aiohttp",
}
CONNECTIONS = (4, 8, 100)
STATUS = Path("/proc/self/status")
Patch = Callable[[str, dict[str, Any]], Awaitable[Any]]


def rss() -> float:
    """This process's resident memory in MiB."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """This process's highest resident memory so far in MiB (getrusage would count its parent's)."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")) / 1024


class Candidate:
    """One client: `patch` a Node, `listing` of all, `events` after a version. `connections` is its pool's size."""

    def __init__(self, kubeconfig: str, connections: int) -> None:
        self.kubeconfig, self.connections = kubeconfig, connections
        self.stack = AsyncExitStack()

    async def start(self) -> None:
        raise NotImplementedError

    async def patch(self, name: str, body: dict[str, Any]) -> None:
        raise NotImplementedError

    async def listing(self) -> tuple[int, str]:
        raise NotImplementedError

    def events(self, version: str) -> AsyncIterator[Any]:
        raise NotImplementedError


class Hostplane(Candidate):
    async def start(self) -> None:
        from hostplane.kube.session import Session

        self.session = await self.stack.enter_async_context(
            await Session.open(self.kubeconfig, self.connections, rate=1e6, burst=10**6)
        )
        self.node = NODE

    async def patch(self, name: str, body: dict[str, Any]) -> None:
        await self.session.patch(self.node, name, body)

    async def listing(self) -> tuple[int, str]:
        count, version = 0, ""
        async for page in self.session.pages(self.node):
            count, version = count + len(page.items), page.resource_version
        return count, version

    async def events(self, version: str) -> AsyncIterator[Any]:
        async with self.session.watch(self.node, version) as changes:
            async for change in changes:
                yield change


class Lightkube(Candidate):
    async def start(self) -> None:
        import httpx2
        from lightkube import AsyncClient, KubeConfig
        from lightkube.resources.core_v1 import Node

        limits = httpx2.Limits(max_connections=self.connections)
        client: Any = AsyncClient(KubeConfig.from_file(self.kubeconfig))
        client._client._client._transport._pool._max_connections = limits.max_connections
        self.client, self.node = client, Node

    async def patch(self, name: str, body: dict[str, Any]) -> None:
        await self.client.patch(self.node, name, body)

    async def listing(self) -> tuple[int, str]:
        listing = self.client.list(self.node, chunk_size=500)
        count = 0
        async for _ in listing:
            count += 1
        return count, str(listing.resourceVersion)

    async def events(self, version: str) -> AsyncIterator[Any]:
        async for event in self.client.watch(self.node, resource_version=version):
            yield event


class Plain(Candidate):
    """What all bare HTTP libraries share: one does `send` (whole body) and `chunks` (as they come)."""

    async def send(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
        raise NotImplementedError

    def chunks(self, target: str) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def start(self) -> None:
        from hostplane.kube import auth

        self.endpoint, credentials = auth.locate(self.kubeconfig)
        self.headers = {"accept": "application/json", "accept-encoding": "identity", **await credentials.headers()}
        self.type = Node
        await self.connect()

    async def connect(self) -> None:
        raise NotImplementedError

    async def patch(self, name: str, body: dict[str, Any]) -> None:
        import msgspec

        headers = {**self.headers, "content-type": "application/merge-patch+json"}
        answer = await self.send("PATCH", f"/api/v1/nodes/{name}", headers, msgspec.json.encode(body))
        msgspec.json.decode(answer, type=self.type)

    async def listing(self) -> tuple[int, str]:
        from hostplane.kube import wire

        count, following = 0, ""
        while True:
            query = f"limit=500&continue={following}" if following else "limit=500"
            page = wire.decode_page(self.type, await self.send("GET", f"/api/v1/nodes?{query}", self.headers, b""), "")
            count, following = count + len(page.items), page.next
            if not following:
                return count, page.resource_version

    async def events(self, version: str) -> AsyncIterator[Any]:
        from hostplane.kube import wire

        lines = wire.Lines()
        async for chunk in self.chunks(f"/api/v1/nodes?watch=1&resourceVersion={version}&timeoutSeconds=60"):
            for line in lines.feed(chunk):
                yield wire.decode_change(self.type, line, "")


class Httpx(Plain):
    async def connect(self) -> None:
        import httpx2

        limits = httpx2.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
        self.client = await self.stack.enter_async_context(
            httpx2.AsyncClient(base_url=self.endpoint.url, verify=self.endpoint.tls or False, limits=limits, timeout=60)
        )

    async def send(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
        answer = await self.client.request(method, target, headers=headers, content=body)
        answer.raise_for_status()
        return bytes(answer.content)

    async def chunks(self, target: str) -> AsyncIterator[bytes]:
        async with self.client.stream("GET", target, headers=self.headers) as answer:
            async for chunk in answer.aiter_bytes():
                yield chunk


class Aiohttp(Plain):
    async def connect(self) -> None:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=self.connections, ssl=self.endpoint.tls or False)
        self.client = await self.stack.enter_async_context(aiohttp.ClientSession(connector=connector))

    async def send(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
        async with self.client.request(method, self.endpoint.url + target, headers=headers, data=body) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def chunks(self, target: str) -> AsyncIterator[bytes]:
        async with self.client.get(self.endpoint.url + target, headers=self.headers) as answer:
            async for chunk in answer.content.iter_any():
                yield chunk


CANDIDATES: dict[str, type[Candidate]] = {
    "lightkube": Lightkube,
    "httpx2": Httpx,
    "aiohttp": Aiohttp,
    OURS: Hostplane,
}


async def run(name: str, kubeconfig: str, nodes: int, writes: int) -> dict[str, float]:
    """Measure one candidate in this process."""
    figures: dict[str, float] = {}
    version = ""
    for connections in CONNECTIONS:
        client = CANDIDATES[name](kubeconfig, connections)
        await client.start()
        async with client.stack:
            await client.patch("bench-0", {"metadata": {"labels": {"warm": str(connections)}}})
            if not version:
                figures["rss_one_request_mib"] = rss()
                cpu = time.process_time()
                count, version = await client.listing()
                figures["list_cpu_ms"] = (time.process_time() - cpu) * 1000
                assert count >= nodes, f"{count} of {nodes} Nodes"
                figures["rss_list_peak_mib"] = peak()
            names = itertools.islice(itertools.cycle(range(nodes)), writes)
            cpu, wall = time.process_time(), time.monotonic()

            async def work(patch: Patch = client.patch, names: Any = names, tag: str = f"c{connections}") -> None:
                for number in names:
                    await patch(f"bench-{number}", {"metadata": {"annotations": {"bench": f"{tag}-{time.time_ns()}"}}})

            async with asyncio.TaskGroup() as tasks:
                for _ in range(100):
                    tasks.create_task(work())
            figures[f"patch_cpu_ms_{connections}"] = (time.process_time() - cpu) * 1000 / writes
            figures[f"patch_per_s_{connections}"] = writes / (time.monotonic() - wall)
    client = CANDIDATES[name](kubeconfig, 4)
    await client.start()
    async with client.stack:
        wanted = writes * len(CONNECTIONS)
        cpu, seen = time.process_time(), 0
        async for _ in client.events(version):
            seen += 1
            if seen >= wanted:
                break
        figures["event_cpu_us"] = (time.process_time() - cpu) * 1e6 / wanted
    return figures


def import_cost(name: str) -> dict[str, float]:
    """RSS and CPU of nothing but the import, in a fresh process."""
    code = f"import time; t = time.process_time(); {IMPORTS[name]}; c = time.process_time() - t; "
    code += "print(int(open('/proc/self/statm').read().split()[1]) * 4 / 1024, c * 1000)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True) for _ in range(3)]
    parts = min(tuple(float(part) for part in each.stdout.split()) for each in runs)
    return {"import_rss_mib": parts[0], "import_cpu_ms": parts[1]}


async def fill(kubeconfig: str, nodes: int, *, remove: bool) -> None:
    """Make (or delete) the Nodes, each about as large as a small real one."""
    from hostplane.errors import ConflictError, NotFoundError
    from hostplane.kube.session import Session

    annotations = {f"example.com/note-{number}": "x" * 100 for number in range(16)}
    labels = {f"example.com/label-{number}": f"value-{number}" for number in range(12)}
    async with await Session.open(kubeconfig, 8, rate=1e6, burst=10**6) as session, asyncio.TaskGroup() as tasks:

        async def one(number: int) -> None:
            try:
                if remove:
                    await session.delete(NODE, f"bench-{number}")
                else:
                    body = NODE.manifest(f"bench-{number}")
                    body["metadata"] |= {"annotations": annotations, "labels": labels}
                    await session.create(NODE, body)
            except (ConflictError, NotFoundError):
                pass

        for number in range(nodes):
            tasks.create_task(one(number))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubeconfig", default=os.environ.get("KUBECONFIG"), required="KUBECONFIG" not in os.environ)
    parser.add_argument("--nodes", type=int, default=3000)
    parser.add_argument("--writes", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(asyncio.run(run(args.one, args.kubeconfig, args.nodes, args.writes))))
        return
    with tempfile.TemporaryDirectory(prefix="hp-bench-pyc-") as compiled:  # as installed: nobody pays for the compiler
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = compiled
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Measure every candidate in processes of its own, and print."""
    asyncio.run(fill(args.kubeconfig, args.nodes, remove=False))
    results: dict[str, dict[str, float]] = {}
    sizes = ["--nodes", str(args.nodes), "--kubeconfig", args.kubeconfig]
    try:
        for name, module in NEEDS.items():
            if importlib.util.find_spec(module) is None:
                print(f"{name}: not installed, left out", file=sys.stderr)
                continue
            results[name] = import_cost(name)
            if name in CANDIDATES:
                for writes in (1, args.writes):  # the first run only compiles what is imported late
                    command = [sys.executable, __file__, "--one", name, *sizes, "--writes", str(writes)]
                    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=600)
                results[name] |= json.loads(done.stdout)
    finally:
        asyncio.run(fill(args.kubeconfig, args.nodes, remove=True))
    if args.json:
        print(json.dumps({"nodes": args.nodes, "writes": args.writes, "results": results}, indent=2))
        return
    for figure in dict.fromkeys(itertools.chain.from_iterable(results.values())):
        print(
            f"{figure:22}",
            *(f"{name}: {values.get(figure, float('nan')):.2f}" for name, values in results.items()),
            sep="  ",
        )


if __name__ == "__main__":
    main()
