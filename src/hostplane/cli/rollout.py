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
_WATCH_SECONDS = 1.0


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
        shown: dict[str, Rollout] = {}
        while True:
            now = await _read(session, name)
            changed = [rollout for rollout in now if shown.get(rollout.metadata.name) != rollout]
            _print(changed if watch and shown else now, as_json, with_headings=not shown)
            shown = {rollout.metadata.name: rollout for rollout in now}
            if not watch:
                return 0
            if all(settled(rollout) for rollout in now):
                return 1 if any(rollout.status.counts.failed for rollout in now) else 0
            await asyncio.sleep(_WATCH_SECONDS)


async def _read(session: Session, name: str | None) -> list[Rollout]:
    from hostplane.api.rollout import ROLLOUT

    if name:
        return [await session.get(ROLLOUT, name)]
    return sorted((await session.list(ROLLOUT)).items, key=lambda rollout: rollout.metadata.name)


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
        lines = table(HEADINGS, [row(rollout) for rollout in rollouts])
        click.echo("\n".join(lines if with_headings else lines[1:]))
