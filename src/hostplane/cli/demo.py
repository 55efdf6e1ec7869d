"""`hostplane demo`: the whole of Hostplane in one command, on this machine; with `--vm` on real, if emulated, hosts."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostplane.cli.options import json_option

if TYPE_CHECKING:
    from hostplane.errors import Reason
    from hostplane.local.demo import Outcome
    from hostplane.local.demo_view import Screen
    from hostplane.local.vmstory import VmOutcome

__all__ = ["command"]


@click.command(name="demo", short_help="Upgrade simulated hosts, or virtual machines, on a real control plane, live.")
@click.option("--hosts", type=click.IntRange(3, 100), default=12, show_default=True, help="Simulated hosts.")
@click.option(
    "--vm", "machines", type=click.IntRange(1, 8), metavar="N", help="N virtual machines instead (see below)."
)
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
def command(hosts: int, machines: int | None, plain: bool, keep: bool, directory: Path | None, as_json: bool) -> int:
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
    if machines is not None:
        return _with_machines(machines, screen, directory, keep=keep, as_json=as_json)
    with demo.place(directory, screen, keep=keep) as chosen:
        outcome = demo.play(chosen, hosts, screen)
        _conclude(outcome, screen)
        if as_json:
            click.echo(msgspec.json.encode(outcome.summary))
    return 1 if outcome.deviations else 0


def _with_machines(machines: int, screen: Screen, directory: Path | None, *, keep: bool, as_json: bool) -> int:
    import msgspec

    from hostplane.local import demo, vmdemo

    with demo.place(directory, screen) as chosen, vmdemo.played(chosen, machines, screen) as outcome:
        _conclude_machines(outcome, screen)
        if as_json:
            click.echo(msgspec.json.encode(outcome.summary))
        if keep:
            screen.tell("VmDemoKept", kubeconfig=chosen / "kubeconfig")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    return 1 if outcome.deviations else 0


def _conclude_machines(outcome: VmOutcome, screen: Screen) -> None:
    from hostplane.image.building.progress import size_said

    summary = outcome.summary
    for host in summary.returned_hosts:
        screen.tell("VmDemoReturned", "red", host=host.node, code=host.code, text=host.message)
    for name, sent in summary.sent_bytes.items():
        whole = size_said(summary.bundle_bytes[name] * summary.hosts)
        seconds = summary.rollout_s.get(name, 0.0)
        screen.tell("VmDemoFetched", version=name, seconds=seconds, sent=size_said(sent), whole=whole)
    style = "bold red" if outcome.deviations else "bold green"
    screen.tell("VmDemoCounts", style, hosts=summary.hosts, upgraded=summary.upgraded, returned=summary.returned)
    screen.tell("VmDemoTimes", images=summary.images_s, boot=summary.boot_s, wall=summary.wall_s)
    _deviations(outcome.deviations)


def _conclude(outcome: Outcome, screen: Screen) -> None:
    summary = outcome.summary
    for host in summary.returned_hosts:
        screen.tell("DemoHostReturned", "red", host=host.node, code=host.code, text=host.message)
    seen, budget = summary.max_unavailable_seen, summary.budget
    style = "bold red" if outcome.deviations else "bold green"
    screen.tell("DemoCounts", style, hosts=summary.hosts, upgraded=summary.upgraded, returned=summary.returned)
    screen.tell("DemoBudget", seen=seen, budget=budget, seconds=summary.rollout_s, wall=summary.wall_s)
    _deviations(outcome.deviations)


def _deviations(deviations: list[Reason]) -> None:
    from hostplane.cli.language import worded

    for why in deviations:
        code, text, remedy = worded(why)
        click.echo(f"hostplane: {code}: {text}\n  {remedy}", err=True)
