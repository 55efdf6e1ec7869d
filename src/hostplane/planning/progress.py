"""How far each wish is, as statuses to write: counts, a phase, one line to read at a glance, standard conditions.

Pure: the former status goes in, the new one comes out, equal where nothing changed, so that an idle cluster writes
nothing. Times are taken from `now` only where something changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from hostplane.api.kubeos import KubeOS, KubeOSStatus
from hostplane.api.meta import Condition
from hostplane.api.nodegroup import NodeGroup, NodeGroupStatus, Wish
from hostplane.api.rollout import Counts, Rollout, RolloutPhase, RolloutStatus
from hostplane.errors import Reason, reason

from .outcome import OwnerPlan, RolloutPlan
from .standing import Stand, Standing
from .wishes import GroupWish

__all__ = ["group_status", "os_status", "queued_status", "refused_status", "rollout_status"]


_USUAL = frozenset({"AwaitingStaging", "Staging", "NotReported", "OwnedByOther", "CordonLeft", "NodeReplaced"})
_STUCK = frozenset({"DrainBlocked", "DrainInterrupted", "UpgradeFirst"})


def rollout_status(plan: RolloutPlan, warnings: Sequence[Reason], now: datetime) -> RolloutStatus:
    """The status of a Rollout in force; `warnings` name what it says to no effect."""
    rollout, before = plan.rollout, plan.rollout.status
    counts = _counts(plan.standings)
    left_out = sum(s.reason is not None and s.reason.name == "Skipped" for s in plan.standings)
    open_ends = counts.in_progress + counts.staged + counts.waiting
    if plan.hold is not None and open_ends:
        phase = RolloutPhase.PAUSED
    else:
        phase = RolloutPhase.RUNNING if open_ends else RolloutPhase.COMPLETE
    if plan.hold is not None and rollout.spec.paused:
        phase = RolloutPhase.PAUSED
    stamp = _stamp(now)
    started = before.started_at or stamp
    step_done_at = before.step_done_at if before.step == plan.step else ""
    if plan.step_done and not step_done_at:
        step_done_at = stamp
    return RolloutStatus(
        observed_generation=rollout.metadata.generation,
        phase=phase,
        step=plan.step,
        step_done_at=step_done_at if plan.step_done else "",
        counts=counts,
        summary=_summary(counts.done, counts.total, counts.failed, counts.in_progress),
        started_at=started,
        completed_at=(before.completed_at or stamp) if phase == RolloutPhase.COMPLETE else "",
        eta_seconds=_eta(started, counts, now) if phase == RolloutPhase.RUNNING else None,
        conditions=_conditions(
            before.conditions,
            rollout.metadata.generation,
            stamp,
            ("Progressing", phase == RolloutPhase.RUNNING, plan.hold or _progress(counts)),
            ("Succeeded", phase == RolloutPhase.COMPLETE and counts.done + left_out == counts.total, _outcome(counts)),
            *_hindered(plan.standings),
            *_warning(warnings),
        ),
    )


def queued_status(rollout: Rollout, why: Reason, now: datetime) -> RolloutStatus:
    """The status of a Rollout that waits for another."""
    return _idle_status(rollout, RolloutPhase.QUEUED, "queued", why, now)


def refused_status(rollout: Rollout, why: Reason, now: datetime) -> RolloutStatus:
    """The status of a Rollout that is left alone, because it cannot be understood or handed on."""
    return _idle_status(rollout, RolloutPhase.PAUSED, "left alone", why, now)


def _idle_status(rollout: Rollout, phase: str, summary: str, why: Reason, now: datetime) -> RolloutStatus:
    return RolloutStatus(
        observed_generation=rollout.metadata.generation,
        phase=phase,
        counts=rollout.status.counts,
        summary=summary,
        conditions=_conditions(
            rollout.status.conditions, rollout.metadata.generation, _stamp(now), ("Progressing", False, why)
        ),
    )


def group_status(
    group: NodeGroup, plan: OwnerPlan, wish: GroupWish | None, warnings: Sequence[Reason], now: datetime
) -> NodeGroupStatus:
    """The status of a NodeGroup: its wish in force, and its budget in use."""
    rollout = wish.image or (None if wish.has_own_settings else wish.settings) if wish else None
    current = None
    if rollout is not None and wish is not None:
        current = Wish(
            rollout=rollout.metadata.name,
            operation=rollout.spec.operation,
            image=rollout.spec.image_for(wish.name),
            generation=rollout.metadata.generation,
        )
    done = sum(s.stand is Stand.DONE for s in plan.standings)
    return NodeGroupStatus(
        observed_generation=group.metadata.generation,
        current=current,
        nodes=len(plan.standings),
        up_to_date=done,
        unavailable=plan.away,
        budget=plan.limit,
        conditions=_owner_conditions(group.status.conditions, group.metadata.generation, plan, now, warnings),
    )


def os_status(os: KubeOS, plan: OwnerPlan, warnings: Sequence[Reason], now: datetime) -> KubeOSStatus:
    """Our status on KubeOS's OS object; `warnings` name what KubeOS would ignore in silence."""
    counts = _counts(plan.standings)
    busy = counts.in_progress + counts.staged + counts.waiting
    phase = RolloutPhase.RUNNING if busy else RolloutPhase.COMPLETE
    if busy and plan.hold is not None:
        phase = RolloutPhase.PAUSED
    return KubeOSStatus(
        observed_generation=os.metadata.generation,
        phase=phase,
        total=counts.total,
        done=counts.done,
        in_progress=counts.in_progress,
        failed=counts.failed,
        summary=_summary(counts.done, counts.total, counts.failed, counts.in_progress),
        conditions=_owner_conditions(os.status.conditions, os.metadata.generation, plan, now, warnings),
    )


