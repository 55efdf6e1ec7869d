"""What the agent should be asked next, from the Host's wish and the agent's last Status. Pure: no I/O, no clock.

The proxy is killed at any instruction and started again; therefore nothing it did before counts here, only what is
written in the Host and what the agent says of itself. Answers that change nothing lead to the same call again, so the
caller paces repeats; a call that was accepted leads to a status from which it is not asked again.

Three things are refused whatever the status says: a switch without the grant's Switch, a confirm without its Confirm,
and any write to a host whose administrator said never. `return` is never asked for: the trial on the host returns by
itself, and the cluster takes its word back by not giving it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hostplane.api.host import (
    CONFIGURE,
    CONFIRM,
    RELEASE,
    RESERVED,
    SWITCH,
    Grant,
    HostSpec,
    HostStatus,
    ImageRef,
    Phase,
    SettingsStatus,
)
from hostplane.rpc import messages

__all__ = ["AgentStatus", "Call", "is_at_rest", "next_call"]

_BOOTABLE = (messages.SLOT_STAGED, messages.SLOT_CONFIRMED)
_UNCOMMITTED = (Phase.REBOOTING, Phase.TRIAL)


class AgentStatus(HostStatus, frozen=True, kw_only=True, gc=False):
    """The agent's Status: what the Host shall show, and the revision that `wait` compares."""

    revision: int = 0


class Call(msgspec.Struct, frozen=True):
    """One request to the agent. Equal calls mean the same wish."""

    method: str
    params: dict[str, Any]


def is_at_rest(status: HostStatus) -> bool:
    """Whether the agent changes nothing by itself, so that it need not be listened to."""
    return status.phase in messages.RESTING_PHASES


def next_call(spec: HostSpec, status: HostStatus) -> Call | None:
    """The one call that brings the host a step closer to its wish; None where there is none to make now.

    A grant's step goes before staging: the host may be drained and waiting.
    """
    if status.never:
        return None
    step = _step(spec, spec.grant, status) if spec.grant else None
    return step or _stage(spec, status)


def _step(spec: HostSpec, grant: Grant, status: HostStatus) -> Call | None:
    match grant.stage:
        case stage if stage == SWITCH:
            return _configure(spec, grant, status) if grant.operation == CONFIGURE else _switch(grant, status)
        case stage if stage == CONFIRM:
            return Call(messages.CONFIRM, {"seq": grant.seq}) if _is_trial_of(grant, status) else None
        case stage if stage == RELEASE:
            is_news = grant.seq > status.seq and status.phase not in _UNCOMMITTED
            return Call(messages.RELEASE, {"seq": grant.seq}) if is_news else None
    return None  # Reserved, or a stage of a later minor version: nothing for the host to do


def _is_trial_of(grant: Grant, status: HostStatus) -> bool:
    """Whether the running image is on trial under this very grant."""
    under = status.operation
    return (
        status.phase == Phase.TRIAL
        and under is not None
        and under.seq == grant.seq
        and status.active.digest == grant.digest
    )


def _switch(grant: Grant, status: HostStatus) -> Call | None:
    if not is_at_rest(status) or status.active.digest == grant.digest:
        return None
    if status.passive.digest != grant.digest or status.passive.state not in _BOOTABLE:
        return None
    if grant.seq < status.seq or _was_used(grant, status) or _was_refused(grant, status):
        return None
    return Call(
        messages.SWITCH,
        {
            "seq": grant.seq,
            "operation": grant.operation,
            "digest": grant.digest,
            "trialSeconds": grant.trial_seconds,
        },
    )


def _was_refused(grant: Grant, status: HostStatus) -> bool:
    """Whether the host took the grant and found, before its reboot, a reason that asking again does not change."""
    last, error = status.operation, status.last_error
    is_its_end = last is not None and last.seq == grant.seq and last.outcome == "Interrupted"
    return is_its_end and error is not None and bool(error.reason_class)


def _configure(spec: HostSpec, grant: Grant, status: HostStatus) -> Call | None:
    if spec.settings is None or status.phase in _UNCOMMITTED:
        return None
    settled = status.settings or SettingsStatus()
    has_answered = grant.seq == status.seq and bool(settled.error)
    if settled.version == spec.settings.version or grant.seq < status.seq or has_answered:
        return None
    return Call(messages.CONFIGURE, {"seq": grant.seq, "settings": msgspec.to_builtins(spec.settings)})


def _stage(spec: HostSpec, status: HostStatus) -> Call | None:
    image = spec.image
    if image is None or status.phase in _UNCOMMITTED or status.active.digest == image.digest:
        return None
    if _is_coming(image, status) or _has_failed(image, status) or _is_spoken_for(spec.grant, status):
        return None
    # `attempt` is written even when it is 0; the rest of the image has no defaults.
    return Call(messages.STAGE, {"image": {**msgspec.to_builtins(image), "attempt": image.attempt}})


def _is_coming(image: ImageRef, status: HostStatus) -> bool:
    """Whether the image is there, or on its way, as far as the host can bring it without a grant."""
    passive = status.passive
    if status.phase == Phase.STAGING:  # the slot is only marked once the download begins
        return passive.state != messages.SLOT_WRITING or passive.digest == image.digest
    # At rest a host that still holds the image says Staged only when asked: its phase tells of the last operation.
    is_there = passive.digest == image.digest and passive.state in _BOOTABLE
    return is_there and status.phase not in (Phase.IDLE, Phase.FAILED)


def _has_failed(image: ImageRef, status: HostStatus) -> bool:
    return any(f.digest == image.digest and f.attempt >= image.attempt for f in status.failed_digests)


def _is_spoken_for(grant: Grant | None, status: HostStatus) -> bool:
    """Whether the passive slot must stay as it is until the grant in force has ended."""
    if grant is None or grant.stage == RELEASE or grant.operation == CONFIGURE or grant.seq < status.seq:
        return False
    is_needed = status.passive.digest == grant.digest and status.passive.state in _BOOTABLE
    return is_needed or _was_used(grant, status)


def _was_used(grant: Grant, status: HostStatus) -> bool:
    """Whether the host went back under this grant: it needs a new one, whoever asks."""
    return grant.stage != RESERVED and grant.seq == status.seq and status.phase in (Phase.RETURNED, Phase.FAILED)
