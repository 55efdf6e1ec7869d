"""The live picture fits its screen; the plain one says each change once."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hostplane.local.demo_story import GroupLine, HostLine, Picture
from hostplane.local.demo_view import PlainView, Screen, frame

PHASES = ("Starting", "Idle", "Staging", "Staged", "Draining", "Rebooting", "Trial", "Upgraded", "Returned")
GROUPS = ("pool-a", "pool-b", "pool-c")


def a_host(index: int, phase: str) -> HostLine:
    return HostLine(
        node=f"host-{index + 1:02d}",
        group=GROUPS[index % 3],
        phase=phase,
        step=index % 7,
        slot="A",
        version="v1",
        target="v2",
        availability="NotReady",
        error="HP-6043 BootFellBack" if phase == "Returned" else "",
    )


def a_picture(count: int = 12, most_away: int = 4) -> Picture:
    hosts = [a_host(index, PHASES[index % len(PHASES)]) for index in range(count)]
    groups = [GroupLine(name=name, budget=1, away=1, most_away=1) for name in GROUPS]
    return Picture(
        rollout="to-v2",
        phase="Running",
        seconds=83.4,
        hosts=sorted(hosts, key=lambda host: host.group),
        groups=groups,
        most_away=most_away,
    )


def test_twelve_hosts_fit_eighty_columns_and_twenty_four_rows() -> None:
    lines = frame(a_picture(), 80, 24)
    assert len(lines) < 24
    assert max(len(line.plain) for line in lines) <= 80
    text = "\n".join(line.plain for line in lines)
    assert all(f"host-{number:02d}" in text for number in range(1, 13))
    assert "HP-6043 BootFellBack" in text
    assert "1:23" in text
    assert "…" not in text


@pytest.mark.parametrize("width", [20, 40, 79])
def test_a_narrow_screen_cuts_lines_and_never_wraps(width: int) -> None:
    assert max(len(line.plain) for line in frame(a_picture(), width, 24)) <= width


def test_a_small_screen_keeps_the_hosts_under_way_and_the_returned() -> None:
    lines = frame(a_picture(40), 80, 24)
    text = "\n".join(line.plain for line in lines)
    assert len(lines) < 24
    assert text.count("Returned") == 4
    assert text.count("Trial") == 4
    assert "Upgraded" not in text


def test_a_console_without_unicode_gets_ascii() -> None:
    assert all(line.plain.isascii() for line in frame(a_picture(), 80, 24, is_ascii=True))


def test_plain_says_each_change_once() -> None:
    lines: list[str] = []
    view = PlainView(lines.append)
    view.show(a_picture())
    assert len(lines) == 12
    view.show(a_picture())
    assert len(lines) == 12
    changed = a_picture()
    hosts = [*changed.hosts[1:], a_host(0, "Upgraded")]
    view.show(Picture(rollout="r", phase="", seconds=1, hosts=hosts, groups=changed.groups, most_away=1))
    assert len(lines) == 13
    assert "host-01" in lines[-1]
    assert "Upgraded" in lines[-1]
    assert "away 3 of 3" in lines[-1]


@pytest.mark.parametrize(
    ("terminal", "plain", "term", "live"),
    [
        (True, False, "xterm", True),
        (True, True, "xterm", False),
        (False, False, "xterm", False),
        (True, False, "dumb", False),
    ],
)
def test_the_view_is_live_only_on_a_capable_terminal(
    terminal: bool, plain: bool, term: str, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    sink = io.StringIO()
    screen = Screen(Console(file=sink, force_terminal=terminal, width=80), lambda name, **_: name, plain=plain)
    assert screen.is_live is live
    with screen.busy("DemoStarting"), screen.view() as view:
        view.show(a_picture())
    assert ("\x1b[" in sink.getvalue()) is live
    assert "host-01" in sink.getvalue()
