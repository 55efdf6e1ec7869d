"""What a node costs while nothing happens, and what its credentials must suffice for."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from hostplane.local.controlplane import ControlPlane

Scene = Callable[..., None]
DEPLOY = Path(__file__).parents[3] / "deploy"
SYSTEM = "hostplane-system"
RSS_LIMIT_KIB = 40 * 1024
QUIET_SECONDS = 5.0
REQUEST = re.compile(rb"^([A-Z]+) (\S+) HTTP/1\.1\r$", re.MULTILINE)


class Counter:
    """A plain door to the API server that notes every request that passes."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.seen: list[str] = []
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Counter]:
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    def kubeconfig(self, path: Path) -> Path:
        return write_kubeconfig(path, f"http://127.0.0.1:{self.port}", self._plane.token)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(self._plane.url)
        context = ssl.create_default_context(cafile=str(self._plane.ca))
        there, back = await asyncio.open_connection(target.hostname, target.port, ssl=context)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: bool) -> None:
            with contextlib.suppress(OSError):
                while piece := await source.read(65536):
                    if note:
                        self.seen += [" ".join(part.decode() for part in found) for found in REQUEST.findall(piece)]
                    sink.write(piece)
                    await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, back, True), copy(there, writer, False))


def write_kubeconfig(path: Path, server: str, token: str, ca: str = "") -> Path:
    cluster = {"server": server, **({"certificate-authority": ca} if ca else {})}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": cluster}],
        "users": [{"name": "x", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])


def test_resting_node_holds_one_watch_and_no_agent(
    clean_cluster: ControlPlane, tmp_path: Path, stand_up: Any, scene: Scene
) -> None:
    async def body() -> None:
        async with (
            Counter(clean_cluster).running() as counter,
            stand_up(kubeconfig=counter.kubeconfig(tmp_path / "counted")) as stand,
        ):
            await stand.create(image=stand.images["v2"])
            await stand.phase("Staged")
            await stand.machine.until(lambda m: m.process("agent") is None)
            before = len(counter.seen)
            await asyncio.sleep(QUIET_SECONDS)  # silence can only be listened to
            assert counter.seen[before:] == []
            assert stand.machine.process("agent") is None
            reads = [line for line in counter.seen if line.startswith("GET")]
            assert len([line for line in reads if "watch=1" in line]) == 1
            assert all("fieldSelector=metadata.name%3Dn1" in line for line in reads)
            writes = {line for line in counter.seen if not line.startswith("GET")}
            path = "/apis/hostplane.dev/v1alpha1/hosts/n1/status"
            assert writes == {f"PATCH {path}?fieldManager=hostplane-proxy"}

    scene(body)


def test_proxy_stays_within_forty_mebibytes(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up(bytesPerSecond=20_000) as stand:
            await stand.create(image=stand.images["v2"])
            await stand.phase("Staging")
            busy = rss_kib(stand.machine.process("proxy").pid)
            await stand.phase("Staged")
            resting = rss_kib(stand.machine.process("proxy").pid)
            print(f"proxy RSS: {busy} KiB staging, {resting} KiB at rest")
            assert max(busy, resting) <= RSS_LIMIT_KIB

    scene(body)


def test_token_of_the_nodes_own_pod_is_enough(
    clean_cluster: ControlPlane, tmp_path: Path, stand_up: Any, scene: Scene
) -> None:
    api = clean_cluster.api
    files = [f"--filename={DEPLOY / name}" for name in ("rbac/namespace.yaml", "rbac/proxy.yaml", "admission")]
    clean_cluster.kubectl("apply", *files)
    try:
        spec = {"nodeName": "n1", "serviceAccountName": "hostplane-proxy", "containers": [{"name": "c", "image": "i"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "proxy-n1"}, "spec": spec}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
        api.request("POST", "/api/v1/nodes", node)
        made = api.request("POST", f"/api/v1/namespaces/{SYSTEM}/pods", pod)
        bound = {"apiVersion": "v1", "kind": "Pod", "name": "proxy-n1", "uid": made["metadata"]["uid"]}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": ["https://kubernetes.default.svc"], "boundObjectRef": bound},
        }
        path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/hostplane-proxy/token"
        token = api.request("POST", path, request)["status"]["token"]
        kubeconfig = write_kubeconfig(tmp_path / "bound", clean_cluster.url, token, str(clean_cluster.ca))

        async def body() -> None:
            async with stand_up(kubeconfig=kubeconfig) as stand:
                await stand.create(image=stand.images["v2"])
                await stand.phase("Staged")
                await stand.grant(3, "Switch", "v2")
                await stand.phase("Trial")
                await stand.grant(3, "Confirm", "v2")
                await stand.phase("Idle")

        scene(body)
    finally:
        clean_cluster.kubectl("delete", "--ignore-not-found", *files[1:])
