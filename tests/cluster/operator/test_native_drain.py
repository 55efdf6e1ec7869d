"""A host's pods before and after: a budget that holds up its drain is named, DaemonSet pods must be back."""

from __future__ import annotations

from typing import Any

from hostplane.api.core import POD
from hostplane.local.controlplane import ControlPlane
from hostplane.planning.cordon import MARK
from tests.cluster.operator.harness import Cluster, operator
from tests.cluster.operator.kubeos_play import condition, play
from tests.cluster.operator.native_play import add_hosts, all_run, grant_of, rollout_says
from tests.cluster.operator.test_drain import World as Pods


def hindrance(rollout: Any) -> str:
    found = condition(rollout, "Hindered")
    return found.message if found is not None else ""


def test_a_budget_that_blocks_a_drain_is_named_until_it_lets_go(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        pods = Pods(world.session, "default")
        await add_hosts(world, "n1")
        await pods.add("web", "n1")
        await pods.budget("keep-web", 1, disruptionsAllowed=0)
        await world.add_group(drain={"gracePeriodSeconds": 0})
        await world.add_rollout()
        async with operator(world.kubeconfig):
            rollout = await rollout_says(world, lambda r: "default/keep-web" in hindrance(r))
            assert "n1" in hindrance(rollout)
            assert world.versions() == {"n1": "v1"}
            assert MARK in world.nodes.items()["n1"].metadata.annotations
            await pods.allow("keep-web", disruptionsAllowed=1)
            await world.until(lambda: all_run(world, "v2", "n1"))
            rollout = await rollout_says(world, lambda r: r.status.phase == "Complete")
            assert hindrance(rollout) == ""

    play(clean_cluster, script, budget=1)


def test_a_drain_past_its_deadline_gives_the_node_back_and_lets_others_go(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        pods = Pods(world.session, "default")
        await add_hosts(world, "n1", "n2")
        await pods.add("web", "n1")
        await pods.budget("keep-web", 1, disruptionsAllowed=0)
        await world.add_group(drain={"deadlineSeconds": 10})
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await world.until(lambda: all_run(world, "v2", "n2"), 60)
            grant = grant_of(world, "n1")
            assert grant is not None
            assert (grant.stage, grant.verdict) == ("Release", "NoVerdict")
            assert not world.nodes.items()["n1"].spec.unschedulable
            rollout = await rollout_says(world, lambda r: r.status.counts.waiting == 1)
            assert "n1" in hindrance(rollout)
            assert rollout.status.phase == "Running"

    play(clean_cluster, script, budget=1)


def test_a_class_that_may_not_be_evicted_stops_the_drain_before_the_first_eviction(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        pods = Pods(world.session, "default")
        await add_hosts(world, "n1")
        await pods.add("lone", "n1", owner=None)
        await pods.add("web", "n1")
        await world.add_group()
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await world.until(lambda: (grant := grant_of(world, "n1")) is not None and grant.why == "DrainRefused")
            assert set(await pods.pods("n1")) == {"lone", "web"}
            rollout = await rollout_says(world, lambda r: bool(hindrance(r)))
            assert "n1" in hindrance(rollout)

    play(clean_cluster, script, budget=1)


def test_a_host_on_trial_waits_for_the_daemons_that_were_ready_before(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        pods = Pods(world.session, "default")
        hosts = await add_hosts(world, "n1")
        await pods.add("agent-1", "n1", owner="DaemonSet")
        await pods.add("other-1", "n1", owner="DaemonSet", ownerReferences=[daemon("other")])
        not_ready = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
        await world.session.patch(POD, "other-1", not_ready, "default", subresource="status")  # nobody waits for it
        hosts.silent.add("n1")
        await world.add_group()
        await world.add_rollout()
        async with operator(world.kubeconfig) as (running, _):
            await world.until(lambda: (grant := grant_of(world, "n1")) is not None and grant.stage == "Switch")
            await world.session.patch(POD, "agent-1", not_ready, "default", subresource="status")
            hosts.silent.clear()
            hosts.look_at("n1")
            await world.until(lambda: any(not word.ok for word in running.passes._effects.words().values()))
            assert world.hosts.items()["n1"].status.phase == "Trial"
            await pods.end("agent-1")
            await pods.add("agent-2", "n1", owner="DaemonSet")  # its name changes with the reboot, its owner does not
            await world.until(lambda: all_run(world, "v2", "n1"))
            assert set(await pods.pods("n1")) == {"agent-2", "other-1"}

    play(clean_cluster, script, budget=1)


def daemon(name: str) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "uid": f"{name}-1", "controller": True}
