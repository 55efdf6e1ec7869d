"""`hostplane image build`: a recipe's disk and bundle, made of what the store has and what has to be made anew."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NoReturn

import click

from hostplane.cli.image.recipes import checked, recipe_arguments
from hostplane.cli.output import print_table
from hostplane.image.recipe import StageName

__all__ = ["command"]

_STAGES = tuple(stage.value for stage in StageName)


@click.command(short_help="Make the disk and the bundle of a recipe.")
@recipe_arguments
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the outputs (default: build/NAME-VERSION-ARCH).",
)
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), help="Where results are kept.")
@click.option(
    "--from",
    "first",
    type=click.Choice(_STAGES),
    help="Begin here; the stages before stay as they were built last, whatever changed since.",
)
@click.option("--until", type=click.Choice(_STAGES), default=_STAGES[-1], show_default=True, help="End here.")
@click.option(
    "--force", type=click.Choice(_STAGES), multiple=True, help="Make this stage again, and all that builds on it."
)
@click.option("--explain", is_flag=True, help="Say for each stage that runs which of its inputs changed.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processors that the tools may use (default: all).")
@click.option("--json", "as_json", is_flag=True, help="Print events and, last, the result, one JSON document a line.")
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    store: Path | None,
    first: str | None,
    until: str,
    force: tuple[str, ...],
    explain: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Build RECIPE into a disk that boots and a bundle that upgrades one.

    A killed build goes on where it was; nothing changed means nothing is made.
    """
    from hostplane.image.building.engine import Wish, build, open_store
    from hostplane.image.building.progress import size_said, view_for
    from hostplane.image.building.store import default_store

    if first is not None and _STAGES.index(first) > _STAGES.index(until):
        raise click.UsageError(f"--from {first} comes after --until {until}.")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    read = checked(recipe, overrides)
    wanted = read.recipe
    target = out or Path("build") / f"{wanted.name}-{wanted.version}-{wanted.arch.value}"
    wish = Wish(
        first=StageName(first) if first else None,
        until=StageName(until),
        force=frozenset(map(StageName, force)),
        processors=jobs,
    )
    with view_for(as_json=as_json, explain=explain) as view:
        built = build(
            wanted, read.profile, store=open_store(store or default_store()), out=target, wish=wish, show=view
        )
    if as_json:
        click.echo(_line(built))
        return
    print_table(
        ["STAGE", "HOW", "SECONDS"],
        [[row.stage.value, row.how, f"{row.seconds:.1f}"] for row in built.stages],
    )
    if built.outputs:
        click.echo("")
        print_table(
            ["OUTPUT", "SIZE", "ON DISK"],
            [[output.path, size_said(output.size), size_said(output.on_disk)] for output in built.outputs],
        )


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """As Ctrl-C: the worker is ended and what it left is removed."""
    raise KeyboardInterrupt


def _line(value: object) -> str:
    import msgspec

    return msgspec.json.encode({"event": "built", **msgspec.to_builtins(value)}).decode()
