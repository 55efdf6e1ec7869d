"""With only KubeOS's objects present: what an administrator of KubeOS knows is what happens (docs/kubeos.md)."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

import pytest

from hostplane.api.core import NODE, Node
from hostplane.api.kubeos import CONFIGURING, CONTROL_PLANE, NODE_SELECTOR, OS, SERIAL, UPGRADING, OSInstance
from hostplane.errors import ConflictError
from hostplane.local.controlplane import ControlPlane
from tests.cluster.operator.harness import Cluster, operator
from tests.cluster.operator.kubeos_play import (
    ANY_SETTINGS,
    all_on,
    change_os,
    finish,
    instance,
    is_labelled,
    os_says,
    play,
    read_os,
    still_nodes,
    taken,
    window,
)


async def add_namespace(world: Cluster, name: str) -> None:
    """A namespace, which outlives the test: nothing here would end its termination."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    with contextlib.suppress(ConflictError):
        await world.session.request("POST", "/api/v1/namespaces", body)


def test_an_upgrade_writes_the_osinstance_before_the_label(clean_cluster: ControlPlane) -> None:
    names = ("n1", "n2", "n3", "n4")
    assigned: dict[str, int] = {}
    labelled: dict[str, int] = {}
    told: list[OSInstance] = []

    def note(old: Any, new: Any) -> None:
        if isinstance(new, OSInstance) and new.spec.nodestatus not in ("idle", ""):
            assigned.setdefault(new.metadata.name, int(new.metadata.resource_version))
            told.append(new)
        if isinstance(new, Node) and UPGRADING in new.metadata.labels:
            labelled.setdefault(new.metadata.name, int(new.metadata.resource_version))

    async def script(world: Cluster) -> None:
        world.listeners.append(note)
        nodes = await world.add_kubeos_nodes(*names)
        await world.add_os(maxunavailable=2)
        async with operator(world.kubeconfig):
            await world.until(lambda: all_on(world, "v2", *names))
        assert set(assigned) == set(labelled) == set(names)
        assert all(assigned[name] < labelled[name] for name in names)
        owner = told[0].spec.namespacedname
        assert owner is not None
        assert (told[0].spec.nodestatus, owner.namespace, owner.name) == ("upgrade", "default", "pool")
        assert nodes.reboots == dict.fromkeys(names, 1)
        assert world.seen["assigned"] == 2

    play(clean_cluster, script, budget=2)


def test_a_rollback_is_written_as_an_upgrade_to_the_old_version(clean_cluster: ControlPlane) -> None:
    statuses: set[str] = set()

    def note(old: Any, new: Any) -> None:
        if isinstance(new, OSInstance):
            statuses.add(new.spec.nodestatus)
        assert not (isinstance(new, Node) and CONFIGURING in new.metadata.labels)

    async def script(world: Cluster) -> None:
        world.listeners.append(note)
        await world.add_kubeos_nodes("n1", "n2")
        await world.add_os(opstype="rollback", osversion="v0", imagetype="", imageurl="")
        async with operator(world.kubeconfig):
            await world.until(lambda: all_on(world, "v0", "n1", "n2"))
        assert statuses == {"idle", "upgrade"}

    play(clean_cluster, script, budget=1)


