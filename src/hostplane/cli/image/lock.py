"""`hostplane image lock`: the exact version and digest of every package a recipe would install now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostplane.cli.image.recipes import recipe_arguments
from hostplane.cli.options import json_option

if TYPE_CHECKING:
    from hostplane.image.backends import Lock

__all__ = ["command"]

_SHOWN = 20


@click.command(name="lock", short_help="Write down the exact version of every package.")
@recipe_arguments
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), help="Where downloads are kept.")
@json_option
def command(recipe: Path, overrides: tuple[str, ...], store: Path | None, as_json: bool) -> None:
    """Ask the repositories of RECIPE what they would install now, and write it to its lock file.

    The file is the one that packages.lock names, else RECIPE with the suffix .lock. With packages.lock set, every
    build takes these versions and nothing else, and gives the same bytes.
    """
    from hostplane.cli.output import print_json
    from hostplane.image.building.store import default_store
    from hostplane.image.packages import lock as locks
    from hostplane.image.packages.locking import locked_now, read_for_locking

    wanted, profile = read_for_locking(recipe, overrides)
    path = Path(wanted.packages.lock) if wanted.packages.lock else locks.beside(recipe)
    old = locks.read(path) if path.is_file() else None
    new = locked_now(wanted, profile, store or default_store())
    locks.write(new, path)
    changes = _changes(old, new)
    if as_json:
        print_json({"lock": str(path), "packages": len(new.packages), "epoch": new.epoch, "changes": changes})
        return
    click.echo(f"{path}: {len(new.packages)} packages, {new.distro} {new.release} {new.arch}")
    for line in changes[:_SHOWN]:
        click.echo(f"  {line}")
    if len(changes) > _SHOWN:
        click.echo(f"  and {len(changes) - _SHOWN} more")
    if not wanted.packages.lock:
        click.echo(f'To put it into force, write in the recipe: packages.lock = "{path.name}"')


def _changes(old: Lock | None, new: Lock) -> list[str]:
    """One line for each package that came, went or changed since the older lock; none without one."""
    if old is None:
        return []
    was = {(each.name, each.arch): each.version for each in old.packages}
    now = {(each.name, each.arch): each.version for each in new.packages}
    lines = []
    for key in sorted({*was, *now}):
        before, after = was.get(key), now.get(key)
        if before != after:
            lines.append(f"{key[0]}: {before or 'not there'} -> {after or 'gone'}")
    return lines
