"""The demo counts what the objects say, not what it hoped for."""

from __future__ import annotations

import msgspec
import pytest

from hostplane.api.core import Node, NodeCondition, NodeInfo, NodeSpec, NodeStatus
from hostplane.api.host import FailedDigest, Grant, Host, HostSpec, HostStatus, ImageRef, LastError, SlotStatus
from hostplane.api.ledger import Holder, Ledger, LedgerSpec
from hostplane.api.meta import ObjectMeta
from hostplane.api.rollout import Rollout, RolloutSpec, RolloutStatus
from hostplane.local.demo_story import Away, Release, Summary, deviations, host_line, is_over, summarise

OLD = Release(version="v1", digest="sha256:" + "1" * 64, pretty_name="Demo OS v1")
NEW = Release(version="v2", digest="sha256:" + "2" * 64, pretty_name="Demo OS v2")
FAILED = LastError(name="BootFellBack", code="HP-6043", message="HP-6043: It fell back.", digest=NEW.digest)


def a_node(name: str = "n1", runs: Release = OLD, *, ready: bool = True, cordoned: bool = False) -> Node:
    condition = NodeCondition(type="Ready", status="True" if ready else "False")
    return Node(
        metadata=ObjectMeta(name=name),
        spec=NodeSpec(unschedulable=cordoned),
        status=NodeStatus(conditions=[condition], node_info=NodeInfo(os_image=runs.pretty_name)),
    )


def a_host(name: str = "n1", runs: Release = OLD, phase: str = "Idle", stage: str = "", failed: bool = False) -> Host:
    slots = {"A": SlotStatus(state="Confirmed", digest=OLD.digest, version="v1"), "B": SlotStatus()}
    if runs is NEW:
        slots["B"] = SlotStatus(state="Confirmed", digest=NEW.digest, version="v2")
    return Host(
        metadata=ObjectMeta(name=name),
        spec=HostSpec(
            image=ImageRef(format="rootTar", ref="http://x/v2", digest=NEW.digest, size=1, version="v2"),
            grant=Grant(seq=1, operation="upgrade", digest=NEW.digest, stage=stage) if stage else None,
        ),
        status=HostStatus(
            phase=phase,
            active_slot="B" if runs is NEW else "A",
            slots=slots,
            last_error=FAILED if failed else None,
            failed_digests=[FailedDigest(digest=NEW.digest, name="BootFellBack")] if failed else [],
        ),
    )


@pytest.mark.parametrize(
    ("host", "phase"),
    [
        (None, "Starting"),
        (a_host(phase=""), "Starting"),
        (a_host(), "Idle"),
        (a_host(phase="Staging"), "Staging"),
        (a_host(phase="Staged"), "Staged"),
        (a_host(phase="Staged", stage="Reserved"), "Draining"),
        (a_host(phase="Staged", stage="Switch"), "Rebooting"),
        (a_host(phase="Trial", runs=NEW, stage="Switch"), "Trial"),
        (a_host(runs=NEW, stage="Release"), "Upgraded"),
        (a_host(phase="Returned", failed=True), "Returned"),
        (a_host(failed=True, stage="Release"), "Returned"),
    ],
)
def test_a_host_is_shown_in_the_phase_its_object_says(host: Host | None, phase: str) -> None:
    assert host_line("n1", "g", host, a_node(), NEW).phase == phase


def test_a_returned_host_shows_code_and_name_of_its_reason() -> None:
    assert host_line("n1", "g", a_host(failed=True), a_node(), NEW).error == "HP-6043 BootFellBack"


@pytest.mark.parametrize(
    ("node", "availability"),
    [(a_node(), "Ready"), (a_node(cordoned=True), "cordoned"), (a_node(ready=False), "NotReady"), (None, "NotReady")],
)
def test_availability_is_the_nodes(node: Node | None, availability: str) -> None:
    assert host_line("n1", "g", a_host(), node, NEW).availability == availability


