"""Nodes as KubeOS's own proxy and agent make them behave, in one process: its labels, its OSInstance, its reboots.

Written from the protocol, for the operator's tests and for benches with thousands of nodes: a node answers at once
and an operation takes `reboot_seconds`. It keeps KubeOS's habits, also the bad ones: it un-labels and uncordons a node
whose OSInstance is idle while an owner is still named, does nothing for one without an owner, and begins again, with
another reboot, as long as the version is not the one wished for.

What a node does next is `next_step`, a pure function; the class around it only reads, waits and writes.
"""

from __future__ import annotations

import asyncio
import enum
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from hostplane.api.core import NODE, Node
from hostplane.api.host import Settings
from hostplane.api.kubeos import CONFIGURING, OS, OSINSTANCE, OSINSTANCE_NODE, UPGRADING, KubeOS, OSInstance
from hostplane.errors import ClusterError, NotFoundError
from hostplane.kube.informer import Informer
from hostplane.kube.pace import Backoff
from hostplane.kube.session import Session
from hostplane.local.kubelet import now

__all__ = ["NEVER_RETURNS", "WRONG_VERSION", "KubeOSNodes", "Step", "next_step"]

NAMESPACE = "default"
WRONG_VERSION, NEVER_RETURNS = "wrong-version", "never-returns"


class Step(enum.Enum):
    """What the proxy of one node does next."""

    NOTHING = enum.auto()
    REBOOT = enum.auto()
    """Upgrade or roll back, then look again."""
    FINISH = enum.auto()
    """Apply sysconfigs, report them, un-label, uncordon, idle."""
    REFRESH = enum.auto()
    """Un-label and uncordon; nothing else to do."""


def next_step(node: Node, instance: OSInstance | None, os: KubeOS | None) -> Step:
    """KubeOS's proxy, in the order it asks: owner, version, label, nodestatus."""
    labels = node.metadata.labels
    is_labelled = UPGRADING in labels or CONFIGURING in labels
    if instance is None or instance.spec.namespacedname is None or os is None or not is_labelled:
        return Step.NOTHING
    is_idle = instance.spec.nodestatus == "idle"
    if node.status.node_info.os_image == os.spec.osversion:
        return Step.REFRESH if is_idle else Step.FINISH
    if UPGRADING not in labels or os.spec.opstype == "config":
        return Step.NOTHING  # "upgrade first": it says so to its log, for ever
    return Step.REFRESH if is_idle else Step.REBOOT


