"""A cluster in memory: an API server that refuses stale writes, simulated nodes, and the operator's order of effects.

Objects are frozen, so a copy of the world is a few dicts: a test can go back to any instant and let something else
happen. Everything that the design promises of every instant is checked in `invariants.py` after every single write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from hostplane.api.core import Node
from hostplane.api.host import Host, HostStatus
from hostplane.api.kubeos import KubeOS, OSInstance, OSInstanceStatus
from hostplane.api.ledger import Ledger
from hostplane.api.meta import ObjectMeta
from hostplane.api.nodegroup import NodeGroup
from hostplane.api.osimage import OSImage
from hostplane.api.rollout import Rollout
from hostplane.planning.snapshot import Options, Snapshot

from . import invariants
from .hosts import SimulatedNode

__all__ = ["Conflict", "World"]

START = 1_800_000_000
TICK = 15


class Conflict(Exception):
    """The API server refused: somebody wrote in between, or the object is gone."""


class World:
    """The API server and everything that hangs on it."""

    def __init__(self, options: Options | None = None) -> None:
        self.now, self.version = START, 100
        self.options = options or Options()
        self.nodes: dict[str, Node] = {}
        self.hosts: dict[str, Host] = {}
        self.instances: dict[str, OSInstance] = {}
        self.groups: dict[str, NodeGroup] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.images: dict[str, OSImage] = {}
        self.oses: dict[str, KubeOS] = {}
        self.ledger = Ledger(metadata=ObjectMeta(name="cluster", resource_version="100"))
        self.gone: dict[str, float] = {}
        self.machines: dict[str, SimulatedNode] = {}
        self.boot_ticks, self.tick_seconds = 2, TICK
        self.registry = True
        self.stuck_drains: frozenset[str] = frozenset()
        """Nodes whose drain ends at its deadline."""
        self.drained: frozenset[tuple[str, int]] = frozenset()
        self.words_withheld: frozenset[str] = frozenset()
        self.refused: list[tuple[str, str]] = []
        self.seqs: dict[str, int] = {}
        """Highest grant number ever written, by Host uid; to check that they grow."""
        self.cordoned: frozenset[str] = frozenset()
        """Nodes that an administrator cordoned."""
        self.lagging = False
        """The operator sees some kinds later than others: what a Node said may be over when something is written."""
        self.checked = True
        self.exempt: frozenset[str] = frozenset()
        """Nodes whose books were lost: they may be away without being in the Ledger until the next pass."""

    def copy(self) -> World:
        twin = World.__new__(World)
        twin.__dict__.update(
            {
                k: dict(v) if isinstance(v, dict) else list(v) if isinstance(v, list) else v
                for k, v in vars(self).items()
            }
        )
        twin.machines = {name: machine.copy() for name, machine in self.machines.items()}
        return twin

    def snapshot(self) -> Snapshot:
        """As the operator's copies show it, all of one instant."""
        for name in (*self.ledger.spec.holders, *self.instances, *self.hosts):
            if name not in self.nodes:
                self.gone.setdefault(name, self.now)
        for name in [n for n in self.gone if n in self.nodes]:
            del self.gone[name]
        return Snapshot(
            nodes=dict(self.nodes),
            hosts=dict(self.hosts),
            instances=dict(self.instances),
            groups=dict(self.groups),
            rollouts=dict(self.rollouts),
            images=dict(self.images),
            oses=dict(self.oses),
            ledger=self.ledger,
            gone=dict(self.gone),
        )

    # --- the API server -----------------------------------------------------------------------------------------------

    def stamp(self, subject: Any, **fields: Any) -> Any:
        self.version += 1
        meta = msgspec.structs.replace(subject.metadata, resource_version=str(self.version), **fields)
        return msgspec.structs.replace(subject, metadata=meta)

    def create(self, kind: str, key: str, subject: Any) -> None:
        store = getattr(self, kind)
        if key in store:
            raise Conflict(key)
        store[key] = self.stamp(subject, uid=subject.metadata.uid or f"{kind}-{key}-{self.version}")

    def write(self, kind: str, key: str, base: str | None, change: Callable[[Any], Any]) -> Any:
        """A patch; conditional where `base` is a resource version."""
        store = getattr(self, kind)
        old = store.get(key)
        if old is None or (base is not None and base != old.metadata.resource_version):
            raise Conflict(key)
        new = change(old)
        if new != old:
            store[key] = self.stamp(new)
        return store[key]

    def bump(self, kind: str, key: str, **spec: Any) -> None:
        """An administrator's edit of a spec."""
        old = getattr(self, kind)[key]
        new = msgspec.structs.replace(old, spec=msgspec.structs.replace(old.spec, **spec))
        getattr(self, kind)[key] = self.stamp(new, generation=old.metadata.generation + 1)

    def label_node(self, name: str, labels: dict[str, str | None], base: str | None = None) -> None:
        def change(node: Node) -> Node:
            merged = {**node.metadata.labels, **labels}
            kept = {k: v for k, v in merged.items() if v is not None}
            return msgspec.structs.replace(node, metadata=msgspec.structs.replace(node.metadata, labels=kept))

        self.write("nodes", name, base, change)
        self.check()

    def edit_node(self, name: str, *, unschedulable: bool) -> None:
        self.write(
            "nodes",
            name,
            None,
            lambda n: msgspec.structs.replace(n, spec=msgspec.structs.replace(n.spec, unschedulable=unschedulable)),
        )

    def edit_instance(self, name: str, **spec: Any) -> None:
        self.write(
            "instances",
            name,
            None,
            lambda i: msgspec.structs.replace(i, spec=msgspec.structs.replace(i.spec, **spec)),
        )
        self.check()

    def edit_instance_status(self, name: str, status: OSInstanceStatus) -> None:
        self.write("instances", name, None, lambda i: msgspec.structs.replace(i, status=status))

    def report_node(self, name: str, ready: bool, boot_id: str, version: str) -> None:
        """The kubelet's word, or the node controller's that there is none."""

        def change(node: Node) -> Node:
            info = node.status.node_info
            if ready:
                info = msgspec.structs.replace(info, boot_id=boot_id, os_image=version)
            conditions = [msgspec.structs.replace(node.status.conditions[0], status="True" if ready else "Unknown")]
            status = msgspec.structs.replace(node.status, node_info=info, conditions=conditions)
            return msgspec.structs.replace(node, status=status)

        self.write("nodes", name, None, change)

    def report_host(self, name: str, status: HostStatus) -> bool:
        """The proxy's report; False where the Host shows it already."""
        mine = self.hosts.get(name)
        node = self.nodes.get(name)
        if mine is None or node is None or mine.spec.node_uid != node.metadata.uid:
            return False
        fields = {f: getattr(status, f) for f in HostStatus.__struct_fields__}
        shown = HostStatus(**fields)
        if shown == mine.status:
            return False
        self.write("hosts", name, None, lambda h: msgspec.structs.replace(h, status=shown))
        return True

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A while passes: every machine takes one step."""
        self.now += self.tick_seconds
        for machine in list(self.machines.values()):
            machine.step(self)
        self.check()

    def check(self) -> None:
        if self.checked:
            invariants.check(self)
