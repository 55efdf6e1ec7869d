"""Many drains of one operator: started, repeated, cancelled, forgotten, side by side."""

from __future__ import annotations

import asyncio

from hostplane.api.nodegroup import Drain
from hostplane.errors import ClusterError
from hostplane.operator.drain import DrainPhase, DrainState
from tests.unit.operator.drain_play import POLICY, SHORT, Cluster, World, play


def test_skip_is_done_at_once_without_a_request() -> None:
    cluster = Cluster()
    cluster.add("a")

    async def script(world: World) -> None:
        world.drains.start("n1", Drain(skip=True), 1)
        assert world.state().phase is DrainPhase.DONE
        assert world.state().reason.name == "DrainSkipped"  # type: ignore[union-attr]

    play(cluster, script)
    assert cluster.lists == 0


def test_one_nodes_broken_drain_leaves_the_others_going() -> None:
    cluster = Cluster()
    cluster.add("a", node="bad")
    cluster.add("b", node="good")
    cluster.answers["a"] = [RuntimeError("a bug")]

    async def script(world: World) -> None:
        for node in ("bad", "good"):
            world.drains.start(node, POLICY, 1)
        assert (await world.ended("bad")).reason.name == "DrainBroken"  # type: ignore[union-attr]
        assert (await world.ended("good")).phase is DrainPhase.DONE
        world.drains.start("late", POLICY, 1)
        assert (await world.ended("late")).phase is DrainPhase.DONE

    play(cluster, script)


def test_the_same_seq_again_changes_nothing_and_another_begins_anew() -> None:
    cluster = Cluster()
    cluster.add("bare", owner=None)

    async def script(world: World) -> None:
        world.drains.start("n1", POLICY, 1)
        failed = await world.ended()
        world.drains.start("n1", POLICY, 1)
        assert world.state() == failed
        world.drains.start("n1", Drain(evict_unmanaged=True), 2)
        assert world.state() == DrainState(seq=2)
        assert (await world.ended()).phase is DrainPhase.DONE

    play(cluster, script)


def test_a_cancelled_drain_is_forgotten_and_asks_nothing_more() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.budgets = {"web": 0}

    async def script(world: World) -> None:
        world.drains.start("n1", POLICY, 1)
        await world.until(lambda: world.state().blocking != ())
        world.drains.cancel("n1")
        world.drains.cancel("n1")
        assert world.drains.state("n1") is None
        assert world.drains.nodes() == ()
        asked, changes = len(cluster.asked), len(world.changes)
        world.drains.start("n2", POLICY, 2)
        await world.ended("n2")
        assert len(cluster.asked) == asked
        assert "n1" not in world.changes[changes:]

    play(cluster, script)


def test_forgets_every_drain_when_it_stops_because_another_leader_may_release_the_node() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.budgets = {"web": 0}

    async def both() -> None:
        world = World(cluster)
        world.drains.start("n1", POLICY, 1)
        runner = asyncio.ensure_future(world.drains.run())
        await world.until(lambda: world.state().blocking != ())
        runner.cancel()
        await asyncio.wait([runner])
        assert world.drains.nodes() == ()
        asked = len(cluster.asked)

        runner = asyncio.ensure_future(world.drains.run())
        world.drains.start("n2", POLICY, 2)
        await world.ended("n2")
        assert len(cluster.asked) == asked
        cluster.budgets["web"] = 1
        world.drains.start("n1", POLICY, 1)
        assert (await world.ended()).phase is DrainPhase.DONE
        runner.cancel()
        await asyncio.wait([runner])

    asyncio.run(both())


def test_a_process_that_may_not_write_evicts_nothing() -> None:
    cluster = Cluster()
    cluster.add("a")
    leads = False

    def fence() -> None:
        if not leads:
            raise ClusterError("LeadershipLost", identity="me")

    async def script(world: World) -> None:
        nonlocal leads
        world.drains.start("n1", POLICY, 1)
        await cluster.listed_again(20)
        assert cluster.asked == []
        assert world.state().reason.name == "DrainInterrupted"  # type: ignore[union-attr]
        leads = True
        assert (await world.ended()).evicted == 1

    play(cluster, script, fence=fence)


def test_hundreds_of_nodes_go_side_by_side_within_the_bound() -> None:
    cluster = Cluster()
    nodes = [f"n{i}" for i in range(300)]
    for node in nodes:
        for i in range(3):
            cluster.add(f"{node}-{i}", node=node)

    async def script(world: World) -> None:
        for node in nodes:
            world.drains.start(node, POLICY, 1)
        for node in nodes:
            assert (await world.ended(node)).phase is DrainPhase.DONE

    play(cluster, script, concurrency=7)
    assert cluster.pods == {}
    assert cluster.busiest <= 7


def test_a_server_that_never_answers_ends_at_the_deadline() -> None:
    cluster = Cluster()
    cluster.add("a")

    async def script(world: World) -> None:
        cluster.gate = asyncio.Event()
        world.drains.start("n1", SHORT, 1, spent_seconds=0.8)
        assert (await world.ended()).reason.name == "DrainDeadline"  # type: ignore[union-attr]

    play(cluster, script)
    assert cluster.busy == 0
