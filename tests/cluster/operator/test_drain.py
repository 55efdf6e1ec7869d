"""Drains and cordons against a real API server; the tests play the kubelets, the scheduler and the administrator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from hostplane.api.core import NODE, POD, POD_DISRUPTION_BUDGET, Bare, Node, Pod
from hostplane.api.meta import Resource
from hostplane.api.nodegroup import Drain
from hostplane.errors import ConflictError, NotFoundError
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane
from hostplane.operator.cordon import cordon, restore
from hostplane.operator.drain import DrainPace, DrainPhase, Drains, DrainState
from hostplane.planning.cordon import MARK, mark_of

NAMESPACE = Resource(Bare, "", "v1", "Namespace", "namespaces")
REPLICA_SET = Resource(Bare, "apps", "v1", "ReplicaSet", "replicasets", namespaced=True)
DAEMON_SET = Resource(Bare, "apps", "v1", "DaemonSet", "daemonsets", namespaced=True)
SERVICE_ACCOUNT = Resource(Bare, "", "v1", "ServiceAccount", "serviceaccounts", namespaced=True)
PACE = DrainPace(look_first=0.05, look_most=0.2, retry_first=0.05, retry_most=0.2, budgets_fresh=0.1)
NOW = Drain(deadline_seconds=60, grace_period_seconds=0)
TEMPLATE = {"containers": [{"name": "c", "image": "nowhere/none"}]}


class World:
    """A session, drains that run, and what the other programs of a cluster would do."""

    def __init__(self, session: Session, namespace: str) -> None:
        self.session, self.namespace = session, namespace
        self._changed = asyncio.Event()
        self.drains = Drains(session, on_change=lambda _: self._changed.set(), pace=PACE)

    def state(self, node: str) -> DrainState:
        state = self.drains.state(node)
        assert state is not None
        return state

    async def until(self, node: str, holds: Callable[[DrainState], bool], seconds: float = 60) -> DrainState:
        async with asyncio.timeout(seconds):
            while not holds(self.state(node)):
                self._changed.clear()
                await self._changed.wait()
        return self.state(node)

    async def ended(self, node: str) -> DrainState:
        return await self.until(node, lambda state: state.phase is not DrainPhase.RUNNING)

    async def pods(self, node: str) -> dict[str, Pod]:
        listing = await self.session.list(POD, field_selector=f"spec.nodeName={node}")
        return {pod.metadata.name: pod for pod in listing.items}

    async def add(
        self, name: str, node: str, *, owner: str | None = "ReplicaSet", empty_dir: bool = False, **metadata: Any
    ) -> Pod:
        """A running pod on a node, ready; its owner is a name only, which nobody checks without controllers."""
        owners = [{"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": "o-1", "controller": True}]
        volumes = [{"name": "v", "emptyDir": {}}] if empty_dir else []
        body = POD.manifest(name, spec={**TEMPLATE, "nodeName": node, "volumes": volumes})
        body["metadata"] |= {"labels": {"app": "web"}, "ownerReferences": owners if owner else [], **metadata}
        await self.session.create(POD, body, self.namespace)
        return await self.report_ready(name)

    async def report_ready(self, name: str) -> Pod:
        """What a kubelet does once the containers run."""
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        return await self.session.patch(POD, name, {"status": status}, self.namespace, subresource="status")

    async def end(self, name: str) -> None:
        """What a kubelet does once the containers have ended."""
        path = POD.path(self.namespace, name)
        with contextlib.suppress(NotFoundError):
            await self.session.request("DELETE", path, {"gracePeriodSeconds": 0})

    async def bind(self, name: str, node: str) -> None:
        """What the scheduler does."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        await self.session.request("POST", POD.path(self.namespace, name, "binding"), body)

    async def budget(self, name: str, min_available: int, **status: int) -> None:
        """A budget over app=web; with `status`, what the controller-manager would compute."""
        spec = {"minAvailable": min_available, "selector": {"matchLabels": {"app": "web"}}}
        body = POD_DISRUPTION_BUDGET.manifest(name, spec=spec)
        await self.session.create(POD_DISRUPTION_BUDGET, body, self.namespace)
        if status:
            await self.allow(name, **status)

    async def allow(self, name: str, **status: int) -> None:
        """Writes a budget's status in the place of the controller-manager."""
        full = {"observedGeneration": 1, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1, **status}
        await self.session.patch(POD_DISRUPTION_BUDGET, name, {"status": full}, self.namespace, subresource="status")

    async def eventually(self, ask: Callable[[], Awaitable[Any]], seconds: float = 60) -> Any:
        """What `ask` answers once it answers something."""
        async with asyncio.timeout(seconds):
            while not (answer := await ask()):  # noqa: ASYNC110  # another program's work: there is no event to wait on
                await asyncio.sleep(0.05)
        return answer


