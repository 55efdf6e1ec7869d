"""The operator dies, or is stopped for a while, at each of its writes, every one of them; the outcome is the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hostplane.api.kubeos import OSINSTANCE
from hostplane.errors import NotFoundError
from hostplane.kube.lease import LEASE
from hostplane.local.controlplane import ControlPlane
from hostplane.local.kubeos_node import NAMESPACE
from hostplane.planning.kubeos import OPERATION
from tests.cluster.operator.harness import Cluster, cluster, operator
from tests.cluster.operator.kubeos_play import HabitualNodes
from tests.cluster.operator.native_play import add_hosts
from tests.cluster.operator.sessions import FrozenSession

NODES = ("n1", "n2")
_MOST_WRITES = 80
LONG = pytest.mark.long
Reboots = Callable[[], list[str]]
Prepare = Callable[[Cluster, float], Awaitable[Reboots]]
"""Makes the nodes, of which each reboot takes so many seconds, and the wish."""


def _settled(world: Cluster) -> bool:
    """All on v2, nothing left over: no label, no holder, no cordon, no open grant."""
    nodes = world.nodes.items().values()
    return (
        set(world.versions().values()) == {"v2"}
        and not any("upgrading" in key for n in nodes for key in n.metadata.labels)
        and not any(n.spec.unschedulable or n.metadata.annotations for n in nodes)
        and all(i.spec.nodestatus == "idle" for i in world.instances.items().values())
        and all(h.spec.grant and h.spec.grant.stage == "Release" for h in world.hosts.items().values())
        and not any(ledger.spec.holders for ledger in world.ledgers.items().values())
    )


async def _kubeos(world: Cluster, seconds: float = 0.0) -> Reboots:
    nodes = await world.add_kubeos_nodes(*NODES, reboot_seconds=seconds)
    await world.add_os(sysconfigs={"version": "s1", "configs": []})
    return lambda: [name for name, count in nodes.reboots.items() for _ in range(count)]


async def _serial(world: Cluster, seconds: float = 0.0) -> Reboots:
    nodes = await world.add_kubeos_nodes(*NODES, reboot_seconds=seconds)
    await world.add_os(executionmode="serial", maxunavailable=2)
    return lambda: [name for name, count in nodes.reboots.items() for _ in range(count)]


async def _owner_changes(world: Cluster, seconds: float = 0.0) -> Reboots:
    nodes = HabitualNodes(world.session, ["n1"], reboot_seconds=seconds)
    await nodes.create("v0")
    world.tasks.append(world.group.create_task(nodes.run()))
    await world.add_os("a", nodeselector="a", osversion="v1")
    await world.add_os("b")
    spec = {"nodestatus": "idle", "namespacedname": {"name": "a", "namespace": "default"}}
    record = {"annotations": {OPERATION: '{"os":"another","generation":1,"seq":1,"at":1}'}}
    await world.session.patch(OSINSTANCE, "n1", {"metadata": record, "spec": spec}, NAMESPACE)
    await world.until(lambda: ("n1", "default/b") in nodes.stopped)
    return lambda: [name for name, count in nodes.reboots.items() for _ in range(count)]


async def _native(world: Cluster, seconds: float = 0.0) -> Reboots:
    hosts = await add_hosts(world, *NODES)
    hosts.reboot_seconds = seconds
    await world.add_group(maxUnavailable=1)
    await world.add_rollout()
    return lambda: hosts.reboots


def _is_between(world: Cluster) -> bool:
    """One node is through, and another is on its way."""
    away = {node for ledger in world.ledgers.items().values() for node in ledger.spec.holders}
    told = {i.metadata.name for i in world.instances.items().values() if i.spec.nodestatus == "upgrade"}
    told |= {h.metadata.name for h in world.hosts.items().values() if h.spec.grant and h.spec.grant.stage == "Switch"}
    through = {name for name, version in world.versions().items() if version == "v2"}
    return bool(away & told) and bool(through - away)


async def _forget_leader(world: Cluster) -> None:
    """The next may lead at once. That it waits for a dead one's lease to run out is another test's matter."""
    with contextlib.suppress(NotFoundError):
        await world.session.delete(LEASE, "hostplane-operator", "hostplane-system")


async def _killed_at(plane: ControlPlane, prepare: Prepare, number: int, after: bool) -> bool:
    """One run with a kill; False where the operator had no such write left to die at."""
    async with cluster(str(plane.kubeconfig), budget=1) as world:
        reboots = await prepare(world, 0.0)
        async with operator(world.kubeconfig, die_at=number, after=after) as (_, session):
            died = asyncio.create_task(session.dead.wait())
            done = asyncio.create_task(world.until(lambda: _settled(world), 30, "settled"))
            await asyncio.wait({died, done}, return_when=asyncio.FIRST_COMPLETED)
            died.cancel()
            done.cancel()
            await asyncio.wait({died, done})
            killed = session.dead.is_set()
        if killed:
            await _forget_leader(world)
            async with operator(world.kubeconfig):
                await world.until(lambda: _settled(world), 30, f"settled after a kill at write {number}, after={after}")
        assert sorted(reboots()) == sorted(world.versions())
        return killed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("prepare", [_kubeos, _native, pytest.param(_serial, marks=LONG), _owner_changes])
@pytest.mark.timeout(300)
def test_operator_killed_at_each_write_is_followed_by_one_that_ends_the_work(
    control_plane: ControlPlane, empty_cluster: Any, prepare: Prepare, after: bool
) -> None:
    for number in range(1, _MOST_WRITES):
        empty_cluster()
        if not asyncio.run(_killed_at(control_plane, prepare, number, after)):
            assert number > 5
            return
    raise AssertionError("the operator never ran out of writes")


async def _frozen_at(plane: ControlPlane, prepare: Prepare, number: int) -> bool:
    """One run in which the first leader stops at a write, loses its lease, and wakes up while the next has a node away.

    By then another node is through where there is one left, so whatever the first still does to it is one too many.
    """
    async with cluster(str(plane.kubeconfig), budget=1) as world:
        reboots = await prepare(world, 0.15)
        async with operator(world.kubeconfig, kind=FrozenSession, freeze_at=number) as (first, session):
            stopped = asyncio.create_task(session.frozen.wait())
            done = asyncio.create_task(world.until(lambda: _settled(world), 30, "settled"))
            await asyncio.wait({stopped, done}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            done.cancel()
            await asyncio.wait({stopped, done})
            if not session.frozen.is_set():
                return False
            # Its lease runs out while it is stopped; a renewal that was on its way may prolong it once.
            while first.leader.is_leader:  # noqa: ASYNC110  (time itself is waited for)
                await asyncio.sleep(first.leader.remaining + 0.05)
            await _forget_leader(world)
            async with operator(world.kubeconfig):
                await world.until(lambda: _settled(world) or _is_between(world), 30, "the second went on")
                session.thaw()
                await world.until(lambda: session.late == session.held, 30, "what was held up has arrived")
                await world.until(lambda: _settled(world), 30, f"settled after a pause at write {number}")
        assert sorted(reboots()) == sorted(world.versions())
        return True


@pytest.mark.parametrize("prepare", [_kubeos, _native, pytest.param(_owner_changes, marks=LONG)])
@pytest.mark.timeout(300)
def test_a_leader_stopped_at_each_write_undoes_nothing_when_it_goes_on(
    control_plane: ControlPlane, empty_cluster: Any, prepare: Prepare
) -> None:
    for number in range(1, _MOST_WRITES):
        empty_cluster()
        if not asyncio.run(_frozen_at(control_plane, prepare, number)):
            assert number > 5
            return
    raise AssertionError("the operator never ran out of writes")
