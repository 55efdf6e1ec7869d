"""Every node has a row, and an unmanaged one says why."""

from __future__ import annotations

import pytest

from hostplane.api.core import Node, NodeCondition, NodeInfo, NodeSpec, NodeStatus
from hostplane.api.host import Host, HostStatus, LastError, Progress, SlotStatus
from hostplane.api.kubeos import KubeOS, KubeOSSpec, OSInstance, OSInstanceSpec
from hostplane.api.meta import LabelSelector, ObjectMeta
from hostplane.api.nodegroup import NodeGroup, NodeGroupSpec
from hostplane.cli.hosts import HostRow, rows


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTPLANE_LANG", "en")


def node(name: str, cordoned: bool = False, **labels: str) -> Node:
    info = NodeInfo(os_image="Demo OS v1", kernel_version="6.1.0", architecture="amd64")
    status = NodeStatus(conditions=[NodeCondition(type="Ready", status="True")], node_info=info)
    named = {key.replace("_", "/"): value for key, value in labels.items()}
    metadata = ObjectMeta(name=name, labels=named)
    return Node(metadata=metadata, spec=NodeSpec(unschedulable=cordoned), status=status)


def group(name: str, mode: str = "Managed", **labels: str) -> NodeGroup:
    spec = NodeGroupSpec(selector=LabelSelector(match_labels=labels), mode=mode)
    return NodeGroup(metadata=ObjectMeta(name=name), spec=spec)


def host(name: str, **status: object) -> Host:
    slots = {"A": SlotStatus(state="Confirmed", version="v1")}
    fields: dict[str, object] = {"phase": "Idle", "active_slot": "A", "slots": slots, **status}
    return Host(metadata=ObjectMeta(name=name), status=HostStatus(**fields))  # type: ignore[arg-type]  # test data


def listed(nodes: list[Node], hosts: list[Host] = [], groups: list[NodeGroup] = []) -> dict[str, HostRow]:  # noqa: B006
    found = rows(
        nodes={n.metadata.name: n for n in nodes},
        hosts={h.metadata.name: h for h in hosts},
        instances={},
        groups={g.metadata.name: g for g in groups},
        oses={},
    )
    return {row.node: row for row in found}


def test_a_managed_host_shows_group_phase_and_version() -> None:
    row = listed([node("n1", pool="a")], [host("n1")], [group("ga", pool="a")])["n1"]
    assert (row.managed, row.group, row.driver, row.phase, row.version) == (True, "ga", "native", "Idle", "v1")
    assert (row.os, row.kernel, row.arch, row.ready) == ("Demo OS v1", "6.1.0", "amd64", True)
    assert row.reason == ""


def test_a_staging_shows_share_rate_and_time_left() -> None:
    progress = Progress(bytes=30 << 20, total=120 << 20, bytes_per_second=15 << 20, eta_seconds=6)
    staging = host("n1", phase="Staging", progress=progress)
    row = listed([node("n1", pool="a")], [staging], [group("ga", pool="a")])["n1"]
    assert row.progress == "25 %, 15 MiB/s, 6 s left"


def test_unmanaged_nodes_say_why() -> None:
    found = listed(
        [
            node("free"),
            node("never", **{"hostplane.dev_never": "", "pool": "a"}),
            node("twice", pool="a", zone="z"),
            node("bare", pool="a"),
            node("hidden", zone="h"),
            node("refuses", pool="a"),
        ],
        [host("twice"), host("free"), host("refuses", never=True)],
        [group("ga", pool="a"), group("gz", zone="z"), group("gh", "Hidden", zone="h")],
    )
    assert {name: row.reason for name, row in found.items()} == {
        "free": "UnmanagedNoGroup",
        "never": "UnmanagedNever",
        "twice": "UnmanagedTwoOwners",
        "bare": "UnmanagedNoAgent",
        "hidden": "UnmanagedHidden",
        "refuses": "UnmanagedHostNever",
    }
    assert not any(row.managed for row in found.values())
    assert "group/ga" in found["twice"].why
    assert found["free"].code == "HP-7514"


def test_a_managed_host_that_failed_shows_its_error() -> None:
    error = LastError(name="TrialFailed", code="HP-6999", message="HP-6999: no kubelet")
    row = listed([node("n1", pool="a")], [host("n1", phase="Returned", last_error=error)], [group("ga", pool="a")])[
        "n1"
    ]
    assert (row.managed, row.reason, row.code, row.why) == (True, "TrialFailed", "HP-6999", "no kubelet")


def test_a_kubeos_node_shows_its_owner_and_target() -> None:
    instance = OSInstance(metadata=ObjectMeta(name="n1"), spec=OSInstanceSpec(nodestatus="upgrade"))
    os = KubeOS(
        metadata=ObjectMeta(name="os", namespace="default"),
        spec=KubeOSSpec(opstype="upgrade", osversion="KubeOS v2", maxunavailable=1),
    )
    found = rows(nodes={"n1": node("n1")}, hosts={}, instances={"n1": instance}, groups={}, oses={"default/os": os})
    row = found[0]
    assert (row.group, row.driver, row.phase, row.wanted) == ("os/default/os", "kubeos", "upgrade", "KubeOS v2")