def _owner_conditions(
    before: Sequence[Condition], generation: int, plan: OwnerPlan, now: datetime, warnings: Sequence[Reason]
) -> list[Condition]:
    failed = sum(s.stand is Stand.FAILED for s in plan.standings)
    rows: list[tuple[str, bool, Reason | Sequence[Reason]]] = [
        ("Conflict", bool(plan.conflicts), plan.conflicts or reason("NoConflict")),
        ("Held", plan.hold is not None, plan.hold or reason("Accepted")),
    ]
    if failed:
        rows.append(("Failed", True, reason("HostsFailed", failed=failed, total=len(plan.standings))))
    if plan.drifted:
        named = ", ".join(plan.drifted[:10]) + (", ..." if len(plan.drifted) > 10 else "")
        rows.append(("Drifted", True, reason("SettingsDrifted", count=len(plan.drifted), nodes=named)))
    if plan.unsettled is not None:
        rows.append(("SettingsAccepted", False, plan.unsettled))
    rows += _hindered(plan.standings)
    return _conditions(before, generation, _stamp(now), *rows, *_warning(warnings))


def _hindered(standings: Sequence[Standing]) -> list[tuple[str, bool, Sequence[Reason]]]:
    """Hosts that do not get on, each with its reason; what passes by itself within a usual operation is left out."""
    found = [s.reason for s in standings if s.reason is not None and _is_hindered(s.stand, s.reason.name)]
    return [("Hindered", True, found)] if found else []


def _is_hindered(stand: Stand, why: str) -> bool:
    match stand:
        case Stand.FAILED | Stand.BLOCKED:
            return why != "Skipped"
        case Stand.WAITING:
            return why not in _USUAL
        case _:
            return why in _STUCK


def _warning(warnings: Sequence[Reason]) -> list[tuple[str, bool, Sequence[Reason]]]:
    return [("Warning", True, warnings)] if warnings else []


def _counts(standings: Sequence[Standing]) -> Counts:
    by = Counter(s.stand for s in standings)
    skipped = sum(s.stand is Stand.BLOCKED for s in standings)
    return Counts(
        total=len(standings),
        done=by[Stand.DONE],
        in_progress=by[Stand.WORKING],
        staged=by[Stand.READY],
        waiting=by[Stand.WAITING],
        failed=by[Stand.FAILED],
        skipped=skipped,
    )


def _progress(counts: Counts) -> Reason:
    if counts.in_progress or counts.staged or counts.waiting:
        return reason("Progressing", done=counts.done, total=counts.total, working=counts.in_progress)
    return _outcome(counts)


def _outcome(counts: Counts) -> Reason:
    if counts.failed:
        return reason("HostsFailed", failed=counts.failed, total=counts.total)
    if counts.skipped:
        return reason("HostsBlocked", blocked=counts.skipped, total=counts.total)
    if counts.done == counts.total:
        return reason("AllDone", total=counts.total)
    return reason("Progressing", done=counts.done, total=counts.total, working=counts.in_progress)


def _summary(done: int, total: int, failed: int, working: int) -> str:
    parts = [f"{done}/{total}"]
    if working:
        parts.append(f"{working} on the way")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts)


def _eta(started: str, counts: Counts, now: datetime) -> int | None:
    """Seconds until the rest is done at the rate so far; to two digits, so that it does not change all the time."""
    rest = counts.total - counts.done - counts.failed - counts.skipped
    through = counts.done + counts.failed
    elapsed = (now - datetime.fromisoformat(started)).total_seconds()
    if not through or elapsed <= 0 or rest <= 0:
        return None
    seconds = elapsed / through * rest
    unit = max(10, 10 ** (len(str(int(seconds))) - 2))
    return int(round(seconds / unit) * unit)


def _conditions(
    before: Sequence[Condition], generation: int, stamp: str, *rows: tuple[str, bool, Reason | Sequence[Reason]]
) -> list[Condition]:
    """Standard conditions; the transition time moves only when the status does."""
    old = {c.type: c for c in before}
    found = []
    for type_, is_true, why in rows:
        reasons = [why] if isinstance(why, Reason) else list(why)
        status = "True" if is_true else "False"
        last = old.get(type_)
        found.append(
            Condition(
                type=type_,
                status=status,
                reason=reasons[0].name,
                message="; ".join(str(r) for r in reasons[:10])[:4096],
                last_transition_time=last.last_transition_time if last and last.status == status else stamp,
                observed_generation=generation,
            )
        )
    return found


def _stamp(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
