"""KubeOS's protocol, row by row: what is written, what is waited for, what has failed, and what is given back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hostplane.api.core import Node
from hostplane.api.host import Settings, SettingsModel
from hostplane.api.kubeos import CONFIGURING, UPGRADING, KubeOS, OSInstance
from hostplane.api.ledger import Holder
from hostplane.planning.actions import Action, Assign, EndOperation, LabelNode, Reclaim
from hostplane.planning.kubeos import OPERATION, Record, Wish, assign, nudge, observe, orphan, record_of
from hostplane.planning.snapshot import Options
from hostplane.planning.standing import Stand, Standing

from . import build

NOW = 1_800_000_000
OPTIONS = Options(kubeos_deadline=3600, config_deadline=600, ending_grace=300)
POOL = "default/pool"


def record(**fields: Any) -> str:
    known: dict[str, Any] = {
        "os": "uid-os-pool",
        "generation": 1,
        "seq": 5,
        "boot": "boot-1",
        "at": NOW - 100,
        "schedulable": True,
    }
    return msgspec.json.encode(Record(**known | fields)).decode()


def node(*labels: str, **fields: Any) -> Node:
    return build.node("n", labels=dict.fromkeys(labels, ""), **fields)


def holder(seq: int = 5, since: int = NOW - 100) -> Holder:
    return Holder(seq=seq, group=0, since=since)


def look(
    subject: Node,
    instance: OSInstance | None,
    held: Holder | None = None,
    os: KubeOS | None = None,
    now: int = NOW,
) -> Standing:
    return observe(Wish(os or build.os_object()), subject, instance, held, now, OPTIONS)


def assigned(**fields: Any) -> OSInstance:
    """As our assignment leaves it."""
    known = {"status": "upgrade", "owner": POOL, "record": record()}
    return build.instance("n", **known | fields)


def settings_os(version: str = "s1", **fields: Any) -> KubeOS:
    return build.os_object(opstype="config", osversion="v1", sysconfigs=build.settings(version), **fields)


def only(standing: Standing, kind: type[Action]) -> Any:
    (action,) = standing.actions
    assert isinstance(action, kind)
    return action


def why(standing: Standing) -> str:
    assert standing.reason is not None
    assert "?" not in str(standing.reason)
    return str(standing.reason.name)


# --- at rest --------------------------------------------------------------------------------------------------------


def test_a_node_at_the_version_is_done() -> None:
    assert look(node(version="v2"), build.instance("n")) == Standing("n", Stand.DONE)


@pytest.mark.parametrize("status", ["idle", ""])
def test_a_node_at_another_version_is_ready(status: str) -> None:
    assert look(node(), build.instance("n", status=status)) == Standing("n", Stand.READY)


def test_versions_are_compared_for_equality() -> None:
    assert look(node(version="v2 "), build.instance("n")).stand is Stand.READY
    assert look(node(version=""), build.instance("n"), os=build.os_object(osversion="")).stand is Stand.DONE


def test_without_an_osinstance_only_this_node_waits() -> None:
    standing = look(node(), None)
    assert (standing.stand, why(standing), standing.leaves) == (Stand.BLOCKED, "NoOSInstance", False)
    long_ago = holder(since=NOW - 301)
    assert look(node(), None, long_ago).leaves
    assert not look(node(UPGRADING), None, long_ago).leaves
    assert not look(node(), None, holder()).leaves  # it may only be that its copy is late


def test_one_that_was_never_told_gives_its_leave_back_before_it_leaves() -> None:
    """Else an operator that slept could still assign it, with nobody counting it."""
    standing = look(node(), build.instance("n"), holder(7))
    assert (standing.stand, standing.leaves, why(standing)) == (Stand.WORKING, False, "LeaveUntold")
    body = only(standing, EndOperation).body
    assert body["metadata"]["resourceVersion"] == "1"
    assert msgspec.json.decode(body["metadata"]["annotations"][OPERATION], type=Record) == Record(seq=7)
    told = build.instance("n", record=msgspec.json.encode(Record(seq=7)).decode())
    assert look(node(), told, holder(7)) == Standing("n", Stand.READY, leaves=True)


def test_a_done_node_is_not_let_out_before_its_leave_was_given_back_either() -> None:
    assert not look(node(version="v2"), build.instance("n"), holder(7)).leaves
    assert look(node(version="v2"), build.instance("n", record=record(seq=7)), holder(7)).leaves


def test_what_is_remembered_of_a_failure_survives_an_untold_leave() -> None:
    failed = build.instance("n", record=record(seq=5, why="WrongVersion"))
    body = only(look(node(), failed, holder(9)), EndOperation).body
    kept = msgspec.json.decode(body["metadata"]["annotations"][OPERATION], type=Record)
    assert (kept.seq, kept.why, kept.generation) == (9, "WrongVersion", 1)


# --- the assignment -------------------------------------------------------------------------------------------------


def body_of(os: KubeOS, instance: OSInstance, subject: Node | None = None) -> tuple[dict[str, Any], Assign]:
    action = assign(Wish(os), subject or node(), instance, 5, NOW)
    return action.body["spec"], action


def test_an_upgrade_is_assigned_as_kubeos_does_it() -> None:
    spec, action = body_of(build.os_object(), build.instance("n"))
    assert spec == {"nodestatus": "upgrade", "namespacedname": {"name": "pool", "namespace": "default"}}
    assert (action.label, action.node, action.namespace) == (UPGRADING, "n", "default")
    assert (action.body["metadata"]["resourceVersion"], action.node_base) == ("1", "1")
    kept = msgspec.json.decode(action.body["metadata"]["annotations"][OPERATION], type=Record)
    assert kept == Record(os="uid-os-pool", generation=1, seq=5, boot="boot-1", at=NOW, schedulable=True)


def test_a_rollback_looks_like_an_upgrade() -> None:
    spec, action = body_of(build.os_object(opstype="rollback"), build.instance("n"))
    assert spec["nodestatus"] == "upgrade"
    assert action.label == UPGRADING


def test_a_cordon_that_was_there_is_remembered() -> None:
    _, action = body_of(build.os_object(), build.instance("n"), node(cordoned=True))
    assert not msgspec.json.decode(action.body["metadata"]["annotations"][OPERATION], type=Record).schedulable


def test_the_boot_of_a_node_that_is_down_says_nothing() -> None:
    _, action = body_of(build.os_object(), build.instance("n"), node(ready=False))
    assert not msgspec.json.decode(action.body["metadata"]["annotations"][OPERATION], type=Record).boot


def test_current_and_next_trade_places_only_in_what_follows_the_reboot() -> None:
    def config(model: str) -> SettingsModel:
        return SettingsModel(model=model)

    models = ["grub.cmdline.current", "grub.cmdline.next", "kernel.sysctl"]
    both = Settings(version="s1", configs=[config(m) for m in models])
    os = build.os_object(sysconfigs=both, upgradeconfigs=both)
    spec, _ = body_of(os, build.instance("n"))
    swapped = ["grub.cmdline.next", "grub.cmdline.current", "kernel.sysctl"]
    assert [c["model"] for c in spec["sysconfigs"]["configs"]] == swapped
    assert [c["model"] for c in spec["upgradeconfigs"]["configs"]] == models
    assert [c.model for c in both.configs] == models
    settings, _ = body_of(build.os_object(opstype="config", sysconfigs=both), build.instance("n"))
    assert [c["model"] for c in settings["sysconfigs"]["configs"]] == models


def test_settings_of_the_same_version_are_not_copied_again() -> None:
    spec, _ = body_of(build.os_object(sysconfigs=build.settings("s1")), build.instance("n", wished="s1"))
    assert "sysconfigs" not in spec


def test_unset_settings_are_stored_as_an_empty_version() -> None:
    """Leaving them out clears what is stored, as with KubeOS."""
    spec, _ = body_of(build.os_object(), build.instance("n", wished="s1"))
    assert spec["sysconfigs"] == {"version": "", "configs": None}
    cleared, _ = body_of(build.os_object(opstype="config", osversion="v1"), build.instance("n", wished="s1"))
    assert cleared["sysconfigs"] == {"version": "", "configs": None}


def test_settings_are_assigned_whole_and_under_their_own_label() -> None:
    spec, action = body_of(settings_os(), build.instance("n"))
    assert (spec["nodestatus"], spec["sysconfigs"]["version"], action.label) == ("config", "s1", CONFIGURING)


# --- under way ------------------------------------------------------------------------------------------------------


def test_an_assigned_node_is_working() -> None:
    standing = look(node(UPGRADING), assigned(), holder())
    assert (standing.stand, standing.actions, standing.leaves, why(standing)) == (Stand.WORKING, (), False, "Operating")


def test_a_missing_label_is_set_again_but_not_at_once() -> None:
    """The first write was ours, the second was lost with us; or its event is only late."""
    label = only(look(node(), assigned(), holder()), LabelNode)
    assert (label.labels, label.base) == ({UPGRADING: ""}, "1")
    fresh = assigned(record=record(at=NOW - 2))
    assert look(node(), fresh, holder()).actions == ()


def test_one_that_works_without_a_place_in_the_ledger_gets_it_back() -> None:
    assert look(node(UPGRADING), assigned()).joins == 5
    foreign = build.instance("n", status="upgrade", owner=POOL)
    assert look(node(UPGRADING), foreign).joins == 0


def test_after_the_boot_the_version_decides() -> None:
    same = node(UPGRADING, boot="boot-2")
    end = only(look(same, assigned(), holder()), EndOperation)
    assert end.body["spec"] == {"nodestatus": "idle"}
    kept = msgspec.json.decode(end.body["metadata"]["annotations"][OPERATION], type=Record)
    assert (kept.why, kept.ended, kept.seq) == ("WrongVersion", NOW, 5)
    assert look(node(UPGRADING, boot="boot-2", version="v2"), assigned(), holder()).actions == ()
    assert look(node(UPGRADING, boot="boot-2", ready=False), assigned(), holder()).actions == ()
    assert look(node(UPGRADING, boot="boot-2"), assigned(record=record(boot="")), holder()).actions == ()
    assert look(node(UPGRADING, boot="boot-2"), assigned(record=record(os="other")), holder()).actions == ()


@pytest.mark.parametrize(("ready", "name"), [(True, "OperationDeadline"), (False, "NodeDown")])
def test_the_deadline_ends_it(ready: bool, name: str) -> None:
    late = NOW - 100 + 3601
    standing = look(node(UPGRADING, ready=ready), assigned(), holder(), now=late)
    assert why(standing) == name
    assert only(standing, EndOperation).reason.name == name
    assert look(node(UPGRADING), assigned(), holder(), now=late - 1).actions == ()


def test_the_deadline_of_an_operation_that_kubeos_began_counts_from_its_place_in_the_ledger() -> None:
    foreign = build.instance("n", status="upgrade", owner=POOL)
    assert look(node(UPGRADING), foreign, holder(since=NOW - 3600)).actions == ()
    assert only(look(node(UPGRADING), foreign, holder(since=NOW - 3601)), EndOperation)
    assert look(node(UPGRADING), foreign, None, now=NOW + 10**6).actions == ()


def test_a_proxy_that_died_while_it_gave_the_node_back_is_helped() -> None:
    """Un-labelled and at the version, but neither uncordoned nor idle; it may just be about to."""
    there = node(version="v2", cordoned=True, boot="boot-2")
    note = only(look(there, assigned(), holder()), EndOperation)
    assert note.body["spec"] == {"nodestatus": "upgrade"}
    assert note.patience > 0
    noted = assigned(record=record(ended=NOW))
    assert look(there, noted, holder(), now=NOW + 60).actions == ()
    back = only(look(there, noted, holder(), now=NOW + 61), Reclaim)
    assert back.uncordon
    assert back.body["spec"] == {"nodestatus": "idle", "namespacedname": None}
    ended = build.instance("n", record=back.body["metadata"]["annotations"][OPERATION])
    assert look(node(version="v2"), ended, holder()) == Standing("n", Stand.DONE, leaves=True)


# --- ended ----------------------------------------------------------------------------------------------------------


def test_an_ended_operation_waits_for_the_proxy_to_unlabel() -> None:
    ended = assigned(status="idle", record=record(ended=NOW, why="WrongVersion"))
    standing = look(node(UPGRADING), ended, holder(), now=NOW + 300)
    assert (standing.stand, why(standing), standing.actions) == (Stand.WORKING, "WrongVersion", ())
    back = only(look(node(UPGRADING, cordoned=True), ended, holder(), now=NOW + 301), Reclaim)
    assert (back.reason.name, back.uncordon, back.node_base) == ("ProxySilent", True, "1")


@pytest.mark.parametrize(
    ("schedulable", "cordoned", "uncordon"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_only_a_node_that_was_schedulable_is_uncordoned(schedulable: bool, cordoned: bool, uncordon: bool) -> None:
    ended = assigned(status="idle", record=record(ended=NOW, schedulable=schedulable))
    back = only(look(node(UPGRADING, cordoned=cordoned), ended, holder(), now=NOW + 301), Reclaim)
    assert back.uncordon is uncordon


def test_a_label_that_came_after_the_end_is_taken_away() -> None:
    """KubeOS's proxy does nothing for a node without an owner, so nobody else would."""
    back = only(look(node(UPGRADING), build.instance("n", record=record()), holder()), Reclaim)
    assert msgspec.json.decode(back.body["metadata"]["annotations"][OPERATION], type=Record).why == ""


