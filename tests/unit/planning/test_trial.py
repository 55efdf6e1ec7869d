"""A Host after its Switch: the trial, the word, the two ends, settings, and the way out of the Ledger."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hostplane.api.core import Node
from hostplane.api.host import HostStatus, LastError, Operation, SettingsStatus
from hostplane.errors import reason
from hostplane.planning.actions import (
    AskWord,
    Cordon,
    SetGrant,
    StopDrain,
    Uncordon,
)
from hostplane.planning.native import Seen
from hostplane.planning.snapshot import Word
from hostplane.planning.standing import Stand, Standing
from hostplane.planning.wishes import GroupWish

from . import build
from .grants import NOW, V2, grant, host, look, node, only, released, status, why

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


@pytest.mark.parametrize(("kind", "why_released"), [("NoVerdict", "EtcConflicts"), ("", None)])
def test_a_switch_that_the_host_refused_for_good_is_not_waited_for(kind: str, why_released: str | None) -> None:
    """A power cut before the reboot has no class: there the same grant asks again."""
    ended = Operation(seq=5, operation="upgrade", digest=V2, outcome="Interrupted")
    error = LastError(name="EtcConflicts", message="HP-6399: fstab", reason_class=kind, digest=V2)
    standing = look(node(5), host(grant("Switch"), status("Staged", seq=5, operation=ended, last_error=error)))
    if why_released is None:
        assert standing.actions == ()
    else:
        assert (released(standing).why, released(standing).verdict) == (why_released, "NoVerdict")


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
