"""Where KubeOS has no answer: failed and lost nodes, deleted objects, another owner; with nothing but its objects."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from hostplane.api.core import NODE
from hostplane.api.kubeos import CONFIGURING, OS, OSINSTANCE, OSINSTANCE_NODE, UPGRADING
from hostplane.errors import ClusterError
from hostplane.kube.events import EVENT
from hostplane.local.controlplane import ControlPlane
from hostplane.local.kubeos_node import NAMESPACE, NEVER_RETURNS, WRONG_VERSION
from hostplane.planning.kubeos import record_of
from hostplane.planning.snapshot import Options
from tests.cluster.operator.harness import Cluster, node_status, operator
from tests.cluster.operator.kubeos_play import (
    HabitualNodes,
    all_on,
    change_os,
    condition,
    finish,
    instance,
    is_labelled,
    os_says,
    play,
    still_nodes,
    taken,
)


def test_a_wrong_version_is_failed_and_tried_again_only_when_the_os_changes(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        names = ("n1", "n2", "n3")
        nodes = await world.add_kubeos_nodes(*names, faults={"n1": WRONG_VERSION}, reboot_seconds=0.2)
        await world.add_os(maxunavailable=2)
        async with operator(world.kubeconfig):
            await world.until(lambda: all_on(world, "v2", "n2", "n3") and all_on(world, "v2 broken", "n1"))
            os = await os_says(world, lambda os: os.status.phase == "Complete")
            assert (os.status.total, os.status.done, os.status.failed) == (3, 2, 1)
            said = condition(os, "Failed")
            assert said is not None
            assert (said.status, said.reason) == ("True", "HostsFailed")
            assert record_of(instance(world, "n1")).why == "WrongVersion"
            reboots = nodes.reboots["n1"]
            assert reboots <= 2  # its proxy begins again at once, and is stopped by the end that we write
            await world.session.patch(NODE, "n1", {"metadata": {"labels": {"any": "change"}}})
            await world.session.patch(NODE, "n2", {"metadata": {"labels": {"any": "change"}}})
            await os_says(world, lambda os: os.status.phase == "Complete")
            assert nodes.reboots == {"n1": reboots, "n2": 1, "n3": 1}
            nodes.heal("n1")
            await change_os(world, osversion="v3")
            await world.until(lambda: all_on(world, "v3", *names))
            os = await os_says(world, lambda os: os.status.done == 3)
            assert os.status.failed == 0
        assert nodes.reboots == {"n1": reboots + 1, "n2": 2, "n3": 2}

    play(clean_cluster, script, budget=2)


def test_as_many_failures_as_maxunavailable_stop_the_rest(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        nodes = await world.add_kubeos_nodes("n1", "n2", faults={"n1": WRONG_VERSION})
        await world.add_os()
        async with operator(world.kubeconfig):
            os = await os_says(world, lambda os: (held := condition(os, "Held")) is not None and held.status == "True")
            held = condition(os, "Held")
            assert held is not None
            assert held.reason == "TooManyFailed"
            assert world.versions()["n2"] == "v1"
            nodes.heal("n1")
            await change_os(world, maxunavailable=2)  # any change of the object tries again
            await world.until(lambda: all_on(world, "v2", "n1", "n2"))

    play(clean_cluster, script, budget=2)


def test_a_node_that_never_returns_holds_budget_and_is_reported(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1", visible=True, faults={"n1": NEVER_RETURNS})
        await world.add_kubeos_nodes("n2")
        await world.add_os()
        async with operator(world.kubeconfig, Options(kubeos_deadline=2, ending_grace=1)):
            await world.until(lambda: not world.nodes.items()["n1"].ready)
            os = await os_says(world, lambda os: os.status.failed == 1)
            held = condition(os, "Held")
            assert held is not None
            assert held.reason == "TooManyFailed"
            assert (os.status.total, os.status.done) == (2, 0)
            assert record_of(instance(world, "n1")).why == "NodeDown"
            await world.until(lambda: not any(ledger.spec.holders for ledger in world.ledgers.items().values()))
            await change_os(world, timeinterval=30)  # allowed again, but the node that is down uses the budget up
            os = await os_says(world, lambda os: os.status.observed_generation == 2)
            assert taken(world) == {"n1"}
            assert world.versions() == {"n1": "v1", "n2": "v1"}
            events = {e.reason for e in (await world.session.list(EVENT, "default")).items}
            assert "NodeDown" in events

    play(clean_cluster, script, budget=1)


def test_a_node_that_was_down_is_tried_again_by_itself_when_it_is_back(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1")
        await world.add_os()
        async with operator(world.kubeconfig, Options(kubeos_deadline=1)):
            await world.until(lambda: is_labelled(world, "n1"))
            down = node_status("v1", str(uuid.uuid4()), ready=False)
            await world.session.patch(NODE, "n1", {"status": down}, subresource="status")
            await world.until(lambda: instance(world, "n1").spec.nodestatus == "idle")
            back = node_status("v1", str(uuid.uuid4()))
            await world.session.patch(NODE, "n1", {"status": back}, subresource="status")
            await finish(world, "n1", "v1")  # the proxy is back, sees idle, un-labels
            await world.until(lambda: is_labelled(world, "n1") and instance(world, "n1").spec.nodestatus == "upgrade")
            await finish(world, "n1", "v2")
            await os_says(world, lambda os: os.status.done == 1)

    play(clean_cluster, script, budget=1)


def test_settings_that_are_not_applied_in_time_are_failed(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1", "n2")
        await world.add_os(opstype="config", osversion="v1", sysconfigs={"version": "s1", "configs": []})
        async with operator(world.kubeconfig, Options(config_deadline=1)):
            await world.until(lambda: CONFIGURING in world.nodes.items()["n1"].metadata.labels)
            await world.until(lambda: instance(world, "n1").spec.nodestatus == "idle")
            await finish(world, "n1", "v1")
            os = await os_says(world, lambda os: os.status.failed == 1)
            assert os.status.done == 0
            assert taken(world) == set()
            await change_os(world, maxunavailable=2)  # any change of the object tries again
            await world.until(lambda: taken(world) == {"n1", "n2"})

    play(clean_cluster, script)


def test_a_deleted_os_gives_its_nodes_back_as_they_were(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1", "n2", "n3")
        await world.session.patch(NODE, "n2", {"spec": {"unschedulable": True}})  # by the administrator, before
        await world.add_os(maxunavailable=3)
        async with operator(world.kubeconfig):
            await world.until(lambda: taken(world) == {"n1", "n2", "n3"})
            await world.session.patch(NODE, "n1", {"spec": {"unschedulable": True}})  # by KubeOS's proxy, since
            await world.session.delete(OS, "pool", "default")
            await world.until(
                lambda: (
                    not taken(world)
                    and all(instance(world, name).spec.nodestatus == "idle" for name in ("n1", "n2", "n3"))
                )
            )
            nodes = world.nodes.items()
            await world.until(lambda: not world.ledgers.items()["cluster"].spec.holders)
            assert [nodes[n].spec.unschedulable for n in ("n1", "n2", "n3")] == [False, True, False]
            assert all(instance(world, name).spec.namespacedname is None for name in nodes)
            assert record_of(instance(world, "n1")).why == "OwnerDeleted"

    play(clean_cluster, script, budget=3)


async def slow_osinstances(method: str, path: str) -> None:
    """Whatever does not wait for the OSInstance is written first."""
    if method == "PATCH" and "/osinstances/" in path:
        await asyncio.sleep(0.2)


def test_another_owner_is_noticed_by_proxies_that_look_only_when_the_os_changes(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        nodes = HabitualNodes(world.session, ["n1", "n2"])
        await nodes.create("v1", {"upgrade.openeuler.org/node-selector": "a"})
        world.tasks.append(world.group.create_task(nodes.run()))
        await world.add_os("a", nodeselector="a")
        async with operator(world.kubeconfig, delay=slow_osinstances):
            await world.until(lambda: all_on(world, "v2", "n1", "n2"))
            await world.add_os("b", nodeselector="b", osversion="v3", maxunavailable=2)
            await change_os(world, "a", osversion="v4")  # owned by a again, so that proxies stop to look at b
            await world.until(lambda: all_on(world, "v4", "n1", "n2"))
            assert {("n1", "default/b"), ("n2", "default/b")} <= nodes.stopped
            for name in ("n1", "n2"):
                labels = {"metadata": {"labels": {"upgrade.openeuler.org/node-selector": "b"}}}
                await world.session.patch(NODE, name, labels)
            await world.until(lambda: all_on(world, "v3", "n1", "n2"))
        assert nodes.reboots == {"n1": 3, "n2": 3}

    play(clean_cluster, script, budget=2)


def test_a_node_without_an_osinstance_blocks_only_itself(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        lone = await world.add_kubeos_nodes("n1")
        await world.add_kubeos_nodes("n2")
        await world.until(lambda: "default/n1" in world.instances.items())
        await world.session.delete(OSINSTANCE, "n1", NAMESPACE)
        await world.add_os()
        async with operator(world.kubeconfig):
            await world.until(lambda: all_on(world, "v2", "n2"))
            os = await os_says(world, lambda os: os.status.done == 1)
            assert os.status.total == 2
            assert lone.reboots == {}
            meta: dict[str, Any] = {"name": "n1", "namespace": NAMESPACE, "labels": {OSINSTANCE_NODE: "n1"}}
            body = {**OSINSTANCE.manifest("n1"), "metadata": meta, "spec": {"nodestatus": "idle"}}
            await world.session.create(OSINSTANCE, body, NAMESPACE)
            await world.until(lambda: all_on(world, "v2", "n1"))

    play(clean_cluster, script, budget=1)


def test_a_deleted_node_takes_its_osinstance_with_it(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1", "n2")
        await world.add_os()
        async with operator(world.kubeconfig, Options(gone_grace=2, object_grace=1)):
            await world.until(lambda: taken(world) == {"n1"})
            await world.session.delete(NODE, "n1")
            await world.until(lambda: set(world.instances.items()) == {"default/n2"})
            await world.until(lambda: taken(world) == {"n2"}, what="the place of the deleted node is free again")

    play(clean_cluster, script, budget=1)


def test_what_kubeos_would_ignore_in_silence_is_a_condition_and_a_grant_is_an_event(
    clean_cluster: ControlPlane,
) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1")
        await world.add_os(checksum="short", evictpodforce=False)
        async with operator(world.kubeconfig):
            os = await os_says(world, lambda os: os.status.phase == "Complete")
            warning = condition(os, "Warning")
            assert warning is not None
            assert warning.status == "True"
            assert "HP-" in warning.message
            assert (os.status.summary, os.status.observed_generation) == ("1/1", 1)
        events = {e.reason for e in (await world.session.list(EVENT, "default")).items}
        assert "Granted" in events

    play(clean_cluster, script)


def test_an_object_that_could_never_act_is_refused_by_the_server(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        for spec in ({"maxunavailable": 0}, {"maxunavailable": -1}, {"nodeselector": "not a label"}):
            with pytest.raises(ClusterError) as refused:
                await world.add_os(**spec)
            assert refused.value.name == "RequestInvalid"

    play(clean_cluster, script)


def test_settings_turned_into_an_upgrade_midway_are_given_up_for_it(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1")
        settings = {"version": "s1", "configs": []}
        await world.add_os(opstype="config", osversion="v1", sysconfigs=settings)
        async with operator(world.kubeconfig):
            await world.until(lambda: CONFIGURING in world.nodes.items()["n1"].metadata.labels)
            await change_os(
                world, opstype="upgrade", osversion="v2"
            )  # from now on the proxy does nothing for the label
            await world.until(lambda: UPGRADING in world.nodes.items()["n1"].metadata.labels)
            assert CONFIGURING not in world.nodes.items()["n1"].metadata.labels
            await finish(world, "n1", "v2")
            await os_says(world, lambda os: os.status.done == 1)

    play(clean_cluster, script, budget=1)


def test_an_upgrade_turned_into_settings_midway_is_left_to_end(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1")
        await world.add_os()
        async with operator(world.kubeconfig):
            await world.until(lambda: UPGRADING in world.nodes.items()["n1"].metadata.labels)
            settings = {"version": "s1", "configs": []}
            await change_os(world, opstype="config", sysconfigs=settings)
            os = await os_says(world, lambda os: os.status.observed_generation == 2)
            why = condition(os, "Hindered")
            assert why is not None
            assert why.reason == "UpgradeFirst"
            labels = world.nodes.items()["n1"].metadata.labels  # it may be about to reboot: it still counts
            assert UPGRADING in labels
            assert CONFIGURING not in labels
            assert instance(world, "n1").spec.nodestatus == "upgrade"
            await finish(world, "n1", "v2")
            await world.until(lambda: CONFIGURING in world.nodes.items()["n1"].metadata.labels)

    play(clean_cluster, script, budget=1)
