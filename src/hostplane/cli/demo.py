"""`hostplane demo`: the whole of Hostplane in one command, on this machine, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostplane.cli.options import json_option

if TYPE_CHECKING:
    from hostplane.local.demo import Outcome
    from hostplane.local.demo_view import Screen

__all__ = ["command"]


@click.command(name="demo", short_help="Upgrade simulated hosts on a real control plane, live.")
@click.option("--hosts", type=click.IntRange(3, 100), default=12, show_default=True, help="Simulated hosts.")
@click.option("--plain", is_flag=True, help="One line for each change, also on a terminal.")
@click.option("--keep", is_flag=True, help="Leave everything running at the end, to look around.")
@click.option(
    "--dir",
    "directory",
    metavar="D",
    type=click.Path(file_okay=False, path_type=Path),
    help="New or empty directory for the cluster (default: a temporary one).",
)
@json_option
def command(hosts: int, plain: bool, keep: bool, directory: Path | None, as_json: bool) -> int:
    """Upgrade simulated hosts from OS v1 to v2 on a real control plane, a few at a time, and watch them.

    One host's new slot does not come up; it returns to v1 by itself. Exit code 0 when exactly that happened and no
    budget was ever exceeded, else 1. With --json the last line of standard output is the summary, and everything else
    goes to standard error. Ctrl-C ends and removes everything, as the end does.
    """
    import msgspec
    from rich.console import Console

    from hostplane.cli.language import phrase
    from hostplane.local import demo
    from hostplane.local.demo_view import Screen

    screen = Screen(Console(stderr=as_json), phrase, plain=plain)
    with demo.place(directory, screen, keep=keep) as chosen:
        outcome = demo.play(chosen, hosts, screen)
        _conclude(outcome, screen)
        if as_json:
            click.echo(msgspec.json.encode(outcome.summary))
    return 1 if outcome.deviations else 0


def _conclude(outcome: Outcome, screen: Screen) -> None:
    from hostplane.cli.language import worded

    summary = outcome.summary
    for host in summary.returned_hosts:
        screen.tell("DemoHostReturned", "red", host=host.node, code=host.code, text=host.message)
    seen, budget = summary.max_unavailable_seen, summary.budget
    style = "bold red" if outcome.deviations else "bold green"
    screen.tell("DemoCounts", style, hosts=summary.hosts, upgraded=summary.upgraded, returned=summary.returned)
    screen.tell("DemoBudget", seen=seen, budget=budget, seconds=summary.rollout_s, wall=summary.wall_s)
    for why in outcome.deviations:
        code, text, remedy = worded(why)
        click.echo(f"hostplane: {code}: {text}\n  {remedy}", err=True)