def test_a_record_of_an_earlier_operation_does_not_end_a_new_one() -> None:
    """The label is seen, the OSInstance is not yet: its record is an hour old."""
    old = build.instance("n", owner=POOL, record=record(seq=3, ended=NOW - 3600))
    assert look(node(UPGRADING), old, holder(seq=5, since=NOW)).actions == ()
    before = build.instance("n")
    assert look(node(UPGRADING), before, holder(seq=5, since=NOW)).actions == ()
    down = look(node(UPGRADING, ready=False), before, holder(seq=5, since=NOW))
    assert (down.leaves, why(down)) == (False, "LeaveUntold")


def test_a_node_that_went_down_while_it_ended_leaves_its_place() -> None:
    ended = assigned(status="idle", record=record(ended=NOW, why="NodeDown"))
    standing = look(node(UPGRADING, ready=False), ended, holder())
    assert (standing.stand, standing.leaves, why(standing)) == (Stand.FAILED, True, "NodeDown")
    assert look(node(UPGRADING), ended).joins == 5


def test_an_assignment_that_a_late_proxy_wiped_before_any_boot_was_not_tried() -> None:
    wiped = build.instance("n", record=record(ended=NOW - 10))
    standing = look(node(boot="boot-1"), wiped, holder())
    assert (standing.stand, standing.leaves) == (Stand.READY, True)


