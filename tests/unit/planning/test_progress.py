"""Statuses: what is counted, when a Rollout is over, and that an idle cluster writes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from hostplane.api.rollout import Rollout, RolloutStatus
from hostplane.errors import reason
from hostplane.planning import progress
from hostplane.planning.outcome import OwnerPlan, RolloutPlan
from hostplane.planning.standing import Stand, Standing
from hostplane.planning.wishes import GroupWish

from . import build

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOLD = reason("RolloutPaused", rollout="up")


def hosts(**counts: int) -> list[Standing]:
    return [Standing(f"{name}{i}", Stand(name)) for name, count in counts.items() for i in range(count)]


def plan(standings: list[Standing], rollout: Rollout | None = None, **fields: Any) -> RolloutPlan:
    return RolloutPlan(rollout=rollout or build.rollout(), standings=standings, **fields)


def status(
    standings: list[Standing], rollout: Rollout | None = None, now: datetime = NOW, **fields: Any
) -> RolloutStatus:
    return progress.rollout_status(plan(standings, rollout, **fields), (), now)


def written(rollout: Rollout, found: RolloutStatus) -> Rollout:
    return msgspec.structs.replace(rollout, status=found)


def condition(found: Any, kind: str) -> tuple[str, str]:
    it = next(c for c in found.conditions if c.type == kind)
    assert "?" not in it.message
    return it.status, it.reason


@pytest.mark.parametrize(
    ("standings", "fields", "phase", "progressing", "succeeded"),
    [
        (hosts(ready=2), {}, "Running", ("True", "Progressing"), ("False", "Progressing")),
        (hosts(done=1, working=1), {}, "Running", ("True", "Progressing"), ("False", "Progressing")),
        (hosts(done=1, waiting=1), {}, "Running", ("True", "Progressing"), ("False", "Progressing")),
        (hosts(done=2), {}, "Complete", ("False", "AllDone"), ("True", "AllDone")),
        (hosts(done=1, failed=1), {}, "Complete", ("False", "HostsFailed"), ("False", "HostsFailed")),
        (hosts(done=1, blocked=1), {}, "Complete", ("False", "HostsBlocked"), ("False", "HostsBlocked")),
        (hosts(done=1, ready=1), {"hold": HOLD}, "Paused", ("False", "RolloutPaused"), ("False", "Progressing")),
        ([], {}, "Complete", ("False", "AllDone"), ("True", "AllDone")),
    ],
)
def test_phases(
    standings: list[Standing],
    fields: dict[str, Any],
    phase: str,
    progressing: tuple[str, str],
    succeeded: tuple[str, str],
) -> None:
    found = status(standings, **fields)
    assert found.phase == phase
    assert condition(found, "Progressing") == progressing
    assert condition(found, "Succeeded") == succeeded


def test_counts_and_the_line_at_a_glance() -> None:
    found = status(hosts(done=3, working=2, ready=1, waiting=4, failed=1, blocked=2))
    counts = found.counts
    assert (counts.total, counts.done, counts.in_progress, counts.staged) == (13, 3, 2, 1)
    assert (counts.waiting, counts.failed, counts.skipped) == (4, 1, 2)
    assert found.summary == "3/13, 2 on the way, 1 failed"


def test_a_paused_rollout_is_not_complete_though_all_is_done() -> None:
    assert status(hosts(done=2), build.rollout(paused=True), hold=HOLD).phase == "Paused"


@pytest.mark.parametrize(
    "standings",
    [hosts(ready=3), hosts(done=1, working=1, failed=1), hosts(done=3), hosts(done=1, blocked=1), hosts(waiting=2)],
)
def test_the_same_plan_twice_gives_an_equal_status(standings: list[Standing]) -> None:
    rollout = build.rollout()
    first = status(standings, rollout)
    assert status(standings, written(rollout, first)) == first


@pytest.mark.parametrize(
    "standings", [hosts(ready=3), hosts(done=3), hosts(done=1, blocked=1), hosts(failed=2, done=1)]
)
def test_time_alone_changes_nothing(standings: list[Standing]) -> None:
    rollout = build.rollout()
    first = status(standings, rollout)
    assert status(standings, written(rollout, first), NOW + timedelta(hours=5)) == first


def test_the_estimate_does_not_change_all_the_time() -> None:
    """A Rollout that waits a night for its window must not be written every second of it."""
    rollout = build.rollout()
    rollout = written(rollout, status(hosts(ready=1000, done=10), rollout))
    seen = set()
    for second in range(3600, 7200, 7):
        now = NOW + timedelta(seconds=second)
        seen.add(status(hosts(ready=1000, done=10), rollout, now).eta_seconds)
    assert 1 <= len(seen) <= 40


def test_the_estimate_is_the_rest_at_the_rate_so_far() -> None:
    rollout = written(build.rollout(), RolloutStatus(started_at="2026-03-01T11:50:00Z"))
    assert status(hosts(done=10, ready=5), rollout).eta_seconds == 300
    assert status(hosts(ready=5), rollout).eta_seconds is None
    assert status(hosts(done=5), rollout).eta_seconds is None


def test_it_began_once_and_ended_once() -> None:
    rollout = build.rollout()
    first = status(hosts(ready=1), rollout)
    assert (first.started_at, first.completed_at) == ("2026-03-01T12:00:00Z", "")
    done = status(hosts(done=1), written(rollout, first), NOW + timedelta(hours=1))
    assert (done.started_at, done.completed_at) == ("2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z")
    later = status(hosts(done=1), written(rollout, done), NOW + timedelta(hours=2))
    assert later.completed_at == "2026-03-01T13:00:00Z"
    again = status(hosts(ready=1), written(rollout, later), NOW + timedelta(hours=3))
    assert again.completed_at == ""


def test_the_end_of_a_step_is_noted_once() -> None:
    rollout = build.rollout()
    running = status(hosts(ready=3), rollout, step=0)
    assert running.step_done_at == ""
    over = status(hosts(done=1, ready=2), written(rollout, running), step=0, step_done=True)
    assert (over.step, over.step_done_at) == (0, "2026-03-01T12:00:00Z")
    soaking = status(hosts(done=1, ready=2), written(rollout, over), NOW + timedelta(minutes=5), step=0, step_done=True)
    assert soaking.step_done_at == "2026-03-01T12:00:00Z"
    next_ = status(hosts(done=1, ready=2), written(rollout, soaking), step=1)
    assert (next_.step, next_.step_done_at) == (1, "")


def test_a_transition_is_dated_when_the_status_moves_and_only_then() -> None:
    rollout = build.rollout()
    first = status(hosts(ready=2), rollout)
    later = NOW + timedelta(hours=1)
    more = status(hosts(ready=1, done=1), written(rollout, first), later)
    assert more.conditions[0].last_transition_time == first.conditions[0].last_transition_time
    done = status(hosts(done=2), written(rollout, more), later)
    assert done.conditions[0].last_transition_time == "2026-03-01T13:00:00Z"


def test_a_queued_rollout_says_for_whom_it_waits() -> None:
    why = reason("RolloutQueued", rollout="b", before="a")
    rollout = build.rollout("b")
    found = progress.queued_status(rollout, why, NOW)
    assert (found.phase, condition(found, "Progressing")) == ("Queued", ("False", "RolloutQueued"))
    assert progress.queued_status(written(rollout, found), why, NOW + timedelta(hours=1)) == found


def test_a_groups_status() -> None:
    group, rollout = build.group(), build.rollout(complete=True)
    wish = GroupWish(name="web", group=group, image=rollout)
    mine = OwnerPlan(owner="group/web", standings=hosts(done=2, working=1), away=1, limit=1)
    found = progress.group_status(group, mine, wish, (), NOW)
    assert (found.nodes, found.up_to_date, found.unavailable, found.budget) == (3, 2, 1, 1)
    assert found.current is not None
    assert (found.current.rollout, found.current.image) == ("up", "v2")
    assert condition(found, "Conflict") == ("False", "NoConflict")
    assert condition(found, "Held") == ("False", "Accepted")
    again = msgspec.structs.replace(group, status=found)
    assert progress.group_status(again, mine, wish, (), NOW + timedelta(hours=1)) == found


def test_conflicts_and_holds_are_conditions() -> None:
    overlap = reason("OverlapWith", other="group/db", node="n0")
    mine = OwnerPlan(owner="group/web", standings=hosts(failed=1), conflicts=(overlap,), hold=HOLD)
    found = progress.group_status(build.group(), mine, None, (), NOW)
    assert condition(found, "Conflict") == ("True", "OverlapWith")
    assert condition(found, "Held") == ("True", "RolloutPaused")
    assert condition(found, "Failed") == ("True", "HostsFailed")
    assert found.current is None


@pytest.mark.parametrize(
    ("standings", "hold", "phase"),
    [
        (hosts(done=2), None, "Complete"),
        (hosts(done=1, ready=1), None, "Running"),
        (hosts(done=1, ready=1), HOLD, "Paused"),
        (hosts(done=1, failed=1), HOLD, "Complete"),
    ],
)
def test_an_os_objects_status(standings: list[Standing], hold: Any, phase: str) -> None:
    os = build.os_object()
    mine = OwnerPlan(owner="os/default/pool", standings=standings, hold=hold)
    found = progress.os_status(os, mine, (), NOW)
    assert (found.phase, found.total) == (phase, 2)
    again = msgspec.structs.replace(os, status=found)
    assert progress.os_status(again, mine, (), NOW + timedelta(hours=1)) == found
