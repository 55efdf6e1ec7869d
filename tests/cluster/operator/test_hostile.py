"""Objects of hostile size, depth, form or version cost themselves only: everybody else's work goes on."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hostplane.api.kubeos import NODE_SELECTOR, OS, OSINSTANCE, UPGRADING
from hostplane.api.ledger import LEDGER, LEDGER_NAME
from hostplane.api.nodegroup import NODEGROUP
from hostplane.api.osimage import OSIMAGE
from hostplane.api.rollout import ROLLOUT
from hostplane.kube.events import EVENT
from hostplane.local.controlplane import ControlPlane
from hostplane.local.kubeos_node import NAMESPACE
from tests.cluster.operator.harness import Cluster, image_spec, operator
from tests.cluster.operator.kubeos_play import (
    all_on,
    change_os,
    condition,
    holders,
    instance,
    os_says,
    play,
    still_nodes,
)
from tests.cluster.operator.native_play import add_hosts, all_run, group_says, rollout_says

_CRDS = Path(__file__).parents[3] / "deploy" / "crds"
_OS_SPEC = {"opstype": "upgrade", "osversion": "v2", "maxunavailable": 1, "imagetype": "disk"}


async def post(world: Cluster, path: str, name: str, spec: str) -> None:
    """Create an object whose spec no encoder of ours would write."""
    body = f'{{"apiVersion":"{path}","kind":"OS","metadata":{{"name":"{name}"}},"spec":{spec}}}'
    target = OS.path("default")
    await world.session.request("POST", target, msgspec.Raw(body.encode()))


async def merge(world: Cluster, path: str, body: str) -> None:
    """A merge patch of an object that no decoder of ours may read."""
    await world.session._call("PATCH", path, msgspec.Raw(body.encode()), content="application/merge-patch+json")


def nested(depth: int) -> str:
    """A setting whose value nests so deeply, as JSON."""
    value = "[" * depth + "]" * depth
    setting = f'{{"key":"k","value":{value}}}'
    return f'{{"version":"s1","configs":[{{"model":"container.containerd","contents":[{setting}]}}]}}'


@pytest.mark.parametrize("depth", [40, 300, 900, 5000])
def test_settings_nested_too_deeply_stop_only_their_own_object(swept_cluster: ControlPlane, depth: int) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1", "n2")
        await still_nodes(world, "deep", labels={NODE_SELECTOR: "deep"})
        spec = {**_OS_SPEC, "imageurl": "http://127.0.0.1/os.tar", "flagSafe": True, "nodeselector": "deep"}
        text = msgspec.json.encode(spec).decode()[:-1] + f',"sysconfigs":{nested(depth)}}}'
        await post(world, OS.api_version, "bad", text)
        await world.add_os("good", maxunavailable=1)
        async with operator(world.kubeconfig) as (running, _):
            await world.until(lambda: all_on(world, "v2", "n1"))
            for change in (2, 3):  # while it runs: the old and the new form are compared
                await merge(world, OS.path("default", "bad"), f'{{"spec":{{"maxunavailable":{change}}}}}')
            await world.until(lambda: all_on(world, "v2", "n2"))
            await os_says_good(world)
            if "default/bad" not in running.world.oses.undecodable:
                held = await os_says(world, lambda os: condition(os, "Held") is not None, "bad")
                why = condition(held, "Held")
                assert why is not None
                assert (why.status, why.reason) == ("True", "SettingTooDeep")
        assert world.versions()["deep"] == "v1"
        assert UPGRADING not in world.nodes.items()["deep"].metadata.labels

    play(swept_cluster, script, budget=1)


async def os_says_good(world: Cluster) -> None:
    await world.follows(OS, "good", lambda os: os.status.phase == "Complete", namespace="default")


def test_a_node_whose_osinstance_nests_too_deeply_blocks_only_itself(swept_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "deep")
        await world.add_kubeos_nodes("n1")
        for depth in (300, 900):
            await merge(world, OSINSTANCE.path(NAMESPACE, "deep"), f'{{"spec":{{"sysconfigs":{nested(depth)}}}}}')
        await world.add_os(maxunavailable=2)
        async with operator(world.kubeconfig):
            await world.until(lambda: all_on(world, "v2", "n1"))

    play(swept_cluster, script)


def test_a_megabyte_of_settings_is_carried(swept_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1")
        await world.add_kubeos_nodes("n2", labels={NODE_SELECTOR: "x"})
        contents = [{"key": f"k{i}", "value": "x" * 1000} for i in range(450)]
        settings = {"version": "s1", "configs": [{"model": "kernel.sysctl", "contents": contents}]}
        await world.add_os("big", sysconfigs=settings)
        await world.add_os("small", nodeselector="x")
        async with operator(world.kubeconfig):
            await world.until(lambda: all_on(world, "v2", "n1", "n2"))
            assert instance(world, "n1").spec.sysconfigs is not None
            warned = condition(await os_says(world, lambda os: os.status.phase == "Complete", "big"), "Warning")
            assert warned is not None
            assert len(warned.message) <= 4096

    play(swept_cluster, script, budget=2)


async def told(world: Cluster, name: str) -> None:
    """Wait for an Event."""
    async with asyncio.timeout(30):
        while True:
            listed = await world.session.list(EVENT, "default")
            if any(event.reason == name for event in listed.items):
                return
            async with world.session.watch(EVENT, listed.resource_version, "default") as changes:
                await anext(aiter(changes))


def crds(*plurals: str) -> list[dict[str, Any]]:
    """Our CRDs of those kinds, as they are shipped."""
    found = [yaml.safe_load(file.read_text("utf-8")) for file in sorted(_CRDS.glob("*.yaml"))]
    return [crd for crd in found if crd["spec"]["names"]["plural"] in plurals]


def replace_schema(plane: ControlPlane, crd: dict[str, Any], schema: dict[str, Any]) -> None:
    """Exactly this schema: an apply would leave what others have added."""
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
    patch: Any = [{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": schema}]
    plane.api.request("PATCH", path, patch, kind="json-patch+json")


def shipped_schema(crd: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


@contextlib.contextmanager
def changed(plane: ControlPlane, change: Callable[[dict[str, Any]], None], *plurals: str) -> Iterator[None]:
    """While this is open those kinds have a changed schema."""
    shipped = crds(*plurals)
    try:
        for crd in shipped:
            schema = copy.deepcopy(shipped_schema(crd))
            change(schema)
            replace_schema(plane, crd, schema)
        plane.await_crds()
        yield
    finally:
        for crd in shipped:
            replace_schema(plane, crd, shipped_schema(crd))
        plane.await_crds()


@contextlib.contextmanager
def lenient(plane: ControlPlane, *plurals: str) -> Iterator[None]:
    """While this is open the server stores anything under those kinds, as one of another version of ours might."""

    def accept(schema: dict[str, Any]) -> None:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        schema.clear()
        schema |= {"type": "object", "properties": {"spec": anything, "status": anything}}

    with changed(plane, accept, *plurals):
        yield


@contextlib.contextmanager
def refusing(plane: ControlPlane, plural: str, rule: str) -> Iterator[None]:
    """While this is open the server refuses specs of that kind for which `rule` does not hold."""

    def refuse(schema: dict[str, Any]) -> None:
        schema["properties"]["spec"]["x-kubernetes-validations"] = [{"rule": rule, "message": "not here"}]

    with changed(plane, refuse, plural):
        yield


def test_an_os_that_does_not_decode_stops_nobody_and_orphans_nobody(swept_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1", "n2")
        await still_nodes(world, "odd", labels={NODE_SELECTOR: "odd", UPGRADING: ""})
        owner = {"nodestatus": "upgrade", "namespacedname": {"name": "strange", "namespace": "default"}}
        await world.session.patch(OSINSTANCE, "odd", {"spec": owner}, NAMESPACE)
        with lenient(swept_cluster, "os"):
            spec = {"opstype": 7, "maxunavailable": "many", "nodeselector": ["odd"]}
            body = OS.manifest("strange", "default", spec=spec)
            swept_cluster.api.request("POST", OS.path("default"), body)
            await world.add_os()
            async with operator(world.kubeconfig):
                await world.until(lambda: all_on(world, "v2", "n1", "n2"))
                assert instance(world, "odd").spec.nodestatus == "upgrade"  # its proxy may still act for it
                assert UPGRADING in world.nodes.items()["odd"].metadata.labels
                await told(world, "AnswerUndecodable")
            swept_cluster.api.request("DELETE", OS.path("default", "strange"))

    play(swept_cluster, script)


def test_objects_of_an_unknown_schema_are_left_alone_and_told_so(swept_cluster: ControlPlane) -> None:
    kinds = ("rollouts", "nodegroups", "osimages")

    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1")
        await world.add_native_node("n2", "future")
        await world.add_native_node("n3", "waits")
        await world.add_group()
        await world.add_group("waits")
        future = {"schemaVersion": "2.0", "selector": {"matchLabels": {"group": "future"}}}
        with lenient(swept_cluster, *kinds):
            for resource, name, spec in (
                (NODEGROUP, "future", future),
                (OSIMAGE, "v3", {**image_spec("v3"), "schemaVersion": "2.0"}),
                (ROLLOUT, "a-future", {"schemaVersion": "2.0", "operation": "upgrade", "image": "v2", "groups": ["g"]}),
            ):
                swept_cluster.api.request("POST", resource.path(), resource.manifest(name, spec=spec))
        await world.add_rollout(groups=("g", "future"))
        wish = {"operation": "upgrade", "image": "v3", "groups": ["waits"]}
        await world.session.create(ROLLOUT, ROLLOUT.manifest("to-v3", spec=wish))
        async with operator(world.kubeconfig):
            await world.until(lambda: world.versions()["n1"] == "v2" and all_run(world, "v2", "n1"))
            refused = await rollout_says(world, lambda r: r.status.phase == "Paused", "a-future")
            why = condition(refused, "Progressing")
            assert why is not None
            assert (why.status, why.reason) == ("False", "SchemaVersionUnknown")
            group = await group_says(world, lambda g: condition(g, "Held") is not None, "future")
            held = condition(group, "Held")
            assert held is not None
            assert (held.status, held.reason) == ("True", "SchemaVersionUnknown")
            waiting = await rollout_says(world, lambda r: condition(r, "Hindered") is not None, "to-v3")
            hindered = condition(waiting, "Hindered")
            assert hindered is not None
            assert hindered.reason == "SchemaVersionUnknown"
            assert world.versions() == {"n1": "v2", "n2": "v1", "n3": "v1"}

    play(swept_cluster, script)


def test_a_ledger_of_an_unknown_schema_stops_every_write_until_it_is_known(swept_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1")
        with lenient(swept_cluster, "ledgers"):
            body = LEDGER.manifest(LEDGER_NAME, spec={"schemaVersion": "2.0", "nextSeq": 5, "holders": {}})
            swept_cluster.api.request("POST", LEDGER.path(), body)
        await world.add_os()
        async with operator(world.kubeconfig) as (_, session):
            await told(world, "SchemaVersionUnknown")
            assert session.writes == 0
            await world.session.patch(LEDGER, LEDGER_NAME, {"spec": {"schemaVersion": "1.0"}})
            await world.until(lambda: all_on(world, "v2", "n1"))

    play(swept_cluster, script, budget=1)


def test_an_assignment_that_the_server_refuses_fails_its_node_only(swept_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_kubeos_nodes("n1")
        await world.add_os(sysconfigs={"version": "no", "configs": []})
        with refusing(swept_cluster, "osinstances", "!has(self.sysconfigs) || self.sysconfigs.version != 'no'"):
            async with operator(world.kubeconfig):
                os = await os_says(world, lambda os: os.status.failed == 1)
                why = condition(os, "Hindered")
                assert why is not None
                assert why.reason == "WriteRefused"
                await world.until(lambda: not holders(world))
                await change_os(world, sysconfigs={"version": "yes", "configs": []})
                await world.until(lambda: all_on(world, "v2", "n1"))

    play(swept_cluster, script, budget=1)


def test_settings_that_the_server_refuses_for_a_host_fail_it_only(swept_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1")
        await world.add_group()
        wish = {"operation": "configure", "groups": ["g"], "settings": {"version": "no", "configs": []}}
        await world.session.create(ROLLOUT, ROLLOUT.manifest("to-s1", spec=wish))
        with refusing(swept_cluster, "hosts", "!has(self.settings) || self.settings.version != 'no'"):
            async with operator(world.kubeconfig):
                rollout = await rollout_says(world, lambda r: r.status.counts.failed == 1, "to-s1")
                why = condition(rollout, "Hindered")
                assert why is not None
                assert why.reason == "WriteRefused"
                await world.until(lambda: not holders(world))

    play(swept_cluster, script, budget=1)


def test_what_a_group_or_a_rollout_says_to_no_effect_is_a_condition(swept_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1")
        await world.add_group(drain={"skip": True, "evictUnmanaged": True})
        await world.add_rollout(skip=["n1"], retry=["n1"])
        async with operator(world.kubeconfig):
            group = await group_says(world, lambda g: condition(g, "Warning") is not None)
            rollout = await rollout_says(world, lambda r: condition(r, "Warning") is not None)
            for found, name in ((group, "DrainPolicyIgnored"), (rollout, "SkippedAndRetried")):
                said = condition(found, "Warning")
                assert said is not None
                assert (said.status, said.reason) == ("True", name)

    play(swept_cluster, script)