@pytest.mark.parametrize("name", ["WrongVersion", "OperationDeadline", "ProxySilent", ""])
def test_a_failed_node_is_not_tried_again_until_the_os_changes(name: str) -> None:
    failed = build.instance("n", record=record(ended=NOW, why=name))
    standing = look(node(boot="boot-2"), failed, holder())
    assert (standing.stand, standing.leaves, why(standing)) == (Stand.FAILED, True, name or "WrongVersion")
    assert look(node(boot="boot-2"), failed).stand is Stand.FAILED
    assert look(node(boot="boot-2"), failed, os=build.os_object(generation=2)).stand is Stand.READY
    assert look(node(boot="boot-2"), failed, os=build.os_object("other", nodeselector="pool")).stand is Stand.READY


def test_a_node_that_was_down_is_tried_again() -> None:
    back = build.instance("n", record=record(ended=NOW, why="NodeDown"))
    assert look(node(), back, holder()) == Standing("n", Stand.READY, leaves=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seq":"x"}', "null"])
def test_a_record_that_somebody_spoilt_is_none(text: str) -> None:
    assert record_of(build.instance("n", record=text)) == Record()
    assert look(node(), build.instance("n", record=text)).stand is Stand.READY


def test_an_unknown_reason_in_a_record_is_told_by_its_name() -> None:
    standing = look(node(), build.instance("n", record=record(why="FromTomorrow")))
    assert standing.stand is Stand.FAILED
    assert "FromTomorrow" in str(standing.reason)


def test_settings_after_an_upgrade_that_were_not_applied_are_a_failure() -> None:
    os = build.os_object(sysconfigs=build.settings("s1"))
    failed = build.instance("n", wished="s1", record=record(ended=NOW, why="OperationDeadline"))
    assert look(node(version="v2"), failed, os=os).stand is Stand.FAILED
    applied = build.instance("n", wished="s1", applied="s1", record=record(ended=NOW, why="OperationDeadline"))
    assert look(node(version="v2"), applied, os=os).stand is Stand.DONE


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_compared_by_their_version() -> None:
    assert look(node(), build.instance("n", wished="s0", applied="s0"), os=settings_os()).stand is Stand.READY
    assert look(node(), build.instance("n", wished="s1", applied="s1"), os=settings_os()).stand is Stand.DONE


def test_settings_wait_for_the_upgrade_they_are_for() -> None:
    standing = look(node(version="v0"), build.instance("n"), os=settings_os())
    assert (standing.stand, why(standing)) == (Stand.BLOCKED, "UpgradeFirst")


def test_settings_on_a_node_of_another_version_are_given_up() -> None:
    """Its proxy would answer "upgrade first" for ever."""
    standing = look(node(CONFIGURING, version="v0"), assigned(status="config", wished="s1"), holder(), settings_os())
    assert only(standing, Reclaim).reason.name == "UpgradeFirst"
    given_up = build.instance("n", wished="s1", record=record(ended=NOW, why="UpgradeFirst"))
    assert look(node(version="v0"), given_up, os=settings_os()).stand is Stand.BLOCKED
    assert look(node(version="v1"), given_up, os=settings_os()).stand is Stand.READY


def test_settings_that_did_not_come_in_time_have_failed() -> None:
    config = assigned(status="config", wished="s1")
    late = NOW - 100 + 601
    assert why(look(node(CONFIGURING), config, holder(), settings_os(), late)) == "OperationDeadline"
    failed = build.instance("n", wished="s1", record=record(ended=NOW, why="OperationDeadline"))
    assert look(node(), failed, holder(), settings_os()).stand is Stand.FAILED
    silent = build.instance("n", wished="s1", record=record())
    assert why(look(node(), silent, holder(), settings_os())) == "SettingsNotApplied"


def test_settings_of_a_node_that_went_down_are_tried_again() -> None:
    """They are in its OSInstance already, so only the status tells that they were never applied."""
    down = build.instance("n", wished="s1", record=record(ended=NOW, why="NodeDown"))
    assert look(node(), down, holder(), settings_os()) == Standing("n", Stand.READY, leaves=True)


# --- other owners ---------------------------------------------------------------------------------------------------


def test_a_node_that_another_os_works_on_waits() -> None:
    other = assigned(owner="default/other", record=record(os="uid-os-other"))
    standing = look(node(UPGRADING), other, holder())
    assert (standing.stand, why(standing), standing.actions) == (Stand.WAITING, "OwnedByOther", ())
    assert look(node(UPGRADING), other).joins == 5


def test_a_proxy_is_nudged_to_look_at_its_new_owner() -> None:
    """It stopped to look at this OS object when another one had the node, until this one changes."""
    os = build.os_object()
    before = build.instance("n", record=record(os="uid-os-other", ended=NOW - 50))
    told = assign(Wish(os), node(), before, 6, NOW)
    switched = assigned(record=told.body["metadata"]["annotations"][OPERATION])
    standing = look(node(UPGRADING), switched, holder(6))
    assert [a.node for a in nudge(os, [standing], NOW)] == [POOL]
    assert nudge(os, [look(node(UPGRADING), assigned(), holder())], NOW) == []


def test_a_deleted_owner_gives_the_node_back() -> None:
    back = orphan(node(UPGRADING, cordoned=True), assigned(), NOW)
    assert back is not None
    assert (back.reason.name, back.uncordon) == ("OwnerDeleted", True)
    assert back.body["spec"] == {"nodestatus": "idle", "namespacedname": None}
    stays = orphan(node(UPGRADING, cordoned=True), assigned(record=record(schedulable=False)), NOW)
    assert stays is not None
    assert not stays.uncordon
    assert orphan(node(), build.instance("n"), NOW) is None
    assert orphan(None, assigned(), NOW) is not None
