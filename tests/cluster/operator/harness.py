"""A cluster for the operator in one event loop: the real API server, the real operator, nodes that answer at once.

`native_play.py` plays kubelet, proxy and agent of our hosts through the API alone, as the real ones do;
`hostplane.local.kubeos_node` does it for KubeOS's. `Cluster` sees every version of every object and holds the
invariants against it. Each kind is checked on its own, because only the changes of one kind arrive in the order in
which they were made.

`sessions.py` has what an operator's connection may meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from hostplane.api.core import NODE, Node
from hostplane.api.host import HOST, Host
from hostplane.api.kubeos import CONFIGURING, OS, OSINSTANCE, UPGRADING, OSInstance
from hostplane.api.ledger import LEDGER, Ledger
from hostplane.api.meta import Resource
from hostplane.api.nodegroup import NODEGROUP
from hostplane.api.osimage import OSIMAGE
from hostplane.api.rollout import ROLLOUT
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.local.kubeos_node import KubeOSNodes
from hostplane.operator.config import OperatorConfig
from hostplane.operator.main import Operator
from hostplane.planning.snapshot import Options
from tests.cluster.operator.sessions import MortalSession

DIGESTS = {version: "sha256:" + str(index) * 64 for index, version in enumerate(("v1", "v2", "v3"), 1)}
LEASE = 0.6
AnySession = TypeVar("AnySession", bound=MortalSession)


class Cluster:
    """What a test holds: an administrator's session, and the parts it started."""

    def __init__(self, session: Session, kubeconfig: str, group: asyncio.TaskGroup) -> None:
        self.session, self.kubeconfig, self.group = session, kubeconfig, group
        self.nodes: Informer[Node] = Informer(session, NODE, on_change=self._changed)
        self.hosts: Informer[Host] = Informer(session, HOST, on_change=self._changed)
        self.instances: Informer[OSInstance] = Informer(session, OSINSTANCE, on_change=self._changed)
        self.ledgers: Informer[Ledger] = Informer(session, LEDGER, on_change=self._changed)
        self._change = asyncio.Event()
        self.budget: int | None = None
        self.broken: list[str] = []
        self.seen: dict[str, int] = {"assigned": 0, "labelled": 0, "granted": 0, "cordoned": 0, "held": 0}
        self.listeners: list[Callable[[Any, Any], None]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def add_kubeos_nodes(self, *names: str, labels: dict[str, str] | None = None, **how: Any) -> KubeOSNodes:
        """Simulated KubeOS nodes on v1, that answer from now on."""
        nodes = KubeOSNodes(self.session, names, **how)
        await nodes.create("v1", labels)
        self.tasks.append(self.group.create_task(nodes.run()))
        return nodes

    def _changed(self, old: Any, new: Any) -> None:
        self._change.set()
        self._check()
        for listener in self.listeners:
            listener(old, new)

    def _check(self) -> None:
        away = {
            "assigned": [i for i in self.instances.items().values() if i.spec.nodestatus not in ("idle", "")],
            "labelled": [
                n
                for n in self.nodes.items().values()
                if UPGRADING in n.metadata.labels or CONFIGURING in n.metadata.labels
            ],
            "granted": [
                h for h in self.hosts.items().values() if h.spec.grant is not None and h.spec.grant.stage != "Release"
            ],
            "cordoned": [n for n in self.nodes.items().values() if "hostplane.dev/cordon" in n.metadata.annotations],
            "held": [name for ledger in self.ledgers.items().values() for name in ledger.spec.holders],
        }
        for what, found in away.items():
            self.seen[what] = max(self.seen[what], len(found))
            if self.budget is not None and len(found) > self.budget:
                names = [f if isinstance(f, str) else f.metadata.name for f in found]
                self.broken.append(f"{what}: {names}")

    async def until(self, holds: Callable[[], bool], seconds: float = 30.0, what: str = "") -> None:
        """Wait until `holds`, looking again at every change of any object."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    self._change.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            await self._change.wait()
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {what or holds}\n{self.describe()}") from None

    async def follows(
        self,
        resource: Resource[Any],
        name: str,
        holds: Callable[[Any], bool],
        seconds: float = 30.0,
        namespace: str | None = None,
    ) -> Any:
        """One object, as soon as `holds` of it; it is read again at every change of its kind."""
        found = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    listed = await self.session.list(resource, namespace)
                    found = next((item for item in listed.items if item.metadata.name == name), None)
                    if found is not None and holds(found):
                        return found
                    async with self.session.watch(resource, listed.resource_version, namespace) as changes:
                        async for change in changes:
                            if change.object is not None:
                                break
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {found}\n{self.describe()}") from None

    def describe(self) -> str:
        """Everything a failed test wants to know."""
        lines = [f"broken: {self.broken}", f"seen: {self.seen}"]
        for host in self.hosts.items().values():
            lines.append(f"host {host.metadata.name}: {host.spec.grant} {host.status.phase} {host.status.seq}")
        for instance in self.instances.items().values():
            lines.append(f"instance {instance.metadata.name}: {instance.spec} {instance.metadata.annotations}")
        for node in self.nodes.items().values():
            meta, info = node.metadata, node.status.node_info
            lines.append(f"node {meta.name}: {info.os_image} {meta.labels} {meta.annotations} {node.spec}")
        lines += [f"ledger: {ledger.spec}" for ledger in self.ledgers.items().values()]
        return "\n".join(lines)

    # --- making things ----------------------------------------------------------------------------------------------

    async def add_node(self, name: str, labels: dict[str, str] | None = None, version: str = "v1") -> None:
        """A Ready node that runs `version`."""
        body = NODE.manifest(name)
        body["metadata"]["labels"] = labels or {}
        await self.session.create(NODE, body)
        await self.session.patch(NODE, name, {"status": node_status(version, f"{name}-boot-0")}, subresource="status")

    async def add_os(self, name: str = "pool", namespace: str = "default", **spec: Any) -> None:
        """A KubeOS OS object with everything its CRD asks for."""
        whole = {
            "opstype": "upgrade",
            "osversion": "v2",
            "maxunavailable": 1,
            "imagetype": "disk",
            "containerimage": "",
            "imageurl": "http://127.0.0.1/os.tar",
            "checksum": "",
            "flagSafe": True,
            "mtls": False,
            "evictpodforce": True,
            **spec,
        }
        await self.session.create(OS, OS.manifest(name, namespace, spec=whole), namespace)

    async def add_image(self, version: str) -> None:
        """An OSImage, named as its version."""
        await self.session.create(OSIMAGE, OSIMAGE.manifest(version, spec=image_spec(version)))

    async def add_rollout(
        self, name: str = "to-v2", image: str = "v2", groups: tuple[str, ...] = ("g",), **spec: Any
    ) -> None:
        """An upgrade and its OSImage."""
        await self.add_image(image)
        whole = {"operation": "upgrade", "groups": list(groups), "trialSeconds": 60, **spec}
        if "images" not in spec:
            whole["image"] = image
        await self.session.create(ROLLOUT, ROLLOUT.manifest(name, spec=whole))

    async def add_native_node(self, name: str, group: str = "g", **labels: str) -> None:
        """A node of a group that carries our agent."""
        await self.add_node(name, {"group": group, "hostplane.dev/agent": "native", **labels})

    async def add_group(self, name: str = "g", **spec: Any) -> None:
        """A NodeGroup over the node label group=NAME."""
        whole = {"selector": {"matchLabels": {"group": name}}, **spec}
        await self.session.create(NODEGROUP, NODEGROUP.manifest(name, spec=whole))

    async def change_group(self, name: str = "g", **spec: Any) -> None:
        """Merge fields into a NodeGroup's spec."""
        await self.session.patch(NODEGROUP, name, {"spec": spec})

    def versions(self) -> dict[str, str]:
        """What every node says it runs."""
        return {name: node.status.node_info.os_image for name, node in self.nodes.items().items()}


def image_spec(version: str) -> dict[str, Any]:
    """The spec of an OSImage."""
    variant = {
        "architecture": "amd64",
        "format": "rootTar",
        "ref": f"http://127.0.0.1/{version}.tar",
        "digest": DIGESTS[version],
        "size": 1024,
    }
    return {"distro": "demo", "version": version, "variants": [variant]}


def node_status(version: str, boot: str, ready: bool = True) -> dict[str, Any]:
    """A kubelet's status."""
    info = {
        "bootID": boot,
        "osImage": version,
        "architecture": "amd64",
        "kernelVersion": "6.1",
        "kubeletVersion": "v1.34.2",
        "containerRuntimeVersion": "containerd://2",
        "kubeProxyVersion": "",
        "machineID": "m",
        "operatingSystem": "linux",
        "systemUUID": "u",
    }
    now = "2026-01-01T00:00:00Z"
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "Test",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {"nodeInfo": info, "conditions": [condition]}


@contextlib.asynccontextmanager
async def cluster(kubeconfig: str, budget: int | None = None) -> AsyncIterator[Cluster]:
    """A Cluster whose informers run while the context is open; at its end the invariants must have held."""
    async with await Session.open(kubeconfig, 8, "test", rate=5000, burst=5000) as session:
        async with asyncio.TaskGroup() as group:
            made = Cluster(session, kubeconfig, group)
            made.budget = budget
            informers: list[Informer[Any]] = [made.nodes, made.hosts, made.instances, made.ledgers]
            made.tasks = [group.create_task(informer.run()) for informer in informers]
            for informer in informers:
                await informer.synced()
            try:
                yield made
            finally:
                for task in made.tasks:
                    task.cancel()
        assert not made.broken, json.dumps(made.broken[:5])


@contextlib.asynccontextmanager
async def operator(
    kubeconfig: str,
    options: Options | None = None,
    kind: type[AnySession] = MortalSession,  # type: ignore[assignment]  # a default for a type variable
    lease_seconds: float = LEASE,
    **traits: Any,
) -> AsyncIterator[tuple[Operator, AnySession]]:
    """A running operator; cancelled at the end of the context. `traits` are set on its session."""
    async with await kind.open(kubeconfig, 4, "operator", rate=5000, burst=5000) as session:
        session.begin()
        for name, value in traits.items():
            setattr(session, name, value)
        config = OperatorConfig(
            kubeconfig=kubeconfig,
            health_port=-1,
            lease_seconds=lease_seconds,
            coalesce_seconds=0.02,
            options=options or Options(),
        )
        running = Operator(session, config)
        task = asyncio.create_task(running.run())
        try:
            yield running, session
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
