"""Drains against a simulated API server, for what a real one does not do on demand: fail, stall, answer oddly."""

from __future__ import annotations

from typing import Any

import pytest

from hostplane.api.nodegroup import Drain
from hostplane.errors import ClusterError, ConflictError, NotFoundError, ThrottledError, UnreachableError
from hostplane.kube.wire import Undecodable
from hostplane.operator.drain import DrainPhase
from tests.unit.operator.drain_play import FAST, POLICY, SHORT, Cluster, World, drained, play


def test_evicts_everything_with_its_uid_and_says_so() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.add("b")
    cluster.add("elsewhere", node="n2")

    state, world = drained(cluster, Drain(deadline_seconds=20, grace_period_seconds=7))

    assert (state.phase, state.evicted, state.remaining, state.blocking) == (DrainPhase.DONE, 2, 0, ())
    assert cluster.asked == [("a", "uid-a", 7), ("b", "uid-b", 7)]
    assert world.recorder.events == [("n1", "Drained", "Normal")]


def test_waits_for_leaving_pods_and_never_asks_them_again() -> None:
    cluster = Cluster()
    cluster.lingers = True
    cluster.add("a")
    cluster.add("gone-soon", deletionTimestamp="2026-01-01T00:00:00Z")

    async def script(world: World) -> None:
        world.drains.start("n1", POLICY, 1)
        await world.until(lambda: world.state().evicted == 1)
        await cluster.listed_again(3)
        assert world.state().phase is DrainPhase.RUNNING
        assert world.state().remaining == 2
        cluster.pods.clear()
        assert (await world.ended()).phase is DrainPhase.DONE

    play(cluster, script)
    assert [name for name, _, _ in cluster.asked] == ["a"]


def test_a_refused_class_stops_the_drain_before_its_first_eviction() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.add("bare", owner=None)

    state, world = drained(cluster)

    assert state.phase is DrainPhase.FAILED
    assert state.reason is not None
    assert state.reason.name == "DrainRefused"
    assert "shop/bare" in state.reason.text
    assert cluster.asked == []
    assert world.recorder.events == [("n1", "DrainRefused", "Warning")]


def test_a_budget_is_named_while_it_blocks_and_the_drain_ends_when_it_is_freed() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.budgets = {"web": 0}

    async def script(world: World) -> None:
        world.drains.start("n1", POLICY, 1)
        await world.until(lambda: world.state().blocking != ())
        state = world.state()
        assert state.blocking == ("shop/web",)
        assert state.reason is not None
        assert state.reason.name == "DrainBlocked"
        assert world.drains.blocked == 1
        cluster.budgets["web"] = 1
        assert (await world.ended()).blocking == ()
        assert world.drains.blocked == 0

    world = play(cluster, script)
    assert world.recorder.events == [("n1", "DrainBlocked", "Warning"), ("n1", "Drained", "Normal")]


def test_two_budgets_over_one_pod_are_both_named_though_the_server_calls_it_its_own_failure() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.budgets = {"web": 3, "all": 3}

    state, _ = drained(cluster, SHORT)

    assert state.blocking == ("shop/all", "shop/web")
    assert state.reason is not None
    assert state.reason.name == "DrainDeadline"
    assert "shop/all, shop/web" in state.reason.text


def test_the_deadline_names_pods_and_budgets() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.budgets = {"web": 0}

    state, _ = drained(cluster, SHORT)

    assert state.phase is DrainPhase.FAILED
    assert state.reason is not None
    assert state.reason.name == "DrainDeadline"
    assert "shop/a" in state.reason.text
    assert "shop/web" in state.reason.text
    assert state.remaining == 1


def test_seconds_already_spent_count_towards_the_deadline() -> None:
    cluster = Cluster()
    cluster.add("a", deletionTimestamp="2026-01-01T00:00:00Z")

    async def script(world: World) -> None:
        world.drains.start("n1", Drain(deadline_seconds=3600), 1, spent_seconds=3600)
        state = await world.ended()
        assert state.phase is DrainPhase.FAILED

    play(cluster, script)


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("ServerUnreachable", url="u", why="w"),
        ThrottledError("ServerBusy", message="m"),
        ClusterError("ServerFailed", status=500, message="m"),
        ClusterError("RequestForbidden", status=403, message="m"),
    ],
)
def test_a_node_that_cannot_be_listed_is_never_drained(error: Exception) -> None:
    cluster = Cluster()
    cluster.list_answers = [error] * 100_000

    state, _ = drained(cluster, SHORT)

    assert state.phase is DrainPhase.FAILED
    assert state.reason is not None
    assert state.reason.name == "DrainDeadline"
    assert error.reason.code in state.reason.text  # type: ignore[attr-defined]
    assert " ? pods" in state.reason.text