def test_settings_reach_nodes_also_from_an_os_in_another_namespace(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await add_namespace(world, "team")
        nodes = await world.add_kubeos_nodes("n1", "n2")
        seen: set[str] = set()
        world.listeners.append(lambda old, new: seen.update(new.metadata.labels) if isinstance(new, Node) else None)
        settings = {"version": "s1", "configs": ANY_SETTINGS}
        await world.add_os(namespace="team", opstype="config", osversion="v1", sysconfigs=settings)
        async with operator(world.kubeconfig):

            def is_configured(name: str, version: str) -> bool:
                mine = instance(world, name)
                applied, wished = mine.status.sysconfigs, mine.spec.sysconfigs
                return (
                    all_on(world, "v1", name)
                    and applied is not None
                    and wished is not None
                    and applied.version == wished.version == version
                    and applied.configs == wished.configs
                )

            await world.until(lambda: is_configured("n1", "s1") and is_configured("n2", "s1"))
            assert CONFIGURING in seen
            assert UPGRADING not in seen
            spec = instance(world, "n1").spec.sysconfigs
            assert spec is not None
            assert spec.configs[0].contents[0].key == "vm.swappiness"
            await change_os(world, namespace="team", sysconfigs=None)  # left out: a stored version is cleared
            await world.until(lambda: is_configured("n1", "") and is_configured("n2", ""))
        assert nodes.reboots == {}

    play(clean_cluster, script, budget=1)


def test_settings_for_another_version_take_no_node(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1")
        await world.add_os(opstype="config", osversion="v7", sysconfigs={"version": "s1", "configs": []})
        async with operator(world.kubeconfig):
            await os_says(world, lambda os: os.status.total == 1)
        assert world.seen["assigned"] == world.seen["labelled"] == world.seen["held"] == 0

    play(clean_cluster, script)


@pytest.mark.parametrize("opstype", ["upgrade", "config"])
def test_serial_mode_labels_a_batch_and_works_on_one_after_the_other(clean_cluster: ControlPlane, opstype: str) -> None:
    names = [f"n{i}" for i in range(5)]
    batches: set[frozenset[str]] = set()

    async def script(world: Cluster) -> None:
        def note(old: Any, new: Any) -> None:
            mine = {name for name, node in world.nodes.items().items() if SERIAL in node.metadata.labels}
            batches.add(frozenset(mine))

        await add_namespace(world, "team")
        world.listeners.append(note)
        await world.add_kubeos_nodes(*names)
        version = "v2" if opstype == "upgrade" else "v1"
        settings = {"version": "s1", "configs": []}
        serial = {"executionmode": "serial", "maxunavailable": 2, "sysconfigs": settings}
        await world.add_os(namespace="team", opstype=opstype, osversion=version, **serial)

        def is_done() -> bool:
            applied = [instance(world, name).status.sysconfigs for name in names]
            labels = [label for node in world.nodes.items().values() for label in node.metadata.labels]
            return (
                all_on(world, version, *names)
                and all(a is not None and a.version == "s1" for a in applied)
                and SERIAL not in labels
            )

        async with operator(world.kubeconfig):
            await world.until(is_done)
        assert max(len(batch) for batch in batches) == 2
        assert set().union(*batches) == set(names)

    play(clean_cluster, script, budget=1)


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        (None, {"bare"}),
        ("no-label", {"bare"}),
        ("all-label", {"bare", "empty", "pool"}),
        ("", {"empty"}),
        ("pool", {"pool"}),
    ],
)
def test_nodeselector_chooses_nodes_as_kubeos_does(
    clean_cluster: ControlPlane, selector: str | None, chosen: set[str]
) -> None:
    async def script(world: Cluster) -> None:
        labels = {"bare": {}, "empty": {NODE_SELECTOR: ""}, "pool": {NODE_SELECTOR: "pool"}}
        for name, mine in labels.items():
            await world.add_kubeos_nodes(name, labels=mine)
            await still_nodes(world, f"cp-{name}", labels={**mine, CONTROL_PLANE: ""})
        await world.add_os(maxunavailable=5, **({} if selector is None else {"nodeselector": selector}))
        async with operator(world.kubeconfig):
            os = await os_says(world, lambda os: os.status.phase == "Complete")
            assert {name for name, version in world.versions().items() if version == "v2"} == chosen
            assert (os.status.total, os.status.done) == (len(chosen), len(chosen))

    play(clean_cluster, script)


def test_a_closed_window_stops_only_new_nodes(clean_cluster: ControlPlane) -> None:
    hour = timedelta(hours=1)

    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1", "n2", "n3")
        await world.add_os(timewindow=window(hour, 2 * hour))
        async with operator(world.kubeconfig):
            os = await os_says(world, lambda os: os.status.phase == "Paused")
            assert next(c.reason for c in os.status.conditions if c.type == "Held") == "WindowClosed"
            assert not taken(world)
            await change_os(world, timewindow=window(-hour, hour))
            await world.until(lambda: taken(world) == {"n1"})
            await change_os(world, timewindow=window(-2 * hour, -hour))
            await finish(world, "n1", "v2")
            await os_says(world, lambda os: os.status.done == 1 and os.status.phase == "Paused")
            assert not taken(world)
            await change_os(world, timewindow={"starttime": "", "endtime": ""})
            await world.until(lambda: taken(world) == {"n2"})

    play(clean_cluster, script, budget=1)


