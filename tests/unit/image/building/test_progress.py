"""What a build does is told in lines, in events, and on a terminal; a tool's output cannot steer that terminal."""

from __future__ import annotations

import io
import json

import pytest

from hostplane.image.building.progress import Event, JsonView, LineView, LiveView, lines_of, size_said

STORY = [
    Event(event="plan", lines=["bootstrap", "files"]),
    Event(event="cached", stage="bootstrap"),
    Event(event="waiting", stage="files"),
    Event(event="started", stage="files", lines=["hostname: a -> b", "the stage's program changed"]),
    Event(event="progress", stage="files", fraction=0.5, text="half"),
    Event(event="progress", stage="files", fraction=0.6, text="more"),
    Event(event="failed", stage="files", lines=["one", "two \x1b[31mred"]),
    Event(event="made", stage="files", seconds=1.25),
]


def test_lines_tell_each_step_once_and_leave_out_progress_that_comes_soon() -> None:
    stream = io.StringIO()
    with LineView(stream, explain=False) as view:
        for event in STORY:
            view(event)
    assert stream.getvalue().splitlines() == [
        "bootstrap  cached",
        "files      waits for another build that is making it",
        "files      runs (hostname: a -> b)",
        "files      failed; the end of its log:",
        "    one",
        "    two  [31mred",
        "files      made in 1.2 s",
    ]


def test_explaining_gives_every_reason() -> None:
    assert lines_of(STORY[3], explain=True) == [
        "files      runs, because:",
        "             hostname: a -> b",
        "             the stage's program changed",
    ]


def test_json_is_one_document_a_line() -> None:
    stream = io.StringIO()
    with JsonView(stream) as view:
        for event in STORY:
            view(event)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in told] == [event.event for event in STORY]
    assert told[3]["lines"] == STORY[3].lines


@pytest.mark.parametrize("explain", [False, True])
def test_the_live_view_writes_the_same_lines_above_its_bar(explain: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with LiveView(explain=explain) as view:
        for event in STORY:
            view(event)
    said = capsys.readouterr().err
    assert "files      made in 1.2 s" in said
    assert ("hostname: a -> b" in said) is explain
    assert "\x1b[31m" not in said


def test_sizes_are_said_for_people() -> None:
    assert [size_said(n) for n in (0, 1023, 5 << 20, 20 << 30)] == ["0 B", "1023 B", "5 MiB", "20.0 GiB"]
