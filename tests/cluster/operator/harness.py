"""A cluster for the operator in one event loop: the real API server, the real operator, nodes that answer at once.

`NativeHosts` plays kubelet, proxy and agent of our hosts through the API alone, as the real ones do;
`hostplane.local.kubeos_node` does it for KubeOS's. `Cluster` sees every version of every object and holds the
invariants against it. Each kind is checked on its own, because only the changes of one kind arrive in the order in
which they were made.

`MortalSession` dies before or after a chosen write: nothing it is asked afterwards reaches the server, as if the
process had been killed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from hostplane.api.core import NODE, Node
from hostplane.api.host import HOST, Host
from hostplane.api.kubeos import CONFIGURING, OS, OSINSTANCE, UPGRADING, OSInstance
from hostplane.api.ledger import LEDGER, Ledger
from hostplane.api.nodegroup import NODEGROUP
from hostplane.api.osimage import OSIMAGE
from hostplane.api.rollout import ROLLOUT
from hostplane.errors import ClusterError, UnreachableError
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.local.kubeos_node import KubeOSNodes
from hostplane.operator.config import OperatorConfig
from hostplane.operator.main import Operator
from hostplane.planning.snapshot import Options

DIGESTS = {version: "sha256:" + str(index) * 64 for index, version in enumerate(("v1", "v2", "v3"), 1)}
LEASE = 0.6


class MortalSession(Session):
    """A session that dies at a write: `die_at` counts from 1, before or after it is made."""

    die_at = 0
    after = False
    writes = 0
    dead: asyncio.Event
    delay: Callable[[str, str], Awaitable[None]] | None = None

    async def _call(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "dead"):
            self.dead = asyncio.Event()
        if self.dead.is_set():
            raise UnreachableError("ServerUnreachable", url="dead", why="killed")
        counted = method != "GET" and "/leases" not in path and "/events" not in path
        if counted:
            self.writes += 1
            mine = self.writes
            if mine == self.die_at and not self.after:
                await self._die()
        if self.delay is not None:
            await self.delay(method, path)
        answer = await super()._call(method, path, *args, **kwargs)
        if counted and mine == self.die_at and self.after:
            await self._die()
        return answer

    async def _die(self) -> None:
        self.dead.set()
        await asyncio.Event().wait()


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

    def add_native_hosts(self) -> NativeHosts:
        """The agents of all native nodes."""
        hosts = NativeHosts(self)
        self.listeners.append(hosts.look)
        return hosts

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

    async def add_rollout(
        self, name: str = "to-v2", image: str = "v2", groups: tuple[str, ...] = ("g",), **spec: Any
    ) -> None:
        """A Rollout and its OSImage."""
        variant = {
            "architecture": "amd64",
            "format": "rootTar",
            "ref": f"http://127.0.0.1/{image}.tar",
            "digest": DIGESTS[image],
            "size": 1024,
        }
        with contextlib.suppress(ClusterError):
            await self.session.create(
                OSIMAGE, OSIMAGE.manifest(image, spec={"distro": "demo", "version": image, "variants": [variant]})
            )
        whole = {"operation": "upgrade", "image": image, "groups": list(groups), "trialSeconds": 60, **spec}
        await self.session.create(ROLLOUT, ROLLOUT.manifest(name, spec=whole))

    async def add_native_node(self, name: str, group: str = "g", **labels: str) -> None:
        """A node of a group that carries our agent."""
        await self.add_node(name, {"group": group, "hostplane.dev/agent": "native", **labels})

    async def add_group(self, name: str = "g", **spec: Any) -> None:
        """A NodeGroup over the node label group=NAME."""
        whole = {"selector": {"matchLabels": {"group": name}}, **spec}
        await self.session.create(NODEGROUP, NODEGROUP.manifest(name, spec=whole))

    def versions(self) -> dict[str, str]:
        """What every node says it runs."""
        return {name: node.status.node_info.os_image for name, node in self.nodes.items().items()}


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


class NativeHosts:
    """Kubelet, proxy and agent of native hosts: stage, reboot into the trial at Switch, commit at Confirm.

    `returns` nodes come back on their old slot; `silent` ones never report after their switch.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.returns: set[str] = set()
        self.silent: set[str] = set()
        self.reboots: list[str] = []
        self._busy: set[str] = set()
        self._changed: set[str] = set()

    def look(self, old: Any, new: Any) -> None:
        """A Host changed: answer; one that is being answered is looked at once more."""
        if isinstance(new, Host):
            name = new.metadata.name
            self._changed.add(name)
            if name not in self._busy:
                self._busy.add(name)
                self.cluster.tasks.append(self.cluster.group.create_task(self._answer(name)))

    async def _answer(self, name: str) -> None:
        try:
            while name in self._changed:
                self._changed.discard(name)
                with contextlib.suppress(ClusterError):
                    status = await self._next(await self.cluster.session.get(HOST, name))
                    if status is not None:
                        await self.cluster.session.patch(HOST, name, {"status": status}, subresource="status")
        finally:
            self._busy.discard(name)

    async def _next(self, host: Host) -> dict[str, Any] | None:
        name, status, spec = host.metadata.name, host.status, host.spec
        base = {"schema": "1.0", "protocol": 1}
        if not status.phase:
            slots = {"A": slot("Confirmed", "v1"), "B": {"state": "Empty", "digest": "", "version": "", "size": 0}}
            boot = f"{name}-boot-0"
            return {**base, "phase": "Idle", "activeSlot": "A", "bootId": boot, "seq": 0, "slots": slots}
        grant = spec.grant
        passive = "B" if status.active_slot == "A" else "A"
        image = spec.image
        known = {status.active.digest, status.passive.digest}
        if image is not None and image.digest not in known and status.phase in ("Idle", "Staged"):
            return {"phase": "Staged", "slots": {passive: slot("Staged", image.version, image.digest)}}
        if grant is None:
            return None
        if grant.stage == "Switch" and status.seq < grant.seq:
            if name in self.silent:
                return None
            return await self._reboot(host, passive)
        if grant.stage == "Confirm" and status.phase == "Trial":
            return {"phase": "Idle", "slots": {status.active_slot: {"state": "Confirmed"}}}
        if grant.stage == "Release" and status.seq < grant.seq:
            return {"phase": "Idle" if status.phase in ("Returned", "Trial") else status.phase, "seq": grant.seq}
        return None

    async def _reboot(self, host: Host, passive: str) -> dict[str, Any]:
        name, grant, status = host.metadata.name, host.spec.grant, host.status
        assert grant is not None
        self.reboots.append(name)
        boot = status.boot_id + "+"
        version = status.slots[passive].version
        operation = {"seq": grant.seq, "operation": grant.operation, "digest": grant.digest}
        if name in self.returns:
            await self.cluster.session.patch(
                NODE, name, {"status": node_status(status.active.version, boot)}, subresource="status"
            )
            error = {"name": "TrialFailed", "code": "HP-6000", "message": "x", "reasonClass": "HostFault"}
            error["digest"] = grant.digest
            return {
                "phase": "Returned",
                "bootId": boot,
                "seq": grant.seq,
                "operation": operation,
                "lastError": error,
                "failedDigests": [{"digest": grant.digest, "name": "HostReturned", "attempt": 0}],
                "slots": {passive: {"state": "Bad"}},
            }
        await self.cluster.session.patch(NODE, name, {"status": node_status(version, boot)}, subresource="status")
        return {
            "phase": "Trial",
            "bootId": boot,
            "activeSlot": passive,
            "seq": grant.seq,
            "operation": operation,
            "slots": {passive: {"state": "Trial"}},
        }


def slot(state: str, version: str, digest: str = "") -> dict[str, Any]:
    """A slot as an agent reports it."""
    return {"state": state, "version": version, "digest": digest or DIGESTS[version], "size": 1024}


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
    kubeconfig: str, options: Options | None = None, **mortal: Any
) -> AsyncIterator[tuple[Operator, MortalSession]]:
    """A running operator; cancelled at the end of the context."""
    async with await MortalSession.open(kubeconfig, 4, "operator", rate=5000, burst=5000) as session:
        session.dead = asyncio.Event()
        for name, value in mortal.items():
            setattr(session, name, value)
        config = OperatorConfig(
            kubeconfig=kubeconfig,
            health_port=-1,
            lease_seconds=LEASE,
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