def test_the_most_away_is_kept_and_each_node_counts_once() -> None:
    away = Away({"a": 1, "b": 2})
    for group, node, is_away in [("a", "n1", True), ("a", "n1", True), ("b", "n2", True), ("a", "n1", False)]:
        away.see(group, node, is_away)
    away.see("a", "n3", True)
    assert away.most == 2
    assert [(g.name, g.away, g.most_away) for g in away.groups()] == [("a", 1, 1), ("b", 1, 1)]


def a_summary(away: Away, hosts: dict[str, Host], nodes: dict[str, Node]) -> Summary:
    return summarise(dict.fromkeys(nodes, "g"), hosts, nodes, (OLD, NEW), away, (2.04, 1.0))


def test_the_end_as_told_has_no_deviation() -> None:
    away = Away({"g": 1})
    away.see("g", "n1", True)
    hosts = {"n1": a_host("n1", NEW), "n2": a_host("n2", failed=True)}
    summary = a_summary(away, hosts, {"n1": a_node("n1", NEW), "n2": a_node("n2")})
    assert (summary.hosts, summary.upgraded, summary.returned) == (2, 1, 1)
    assert (summary.max_unavailable_seen, summary.budget, summary.wall_s) == (1, 1, 2.0)
    assert [(host.node, host.name, host.message) for host in summary.returned_hosts] == [
        ("n2", "BootFellBack", "It fell back.")
    ]
    assert deviations(summary, "n2") == []


def test_a_host_counts_only_when_host_and_node_agree() -> None:
    hosts = {"n1": a_host("n1", NEW), "n2": a_host("n2", failed=True)}
    summary = a_summary(Away({"g": 1}), hosts, {"n1": a_node("n1", OLD), "n2": a_node("n2", NEW)})
    assert (summary.upgraded, summary.returned) == (0, 0)


def test_a_host_that_never_tried_has_not_returned() -> None:
    summary = a_summary(Away({"g": 1}), {"n1": a_host("n1")}, {"n1": a_node("n1")})
    assert (summary.upgraded, summary.returned) == (0, 0)


def test_every_deviation_is_named() -> None:
    away = Away({"g": 1})
    away.see("g", "n1", True)
    away.see("g", "n2", True)
    hosts = {"n1": a_host("n1", failed=True), "n2": a_host("n2", failed=True)}
    summary = a_summary(away, hosts, {"n1": a_node("n1"), "n2": a_node("n2")})
    assert [why.name for why in deviations(summary, "n2")] == [
        "DemoNotUpgraded",
        "DemoNotReturned",
        "DemoBudgetExceeded",
    ]


def a_rollout(phase: str = "Complete", observed: int = 1, *, paused: bool = False) -> Rollout:
    return Rollout(
        metadata=ObjectMeta(name="r", generation=1),
        spec=RolloutSpec(operation="upgrade", groups=["g"], image="i", paused=paused),
        status=RolloutStatus(phase=phase, observed_generation=observed),
    )


HOLDING = Ledger(metadata=ObjectMeta(name="cluster"), spec=LedgerSpec(holders={"n1": Holder(seq=1, group=0)}))
IDLE = msgspec.structs.replace(HOLDING, spec=LedgerSpec())


@pytest.mark.parametrize(
    ("rollout", "ledger", "node", "over"),
    [
        (a_rollout(), IDLE, a_node(), True),
        (a_rollout("Paused"), IDLE, a_node(), True),
        (a_rollout("Paused", paused=True), IDLE, a_node(), False),
        (None, IDLE, a_node(), False),
        (a_rollout("Running"), IDLE, a_node(), False),
        (a_rollout(observed=0), IDLE, a_node(), False),
        (a_rollout(), HOLDING, a_node(), False),
        (a_rollout(), IDLE, a_node(cordoned=True), False),
        (a_rollout(), IDLE, a_node(ready=False), False),
    ],
)
def test_it_is_over_when_complete_or_stopped_by_failures_and_nobody_is_away(
    rollout: Rollout | None, ledger: Ledger, node: Node, over: bool
) -> None:
    assert is_over(rollout, ledger, [node]) is over
