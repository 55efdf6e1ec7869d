"""Drains against a simulated API server, for what a real one does not do on demand: fail, stall, answer oddly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from hostplane.api.core import POD_DISRUPTION_BUDGET, PodDisruptionBudget
from hostplane.api.nodegroup import Drain
from hostplane.errors import ClusterError, ConflictError, NotFoundError, Reason, ThrottledError, UnreachableError
from hostplane.kube.session import Listing
from hostplane.kube.wire import Undecodable
from hostplane.operator.drain import DrainPace, DrainPhase, Drains, DrainState
from hostplane.planning.eviction import Tenant

FAST = DrainPace(look_first=0.002, look_most=0.01, retry_first=0.002, retry_most=0.01, attempts=4, budgets_fresh=0.0)
POLICY = Drain(deadline_seconds=20)
SHORT = Drain(deadline_seconds=1)  # of which all but a fifth counts as spent


def blocked() -> ThrottledError:
    return ThrottledError("EvictionBlocked", message="The disruption budget needs 1 healthy pod")


class Cluster:
    """Pods, budgets and the three calls of a Session that a drain makes; `answers` are raised before evictions."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.budgets: dict[str, int] = {}
        self.answers: dict[str, list[Exception]] = {}
        self.list_answers: list[Exception] = []
        self.undecodable: list[Undecodable] = []
        self.evicted: list[str] = []
        self.asked: list[tuple[str, str | None, int | None]] = []
        self.busy = self.busiest = self.lists = 0
        self.lingers = False
        self.gate: asyncio.Event | None = None
        self._awaited = 0
        self._reached: asyncio.Event | None = None

    def add(self, name: str, node: str = "n1", owner: str | None = "ReplicaSet", **metadata: Any) -> None:
        owners = [{"kind": owner, "name": "o", "uid": "o", "controller": True}] if owner else []
        self.pods[name] = {
            "metadata": {
                "name": name,
                "namespace": "shop",
                "uid": f"uid-{name}",
                "ownerReferences": owners,
                **metadata,
            },
            "spec": {"nodeName": node, "tolerations": [{"operator": "Exists"}] if name.startswith("t") else []},
            "status": {"phase": "Running"},
        }

    async def list(self, resource: Any, namespace: str | None = None, field_selector: str = "") -> Listing[Any]:
        await self._enter()
        if resource is POD_DISRUPTION_BUDGET:
            found = [
                {"metadata": {"name": name, "namespace": namespace}, "spec": {"selector": {}}, "status": status}
                for name, allowed in self.budgets.items()
                if (status := {"disruptionsAllowed": allowed})
            ]
            return Listing(msgspec.convert(found, list[PodDisruptionBudget]), "1")
        self.lists += 1
        if self._reached and self.lists >= self._awaited:
            self._reached.set()
        if self.list_answers:
            raise self.list_answers.pop(0)
        node = field_selector.removeprefix("spec.nodeName=")
        return Listing(
            [msgspec.convert(p, Tenant) for p in self.pods.values() if p["spec"]["nodeName"] == node],
            "1",
            self.undecodable,
        )

    async def evict(self, namespace: str, name: str, uid: str | None = None, grace: int | None = None) -> None:
        await self._enter()
        self.asked.append((name, uid, grace))
        if self.answers.get(name):
            raise self.answers[name].pop(0)
        if name not in self.pods:
            raise NotFoundError("ObjectNotFound", message=name)
        if len(self.budgets) > 1:
            raise ClusterError("ServerFailed", status=500, message="more than one PodDisruptionBudget")
        for budget, allowed in self.budgets.items():
            if allowed <= 0:
                raise blocked()
            self.budgets[budget] -= 1
        self.evicted.append(name)
        if self.lingers:
            self.pods[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        else:
            del self.pods[name]

    async def listed_again(self, times: int) -> None:
        """Waits for so many further listings."""
        self._awaited, self._reached = self.lists + times, asyncio.Event()
        async with asyncio.timeout(10):
            await self._reached.wait()

    async def _enter(self) -> None:
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
        finally:
            self.busy -= 1


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def emit(self, resource: Any, about: str, why: Reason, type: str = "Normal") -> None:
        self.events.append((about, why.name, type))


class World:
    """Drains over a simulated cluster, and a way to wait for a state."""

    def __init__(self, cluster: Cluster, **settings: Any) -> None:
        self.cluster, self.recorder = cluster, Recorder()
        self.changed = asyncio.Event()
        self.changes: list[str] = []
        self.drains = Drains(cluster, self.recorder, self._note, pace=FAST, **settings)  # type: ignore[arg-type]

    def _note(self, node: str) -> None:
        self.changes.append(node)
        self.changed.set()

    def state(self, node: str = "n1") -> DrainState:
        state = self.drains.state(node)
        assert state is not None
        return state

    async def until(self, holds: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    async def ended(self, node: str = "n1") -> DrainState:
        await self.until(lambda: self.state(node).phase is not DrainPhase.RUNNING)
        return self.state(node)


def play(cluster: Cluster, script: Callable[[World], Awaitable[None]], **settings: Any) -> World:
    """Runs a script beside `Drains.run()`."""

    async def both() -> World:
        world = World(cluster, **settings)
        runner = asyncio.ensure_future(world.drains.run())
        try:
            await script(world)
        finally:
            runner.cancel()
            await asyncio.wait([runner])
        assert runner.cancelled()
        return world

    return asyncio.run(both())


def drained(cluster: Cluster, policy: Drain = POLICY) -> tuple[DrainState, World]:
    """Starts a drain of n1 and waits for its end."""
    states = []

    async def script(world: World) -> None:
        world.drains.start("n1", policy, 1, spent_seconds=0.8 if policy is SHORT else 0.0)
        states.append(await world.ended())

    world = play(cluster, script)
    return states[0], world


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