@contextlib.asynccontextmanager
async def opened(plane: ControlPlane, namespace: str) -> AsyncIterator[World]:
    async with await Session.open(str(plane.kubeconfig), connections=16, rate=5000, burst=5000) as session:
        world = World(session, namespace)
        runner = asyncio.ensure_future(world.drains.run())
        try:
            yield world
        finally:
            runner.cancel()
            await asyncio.wait([runner])
        assert runner.cancelled(), runner.exception()


def play(plane: ControlPlane, script: Callable[[World], Coroutine[Any, Any, None]], namespace: str = "default") -> None:
    async def run() -> None:
        async with opened(plane, namespace) as world:
            await script(world)

    asyncio.run(run())


def test_what_belongs_to_the_node_stays_and_the_rest_goes(clean_cluster: ControlPlane) -> None:
    async def script(world: World) -> None:
        await world.add("web", "n1", empty_dir=True)
        await world.add("agent", "n1", owner="DaemonSet")
        await world.add("static", "n1", owner=None, annotations={"kubernetes.io/config.mirror": "x"})
        await world.add("elsewhere", "n2")

        world.drains.start("n1", NOW, 1)
        state = await world.ended("n1")

        assert (state.phase, state.evicted, state.remaining) == (DrainPhase.DONE, 1, 0)
        assert set(await world.pods("n1")) == {"agent", "static"}
        assert set(await world.pods("n2")) == {"elsewhere"}

    play(clean_cluster, script)


@pytest.mark.parametrize(
    ("odd", "policy", "why"),
    [
        ({"owner": None}, NOW, "UnmanagedPod"),
        ({"empty_dir": True}, Drain(evict_empty_dir=False), "EmptyDirPod"),
    ],
)
def test_a_refused_class_stops_before_the_first_eviction(
    clean_cluster: ControlPlane, odd: dict[str, Any], policy: Drain, why: str
) -> None:
    async def script(world: World) -> None:
        await world.add("web", "n1")
        await world.add("odd", "n1", **odd)

        world.drains.start("n1", policy, 1)
        state = await world.ended("n1")

        assert state.phase is DrainPhase.FAILED
        assert state.reason is not None
        assert "default/odd" in state.reason.text
        pods = await world.pods("n1")
        assert [pod.metadata.deletion_timestamp for pod in pods.values()] == [None, None]

    play(clean_cluster, script)


def test_a_terminating_pod_is_waited_for_and_keeps_its_grace(clean_cluster: ControlPlane) -> None:
    async def script(world: World) -> None:
        await world.add("slow", "n1")
        await world.session.request("DELETE", POD.path("default", "slow"), {"gracePeriodSeconds": 3000})
        before = (await world.pods("n1"))["slow"].metadata
        await world.add("web", "n1")

        world.drains.start("n1", NOW, 1)
        await world.until("n1", lambda state: (state.evicted, state.remaining) == (1, 1))
        after = (await world.pods("n1"))["slow"].metadata
        assert after.resource_version == before.resource_version

        await world.end("slow")
        assert (await world.ended("n1")).phase is DrainPhase.DONE

    play(clean_cluster, script)


def test_an_evicted_pod_is_waited_for_until_its_kubelet_has_ended_it(clean_cluster: ControlPlane) -> None:
    async def script(world: World) -> None:
        await world.add("web", "n1")

        world.drains.start("n1", Drain(), 1)
        await world.until("n1", lambda state: state.evicted == 1)
        assert (await world.pods("n1"))["web"].metadata.deletion_timestamp is not None
        assert world.state("n1").phase is DrainPhase.RUNNING

        await world.end("web")
        assert (await world.ended("n1")).evicted == 1

    play(clean_cluster, script)


