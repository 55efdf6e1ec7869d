"""What a Host outside the Ledger wants, and why it cannot have it now."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hostplane.api.host import (
    FailedDigest,
    Grant,
    Host,
    HostStatus,
    LastError,
    SettingsStatus,
    SlotStatus,
)
from hostplane.api.osimage import OSImage
from hostplane.api.rollout import Rollout
from hostplane.planning.actions import SetImage
from hostplane.planning.standing import Stand, Standing
from hostplane.planning.target import BACK_OFF, Target, target_of
from hostplane.planning.wishes import GroupWish

from . import build

NOW = 1_800_000_000
V1, V2 = build.digest("v1"), build.digest("v2")
V2_REF = build.wanted(build.image())


def slots(a: str, b: str, a_state: str = "Confirmed", b_state: str = "Staged") -> dict[str, SlotStatus]:
    def slot(version: str, state: str) -> SlotStatus:
        return SlotStatus(state=state, digest=build.digest(version), version=version) if version else SlotStatus()

    return {"A": slot(a, a_state), "B": slot(b, b_state)}


def shown(phase: str = "Idle", a: str = "v1", b: str = "", **fields: Any) -> HostStatus:
    states = {k: fields.pop(k) for k in ("a_state", "b_state") if k in fields}
    known: dict[str, Any] = {"schema": "1.0", "protocol": 1, "phase": phase, "active_slot": "A"}
    return HostStatus(**{**known, "slots": slots(a, b, **states), **fields})


def target(
    it: Host,
    rollout: Rollout | None = None,
    *,
    image: OSImage | None = None,
    settings: Rollout | None = None,
    architecture: str = "amd64",
    now: int = NOW,
) -> Target:
    wish = GroupWish(name="web", group=build.group(), image=rollout, settings=settings)
    return target_of(wish, image, build.node("n", architecture=architecture), it, now)


def upgrade(it: Host, rollout: Rollout | None = None, image: OSImage | None = None, now: int = NOW) -> Standing:
    return target(it, rollout or build.rollout(), image=image or build.image(), now=now).standing


def why(standing: Standing) -> str:
    assert standing.reason is not None
    assert "?" not in str(standing.reason)
    return str(standing.reason.name)


def grant(**fields: Any) -> Grant:
    known: dict[str, Any] = {"operation": "upgrade", "digest": V2, "rollout": "uid-up/1", "at": NOW - 10}
    return Grant(seq=6, stage="Release", **known | fields)


# --- upgrade --------------------------------------------------------------------------------------------------------


def test_without_a_wish_a_host_is_done() -> None:
    assert target(build.host("n")).standing.stand is Stand.DONE


def test_a_host_on_the_image_is_done() -> None:
    assert upgrade(build.host("n", status=shown(a="v2"))).stand is Stand.DONE


def test_an_image_on_trial_is_not_done_yet() -> None:
    assert upgrade(build.host("n", status=shown("Trial", a="v2", a_state="Trial"))).stand is not Stand.DONE


def test_the_image_is_wished_onto_the_host_first() -> None:
    standing = upgrade(build.host("n", status=shown()))
    assert (standing.stand, why(standing), standing.actions) == (Stand.WAITING, "AwaitingStaging", ())
    assert standing.stage == SetImage(node="n", image=V2_REF, base="7")


@pytest.mark.parametrize("phase", ["Idle", "Staging"])
def test_then_it_stages(phase: str) -> None:
    standing = upgrade(build.host("n", image=V2_REF, status=shown(phase)))
    assert (standing.stand, why(standing), standing.staging, standing.stage) == (Stand.WAITING, "Staging", True, None)


def test_staged_it_is_ready() -> None:
    standing = upgrade(build.host("n", image=V2_REF, status=shown("Staged", b="v2")))
    assert (standing.stand, standing.staged) == (Stand.READY, True)


def test_another_image_in_the_passive_slot_is_not_enough() -> None:
    assert upgrade(build.host("n", image=V2_REF, status=shown("Staged", b="v3"))).stand is Stand.WAITING


def test_the_variant_is_of_the_nodes_architecture() -> None:
    standing = target(
        build.host("n", status=shown()), build.rollout(), image=build.image(), architecture="arm64"
    ).standing
    assert (standing.stand, why(standing)) == (Stand.BLOCKED, "NoVariant")


def test_a_missing_image_is_waited_for() -> None:
    standing = target(build.host("n", status=shown()), build.rollout()).standing
    assert (standing.stand, why(standing)) == (Stand.WAITING, "ImageMissing")


def test_a_version_that_may_not_be_reached_from_here_blocks() -> None:
    picture = build.image(reachable_from=["v1.5"])
    standing = upgrade(build.host("n", status=shown()), image=picture)
    assert (standing.stand, why(standing)) == (Stand.BLOCKED, "NotReachable")
    assert upgrade(build.host("n", status=shown(a="v1.5")), image=picture).stand is Stand.WAITING


@pytest.mark.parametrize(
    ("status", "stand", "name"),
    [
        (HostStatus(), Stand.WAITING, "NotReported"),
        (shown(never=True), Stand.BLOCKED, "NeverOnHost"),
        (shown(schema="2.0"), Stand.BLOCKED, "AgentUnknown"),
        (shown(protocol=2), Stand.BLOCKED, "AgentUnknown"),
    ],
)
@pytest.mark.parametrize("operation", ["upgrade", "rollback", "configure"])
def test_a_host_that_can_take_nothing(status: HostStatus, stand: Stand, name: str, operation: str) -> None:
    rollout = build.rollout(operation=operation, settings=build.settings("s1"))
    host = build.host("n", status=status)
    if operation == "configure":
        standing = target(host, settings=rollout).standing
    else:
        standing = target(host, rollout, image=build.image()).standing
    assert (standing.stand, why(standing)) == (stand, name)


def test_a_host_that_is_left_out_says_so() -> None:
    assert why(upgrade(build.host("n", status=shown()), build.rollout(skip=["n"]))) == "Skipped"


def test_an_unknown_minor_schema_is_fine() -> None:
    assert upgrade(build.host("n", status=shown(schema="1.7", a="v2"))).stand is Stand.DONE


# --- what failed before ---------------------------------------------------------------------------------------------

FAILED_DIGEST = [FailedDigest(digest=V2, name="CheckFailed", attempt=0)]
ERROR = LastError(name="CheckFailed", message="HP-6040: The check net failed: no route", digest=V2)


def test_a_digest_it_went_back_from_has_failed_in_the_agents_own_words() -> None:
    standing = upgrade(build.host("n", status=shown(failed_digests=FAILED_DIGEST, last_error=ERROR)))
    assert standing.stand is Stand.FAILED
    assert "no route" in str(standing.reason)


def test_without_the_words_the_name_is_told() -> None:
    standing = upgrade(build.host("n", status=shown(failed_digests=FAILED_DIGEST)))
    assert "CheckFailed" in str(standing.reason)


def test_naming_it_in_retry_allows_one_more_try() -> None:
    """The attempt grows with the Rollout's generation, above any that another Rollout asked for."""
    it = build.host("n", image=V2_REF, status=shown(failed_digests=FAILED_DIGEST))
    standing = upgrade(it, build.rollout(retry=["n"], generation=2))
    assert standing.stand is Stand.WAITING
    assert standing.stage is not None
    attempt = standing.stage.image.attempt
    assert attempt > 0
    again = [FailedDigest(digest=V2, name="CheckFailed", attempt=attempt)]
    tried = build.host("n", image=build.wanted(build.image(), attempt), status=shown(failed_digests=again))
    assert upgrade(tried, build.rollout(retry=["n"], generation=2)).stand is Stand.FAILED
    assert upgrade(tried, build.rollout(retry=["n"], generation=3)).stand is Stand.WAITING
    later = build.rollout("later", born="2026-02-01T00:00:00Z", retry=["n"])
    assert upgrade(tried, later).stand is Stand.WAITING