def test_overlapping_selectors_are_said_on_both_and_stop_only_the_nodes_they_share(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1", labels={NODE_SELECTOR: "x"})
        await world.add_kubeos_nodes("n2", "n3")
        await world.add_os("all", nodeselector="all-label")
        await world.add_os("some", osversion="v3", nodeselector="x")
        async with operator(world.kubeconfig):
            await world.until(lambda: all_on(world, "v2", "n2", "n3"))
            for name, other in (("all", "some"), ("some", "all")):
                os = await os_says(world, lambda os: bool(os.status.conditions), name)
                said = {c.type: c for c in os.status.conditions}["Conflict"]
                assert (said.status, said.reason) == ("True", "OverlapWith")
                assert f"os/default/{other}" in said.message
                assert "n1" in said.message
            assert world.versions()["n1"] == "v1"
            await world.session.delete(OS, "all", "default")
            await world.until(lambda: all_on(world, "v3", "n1"))
            os = await os_says(world, lambda os: os.status.phase == "Complete", "some")
            assert {c.type: c.status for c in os.status.conditions}["Conflict"] == "False"

    play(clean_cluster, script)


def test_settings_are_copied_and_boot_arguments_trade_places(clean_cluster: ControlPlane) -> None:
    def grub(which: str, key: str) -> dict[str, Any]:
        return {"model": f"grub.cmdline.{which}", "contents": [{"key": key, "value": "1"}]}

    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1")
        after = {"version": "s1", "configs": [grub("current", "a"), *ANY_SETTINGS, grub("next", "b")]}
        before = {"version": "u1", "configs": [grub("current", "c")]}
        await world.add_os(sysconfigs=after, upgradeconfigs=before)
        stored = (await read_os(world)).spec
        async with operator(world.kubeconfig):
            await world.until(lambda: is_labelled(world, "n1"))
            spec = instance(world, "n1").spec
            assert spec.sysconfigs is not None
            assert spec.upgradeconfigs is not None
            models = [(config.model, config.contents[0].key) for config in spec.sysconfigs.configs]
            assert models == [
                ("grub.cmdline.next", "a"),
                ("kernel.sysctl", "vm.swappiness"),
                ("grub.cmdline.current", "b"),
            ]
            assert (spec.sysconfigs.version, spec.upgradeconfigs.version) == ("s1", "u1")
            assert spec.upgradeconfigs.configs[0].model == "grub.cmdline.current"
            assert (await read_os(world)).spec == stored
            kept = spec.sysconfigs
            await finish(world, "n1", "v2")
            await change_os(world, osversion="v3", upgradeconfigs=None)
            await world.until(lambda: is_labelled(world, "n1") and instance(world, "n1").spec.nodestatus == "upgrade")
            spec = instance(world, "n1").spec
            assert spec.sysconfigs == kept  # the same version: not copied, so not swapped back
            assert spec.upgradeconfigs is not None
            assert (spec.upgradeconfigs.version, spec.upgradeconfigs.configs) == ("", [])

    play(clean_cluster, script)


def test_cordoned_nodes_are_taken_too(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1", "n2")
        await world.session.patch(NODE, "n1", {"spec": {"unschedulable": True}})
        await world.add_os()
        async with operator(world.kubeconfig):
            await world.until(lambda: all_on(world, "v2", "n1", "n2"))

    play(clean_cluster, script, budget=1)


def test_never_on_a_node_beats_its_os_until_it_is_taken_away(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1", labels={"hostplane.dev/never": ""})
        await world.add_kubeos_nodes("n2")
        await world.add_os()
        async with operator(world.kubeconfig):
            os = await os_says(world, lambda os: os.status.phase == "Complete")
            assert os.status.total == 1
            assert world.versions() == {"n1": "v1", "n2": "v2"}
            await world.session.patch(NODE, "n1", {"metadata": {"labels": {"hostplane.dev/never": None}}})
            await world.until(lambda: all_on(world, "v2", "n1"))

    play(clean_cluster, script, budget=1)