def test_a_drain_taken_over_by_another_process_goes_on(clean_cluster: ControlPlane) -> None:
    async def first(world: World) -> None:
        await world.add("a", "n1")
        await world.add("b", "n1")
        world.drains.start("n1", Drain(), 1)
        await world.until("n1", lambda state: state.evicted == 2)
        await world.end("a")

    async def second(world: World) -> None:
        world.drains.start("n1", Drain(), 1)
        await world.until("n1", lambda state: state.remaining == 1)
        await world.end("b")
        state = await world.ended("n1")
        assert (state.phase, state.evicted) == (DrainPhase.DONE, 0)

    play(clean_cluster, first)
    play(clean_cluster, second)


def test_the_deadline_names_the_pods_and_the_budget(clean_cluster: ControlPlane) -> None:
    async def script(world: World) -> None:
        await world.add("web", "n1")
        await world.budget("web-stays", 1, disruptionsAllowed=0)

        world.drains.start("n1", Drain(deadline_seconds=2), 1)
        state = await world.ended("n1")

        assert state.phase is DrainPhase.FAILED
        assert state.reason is not None
        assert state.reason.name == "DrainDeadline"
        assert "default/web" in state.reason.text
        assert state.blocking == ("default/web-stays",)
        assert "default/web-stays" in state.reason.text
        assert (await world.pods("n1"))["web"].metadata.deletion_timestamp is None

    play(clean_cluster, script)


def test_two_budgets_over_one_pod_are_both_named(clean_cluster: ControlPlane) -> None:
    async def script(world: World) -> None:
        await world.add("web", "n1")
        for name in ("one", "two"):
            await world.budget(name, 0, disruptionsAllowed=1)

        world.drains.start("n1", NOW, 1)
        state = await world.until("n1", lambda state: state.blocking != ())
        assert state.blocking == ("default/one", "default/two")

        await world.session.delete(POD_DISRUPTION_BUDGET, "two", "default")
        assert (await world.ended("n1")).phase is DrainPhase.DONE

    play(clean_cluster, script)


def test_two_hundred_nodes_side_by_side(clean_cluster: ControlPlane) -> None:
    nodes = [f"n{i}" for i in range(200)]

    async def script(world: World) -> None:
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                for i in range(2):
                    group.create_task(world.add(f"web-{node}-{i}", node))
                group.create_task(world.add(f"agent-{node}", node, owner="DaemonSet"))

        for node in nodes:
            world.drains.start(node, NOW, 1)
        states = [await world.ended(node) for node in nodes]

        assert {(state.phase, state.evicted) for state in states} == {(DrainPhase.DONE, 2)}
        left = (await world.session.list(POD)).items
        assert len(left) == len(nodes)
        assert all(pod.metadata.name.startswith("agent-") for pod in left)

    play(clean_cluster, script)


def test_goes_on_when_the_api_server_restarts(clean_cluster: ControlPlane) -> None:
    async def script(world: World) -> None:
        await world.add("a", "n1")
        await world.add("web", "n1")
        await world.budget("web-stays", 1, disruptionsAllowed=0)
        world.drains.start("n1", NOW, 1)
        await world.until("n1", lambda state: state.blocking != ())

        await asyncio.to_thread(clean_cluster.restart, kill=True)
        await world.session.delete(POD_DISRUPTION_BUDGET, "web-stays", "default")

        assert (await world.ended("n1")).phase is DrainPhase.DONE

    play(clean_cluster, script)


