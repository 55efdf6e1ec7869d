"""A KubeOS cluster in the middle of its work changes operators, to ours and back."""

from __future__ import annotations

from hostplane.api.core import NODE
from hostplane.api.kubeos import OSINSTANCE, UPGRADING
from hostplane.local.controlplane import ControlPlane
from hostplane.local.kubeos_node import NAMESPACE
from hostplane.planning.kubeos import OPERATION
from hostplane.planning.snapshot import Options
from tests.cluster.operator.harness import Cluster, operator
from tests.cluster.operator.kubeos_play import (
    all_on,
    finish,
    holders,
    instance,
    is_labelled,
    os_says,
    play,
    still_nodes,
    taken,
)


async def assign_as_kubeos_does(world: Cluster, name: str, nodestatus: str = "upgrade") -> None:
    """What KubeOS's operator leaves on a node: no record of ours."""
    spec = {"nodestatus": nodestatus, "namespacedname": {"name": "pool", "namespace": "default"}}
    await world.session.patch(OSINSTANCE, name, {"spec": spec}, NAMESPACE)
    await world.session.patch(NODE, name, {"metadata": {"labels": {UPGRADING: ""}}})


def test_what_kubeos_began_is_counted_at_once_and_carried_on(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1", "n2", "n3")
        await world.add_os()
        await assign_as_kubeos_does(world, "n1")
        async with operator(world.kubeconfig):
            await world.until(lambda: holders(world) == {"n1"})
            assert taken(world) == {"n1"}
            await finish(world, "n1", "v2")
            await world.until(lambda: taken(world) == {"n2"})
            await finish(world, "n2", "v2")
            await world.until(lambda: taken(world) == {"n3"})

    play(clean_cluster, script, budget=1)


def test_a_label_that_kubeos_left_on_an_idle_node_is_taken_off(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1")
        await world.add_os()
        await assign_as_kubeos_does(world, "n1", "idle")
        async with operator(world.kubeconfig, Options(ending_grace=1)):
            await world.until(lambda: not is_labelled(world, "n1"))
            await world.until(lambda: instance(world, "n1").spec.nodestatus == "upgrade" and is_labelled(world, "n1"))
            await finish(world, "n1", "v2")
            await os_says(world, lambda os: os.status.done == 1)

    play(clean_cluster, script, budget=1)


def test_nodes_end_by_themselves_when_our_operator_is_stopped(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1", "n2", reboot_seconds=0.3)
        await world.add_os()
        async with operator(world.kubeconfig):
            await world.until(lambda: bool(taken(world)))
        (away,) = taken(world)
        await world.until(lambda: all_on(world, "v2", away))
        kept = instance(world, away)
        assert kept.spec.namespacedname is None
        assert set(kept.metadata.annotations) == {OPERATION}
        assert not world.nodes.items()[away].metadata.annotations

    play(clean_cluster, script, budget=1)
