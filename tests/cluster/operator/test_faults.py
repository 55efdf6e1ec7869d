"""The operator dies before and after each of its writes, every one of them; another takes over and ends the work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hostplane.local.controlplane import ControlPlane
from tests.cluster.operator.harness import Cluster, cluster, operator
from tests.cluster.operator.native_play import add_hosts

NODES = ("n1", "n2")
_MOST_WRITES = 80


def _settled(world: Cluster) -> bool:
    """All on v2, nothing left over: no label, no holder, no cordon, no open grant."""
    nodes = world.nodes.items().values()
    return (
        len(world.versions()) == len(NODES)
        and set(world.versions().values()) == {"v2"}
        and not any("upgrading" in key for n in nodes for key in n.metadata.labels)
        and not any(n.spec.unschedulable or n.metadata.annotations for n in nodes)
        and all(i.spec.nodestatus == "idle" for i in world.instances.items().values())
        and all(h.spec.grant and h.spec.grant.stage == "Release" for h in world.hosts.items().values())
        and not any(ledger.spec.holders for ledger in world.ledgers.items().values())
    )


async def _kubeos(world: Cluster) -> None:
    await world.add_kubeos_nodes(*NODES)
    await world.add_os(sysconfigs={"version": "s1", "configs": []})


async def _native(world: Cluster) -> None:
    await add_hosts(world, *NODES)
    await world.add_group(maxUnavailable=1)
    await world.add_rollout()


async def _killed_at(plane: ControlPlane, prepare: Any, number: int, after: bool) -> bool:
    """One run with a kill; False where the operator had no such write left to die at."""
    async with cluster(plane.kubeconfig, budget=1) as world:
        await prepare(world)
        async with operator(plane.kubeconfig, die_at=number, after=after) as (_, session):
            died = asyncio.create_task(session.dead.wait())
            done = asyncio.create_task(world.until(lambda: _settled(world), 30, "settled"))
            await asyncio.wait({died, done}, return_when=asyncio.FIRST_COMPLETED)
            died.cancel()
            done.cancel()
            await asyncio.wait({died, done})
            killed = session.dead.is_set()
        if killed:
            async with operator(plane.kubeconfig):
                await world.until(lambda: _settled(world), 30, f"settled after a kill at write {number}, after={after}")
        return killed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("prepare", [_kubeos, _native], ids=["kubeos", "native"])
@pytest.mark.timeout(900)
def test_operator_killed_at_each_write_is_followed_by_one_that_ends_the_work(
    control_plane: ControlPlane, empty_cluster: Any, prepare: Any, after: bool
) -> None:
    for number in range(1, _MOST_WRITES):
        empty_cluster()
        if not asyncio.run(_killed_at(control_plane, prepare, number, after)):
            assert number > 5
            return
    raise AssertionError("the operator never ran out of writes")
