"""`hostplane image diff`: what an upgrade from one image to another changes and costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostplane.cli.options import json_option

if TYPE_CHECKING:
    from hostplane.image.bundle.difference import Changed, Difference

__all__ = ["command"]

_PATH = click.Path(exists=True, path_type=Path)


@click.command(name="diff", short_help="Show what an upgrade changes and downloads.")
@click.argument("old", type=_PATH)
@click.argument("new", type=_PATH)
@json_option
def command(old: Path, new: Path, as_json: bool) -> None:
    """Show what changes for a host that goes from OLD to NEW, bundles or directories of builds.

    Packages, files that run with other rights, units, listeners, accounts and sizes, and what the host would download:
    every frame that holds a block which neither image of its running slot has.
    """
    from hostplane.cli.output import print_json
    from hostplane.image.bundle.difference import compare

    found = compare(old, new)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Difference) -> None:
    from hostplane.cli.output import print_table
    from hostplane.image.building.progress import size_said

    click.echo(f"{found.old} -> {found.new}")
    sections = (
        ("Facts", found.facts),
        ("Packages", found.packages),
        ("Set-user-ID and set-group-ID", found.setuid),
        ("Capabilities", found.capabilities),
        ("Writable by all", found.world_writable),
        ("Enabled units", found.units),
        ("Listens on the network", found.listeners),
        ("Accounts", found.accounts),
        ("Boot arguments", found.boot_arguments),
    )
    for title, changes in sections:
        if changes:
            click.echo(f"\n{title}: {_counted(changes)}")
            print_table(("NAME", "OLD", "NEW"), [(one.name, one.old, one.new) for one in changes])
    click.echo()
    print_table(
        ("SIZE", "OLD", "NEW", "CHANGE"),
        [(one.name, size_said(one.old), size_said(one.new), _signed(one.new - one.old)) for one in found.sizes],
    )
    if download := found.download:
        share = 100 * download.whole_frames / max(download.full, 1)
        click.echo()
        print_table(
            ("DOWNLOAD", "SIZE", "OF"),
            [
                ("patches", size_said(download.patches), ""),
                ("whole frames", size_said(download.whole_frames), f"{size_said(download.full)} ({share:.1f} %)"),
                ("their missing blocks' share", size_said(download.per_block), ""),
                ("block indexes and metadata", size_said(download.index), ""),
                ("total", size_said(download.total), f"{download.missing_blocks} of {download.blocks} blocks"),
            ],
        )


def _counted(changes: list[Changed]) -> str:
    """How many came, went and changed."""
    came, went = sum(not one.old for one in changes), sum(not one.new for one in changes)
    return f"{came} added, {went} removed, {len(changes) - came - went} changed"


def _signed(size: int) -> str:
    from hostplane.image.building.progress import size_said

    return "" if not size else ("+" if size > 0 else "-") + size_said(abs(size))
