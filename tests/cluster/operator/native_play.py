"""Kubelet, proxy and agent of our hosts, through the API alone: what a test wishes of them, they do at once."""

from __future__ import annotations

import asyncio
from typing import Any

from hostplane.api.core import NODE, Node
from hostplane.api.host import HOST, Grant, Host, HostStatus, ImageRef
from hostplane.api.nodegroup import NODEGROUP, NodeGroup
from hostplane.api.rollout import ROLLOUT, Rollout
from hostplane.errors import ClusterError, NotFoundError
from tests.cluster.operator.harness import DIGESTS, Cluster, node_status

_RESTING = ("Idle", "Staged", "Failed", "Returned")


def slot(state: str, version: str, digest: str = "") -> dict[str, Any]:
    """A slot as an agent reports it."""
    return {"state": state, "version": version, "digest": digest or DIGESTS[version], "size": 1024}


class NativeHosts:
    """All native hosts of a Cluster: stage, reboot into the trial at Switch, commit at Confirm.

    `returns` go back to their old slot, `silent` ones never report after their switch, `idle` ones never stage,
    `unsettled` ones cannot apply settings.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.returns: set[str] = set()
        self.silent: set[str] = set()
        self.idle: set[str] = set()
        self.unsettled: set[str] = set()
        self.reason_class = "HostFault"
        self.reboot_seconds = 0.0
        self.reboots: list[str] = []
        self.staged: list[tuple[str, str, int]] = []
        self._rebooted: set[tuple[str, int]] = set()
        self._busy: set[str] = set()
        self._changed: set[str] = set()
        cluster.listeners.append(self._look)

    def _look(self, old: Any, new: Any) -> None:
        """A Host changed: answer; one that is being answered is looked at once more."""
        if isinstance(new, Host):
            self.look_at(new.metadata.name)

    def look_at(self, name: str) -> None:
        """Look at a host again, as after a change of its nature."""
        self._changed.add(name)
        if name not in self._busy:
            self._busy.add(name)
            self.cluster.tasks.append(self.cluster.group.create_task(self._answer(name)))

    async def _answer(self, name: str) -> None:
        try:
            while name in self._changed:
                self._changed.discard(name)
                try:
                    status = await self._next(await self.cluster.session.get(HOST, name))
                    if status is not None:
                        await self.cluster.session.patch(HOST, name, {"status": status}, subresource="status")
                except NotFoundError:
                    pass
                except ClusterError:
                    self._changed.add(name)
                    await asyncio.sleep(0.1)
        finally:
            self._busy.discard(name)

    async def _next(self, host: Host) -> dict[str, Any] | None:
        name, status, spec = host.metadata.name, host.status, host.spec
        if not status.phase:
            slots = {"A": slot("Confirmed", "v1"), "B": {"state": "Empty", "digest": "", "version": "", "size": 0}}
            node = await self.cluster.session.get(NODE, name)
            boot = node.status.node_info.boot_id
            first = {"schema": "1.0", "protocol": 1, "phase": "Idle", "activeSlot": "A", "bootId": boot, "seq": 0}
            return {**first, "slots": slots}
        grant, passive = spec.grant, _passive(status)
        if grant is not None and grant.stage == "Switch" and status.seq < grant.seq:
            if name in self.silent:
                return None
            return await (self._configure(host, grant) if grant.operation == "configure" else self._reboot(host, grant))
        if grant is not None and grant.stage == "Confirm" and status.phase == "Trial":
            committed = {"outcome": "Committed"}
            return {"phase": "Idle", "operation": committed, "slots": {status.active_slot: {"state": "Confirmed"}}}
        if grant is not None and grant.stage == "Release" and status.seq < grant.seq and status.phase != "Trial":
            return {"phase": "Idle" if status.phase == "Returned" else status.phase, "seq": grant.seq}
        if spec.image is not None and name not in self.idle and _wants(status, spec.image):
            self.staged.append((name, spec.image.version, spec.image.attempt))
            return {"phase": "Staged", "slots": {passive: slot("Staged", spec.image.version, spec.image.digest)}}
        return None

    async def _configure(self, host: Host, grant: Grant) -> dict[str, Any]:
        wanted = host.spec.settings.version if host.spec.settings else ""
        before = host.status.settings.version if host.status.settings else ""
        if host.metadata.name in self.unsettled:
            return {"seq": grant.seq, "settings": {"version": before, "error": "HP-6000: it could not be written"}}
        return {"seq": grant.seq, "settings": {"version": wanted, "error": ""}}

    async def _reboot(self, host: Host, grant: Grant) -> dict[str, Any]:
        name, status = host.metadata.name, host.status
        await asyncio.sleep(self.reboot_seconds)
        if (name, grant.seq) not in self._rebooted:  # a report that was lost is made again
            self._rebooted.add((name, grant.seq))
            self.reboots.append(name)
        target, boot = _passive(status), status.boot_id + "+"
        operation = {"seq": grant.seq, "operation": grant.operation, "digest": grant.digest, "outcome": ""}
        base = {"bootId": boot, "seq": grant.seq}
        if name in self.returns:
            await self._kubelet(name, status.active.version, boot)
            error = {"name": "TrialFailed", "code": "HP-6000", "message": "x", "reasonClass": self.reason_class}
            told = {"phase": "Returned", "operation": {**operation, "outcome": "Returned"}}
            told["lastError"] = {**error, "digest": grant.digest}
            if self.reason_class == "HostFault":
                attempt = host.spec.image.attempt if host.spec.image else 0
                told["failedDigests"] = [{"digest": grant.digest, "name": "HostReturned", "attempt": attempt}]
                told["slots"] = {target: {"state": "Bad"}}
            return {**base, **told}
        await self._kubelet(name, status.slots[target].version, boot)
        trial = {"phase": "Trial", "activeSlot": target, "operation": operation}
        return {**base, **trial, "slots": {target: {"state": "Trial"}}}

    async def _kubelet(self, name: str, version: str, boot: str) -> None:
        await self.cluster.session.patch(NODE, name, {"status": node_status(version, boot)}, subresource="status")


def _passive(status: HostStatus) -> str:
    return "B" if status.active_slot == "A" else "A"


def _wants(status: HostStatus, image: ImageRef) -> bool:
    if status.phase not in _RESTING or status.active.digest == image.digest:
        return False
    if status.passive.digest == image.digest and status.passive.state == "Staged":
        return status.phase in ("Idle", "Failed")
    return not any(f.digest == image.digest and f.attempt >= image.attempt for f in status.failed_digests)


# --- what tests ask of the objects ----------------------------------------------------------------------------------


async def add_hosts(world: Cluster, *names: str, group: str = "g", **labels: str) -> NativeHosts:
    """Native nodes of one group, that answer from now on."""
    hosts = NativeHosts(world)
    for name in names:
        await world.add_native_node(name, group, **labels)
    return hosts


async def rollout_says(world: Cluster, holds: Any, name: str = "to-v2", seconds: float = 30) -> Rollout:
    """Follow one Rollout until `holds` of it."""
    return await world.follows(ROLLOUT, name, holds, seconds)


async def group_says(world: Cluster, holds: Any, name: str = "g") -> NodeGroup:
    """Follow one NodeGroup until `holds` of it."""
    return await world.follows(NODEGROUP, name, holds)


async def change_rollout(world: Cluster, name: str = "to-v2", **spec: Any) -> None:
    """Merge fields into a Rollout's spec."""
    await world.session.patch(ROLLOUT, name, {"spec": spec})


def grant_of(world: Cluster, name: str) -> Grant | None:
    """The grant on a Host, as last seen."""
    host = world.hosts.items().get(name)
    return host.spec.grant if host else None


def is_at_rest(world: Cluster) -> bool:
    """No open grant, no cordon of ours, nobody in the Ledger."""
    nodes: list[Node] = list(world.nodes.items().values())
    grants = [host.spec.grant for host in world.hosts.items().values()]
    return (
        not any("hostplane.dev/cordon" in node.metadata.annotations for node in nodes)
        and all(grant is None or grant.stage == "Release" for grant in grants)
        and not any(ledger.spec.holders for ledger in world.ledgers.items().values())
    )


def all_run(world: Cluster, version: str, *names: str) -> bool:
    """Whether those nodes run `version` and the whole cluster is at rest."""
    return all(world.versions().get(name) == version for name in names) and is_at_rest(world)
