"""`hostplane image store`: what builds have kept, and how to have it take less room."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from hostplane.cli.options import json_option
from hostplane.cli.output import print_json, print_table

__all__ = ["command"]

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SPANS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_store_option = click.option(
    "--store", type=click.Path(file_okay=False, path_type=Path), help="Where results are kept (default: the user's)."
)


@click.group()
def command() -> None:
    """Show and prune the results that builds have kept."""


@command.command("list")
@_store_option
@json_option
def list_(store: Path | None, as_json: bool) -> None:
    """List the results, the one used longest ago first."""
    from hostplane.image.building.engine import open_store
    from hostplane.image.building.progress import size_said
    from hostplane.image.building.store import default_store

    rows = open_store(store or default_store()).layers()
    if as_json:
        print_json(rows)
        return
    now = time.time()
    print_table(
        ["KEY", "RECIPE", "STAGE", "SIZE", "USED", "NOW"],
        [
            [
                row.key[:12],
                row.recipe,
                row.stage.value,
                size_said(row.size),
                _ago(now - row.used),
                "in use" if row.in_use else "",
            ]
            for row in rows
        ],
    )
    click.echo(f"{len(rows)} results, {size_said(sum(row.size for row in rows))}")


@command.command()
@_store_option
@click.option("--size", metavar="SIZE", help="Keep at most this much: 20G, 500M.")
@click.option("--age", metavar="TIME", help="Remove what was not used for this long: 2w, 3d, 12h.")
@click.option("--all", "everything", is_flag=True, help="Remove every result; downloads stay.")
@json_option
def prune(store: Path | None, size: str | None, age: str | None, everything: bool, as_json: bool) -> None:
    """Remove results that were not used for long, and what killed builds left. What is in use stays."""
    from hostplane.image.building.engine import open_store
    from hostplane.image.building.progress import size_said
    from hostplane.image.building.store import default_store

    if not (size or age or everything):
        raise click.UsageError("Say how much shall stay: --size, --age or --all.")
    max_bytes = 0 if everything else _number(size, _UNITS, "--size") if size else None
    max_age = _number(age, _SPANS, "--age") if age else None
    pruned = open_store(store or default_store()).prune(max_bytes=max_bytes, max_age=max_age)
    if as_json:
        print_json(pruned)
        return
    click.echo(f"removed {pruned.removed} results, {size_said(pruned.bytes)}")
    if pruned.in_use:
        click.echo(f"kept {pruned.in_use} that a build is using")


def _number(text: str, units: dict[str, int], option: str) -> int:
    match = re.fullmatch(rf"(\d+)([{''.join(units)}])", text)
    if match is None:
        raise click.UsageError(f"{option} wants a number and one of {', '.join(units)}, as in 2{next(iter(units))}.")
    return int(match[1]) * units[match[2]]


def _ago(seconds: float) -> str:
    for name in ("w", "d", "h", "m"):
        if seconds >= _SPANS[name]:
            return f"{seconds / _SPANS[name]:.0f} {name} ago"
    return "just now"
