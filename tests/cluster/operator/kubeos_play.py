"""KubeOS nodes for the operator's tests: some that a test moves by hand, some with a bad habit of KubeOS's proxies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from hostplane.api.core import NODE
from hostplane.api.kubeos import CONFIGURING, OS, OSINSTANCE, UPGRADING, KubeOS, OSInstance
from hostplane.api.meta import Condition
from hostplane.errors import NotFoundError
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane
from hostplane.local.kubeos_node import NAMESPACE, KubeOSNodes, Step
from tests.cluster.operator.harness import Cluster, cluster

ANY_SETTINGS = [{"model": "kernel.sysctl", "contents": [{"key": "vm.swappiness", "value": "1"}]}]


def play(plane: ControlPlane, script: Callable[[Cluster], Awaitable[None]], budget: int | None = None) -> None:
    """Run one test's script against an observed cluster."""

    async def main() -> None:
        async with cluster(str(plane.kubeconfig), budget) as world:
            await script(world)

    asyncio.run(main())


async def still_nodes(world: Cluster, *names: str, labels: dict[str, str] | None = None) -> None:
    """Nodes on v1 whose proxy does nothing until `finish` plays it."""
    await KubeOSNodes(world.session, names).create("v1", labels)


async def finish(world: Cluster, name: str, version: str) -> None:
    """What the proxy of `name` does at the end of an operation that led to `version`."""
    info = {"nodeInfo": {"osImage": version, "bootID": str(uuid.uuid4())}}
    await world.session.patch(NODE, name, {"status": info}, subresource="status")
    labels = {UPGRADING: None, CONFIGURING: None}
    await world.session.patch(NODE, name, {"metadata": {"labels": labels}, "spec": {"unschedulable": None}})
    spec = {"nodestatus": "idle", "namespacedname": None}
    await world.session.patch(OSINSTANCE, name, {"spec": spec}, NAMESPACE)


def instance(world: Cluster, name: str) -> OSInstance:
    """The OSInstance of a node, as last seen."""
    return world.instances.items()[f"{NAMESPACE}/{name}"]


def is_labelled(world: Cluster, name: str) -> bool:
    """Whether the node carries a label that tells its proxy to act."""
    labels = world.nodes.items()[name].metadata.labels
    return UPGRADING in labels or CONFIGURING in labels


def taken(world: Cluster) -> set[str]:
    """Nodes that were told to act and have not ended."""
    return {name for name in world.nodes.items() if is_labelled(world, name)}


def holders(world: Cluster) -> set[str]:
    """Nodes in the Ledger."""
    return {name for ledger in world.ledgers.items().values() for name in ledger.spec.holders}


def all_on(world: Cluster, version: str, *names: str) -> bool:
    """Whether those nodes run `version`, and nothing of the operation is left on them."""
    return all(
        world.versions().get(name) == version
        and not is_labelled(world, name)
        and instance(world, name).spec.nodestatus == "idle"
        for name in names
    )


async def read_os(world: Cluster, name: str = "pool", namespace: str = "default") -> KubeOS:
    """The OS object as it is stored now."""
    return await world.session.get(OS, name, namespace)


async def change_os(world: Cluster, name: str = "pool", namespace: str = "default", **spec: Any) -> None:
    """Merge fields into an OS object's spec."""
    await world.session.patch(OS, name, {"spec": spec}, namespace)


async def os_says(
    world: Cluster, holds: Callable[[KubeOS], bool], name: str = "pool", namespace: str = "default"
) -> KubeOS:
    """Follow one OS object until `holds` of it."""
    found: KubeOS = await world.follows(OS, name, holds, namespace=namespace)
    return found


def condition(os: Any, type_: str) -> Condition | None:
    """One condition of an object."""
    return next((c for c in os.status.conditions if c.type == type_), None)


def window(opens: timedelta, closes: timedelta) -> dict[str, str]:
    """A dated time window around now, on this machine's clock as KubeOS's operator reads it."""
    now = datetime.now()
    return {key: f"{now + off:%Y-%m-%d %H:%M:%S}" for key, off in (("starttime", opens), ("endtime", closes))}


class HabitualNodes(KubeOSNodes):
    """Proxies that stop to look at an OS that did not own their node when they looked, until that OS changes.

    A change is a new generation or annotation: KubeOS's own CRD does not store the status that ours does.
    """

    def __init__(self, session: Session, names: Iterable[str], **how: Any) -> None:
        super().__init__(session, names, **how)
        self.oses = Informer(session, OS, on_change=self._os_changed)
        self.stopped: set[tuple[str, str]] = set()

    def _os_changed(self, old: KubeOS | None, new: KubeOS | None) -> None:
        if new is None:
            return
        before = old and (old.metadata.generation, old.metadata.annotations)
        if before != (new.metadata.generation, new.metadata.annotations):
            assert self._work is not None
            self._work.create_task(self._read_again(f"{new.metadata.namespace}/{new.metadata.name}"))

    async def _read_again(self, key: str) -> None:
        for name in self._names:
            try:
                self.instances.put(await self._session.get(OSINSTANCE, name, NAMESPACE))
                self.nodes.put(await self._session.get(NODE, name))
            except NotFoundError:
                continue
            self.stopped.discard((name, key))
            self._look(name)

    def _step(self, name: str) -> Step:
        found = self.instances.get(f"{NAMESPACE}/{name}")
        owner = found.spec.namespacedname if found is not None else None
        if owner is not None:
            mine = f"{owner.namespace}/{owner.name}"
            self.stopped |= {(name, key) for key in self.oses.items() if key != mine}
            if (name, mine) in self.stopped:
                return Step.NOTHING
        return super()._step(name)
