"""A Host in the Ledger, stage by stage: what is written next, what is waited for, and whose fault an end was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hostplane.api.core import Node
from hostplane.api.host import Grant, Host, HostStatus, LastError, Operation, SettingsStatus, SlotStatus
from hostplane.api.ledger import Holder
from hostplane.api.nodegroup import Drain
from hostplane.api.rollout import Rollout
from hostplane.errors import reason
from hostplane.planning.actions import (
    Action,
    AskWord,
    Cordon,
    CreateHost,
    DeleteHost,
    SetGrant,
    StartDrain,
    StopDrain,
    Uncordon,
)
from hostplane.planning.native import Seen, grant_for, observe
from hostplane.planning.snapshot import DrainView, Options, Word
from hostplane.planning.standing import Stand, Standing
from hostplane.planning.target import Target
from hostplane.planning.wishes import GroupWish

from . import build

NOW = 1_800_000_000
OPTIONS = Options(return_grace=900)
V1, V2 = build.digest("v1"), build.digest("v2")
MARK = "hostplane.dev/cordon"


def wish(rollout: Rollout | None = None, **group: Any) -> GroupWish:
    it = rollout or build.rollout()
    return GroupWish(name="web", group=build.group("web", **group), active=it, image=it)


def status(phase: str = "Staged", *, seq: int = 0, active: str = "v1", **fields: Any) -> HostStatus:
    """Slot A runs `active`, slot B holds the other one of v1 and v2."""
    passive = "v2" if active == "v1" else "v1"
    known: dict[str, Any] = {
        "schema": "1.0",
        "protocol": 1,
        "phase": phase,
        "boot_id": "boot-1",
        "active_slot": "A",
        "slots": {
            "A": SlotStatus(state="Confirmed", digest=build.digest(active), version=active),
            "B": SlotStatus(state="Staged", digest=build.digest(passive), version=passive),
        },
        "seq": seq,
    }
    return HostStatus(**known | fields)


def grant(stage: str = "Reserved", *, seq: int = 5, operation: str = "upgrade", **fields: Any) -> Grant:
    known: dict[str, Any] = {"digest": V2, "rollout": "uid-up/1", "at": NOW - 10, "trial_seconds": 600}
    return Grant(seq=seq, operation=operation, stage=stage, **known | fields)


def host(given: Grant | None = None, shown: HostStatus | None = None, **spec: Any) -> Host:
    return build.host("n", status=shown or status(), grant=given, **spec)


def node(mark: int | None = None, *, cordoned: bool | None = None, **fields: Any) -> Node:
    """`mark`: cordoned by us under that number."""
    notes = {} if mark is None else {MARK: f'{{"seq":{mark},"was":false}}'}
    labels = {"pool": "web", "hostplane.dev/agent": "native"}
    is_cordoned = mark is not None if cordoned is None else cordoned
    return build.node("n", labels=labels, annotations=notes, cordoned=is_cordoned, **fields)


HOLDER = Holder(seq=5, group=0, since=NOW - 10)


def look(
    subject: Node,
    it: Host | None,
    holder: Holder | None = HOLDER,
    *,
    group: GroupWish | None = None,
    seen: Seen | None = None,
    wished: bool = True,
    now: int = NOW,
) -> Standing:
    aim = (group or wish()) if wished else None
    return observe(aim, build.image(), subject, it, holder, seen or Seen(), now, OPTIONS)


def only(standing: Standing, kind: type[Action]) -> Any:
    (action,) = standing.actions
    assert isinstance(action, kind)
    return action


def why(standing: Standing) -> str:
    assert standing.reason is not None
    assert "?" not in str(standing.reason)
    return str(standing.reason.name)


def released(standing: Standing) -> Grant:
    """The Release that is written: one number higher, on the version that was seen."""
    action = only(standing, SetGrant)
    assert isinstance(action.grant, Grant)
    assert action.grant.stage == "Release"
    assert action.base == "7"
    assert action.grant.at == NOW
    assert not standing.leaves
    return action.grant


# --- the Host itself ------------------------------------------------------------------------------------------------


def test_a_node_with_our_agent_gets_a_host() -> None:
    assert only(look(node(), None, None), CreateHost).node_uid == "uid-n"


def test_a_node_without_our_agent_does_not() -> None:
    bare = build.node("n", labels={"pool": "web"})
    standing = look(bare, None, None)
    assert (standing.stand, why(standing), standing.actions) == (Stand.BLOCKED, "NoAgent", ())


def test_a_host_of_a_node_that_was_replaced_is_made_anew() -> None:
    old = build.host("n", node_uid="uid-before", status=status())
    standing = look(node(), old)
    assert only(standing, DeleteHost).uid == "uid-host-n"
    assert standing.leaves


def test_a_host_that_was_deleted_under_its_grant_stays_counted() -> None:
    standing = look(node(), None)
    assert only(standing, CreateHost)
    assert not standing.leaves
    anew = build.host("n", status=HostStatus())
    fence = released(look(node(), anew))
    assert fence.seq == 6
    waiting = look(node(), build.host("n", status=HostStatus(), grant=fence))
    assert (waiting.leaves, why(waiting)) == (False, "NotReported")
    assert look(node(), build.host("n", status=HostStatus(), grant=fence), now=NOW + 900).leaves


def test_a_cordon_that_was_left_over_is_lifted() -> None:
    for it in (host(grant("Release", seq=4)), host()):
        standing = look(node(3), it, None)
        assert only(standing, Uncordon).base == "1"
        assert why(standing) == "CordonLeft"
    assert only(look(node(3), None, None), Uncordon)


def test_a_grant_that_the_ledger_lost_is_counted_again() -> None:
    standing = look(node(), host(grant("Switch")), None)
    assert (standing.joins, why(standing)) == (5, "GrantRecovered")


def test_a_host_on_trial_without_a_grant_is_counted() -> None:
    """Its boot came too late, or its Host was deleted: it goes back by itself, hence away once more."""
    for it in (host(grant("Release"), status("Trial")), host(grant("Release"), status("Rebooting"))):
        assert look(node(), it, None).joins == 5
        standing = look(node(5), it, Holder(seq=5, group=0))
        assert (standing.leaves, standing.actions, why(standing)) == (False, (), "LateTrial")
    assert look(node(), host(None, status("Trial")), None).joins == 0
    assert look(node(boot="boot-2"), host(grant("Release"), status("Trial")), None).joins is None
    assert look(node(ready=False), host(grant("Release"), status("Trial")), None).joins is None


# --- never told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, grant("Release", seq=4), grant("Switch", seq=3)])
def test_one_that_was_never_told_gives_its_leave_back_before_it_leaves(given: Grant | None) -> None:
    fence = only(look(node(), host(given)), SetGrant).grant
    assert (fence.stage, fence.seq) == ("Release", 6)
    assert look(node(), host(fence)).leaves


def test_a_verdict_survives_an_untold_leave() -> None:
    failed = grant("Release", seq=4, why="CheckFailed", verdict="HostFault")
    fence = only(look(node(), host(failed)), SetGrant).grant
    assert (fence.why, fence.verdict, fence.rollout, fence.at) == ("CheckFailed", "HostFault", "uid-up/1", NOW - 10)
    assert look(node(), host(fence)).stand is Stand.FAILED


def test_an_untold_leave_is_no_verdict_of_its_own() -> None:
    fence = only(look(node(), host()), SetGrant).grant
    given_back = host(fence, image=None)
    assert look(node(), given_back, None).stand is Stand.WAITING
    assert why(look(node(), given_back, None)) == "AwaitingStaging"


# --- the first stage ------------------------------------------------------------------------------------------------


def test_an_upgrade_begins_reserved() -> None:
    aim = Target(Standing("n", Stand.READY), build.rollout(trial_seconds=99, generation=3), "upgrade", V2)
    action = grant_for(aim, wish(), host(), 9, NOW)
    assert action.base == "7"
    assert action.settings is None
    assert action.grant == Grant(
        seq=9, operation="upgrade", digest=V2, stage="Reserved", trial_seconds=99, rollout="uid-up/3", at=NOW
    )


def test_settings_begin_switched() -> None:
    """They need neither a drain nor a reboot."""
    wanted = build.settings("s1")
    aim = Target(Standing("n", Stand.READY), build.rollout(operation="configure", settings=wanted), "configure")
    action = grant_for(aim, wish(), host(), 9, NOW)
    assert (action.grant.stage, action.grant.operation, action.settings) == ("Switch", "configure", wanted)


# --- Reserved -------------------------------------------------------------------------------------------------------


def test_reserved_is_cordoned_first() -> None:
    standing = look(node(), host(grant()))
    assert [type(a) for a in standing.actions] == [StopDrain, Cordon]
    cordon = standing.actions[1]
    assert isinstance(cordon, Cordon)
    assert (cordon.seq, cordon.base, why(standing)) == (5, "1", "Cordoning")


@pytest.mark.parametrize("subject", [node(4), node(5, cordoned=False)], ids=["older mark", "uncordoned"])
def test_a_cordon_counts_only_if_it_is_of_this_grant_and_there(subject: Node) -> None:
    assert any(isinstance(a, Cordon) for a in look(subject, host(grant())).actions)


def test_then_it_is_drained() -> None:
    drain = only(look(node(5), host(grant()), group=wish(drain=Drain(deadline_seconds=77))), StartDrain)
    assert (drain.seq, drain.policy.deadline_seconds, drain.spent_seconds) == (5, 77, 10)


def test_a_drain_of_an_earlier_grant_counts_for_nothing() -> None:
    old = Seen(drain=DrainView(seq=3, done=True))
    assert only(look(node(5), host(grant()), seen=old), StartDrain)


def test_while_it_drains_nothing_is_written() -> None:
    blocked = reason("DrainBlocked", node="n", budgets="b", pods="p")
    for told in (None, blocked):
        standing = look(node(5), host(grant()), seen=Seen(drain=DrainView(seq=5, done=False, reason=told)))
        assert standing.actions == ()
        assert standing.reason == (told or reason("Draining", node="n"))


def test_a_finished_drain_switches() -> None:
    done = look(node(5), host(grant()), seen=Seen(drain=DrainView(seq=5, done=True)))
    assert only(done, SetGrant).grant == grant("Switch", at=NOW)


def test_a_drain_that_is_not_wanted_is_not_waited_for() -> None:
    assert only(look(node(5), host(grant()), group=wish(drain=Drain(skip=True))), SetGrant).grant.stage == "Switch"


def test_a_drain_that_cannot_end_releases_the_host() -> None:
    stuck = reason("DrainDeadline", node="n", count=1, seconds=2, pods="p", budgets="b", why="w")
    standing = look(node(5), host(grant()), seen=Seen(drain=DrainView(seq=5, done=True, reason=stuck)))
    back = released(standing)
    assert (back.seq, back.why, back.verdict) == (6, "DrainDeadline", "NoVerdict")
    assert standing.reason == stuck


@pytest.mark.parametrize(
    ("rollout", "name"),
    [
        (build.rollout(paused=True), "RolloutPaused"),
        (build.rollout(skip=["n"]), "Skipped"),
        (build.rollout("another"), "WishChanged"),
        (build.rollout(image="v3"), "WishChanged"),
    ],
)
def test_a_wish_that_changed_before_the_switch_releases_the_host(rollout: Rollout, name: str) -> None:
    it = GroupWish(name="web", group=build.group(), active=rollout, image=rollout)
    picture = build.image(rollout.spec.image)
    standing = observe(it, picture, node(5), host(grant()), HOLDER, Seen(), NOW, OPTIONS)
    back = released(standing)
    assert (back.seq, back.why, back.verdict) == (6, name, "NoVerdict")
    assert why(standing) == name


def test_a_host_that_left_its_group_is_released_before_the_switch() -> None:
    assert released(look(node(5), host(grant()), wished=False)).why == "WishChanged"
    assert look(node(5), host(grant("Switch"), status("Rebooting", seq=5)), wished=False).actions == ()


@pytest.mark.parametrize("shown", [status("Idle"), status("Staged", active="v2"), status("Failed")])
def test_a_host_that_lost_its_image_is_released(shown: HostStatus) -> None:
    assert released(look(node(5), host(grant(), shown))).why == "StagedImageLost"


# --- Switch ---------------------------------------------------------------------------------------------------------


def trial(seq: int = 5, **fields: Any) -> HostStatus:
    known: dict[str, Any] = {"boot_id": "boot-2", "operation": Operation(seq=seq, operation="upgrade", digest=V2)}
    shown = status("Trial", seq=seq, active="v2", **known | fields)
    running = msgspec.structs.replace(shown.active, state="Trial")
    return msgspec.structs.replace(shown, slots={**shown.slots, "A": running})


REBOOTED = node(5, boot="boot-2")
WORD = Seen(word=Word(seq=5, ok=True))


@pytest.mark.parametrize("shown", [status(), status("Rebooting", seq=5), trial(seq=4)])
def test_switched_waits_for_the_trial(shown: HostStatus) -> None:
    standing = look(node(5), host(grant("Switch"), shown))
    assert (standing.stand, standing.actions, why(standing)) == (Stand.WORKING, (), "Rebooting")


@pytest.mark.parametrize("subject", [node(5), node(5, boot="boot-2", ready=False)], ids=["old boot", "not ready"])
def test_the_node_must_be_ready_since_that_very_boot(subject: Node) -> None:
    standing = look(subject, host(grant("Switch"), trial()), seen=WORD)
    assert (standing.actions, why(standing)) == ((), "NotReadySinceBoot")


def test_the_cluster_is_asked_for_its_word() -> None:
    for seen in (Seen(), Seen(word=Word(seq=4, ok=True))):
        assert only(look(REBOOTED, host(grant("Switch"), trial()), seen=seen), AskWord).seq == 5


def test_a_word_withheld_is_asked_for_again() -> None:
    missing = reason("AwaitingPods", node="n", pods="kube-system/proxy")
    standing = look(REBOOTED, host(grant("Switch"), trial()), seen=Seen(word=Word(seq=5, ok=False, reason=missing)))
    assert only(standing, AskWord)
    assert standing.reason == missing


def test_a_word_given_confirms() -> None:
    confirmed = only(look(REBOOTED, host(grant("Switch"), trial()), seen=WORD), SetGrant)
    assert confirmed.grant == grant("Confirm", at=NOW)


def test_a_trial_that_somebody_uncordoned_is_cordoned_again() -> None:
    open_ = node(5, cordoned=False, boot="boot-2")
    standing = look(open_, host(grant("Switch"), trial()))
    assert [type(a) for a in standing.actions] == [Cordon, AskWord]


@pytest.mark.parametrize("stage", ["Switch", "Confirm"])
def test_a_host_that_committed_is_released_with_nothing_against_it(stage: str) -> None:
    done = status("Idle", seq=5, active="v2", boot_id="boot-2")
    back = released(look(REBOOTED, host(grant(stage), done)))
    assert (back.seq, back.why, back.verdict) == (6, "", "")


def test_a_commit_counts_though_the_host_is_staging_the_next_image_already() -> None:
    ended = Operation(seq=5, operation="upgrade", digest=V2, outcome="Committed")
    back = released(look(REBOOTED, host(grant("Confirm"), status("Staging", seq=5, active="v2", operation=ended))))
    assert (back.why, back.verdict) == ("", "")


def test_an_idle_host_that_has_not_heard_of_the_grant_has_not_done_it() -> None:
    assert look(node(5), host(grant("Switch"), status("Idle", seq=4, active="v2"))).actions == ()


@pytest.mark.parametrize("stage", ["Switch", "Confirm"])
@pytest.mark.parametrize(
    ("kind", "verdict"), [("HostFault", "HostFault"), ("NoVerdict", "NoVerdict"), ("", "HostFault")]
)
def test_a_host_that_went_back_keeps_its_verdict(stage: str, kind: str, verdict: str) -> None:
    error = LastError(name="CheckFailed", message="HP-6040: The check x failed: y", reason_class=kind, digest=V2)
    standing = look(node(5), host(grant(stage), status("Returned", seq=5, last_error=error)))
    back = released(standing)
    assert (back.seq, back.why, back.verdict) == (6, "CheckFailed", verdict)
    assert "The check x failed: y" in str(standing.reason)


def test_a_host_that_went_back_without_a_word_says_so_too() -> None:
    assert released(look(node(5), host(grant("Switch"), status("Returned", seq=5)))).why == "HostReturned"


def test_a_host_that_stays_silent_is_lost() -> None:
    """The deadline is the trial's own and a grace, so that it has gone back by itself before."""
    late = grant("Switch", at=NOW - 1501)
    back = released(look(node(5, ready=False), host(late, status("Rebooting", seq=5))))
    assert (back.why, back.verdict) == ("HostLost", "HostFault")
    assert look(node(5), host(grant("Switch", at=NOW - 1500), status("Rebooting", seq=5))).actions == ()


