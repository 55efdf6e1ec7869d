"""What the Host shows and how often it is written."""

from __future__ import annotations

import msgspec

from hostplane.api.host import HostStatus, LastError, Phase, Progress, SlotStatus
from hostplane.api.meta import Condition
from hostplane.errors import reason
from hostplane.proxy.decide import AgentStatus
from hostplane.proxy.report import AGENT_REACHABLE, WISH_ACCEPTED, News, Report, compose, delay, news, patch

SILENT = reason("AgentSlow", socket="/s", seconds=10)
THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def staging(done: int, total: int = 1000) -> HostStatus:
    return HostStatus(phase=Phase.STAGING, progress=Progress(bytes=done, total=total, bytes_per_second=done + 7))


def condition(status: HostStatus, kind: str) -> Condition:
    return next(c for c in status.conditions if c.type == kind)


def test_first_report_is_an_edge() -> None:
    wanted = compose(Report(uid="u", status=AgentStatus(phase=Phase.IDLE)), HostStatus(), NOW)
    assert delay(HostStatus(), wanted, 0.0) == 0.0


def test_written_report_is_no_news() -> None:
    report = Report(uid="u", status=AgentStatus(phase=Phase.IDLE, revision=3))
    shown = compose(report, HostStatus(), THEN)
    later = Report(uid="u", status=AgentStatus(phase=Phase.IDLE, revision=9))
    assert compose(later, shown, NOW) == shown
    assert delay(shown, compose(later, shown, NOW), 1e9) is None


def test_revision_stays_between_proxy_and_agent() -> None:
    wanted = compose(Report(uid="u", status=AgentStatus(phase=Phase.IDLE, revision=9)), HostStatus(), NOW)
    assert "revision" not in patch("u", wanted)[1]["value"]


def test_progress_waits_for_ten_percent_and_thirty_seconds() -> None:
    assert delay(staging(0), staging(99), 1e9) is None
    assert delay(staging(0), staging(100), 5.0) == 25.0
    assert delay(staging(0), staging(100), 30.0) == 0.0
    assert delay(staging(500), staging(0), 30.0) == 0.0  # it began anew


def test_progress_of_unknown_total_is_bounded_too() -> None:
    assert delay(staging(0, total=0), staging(5, total=0), 1.0) == 29.0


def test_end_of_staging_is_an_edge() -> None:
    assert news(staging(990), HostStatus(phase=Phase.STAGED)) is News.EDGE


def test_beginning_of_a_download_is_told_once() -> None:
    active = SlotStatus(state="Confirmed", digest="x")
    begun = HostStatus(phase=Phase.STAGING, active_slot="A", slots={"A": active, "B": SlotStatus()})
    slots = {"A": active, "B": SlotStatus(state="Writing", digest="y")}
    writing = msgspec.structs.replace(begun, slots=slots, progress=Progress(bytes=1, total=1000))
    assert delay(begun, writing, 1e9) is None
    done = msgspec.structs.replace(writing, phase=Phase.STAGED, progress=None)
    assert news(writing, done) is News.EDGE
    assert news(msgspec.structs.replace(done, slots=begun.slots), done) is News.EDGE


def test_trial_seconds_alone_are_not_written() -> None:
    before = HostStatus(phase=Phase.TRIAL, trial_seconds_left=60)
    assert delay(before, msgspec.structs.replace(before, trial_seconds_left=59), 1e9) is None


def test_any_other_field_is_an_edge() -> None:
    base = HostStatus(phase=Phase.IDLE, slots={"A": SlotStatus(state="Confirmed")})
    for change in (
        {"seq": 1},
        {"boot_id": "x"},
        {"never": True},
        {"last_error": LastError(name="X")},
        {"slots": {"A": SlotStatus(state="Bad")}},
        {"agent_version": "2"},
    ):
        assert news(base, msgspec.structs.replace(base, **change)) is News.EDGE, change


def test_unreachable_agent_keeps_the_last_report_in_sight() -> None:
    shown = compose(Report(uid="u", status=AgentStatus(phase=Phase.STAGED, seq=4)), HostStatus(), THEN)
    for status in (None, AgentStatus(phase=Phase.STAGED, seq=4)):
        wanted = compose(Report(uid="u", status=status, unreachable=SILENT), shown, NOW)
        assert (wanted.phase, wanted.seq) == (Phase.STAGED, 4)
        why = condition(wanted, AGENT_REACHABLE)
        assert (why.status, why.reason, why.last_transition_time) == ("False", "AgentSlow", NOW)
        assert why.message.startswith("HP-5502: ")
        assert news(shown, wanted) is News.EDGE


def test_condition_is_dated_by_its_last_change() -> None:
    good = Report(uid="u", status=AgentStatus(phase=Phase.IDLE))
    first = compose(good, HostStatus(), THEN)
    assert condition(compose(good, first, NOW), AGENT_REACHABLE).last_transition_time == THEN
    bad = compose(msgspec.structs.replace(good, refusal=reason("SlotHeld", slot="B")), first, NOW)
    assert condition(bad, AGENT_REACHABLE).last_transition_time == THEN
    assert condition(bad, WISH_ACCEPTED).last_transition_time == NOW
    assert (condition(bad, WISH_ACCEPTED).status, condition(bad, WISH_ACCEPTED).reason) == ("False", "SlotHeld")


def test_patch_names_the_host_it_is_for_and_replaces_the_whole_status() -> None:
    status = HostStatus(phase=Phase.IDLE, last_error=LastError(name="X"))
    test, add = patch("uid-1", status)
    assert test == {"op": "test", "path": "/metadata/uid", "value": "uid-1"}
    assert add == {"op": "add", "path": "/status", "value": {"phase": "Idle", "lastError": {"name": "X"}}}
