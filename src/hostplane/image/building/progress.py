"""How a build tells what it does: plain lines, events for programs, or a live view on a terminal.

A view is a context manager that is called with events. It writes to standard error, so that what a verb prints on
standard output stays its own; the JSON view writes there, because the events are the output.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Event", "JsonView", "LineView", "LiveView", "View", "size_said", "view_for"]

_LINE_SECONDS = 10.0
_STEPS = 1000


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened."""

    event: str
    """plan, cached, kept, waiting, started, progress, made, failed or delivered."""
    stage: str = ""
    fraction: float = 0.0
    text: str = ""
    seconds: float = 0.0
    lines: list[str] = []
    """plan: the stages; started: why it runs; failed: the last lines of the log."""


class View(Protocol):
    """What shows events."""

    def __call__(self, event: Event) -> None:
        """Show one."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def view_for(*, as_json: bool, explain: bool) -> View:
    """The view for where the output goes."""
    if as_json:
        return JsonView(sys.stdout)
    if sys.stderr.isatty():
        return LiveView(explain=explain)
    return LineView(sys.stderr, explain=explain)


def size_said(size: int) -> str:
    """A number of bytes for people."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


class _Silent:
    """A view that needs no beginning and no end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class JsonView(_Silent):
    """One JSON document a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Write it at once."""
        print(msgspec.json.encode(event).decode(), file=self._stream, flush=True)


class LineView(_Silent):
    """A line for every step, and now and then one for a long step."""

    def __init__(self, stream: TextIO, *, explain: bool) -> None:
        self._stream = stream
        self._explain = explain
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        """Write it, unless it is progress that comes too soon."""
        if event.event == "progress":
            if time.monotonic() < self._next:
                return
        elif event.event == "plan":
            return
        self._next = time.monotonic() + _LINE_SECONDS
        for line in lines_of(event, explain=self._explain):
            print(line, file=self._stream, flush=True)


class LiveView:
    """A bar for each running stage, and a line above it for each one that is done."""

    def __init__(self, *, explain: bool) -> None:
        self._explain = explain
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Take the terminal's last line."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]:<10}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Move the bar, or write a line above it."""
        assert self._progress is not None
        if event.event == "progress":
            task = self._tasks.get(event.stage)
            if task is not None:
                # A step that cannot say how far it is shows a moving bar.
                total = _STEPS if event.fraction > 0 else None
                done = event.fraction * _STEPS
                self._progress.update(task, total=total, completed=done, description=_printable(event.text[:60]))
            return
        if event.event == "started":
            self._tasks[event.stage] = self._progress.add_task("", total=None, stage=event.stage)
            if not self._explain:
                return
        elif event.stage in self._tasks and event.event in ("made", "failed"):
            self._progress.remove_task(self._tasks.pop(event.stage))
        for line in lines_of(event, explain=self._explain):
            self._progress.console.print(line, markup=False)


def lines_of(event: Event, *, explain: bool) -> list[str]:
    """An event for people; control characters of a tool's output do not reach their terminal."""
    head = f"{event.stage:<10}"
    match event.event:
        case "cached" | "kept":
            return [f"{head} {event.event}"]
        case "waiting":
            return [f"{head} waits for another build that is making it"]
        case "started":
            if explain:
                return [f"{head} runs, because:", *(f"{'':<10}   {_printable(line)}" for line in event.lines)]
            return [f"{head} runs ({_printable(event.lines[0])})" if event.lines else f"{head} runs"]
        case "progress":
            done = f" {event.fraction:.0%}" if event.fraction > 0 else ""
            return [f"{head} ...{done} {_printable(event.text)}"]
        case "made":
            return [f"{head} made in {event.seconds:.1f} s"]
        case "failed":
            return [f"{head} failed; the end of its log:", *(f"    {_printable(line)}" for line in event.lines)]
        case _:
            return []


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
