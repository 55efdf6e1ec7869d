"""`hostplane rollout status`: how far a rollout is, once or as it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from hostplane.cli.options import json_option, kubeconfig_option

if TYPE_CHECKING:
    from hostplane.api.rollout import Rollout
    from hostplane.kube.session import Session

__all__ = ["HEADINGS", "command", "row", "settled"]

HEADINGS = (
    "NAME",
    "OPERATION",
    "IMAGE",
    "PHASE",
    "DONE",
    "MOVING",
    "STAGED",
    "FAILED",
    "WAITING",
    "SKIPPED",
    "ETA",
    "WHY",
)
_WIDTHS = (16, 9, 12, 8, 7, 6, 6, 6, 7, 7, 6, 3)  # at least: lines that follow stay in their columns


@click.group(name="rollout", short_help="See how far rollouts are.")
def command() -> None:
    """See how far rollouts are."""


@command.command(name="status", short_help="How far one rollout, or all, are.")
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Go on until every one shown is complete or has failed hosts.")
@json_option
@kubeconfig_option
def status(name: str | None, watch: bool, as_json: bool, kubeconfig: str | None) -> int:
    """Show how far the rollout NAME is, or all rollouts.

    With --watch a line is printed for each change until every rollout shown has settled; the exit code is then 0 when
    all are complete without a failed host, else 1. With --json each change is one JSON document.
    """
    return asyncio.run(_status(name, watch, as_json, kubeconfig))


async def _status(name: str | None, watch: bool, as_json: bool, kubeconfig: str | None) -> int:
    from hostplane.kube.session import Session

    async with await Session.open(kubeconfig, connections=1, user_agent="hostplane-cli") as session:
        now = await _read(session, name)
        _print(now, as_json, with_headings=True)
        return await _follow(session, name, now, as_json) if watch else 0


async def _read(session: Session, name: str | None) -> list[Rollout]:
    from hostplane.api.rollout import ROLLOUT

    if name:
        return [await session.get(ROLLOUT, name)]
    return sorted((await session.list(ROLLOUT)).items, key=lambda rollout: rollout.metadata.name)


async def _follow(session: Session, name: str | None, known: list[Rollout], as_json: bool) -> int:
    """Prints each change as the server tells it; the exit code once all have settled."""
    from hostplane.api.rollout import ROLLOUT
    from hostplane.kube.informer import Informer

    shown = {rollout.metadata.name: rollout for rollout in known}
    over = asyncio.Event()

    def see(old: Rollout | None, new: Rollout | None) -> None:
        if new is None:
            assert old is not None  # one of the two always is
            shown.pop(old.metadata.name, None)
        elif _content(shown.get(new.metadata.name)) != _content(new):
            shown[new.metadata.name] = new
            _print([new], as_json, with_headings=False)
        if all(settled(rollout) for rollout in shown.values()):
            over.set()

    if all(settled(rollout) for rollout in known):
        over.set()
    selector = f"metadata.name={name}" if name else None
    watching = asyncio.create_task(Informer(session, ROLLOUT, field_selector=selector, on_change=see).run())
    waiting = asyncio.create_task(over.wait())
    try:
        done, _ = await asyncio.wait({watching, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if watching in done:
            watching.result()
    finally:
        watching.cancel()
        waiting.cancel()
    return 1 if any(rollout.status.counts.failed for rollout in shown.values()) else 0


def _content(rollout: Rollout | None) -> object:
    return None if rollout is None else (rollout.spec, rollout.status)


def settled(rollout: Rollout) -> bool:
    """Whether watching on would show nothing new: complete, or stopped by failed hosts with nothing on its way."""
    status = rollout.status
    if status.observed_generation < rollout.metadata.generation:
        return False
    counts = status.counts
    stuck = (
        counts.failed > 0 and counts.in_progress == 0 and counts.done + counts.failed + counts.skipped >= counts.total
    )
    return status.phase == "Complete" or stuck


def row(rollout: Rollout) -> list[str]:
    """One line of the table."""
    status, counts = rollout.status, rollout.status.counts
    why = next((c.message for c in status.conditions if c.status == "True" and c.type in ("Stopped", "Paused")), "")
    return [
        rollout.metadata.name,
        rollout.spec.operation,
        rollout.spec.image or ",".join(sorted(set(rollout.spec.images.values()))),
        status.phase,
        f"{counts.done}/{counts.total}",
        *(str(n) for n in (counts.in_progress, counts.staged, counts.failed, counts.waiting, counts.skipped)),
        duration(status.eta_seconds),
        why[:120],
    ]


def duration(seconds: int | None) -> str:
    """Seconds as people say them: 45s, 12m, 3h05m; empty when unknown."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 120 else f"{minutes // 60}h{minutes % 60:02d}m"


def _print(rollouts: Iterable[Rollout], as_json: bool, with_headings: bool) -> None:
    from hostplane.cli.output import print_json, table

    rollouts = list(rollouts)
    if as_json:
        if rollouts or with_headings:
            print_json([{"name": r.metadata.name, "spec": r.spec, "status": r.status} for r in rollouts])
    elif rollouts or with_headings:
        lines = table(HEADINGS, [row(rollout) for rollout in rollouts], _WIDTHS)
        click.echo("\n".join(lines if with_headings else lines[1:]))