def test_an_attempt_that_was_asked_for_stays() -> None:
    it = build.host("n", image=build.wanted(build.image(), 77), status=shown("Staged", b="v2"))
    assert upgrade(it).stand is Stand.READY


@pytest.mark.parametrize("born", ["", "yesterday"])
def test_a_rollout_without_a_birth_can_be_retried_too(born: str) -> None:
    it = build.host("n", image=V2_REF, status=shown(failed_digests=FAILED_DIGEST))
    assert upgrade(it, build.rollout(born=born, retry=["n"], generation=2)).stand is Stand.WAITING


def test_a_host_fault_of_this_rollout_is_not_tried_again_by_itself() -> None:
    lost = grant(why="HostLost", verdict="HostFault")
    it = build.host("n", image=V2_REF, grant=lost, status=shown("Staged", b="v2"))
    standing = upgrade(it, now=NOW + 10**6)
    assert (standing.stand, why(standing)) == (Stand.FAILED, "HostLost")
    assert upgrade(it, build.rollout(generation=2)).stand is Stand.FAILED
    retried = build.rollout(generation=2, retry=["n"])
    assert upgrade(it, retried).stage is not None
    assert upgrade(it, build.rollout("other")).stand is Stand.READY


def test_no_verdict_is_tried_again_after_a_pause() -> None:
    stuck = grant(why="DrainDeadline", verdict="NoVerdict", at=NOW - BACK_OFF + 1)
    it = build.host("n", image=V2_REF, grant=stuck, status=shown("Staged", b="v2"))
    standing = upgrade(it)
    assert (standing.stand, why(standing)) == (Stand.WAITING, "OperationEnded")
    assert "DrainDeadline" in str(standing.reason)
    assert upgrade(it, now=NOW + 1).stand is Stand.READY