def test_the_real_budget_controller_frees_the_drain_when_a_replacement_is_ready(
    control_plane_with_controllers: ControlPlane,
) -> None:
    labels = {"app": "web"}

    async def script(world: World) -> None:
        session = world.session

        async def account() -> bool:
            return bool((await session.list(SERVICE_ACCOUNT, "drained")).items)

        async def unbound() -> list[str]:
            return [p.metadata.name for p in (await session.list(POD, "drained")).items if not p.spec.node_name]

        async def run_on(node: str) -> str:
            name: str = (await world.eventually(unbound))[0]
            await world.bind(name, node)
            await world.report_ready(name)
            return name

        await session.create(NAMESPACE, NAMESPACE.manifest("drained"))
        await world.eventually(account)
        await session.create(NODE, NODE.manifest("n1", spec={"unschedulable": True}))
        template = {"metadata": {"labels": labels}, "spec": TEMPLATE}
        workload = {"selector": {"matchLabels": labels}, "template": template}
        await session.create(REPLICA_SET, REPLICA_SET.manifest("web", spec={**workload, "replicas": 1}), "drained")
        web = await run_on("n1")
        tough = {**TEMPLATE, "tolerations": [{"operator": "Exists"}]}  # a Node without a kubelet is tainted not-ready
        template = {"metadata": {"labels": {"app": "agent"}}, "spec": tough}
        agents = {"selector": {"matchLabels": {"app": "agent"}}, "template": template}
        await session.create(DAEMON_SET, DAEMON_SET.manifest("agent", spec=agents), "drained")
        agent = await run_on("n1")
        await world.budget("web-stays", 1)

        world.drains.start("n1", Drain(deadline_seconds=120), 1)
        state = await world.until("n1", lambda state: state.blocking != ())
        assert state.blocking == ("drained/web-stays",)
        assert world.drains.blocked == 1
        assert (await world.pods("n1"))[web].metadata.deletion_timestamp is None

        await session.patch(REPLICA_SET, "web", {"spec": {"replicas": 2}}, "drained")
        await run_on("n2")
        await world.until("n1", lambda state: state.evicted == 1)
        await world.end(web)

        state = await world.ended("n1")
        assert (state.phase, state.evicted, state.blocking) == (DrainPhase.DONE, 1, ())
        assert set(await world.pods("n1")) == {agent}
        await session.delete(NODE, "n1")
        await session.delete(NAMESPACE, "drained")

    play(control_plane_with_controllers, script, "drained")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("meanwhile", [None, "heartbeat", "uncordon"])
def test_a_node_is_left_with_the_cordon_it_had(
    clean_cluster: ControlPlane, before: bool, meanwhile: str | None
) -> None:
    async def script(world: World) -> None:
        session = world.session
        seen = await session.create(NODE, NODE.manifest("n1", spec={"unschedulable": before}))
        await heartbeat(session)  # so that what we saw is stale

        held = await cordon(session, seen, 7)
        assert held.spec.unschedulable
        mark = mark_of(held)
        assert mark is not None
        assert (mark.seq, mark.was) == (7, before)
        if meanwhile == "uncordon":
            await session.patch(NODE, "n1", {"spec": {"unschedulable": None}})
        elif meanwhile == "heartbeat":
            await heartbeat(session)
        await restore(session, held, 7)

        after = await session.get(NODE, "n1")
        assert after.spec.unschedulable == (before and meanwhile != "uncordon")
        assert MARK not in after.metadata.annotations
        assert (await restore(session, after, 7)) == after

    play(clean_cluster, script)


def test_a_kubelet_that_writes_all_the_time_does_not_keep_us_from_cordoning(clean_cluster: ControlPlane) -> None:
    async def script(world: World) -> None:
        session = world.session
        node: Node | None = await session.create(NODE, NODE.manifest("n1"))
        beating = asyncio.ensure_future(beat(session))
        try:
            for seq in range(1, 11):
                assert node is not None
                with contextlib.suppress(ConflictError):  # bounded, then the next pass tries again
                    node = await restore(session, await cordon(session, node, seq), seq)
        finally:
            beating.cancel()
            await asyncio.wait([beating])
        assert node is not None
        node = await restore(session, await session.get(NODE, "n1"))
        assert node is not None
        assert not node.spec.unschedulable
        assert mark_of(node) is None

    play(clean_cluster, script)


async def heartbeat(session: Session) -> None:
    condition = {"type": "Ready", "status": "True", "reason": "r", "message": str(asyncio.get_running_loop().time())}
    await session.patch(NODE, "n1", {"status": {"conditions": [condition]}}, subresource="status")


async def beat(session: Session) -> None:
    while True:
        await heartbeat(session)
        await asyncio.sleep(0.005)
