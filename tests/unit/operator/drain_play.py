"""A simulated API server for drains: pods, budgets and answers that a real one does not give on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from hostplane.api.core import POD_DISRUPTION_BUDGET, PodDisruptionBudget
from hostplane.api.nodegroup import Drain
from hostplane.errors import ClusterError, NotFoundError, Reason, ThrottledError
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