def test_a_failed_listing_is_visible_while_it_lasts_and_then_forgotten() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.list_answers = [UnreachableError("ServerUnreachable", url="u", why="w")] * 3

    async def script(world: World) -> None:
        world.drains.start("n1", POLICY, 1)
        await world.until(lambda: world.state().reason is not None)
        assert world.state().reason.name == "DrainInterrupted"  # type: ignore[union-attr]
        assert (await world.ended()).phase is DrainPhase.DONE

    play(cluster, script)
    assert cluster.evicted == ["a"]


def test_a_pod_that_cannot_be_read_keeps_the_node_from_being_drained() -> None:
    cluster = Cluster()
    cluster.undecodable = [Undecodable("shop/odd", "1", "labels are a list")]

    state, _ = drained(cluster, SHORT)

    assert state.phase is DrainPhase.FAILED
    assert "shop/odd" in state.reason.text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "error", [NotFoundError("ObjectNotFound", message="m"), ConflictError("WriteConflict", message="m")]
)
def test_a_pod_that_vanished_or_was_replaced_is_looked_at_again(error: Exception) -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.answers["a"] = [error]

    state, _ = drained(cluster)

    assert (state.phase, state.evicted) == (DrainPhase.DONE, 1)


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("ServerUnreachable", url="u", why="w"),
        ThrottledError("ServerBusy", message="m"),
        ClusterError("ServerFailed", status=500, message="m"),
    ],
)
def test_an_eviction_that_gets_no_answer_is_asked_again(error: Exception) -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.answers["a"] = [error] * 3

    state, _ = drained(cluster)

    assert (state.phase, state.evicted) == (DrainPhase.DONE, 1)
    assert len(cluster.asked) == 4


def test_a_lost_connection_is_no_refusal_however_often() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.answers["a"] = [UnreachableError("ServerUnreachable", url="u", why="w")] * (3 * FAST.attempts)

    assert drained(cluster)[0].phase is DrainPhase.DONE


def test_an_eviction_refused_for_good_fails_the_drain_and_says_what_the_server_said() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.answers["a"] = [ClusterError("RequestForbidden", status=403, message="webhook says no")] * 100

    state, _ = drained(cluster)

    assert state.phase is DrainPhase.FAILED
    assert state.reason is not None
    assert state.reason.name == "DrainEvictionFailed"
    assert "webhook says no" in state.reason.text
    assert len(cluster.asked) == FAST.attempts


def test_one_stubborn_pod_does_not_keep_the_others() -> None:
    cluster = Cluster()
    cluster.add("a")
    cluster.add("b")
    cluster.answers["a"] = [ClusterError("ServerFailed", status=500, message="webhook timed out")] * 100

    drained(cluster)

    assert cluster.evicted == ["b"]


def test_retry_after_is_honoured() -> None:
    cluster = Cluster()
    cluster.add("a")
    busy = ThrottledError("ServerBusy", message="m")
    busy.retry_after = 300.0
    cluster.answers["a"] = [busy]

    state, _ = drained(cluster, SHORT)

    assert state.phase is DrainPhase.FAILED
    assert len(cluster.asked) == 1


def test_a_pod_that_tolerates_the_cordon_and_comes_back_does_not_hold_the_drain() -> None:
    cluster = Cluster()
    cluster.add("tough")
    evict = cluster.evict

    async def evict_and_bring_back(*arguments: Any) -> None:
        await evict(*arguments)
        cluster.add("tough-again")

    cluster.evict = evict_and_bring_back  # type: ignore[method-assign]

    state, _ = drained(cluster)

    assert (state.phase, cluster.evicted) == (DrainPhase.DONE, ["tough"])
