"""A Host before its Switch: its making, a leave it was never told of, the cordon and the drain."""

from __future__ import annotations

import pytest

from hostplane.api.core import Node
from hostplane.api.host import Grant, HostStatus
from hostplane.api.ledger import Holder
from hostplane.api.nodegroup import Drain
from hostplane.api.rollout import Rollout
from hostplane.errors import reason
from hostplane.planning.actions import (
    Cordon,
    CreateHost,
    DeleteHost,
    SetGrant,
    StartDrain,
    StopDrain,
    Uncordon,
)
from hostplane.planning.native import Seen, grant_for, observe
from hostplane.planning.snapshot import DrainView
from hostplane.planning.standing import Stand, Standing
from hostplane.planning.target import Target
from hostplane.planning.wishes import GroupWish

from . import build
from .grants import HOLDER, NOW, OPTIONS, V2, grant, host, look, node, only, released, status, why, wish

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
    assert not standing.leaves  # the old grant is on it until it is gone


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
