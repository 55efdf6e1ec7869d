"""Every combination of a small world: what the agent is asked for, and above all what it never is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from hostplane.api.host import (
    FailedDigest,
    Grant,
    HostSpec,
    HostStatus,
    ImageRef,
    LastError,
    Operation,
    Phase,
    Settings,
    SettingsStatus,
    SlotStatus,
)
from hostplane.proxy.decide import AgentStatus, Call, is_at_rest, next_call

OLD, NEW, OTHER = (f"sha256:{letter * 64}" for letter in "abc")
PASSIVE_STATES = ("Empty", "Writing", "Staged", "Confirmed", "Bad")


def image(digest: str = NEW, attempt: int = 0) -> ImageRef:
    return ImageRef(format="rootTar", ref="http://x/y", digest=digest, size=1, version="2", attempt=attempt)


def grant(stage: str = "Switch", seq: int = 5, operation: str = "upgrade", digest: str = NEW) -> Grant:
    return Grant(seq=seq, operation=operation, digest=digest, stage=stage, trial_seconds=60)


def host(phase: str = "Idle", passive: str = "Empty", digest: str = "", seq: int = 0, **more: Any) -> AgentStatus:
    slots = {"A": SlotStatus(state="Confirmed", digest=OLD), "B": SlotStatus(state=passive, digest=digest)}
    return msgspec.structs.replace(
        AgentStatus(schema="1.0", phase=phase, active_slot="A", slots=slots, seq=seq), **more
    )


def on_trial(seq: int = 5, digest: str = NEW, phase: str = "Trial") -> AgentStatus:
    slots = {"A": SlotStatus(state="Confirmed", digest=OLD), "B": SlotStatus(state="Trial", digest=digest)}
    operation = Operation(seq=seq, operation="upgrade", digest=digest)
    return AgentStatus(schema="1.0", phase=phase, active_slot="B", slots=slots, seq=seq, operation=operation)


def method(spec: HostSpec, status: HostStatus) -> str:
    call = next_call(spec, status)
    return call.method if call else ""


def world() -> Iterator[tuple[HostSpec, HostStatus]]:
    """Reachable or not: what an agent of another version might say is in it too."""
    grants: list[Grant | None] = [None]
    for stage, operation in itertools.product(("Reserved", "Switch", "Confirm", "Release"), ("upgrade", "rollback")):
        grants += [grant(stage, 5, operation, digest) for digest in (OLD, NEW, OTHER)]
    grants += [grant(stage, 5, "configure", "") for stage in ("Reserved", "Switch", "Confirm", "Release")]
    images = [None, image(OLD), image(NEW), image(NEW, 1), image(OTHER)]
    settings = [None, Settings(version="s2")]
    slots = [
        {active: SlotStatus(state="Confirmed", digest=OLD), passive: SlotStatus(state=state, digest=digest)}
        for active, passive in (("A", "B"), ("B", "A"))
        for state, digest in itertools.product(PASSIVE_STATES, (NEW, OTHER))
    ]
    statuses = [
        HostStatus(
            phase=phase,
            active_slot=next(iter(held)),
            slots=held,
            seq=seq,
            operation=Operation(seq=seq, operation="upgrade", digest=NEW) if seq else None,
            failed_digests=failed,
            never=never,
        )
        for phase, held, seq, failed, never in itertools.product(
            Phase.ALL, slots, (0, 4, 5, 6), ([], [FailedDigest(digest=NEW, name="X", attempt=0)]), (False, True)
        )
    ]
    for wished, given, set_to in itertools.product(images, grants, settings):
        spec = HostSpec(image=wished, grant=given, settings=set_to)
        for status in statuses:
            yield spec, status


def assert_allowed(spec: HostSpec, status: HostStatus, call: Call) -> None:
    given = spec.grant
    assert not status.never
    assert status.phase != Phase.REBOOTING
    if call.method == "stage":
        assert spec.image is not None
        assert call.params["image"]["digest"] == spec.image.digest != status.active.digest
        assert status.phase != Phase.TRIAL
        assert not [
            f for f in status.failed_digests if f.digest == spec.image.digest and f.attempt >= spec.image.attempt
        ]
        return
    assert given is not None
    assert call.params["seq"] == given.seq >= status.seq
    wanted_stage = {"switch": "Switch", "configure": "Switch", "confirm": "Confirm", "release": "Release"}
    assert given.stage == wanted_stage[call.method]
    assert (given.operation == "configure") == (call.method == "configure") or call.method == "release"
    if call.method == "switch":
        assert is_at_rest(status)
        assert given.digest == status.passive.digest
        assert status.passive.state in ("Staged", "Confirmed")
        assert call.params["trialSeconds"] == 60
    if call.method == "confirm":
        assert status.phase == Phase.TRIAL


def test_no_call_goes_beyond_the_wish() -> None:
    seen = set()
    for spec, status in world():
        call = next_call(spec, status)
        if call is not None:
            seen.add(call.method)
            assert_allowed(spec, status, call)
    assert seen == {"stage", "switch", "confirm", "release", "configure"}


def test_image_that_is_nowhere_is_staged_with_its_attempt() -> None:
    call = next_call(HostSpec(image=image()), host())
    assert call == Call(
        "stage",
        {"image": {"format": "rootTar", "ref": "http://x/y", "digest": NEW, "size": 1, "version": "2", "attempt": 0}},
    )


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (host("Staged", "Staged", NEW), ""),
        (host("Staged", "Staged", OTHER), "stage"),
        (host("Staging", "Writing", NEW), ""),
        (host("Staging", "Confirmed", OTHER), ""),  # accepted, the slot not marked yet
        (host("Staging", "Writing", OTHER), "stage"),
        (host("Idle", "Writing", NEW), "stage"),  # the agent died over it
        (host("Idle", "Staged", NEW), "stage"),  # released: the agent only has to say Staged again
        (host("Idle", "Confirmed", NEW), "stage"),
        (host("Failed", "Empty", ""), "stage"),
        (host("Returned", "Bad", NEW, failed_digests=[FailedDigest(digest=NEW, attempt=0)]), ""),
        (host("Returned", "Staged", NEW), ""),
        (host("Rebooting", "Staged", OTHER), ""),
        (on_trial(digest=OTHER), ""),
        (host(never=True), ""),
        (HostStatus(), "stage"),
    ],
)
def test_staging_follows_what_the_slots_hold(status: HostStatus, wanted: str) -> None:
    assert method(HostSpec(image=image()), status) == wanted


def test_failed_image_is_staged_again_only_at_a_higher_attempt() -> None:
    status = host("Returned", "Bad", NEW, failed_digests=[FailedDigest(digest=NEW, attempt=3)])
    assert [method(HostSpec(image=image(NEW, attempt)), status) for attempt in (2, 3, 4)] == ["", "", "stage"]


def test_way_back_is_not_overwritten_while_a_rollback_is_granted() -> None:
    spec = HostSpec(image=image(OTHER), grant=grant("Reserved", operation="rollback"))
    assert method(spec, host("Idle", "Confirmed", NEW)) == ""
    assert method(HostSpec(image=image(OTHER)), host("Idle", "Confirmed", NEW)) == "stage"


@pytest.mark.parametrize("stage", ["Reserved", "Switch", "Confirm", "Release"])
def test_only_switch_switches(stage: str) -> None:
    wanted = {"Switch": "switch", "Release": "release"}.get(stage, "")
    assert method(HostSpec(image=image(), grant=grant(stage)), host("Staged", "Staged", NEW)) == wanted


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (host("Staged", "Staged", NEW, seq=4), "switch"),
        (host("Staged", "Staged", NEW, seq=5), "switch"),  # interrupted before its reboot
        (host("Staged", "Staged", NEW, seq=6), ""),
        (host("Returned", "Staged", NEW, seq=5), ""),  # back without a verdict: the grant is used up
        (host("Returned", "Staged", NEW, seq=4), "switch"),
        (host("Staged", "Staged", OTHER, seq=4), "stage"),
        (host("Staging", "Writing", NEW, seq=4), ""),
        (host("Idle", "Bad", NEW, seq=4), "stage"),
        (host("Rebooting", "Staged", NEW, seq=5), ""),
        (on_trial(), ""),
        (msgspec.structs.replace(on_trial(), phase="Idle"), ""),
        (host("Staged", "Staged", NEW, never=True), ""),
    ],
)
def test_switch_needs_a_fresh_grant_for_what_the_passive_slot_holds(status: HostStatus, wanted: str) -> None:
    assert method(HostSpec(image=image(), grant=grant()), status) == wanted


@pytest.mark.parametrize(("kind", "wanted"), [("NoVerdict", ""), ("", "switch")])
def test_a_switch_that_was_refused_before_its_reboot_is_not_asked_for_again(kind: str, wanted: str) -> None:
    ended = Operation(seq=5, operation="upgrade", digest=NEW, outcome="Interrupted")
    status = host("Staged", "Staged", NEW, seq=5, operation=ended, last_error=LastError(name="X", reason_class=kind))
    assert method(HostSpec(image=image(), grant=grant()), status) == wanted


def test_rollback_switches_to_the_proven_passive_slot() -> None:
    spec = HostSpec(image=image(OLD), grant=grant(operation="rollback"))
    call = next_call(spec, host("Idle", "Confirmed", NEW))
    assert call == Call("switch", {"seq": 5, "operation": "rollback", "digest": NEW, "trialSeconds": 60})


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (on_trial(5), "confirm"),
        (on_trial(4), ""),
        (on_trial(6), ""),
        (on_trial(5, OTHER), ""),  # it woke up in something else
        (on_trial(5, phase="Idle"), ""),
        (on_trial(5, phase="Rebooting"), ""),
        (msgspec.structs.replace(on_trial(5), operation=None), ""),
        (host("Staged", "Staged", NEW, seq=4), ""),
    ],
)
def test_confirm_needs_a_trial_of_the_same_grant(status: HostStatus, wanted: str) -> None:
    assert method(HostSpec(image=image(), grant=grant("Confirm")), status) == wanted


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (host("Staged", "Staged", NEW, seq=4), "release"),
        (host("Staged", "Staged", NEW, seq=5), ""),
        (host("Returned", "Bad", NEW, seq=4), "release"),
        (host("Staging", "Writing", NEW, seq=4), "release"),
        (on_trial(4), ""),  # the trial's own deadline ends it
        (on_trial(4, phase="Rebooting"), ""),
    ],
)
def test_release_is_told_once_and_not_to_a_trial(status: HostStatus, wanted: str) -> None:
    assert method(HostSpec(grant=grant("Release")), status) == wanted


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (host(), "configure"),
        (host(seq=5), "configure"),  # the answer to it was never written down
        (host(seq=6), ""),
        (host(seq=5, settings=SettingsStatus(version="s2")), ""),
        (host(seq=5, settings=SettingsStatus(version="s1", error="HP-6001: no")), ""),
        (host(seq=4, settings=SettingsStatus(version="s1", error="HP-6001: no")), "configure"),
        (host("Staging", "Writing", NEW), "configure"),
        (on_trial(4), ""),
    ],
)
def test_settings_go_out_under_their_grant(status: HostStatus, wanted: str) -> None:
    spec = HostSpec(settings=Settings(version="s2"), grant=grant(operation="configure", digest=""))
    assert method(spec, status) == wanted


def test_settings_without_a_grant_to_configure_stay_where_they_are() -> None:
    settings = Settings(version="s2")
    for stage in ("Reserved", "Confirm"):
        assert method(HostSpec(settings=settings, grant=grant(stage, operation="configure", digest="")), host()) == ""
    assert method(HostSpec(settings=settings), host()) == ""


def test_unknown_grant_stage_of_a_later_version_is_left_alone() -> None:
    assert method(HostSpec(grant=grant("Hover")), host("Staged", "Staged", NEW)) == ""
