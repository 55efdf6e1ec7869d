"""How the demo looks: a live picture on a terminal, or one line for each change anywhere else.

The picture fits 80 columns and, with 12 hosts, 24 rows. On a smaller screen the hosts that wait or are through give way
first. A view only draws what it is given; it decides nothing and asks nobody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hostplane.local.demo_story import STEPS, GroupLine, HostLine, Picture

__all__ = ["LiveView", "PlainView", "Screen", "View", "frame"]

_STYLES = {
    "Staging": "cyan",
    "Staged": "cyan",
    "Draining": "yellow",
    "Rebooting": "yellow",
    "Trial": "magenta",
    "Upgraded": "green",
    "Returned": "bold red",
    "Failed": "bold red",
}
_AVAILABILITY_STYLES = {"Ready": "green", "cordoned": "yellow", "NotReady": "red"}
_UNDER_WAY = ("Draining", "Rebooting", "Trial")
_URGENT = (*_UNDER_WAY, "Returned", "Failed")


class View(Protocol):
    """Something that shows pictures."""

    def show(self, picture: Picture) -> None:
        """This is how it is now."""


class PlainView:
    """One line per host and change, each complete in itself: for logs, pipes and `--plain`."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._shown: dict[str, HostLine] = {}

    def show(self, picture: Picture) -> None:
        """Writes the hosts that changed since the last picture."""
        for host in picture.hosts:
            if self._shown.get(host.node) == host:
                continue
            self._shown[host.node] = host
            version = f"{host.version} -> {host.target}" if host.target else host.version
            line = (
                f"{picture.seconds:6.1f} s  {host.node}  {host.group}  {host.phase:<9}  {host.availability:<8}  "
                f"slot {host.slot or '-'}  {version:<8}  away {picture.away} of {picture.budget}  {host.error}"
            )
            self._write(line.rstrip())


class LiveView:
    """Draws over itself on a terminal; a context manager, so that the cursor comes back whatever happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, picture: Picture) -> None:
        """Replaces the picture."""
        size = self._console.size
        is_ascii = not self._console.encoding.lower().startswith("utf")
        self._live.update(Group(*frame(picture, size.width, size.height, is_ascii)), refresh=True)


class Screen:
    """Where the demo speaks: sentences of the catalogue by `phrase`, and one view; live only on a terminal."""

    def __init__(self, console: Console, phrase: Callable[..., str], *, plain: bool = False) -> None:
        self._console, self._phrase = console, phrase
        self.is_live = console.is_terminal and not console.is_dumb_terminal and not plain

    def tell(self, name: str, style: str = "", **params: object) -> None:
        """One sentence of the catalogue."""
        self.say(self._phrase(name, **params), style)

    def say(self, line: str, style: str = "") -> None:
        """One line as it is, wrapped between words on a terminal only."""
        self._console.print(Text(line, style), soft_wrap=not self.is_live)

    @contextlib.contextmanager
    def busy(self, name: str, **params: object) -> Iterator[None]:
        """Says what is being done while it is."""
        if not self.is_live:
            self.say(self._phrase(name, **params))
            yield
            return
        with self._console.status(Text(self._phrase(name, **params))):
            yield

    @contextlib.contextmanager
    def view(self) -> Iterator[View]:
        """The view, on the screen while the context is open."""
        if not self.is_live:
            yield PlainView(self.say)
            return
        with LiveView(self._console) as live:
            yield live


def frame(picture: Picture, width: int = 80, height: int = 24, is_ascii: bool = False) -> list[Text]:
    """The lines of one picture, none wider than `width`, and fewer than `height` where at all possible."""
    lines = [_title(picture, width), _bar(picture, width, is_ascii), _counts(picture, width)]
    groups = picture.groups
    shown = _fitting(picture.hosts, height - 1 - len(lines) - len(groups))
    for group in groups:
        mine = [host for host in picture.hosts if host.group == group.name]
        lines.append(_group(group, mine, width))
        lines += [_host(host, is_ascii) for host in mine if host.node in shown]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
        line.truncate(width, overflow="ellipsis")
    return lines


def _title(picture: Picture, width: int) -> Text:
    left = Text("First boot", "bold")
    if picture.rollout:
        left = Text.assemble("Rollout ", (picture.rollout, "bold"), "  ", (picture.phase or "Starting", "bold cyan"))
    clock = f"{int(picture.seconds) // 60}:{int(picture.seconds) % 60:02d}"
    return _flush(left, Text(clock, "dim"), width)


def _bar(picture: Picture, width: int, is_ascii: bool) -> Text:
    """The whole rollout on one line: through, under way, still to come."""
    total = max(1, len(picture.hosts))
    good, bad = picture.count("Upgraded"), picture.count("Returned", "Failed")
    parts = ((good, "green", "#"), (bad, "red", "!"), (picture.count(*_UNDER_WAY), "yellow", "+"))
    bar, done = Text(), 0
    for count, style, letter in parts:
        begin, end = width * done // total, width * (done + count) // total
        bar.append((letter if is_ascii else "━") * (end - begin), style)
        done += count
    return bar.append(("." if is_ascii else "━") * (width - len(bar.plain)), "bright_black")


def _counts(picture: Picture, width: int) -> Text:
    under_way = picture.count(*_UNDER_WAY)
    upgraded, returned = picture.count("Upgraded"), picture.count("Returned", "Failed")
    to_come = len(picture.hosts) - under_way - upgraded - returned
    line = Text.assemble(
        (f"{upgraded} upgraded", "green" if upgraded else "dim"),
        "  ",
        (f"{returned} returned", "red" if returned else "dim"),
        "  ",
        (f"{under_way} under way", "yellow" if under_way else "dim"),
        "  ",
        (f"{to_come} to come", "dim"),
    )
    return _flush(line, _away(picture.away, picture.budget, picture.most_away), width)


def _away(away: int, budget: int, most: int) -> Text:
    now = (f"away {away} of {budget}", "yellow" if away else "dim")
    return Text.assemble(now, (f"  most {most}", "bold red" if most > budget else "dim"))


def _group(group: GroupLine, hosts: Sequence[HostLine], width: int) -> Text:
    done = sum(host.phase == "Upgraded" for host in hosts)
    line = Text.assemble((group.name, "bold"), (f"  {done} of {len(hosts)} upgraded", "dim"))
    return _flush(line, _away(group.away, group.budget, group.most_away), width)


def _flush(left: Text, right: Text, width: int) -> Text:
    return left.append(" " * max(2, width - len(left.plain) - len(right.plain))).append_text(right)


def _host(host: HostLine, is_ascii: bool) -> Text:
    style = _STYLES.get(host.phase, "dim")
    full, empty, arrow = ("#", ".", "->") if is_ascii else ("●", "○", "→")
    version = f"{host.version} {arrow} {host.target}" if host.target else host.version
    return Text.assemble(
        f"  {host.node}  ",
        (full * host.step, style),
        (empty * (STEPS - host.step), "bright_black"),
        (f"  {host.phase:<9}", style),
        (f"  slot {host.slot or '-'}  ", "dim"),
        f"{version:<8}",
        (f"  {host.availability:<8}  ", _AVAILABILITY_STYLES[host.availability]),
        (host.error, "red"),
    )


def _fitting(hosts: Sequence[HostLine], rows: int) -> set[str]:
    """Names of the hosts to show in so many rows: under way or returned, then to come, then upgraded."""
    ranked = sorted(hosts, key=lambda host: 0 if host.phase in _URGENT else 2 if host.phase == "Upgraded" else 1)
    return {host.node for host in ranked[: max(1, rows)]}