def test_a_verdict_on_another_image_counts_for_nothing() -> None:
    lost = grant(why="HostLost", verdict="HostFault", digest=build.digest("v3"))
    it = build.host("n", image=V2_REF, grant=lost, status=shown("Staged", b="v2"))
    assert upgrade(it).stand is Stand.READY


def test_an_image_that_could_not_be_fetched_has_failed_for_now() -> None:
    error = LastError(name="FetchFailed", message="HP-6020: no such host", digest=V2)
    standing = upgrade(build.host("n", image=V2_REF, status=shown("Failed", last_error=error)))
    assert standing.stand is Stand.FAILED
    assert "no such host" in str(standing.reason)
    other = msgspec.structs.replace(error, digest=V1)
    assert upgrade(build.host("n", image=V2_REF, status=shown("Failed", last_error=other))).stand is Stand.WAITING


# --- rollback -------------------------------------------------------------------------------------------------------

BACK = build.rollout("back", operation="rollback")


def rollback(it: Host, rollout: Rollout = BACK, now: int = NOW) -> Target:
    return target(it, rollout, now=now)


def test_a_rollback_goes_to_the_other_slot() -> None:
    found = rollback(build.host("n", status=shown(a="v2", b="v1", b_state="Confirmed")))
    assert (found.standing.stand, found.operation, found.digest) == (Stand.READY, "rollback", V1)


@pytest.mark.parametrize("status", [shown(a="v2"), shown(a="v2", b="v1", b_state="Bad"), shown(a="v2", b="v3")])
def test_only_a_proven_slot_can_be_gone_back_to(status: HostStatus) -> None:
    standing = rollback(build.host("n", status=status)).standing
    assert (standing.stand, why(standing)) == (Stand.BLOCKED, "NothingToReturnTo")


def test_a_host_that_went_back_for_this_rollout_is_done() -> None:
    status = shown(a="v1", b="v2", b_state="Confirmed")
    ended = grant(operation="rollback", digest=V1, rollout="uid-back/1")
    assert rollback(build.host("n", grant=ended, status=status)).standing.stand is Stand.DONE
    other = grant(operation="rollback", digest=V1, rollout="uid-other/1")
    assert rollback(build.host("n", grant=other, status=status)).standing.stand is Stand.READY


def test_a_rollback_that_failed_has_failed() -> None:
    ended = grant(operation="rollback", digest=V1, rollout="uid-back/1", why="HostLost", verdict="HostFault")
    it = build.host("n", grant=ended, status=shown(a="v2", b="v1", b_state="Confirmed"))
    assert rollback(it).standing.stand is Stand.FAILED


# --- settings -------------------------------------------------------------------------------------------------------

CONFIGURE = build.rollout("conf", operation="configure", settings=build.settings("s1"))


def configure(it: Host, now: int = NOW) -> Standing:
    return target(it, settings=CONFIGURE, now=now).standing


def test_settings_are_compared_by_their_version() -> None:
    assert configure(build.host("n", status=shown())).stand is Stand.READY
    assert configure(build.host("n", status=shown(settings=SettingsStatus(version="s0")))).stand is Stand.READY
    assert configure(build.host("n", status=shown(settings=SettingsStatus(version="s1")))).stand is Stand.DONE


def test_settings_that_failed_are_not_tried_again() -> None:
    ended = grant(operation="configure", digest="", rollout="uid-conf/1", why="SettingsNotApplied", verdict="HostFault")
    standing = configure(build.host("n", grant=ended, status=shown()))
    assert (standing.stand, why(standing)) == (Stand.FAILED, "SettingsNotApplied")


def test_the_image_comes_before_the_settings() -> None:
    it = build.host("n", image=V2_REF, status=shown("Staged", b="v2"))
    found = target(it, build.rollout(), image=build.image(), settings=CONFIGURE)
    assert (found.operation, found.standing.stand) == ("upgrade", Stand.READY)
    there = build.host("n", status=shown(a="v2"))
    found = target(there, build.rollout(), image=build.image(), settings=CONFIGURE)
    assert (found.operation, found.standing.stand) == ("configure", Stand.READY)