def test_committing_waits() -> None:
    standing = look(REBOOTED, host(grant("Confirm"), trial()), seen=WORD)
    assert (standing.actions, why(standing)) == ((), "Committing")


def test_pausing_never_stops_a_trial() -> None:
    paused = build.rollout(paused=True)
    it = GroupWish(name="web", group=build.group(), active=paused, image=paused)
    assert only(look(REBOOTED, host(grant("Switch"), trial()), group=it, seen=WORD), SetGrant).grant.stage == "Confirm"


def test_a_stage_of_tomorrow_is_released() -> None:
    assert released(look(node(5), host(grant("Simmer")))).why == "UnknownStage"


# --- settings -------------------------------------------------------------------------------------------------------


def configuring(shown: HostStatus, **fields: Any) -> Standing:
    given = grant("Switch", operation="configure", digest="", **fields)
    return look(node(), host(given, shown, settings=build.settings("s1")))


def test_settings_are_waited_for_without_a_cordon() -> None:
    for shown in (status(), status(seq=5), status(seq=4, settings=SettingsStatus(version="s1"))):
        standing = configuring(shown)
        assert (standing.stand, standing.actions, why(standing)) == (Stand.WORKING, (), "Configuring")


def test_settings_that_were_applied_end_it() -> None:
    back = released(configuring(status(seq=5, settings=SettingsStatus(version="s1"))))
    assert (back.why, back.verdict) == ("", "")