class KubeOSNodes:
    """Many simulated KubeOS nodes.

    Args:
        names: the nodes; `create` makes them, or they exist.
        reboot_seconds: how long an upgrade or a rollback takes.
        visible: also cordon the node, and make it NotReady during the reboot (two more writes), as real ones do.
        faults: node -> WRONG_VERSION (every reboot leads to `<version> broken`) or NEVER_RETURNS.
    """

    def __init__(
        self,
        session: Session,
        names: Iterable[str],
        *,
        reboot_seconds: float = 0.0,
        visible: bool = False,
        faults: Mapping[str, str] | None = None,
    ) -> None:
        self._session, self._names = session, dict.fromkeys(names)
        self._reboot_seconds, self._visible = reboot_seconds, visible
        self._faults = dict(faults or {})
        self._busy: set[str] = set()
        self._work: asyncio.TaskGroup | None = None
        self.reboots: dict[str, int] = {}
        """How often each node has rebooted."""
        self.nodes = Informer(session, NODE, on_change=self._look_at_node)
        self.instances = Informer(session, OSINSTANCE, namespace=NAMESPACE, on_change=self._look_at_instance)
        self.oses = Informer(session, OS, on_change=lambda old, new: self._look_at_all())

    async def create(
        self, os_image: str, labels: Mapping[str, str] | None = None, at_once: int = 16, with_instance: bool = True
    ) -> None:
        """Makes the Node and the idle OSInstance of every name."""
        gate = asyncio.Semaphore(at_once)

        async def one(name: str) -> None:
            async with gate:
                await self._session.create(NODE, _node(name, os_image, labels or {}))
                if with_instance:
                    metadata = {"name": name, "namespace": NAMESPACE, "labels": {OSINSTANCE_NODE: name}}
                    body = {**OSINSTANCE.manifest(name), "metadata": metadata, "spec": {"nodestatus": "idle"}}
                    await self._session.create(OSINSTANCE, body, namespace=NAMESPACE)

        async with asyncio.TaskGroup() as group:
            for name in self._names:
                group.create_task(one(name))

    async def run(self) -> None:
        """Behaves until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._work = group
            for informer in (self.nodes.run(), self.instances.run(), self.oses.run()):
                group.create_task(informer)

    def heal(self, name: str) -> None:
        """The node's next reboot works."""
        self._faults.pop(name, None)

    def _look_at_node(self, old: Node | None, new: Node | None) -> None:
        if new is not None:
            self._look(new.metadata.name)

    def _look_at_instance(self, old: OSInstance | None, new: OSInstance | None) -> None:
        if new is not None:
            self._look(new.metadata.name)

    def _look_at_all(self) -> None:
        for name in self._names:
            self._look(name)

    def _step(self, name: str) -> Step:
        node, instance = self.nodes.get(name), self.instances.get(f"{NAMESPACE}/{name}")
        owner = instance.spec.namespacedname if instance is not None else None
        os = self.oses.get(f"{owner.namespace}/{owner.name}") if owner is not None else None
        return Step.NOTHING if node is None else next_step(node, instance, os)

    def _look(self, name: str) -> None:
        if name in self._names and name not in self._busy and self._step(name) is not Step.NOTHING:
            assert self._work is not None  # the informers, which call this, run inside it
            self._busy.add(name)
            self._work.create_task(self._operate(name))

    async def _operate(self, name: str) -> None:
        """Steps until there is nothing to do; a failed write is tried again, as their proxy does every second."""
        backoff = Backoff(first=0.1, most=1.0)
        try:
            while (step := self._step(name)) is not Step.NOTHING:
                try:
                    if step is Step.REBOOT:
                        await self._reboot(name)
                    else:
                        await self._finish(name, is_refresh=step is Step.REFRESH)
                    backoff.reset()
                except NotFoundError:
                    return
                except ClusterError:
                    await asyncio.sleep(backoff.wait())
        finally:
            self._busy.discard(name)

    async def _reboot(self, name: str) -> None:
        instance = self.instances.items()[f"{NAMESPACE}/{name}"]
        owner = instance.spec.namespacedname
        assert owner is not None  # next_step saw it, and nothing was awaited since
        wanted = self.oses.items()[f"{owner.namespace}/{owner.name}"].spec.osversion
        await self._report_settings(
            name, "upgradeconfigs", instance.spec.upgradeconfigs, instance.status.upgradeconfigs
        )
        if self._visible:
            self.nodes.put(await self._session.patch(NODE, name, {"spec": {"unschedulable": True}}))
            await self._node_status(name, {"conditions": [_ready(False)]})
        await asyncio.sleep(self._reboot_seconds)
        fault = self._faults.get(name)
        if fault == NEVER_RETURNS:
            await asyncio.get_running_loop().create_future()
        self.reboots[name] = self.reboots.get(name, 0) + 1
        image = f"{wanted} broken" if fault == WRONG_VERSION else wanted
        status: dict[str, Any] = {"nodeInfo": {"osImage": image, "bootID": str(uuid.uuid4())}}
        if self._visible:
            status["conditions"] = [_ready(True)]
        await self._node_status(name, status)

    async def _node_status(self, name: str, status: dict[str, Any]) -> None:
        self.nodes.put(await self._session.patch(NODE, name, {"status": status}, subresource="status"))

    async def _finish(self, name: str, is_refresh: bool) -> None:
        instance, key = self.instances.items()[f"{NAMESPACE}/{name}"], (UPGRADING, CONFIGURING)
        if not is_refresh:
            await self._report_settings(name, "sysconfigs", instance.spec.sysconfigs, instance.status.sysconfigs)
        node = self.nodes.items()[name]
        label = next(label for label in key if label in node.metadata.labels)
        change: dict[str, Any] = {"metadata": {"labels": {label: None}}}
        if node.spec.unschedulable:
            change["spec"] = {"unschedulable": None}
        self.nodes.put(await self._session.patch(NODE, name, change))
        if not is_refresh:
            idle = {"spec": {"nodestatus": "idle", "namespacedname": None}}
            self.instances.put(await self._session.patch(OSINSTANCE, name, idle, namespace=NAMESPACE))

    async def _report_settings(self, name: str, field: str, wished: Settings | None, reported: Settings | None) -> None:
        if wished is None or (reported is not None and reported.version == wished.version):
            return
        body = {"status": {field: {"version": wished.version, "configs": msgspec.to_builtins(wished.configs)}}}
        patch = self._session.patch(OSINSTANCE, name, body, namespace=NAMESPACE, subresource="status")
        self.instances.put(await patch)


def _ready(is_ready: bool) -> dict[str, str]:
    return {
        "type": "Ready",
        "status": "True" if is_ready else "False",
        "reason": "Simulated",
        "lastHeartbeatTime": now(),
        "lastTransitionTime": now(),
    }


def _node(name: str, os_image: str, labels: Mapping[str, str]) -> dict[str, Any]:
    info = {
        "machineID": name,
        "systemUUID": name,
        "bootID": str(uuid.uuid4()),
        "kernelVersion": "6.6.0",
        "osImage": os_image,
        "operatingSystem": "linux",
        "architecture": "amd64",
        "containerRuntimeVersion": "containerd://1.7.0",
        "kubeletVersion": "v1.34.2",
        "kubeProxyVersion": "",
    }
    status = {"nodeInfo": info, "conditions": [_ready(True)]}
    return {**NODE.manifest(name), "metadata": {"name": name, "labels": dict(labels)}, "status": status}