def test_settings_that_were_refused_are_a_failure() -> None:
    back = released(configuring(status(seq=5, settings=SettingsStatus(version="s0", error="no"))))
    assert (back.why, back.verdict) == ("SettingsNotApplied", "HostFault")


def test_settings_have_a_deadline() -> None:
    back = released(configuring(status(seq=5), at=NOW - 1501))
    assert (back.why, back.verdict) == ("OperationDeadline", "HostFault")


# --- Release --------------------------------------------------------------------------------------------------------


def test_a_released_host_is_uncordoned_before_it_leaves() -> None:
    standing = look(node(5), host(grant("Release", seq=6)))
    assert [type(a) for a in standing.actions] == [StopDrain, Uncordon]
    assert not standing.leaves


@pytest.mark.parametrize(
    ("fields", "stand"),
    [
        ({}, Stand.READY),
        ({"why": "CheckFailed", "verdict": "HostFault"}, Stand.FAILED),
        ({"why": "DrainDeadline", "verdict": "NoVerdict"}, Stand.WAITING),
    ],
)
def test_a_released_host_leaves_and_stands_where_its_wish_puts_it(fields: dict[str, str], stand: Stand) -> None:
    picture = build.wanted(build.image())
    standing = look(node(), host(grant("Release", seq=6, **fields), image=picture))
    assert (standing.leaves, standing.stand) == (True, stand)
    if standing.reason is not None:
        assert "?" not in str(standing.reason)


def test_a_released_host_without_a_wish_just_leaves() -> None:
    assert look(node(), host(grant("Release", seq=6)), wished=False) == Standing("n", Stand.DONE, leaves=True)
