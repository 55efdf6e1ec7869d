"""`hostplane image distros`: the distributions the builder knows, and what stands behind each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostplane.cli.options import json_option

if TYPE_CHECKING:
    from hostplane.distros import Listing, Profile

__all__ = ["command"]

_HEADINGS = ("DISTRIBUTION", "RELEASES", "ARCH", "BACKEND", "EXT4 WITHOUT", "XFS WITHOUT", "EVIDENCE")
_NEVER = ("casefold", "inline_data", "project", "rmapbt")
"""Features that nobody has by default, so that going without needs no mention in a table."""


@click.command(name="distros", short_help="List the distributions that images can be made of.")
@click.option(
    "--directory",
    "directories",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A directory with more distribution files; a recipe finds the distros/ beside itself by itself.",
)
@json_option
def command(directories: tuple[Path, ...], as_json: bool) -> None:
    """List distributions, releases, architectures, backends and file systems.

    Behind an architecture stands the size of its kernels' pages, where it is not 4 KiB.
    EVIDENCE says what was done with a release's data: `booted` in a virtual machine by the project's own tests,
    `built` from its own packages, or only `checked` against what its documents and its repository say.
    """
    from hostplane.cli.output import print_json, print_table
    from hostplane.distros import listing

    found = listing(directories)
    if as_json:
        print_json([profile for each in found for profile in each.profiles])
        return
    rows: list[list[str]] = []
    first = ""
    for each in found:
        row = _row(each)
        suffix = row[1].removeprefix(first)
        if rows and suffix != row[1] and rows[-1][:1] + rows[-1][2:] == row[:1] + row[2:]:
            rows[-1][1] += f", {suffix}"
        else:
            first = row[1]
            rows.append(row)
    print_table(_HEADINGS, rows)


def _row(each: Listing) -> list[str]:
    one = each.profiles[0]
    return [
        one.id,
        one.release,
        ", ".join(_arch(profile) for profile in each.profiles),
        one.backend,
        _without(word[1:] for word in one.ext4_features if word.startswith("^")),
        _without(word.removesuffix("=0") for word in ",".join(one.xfs_options).split(",") if word.endswith("=0")),
        _evidence(each),
    ]


def _without(features: Iterable[str]) -> str:
    return " ".join(feature for feature in features if feature not in _NEVER)


def _arch(profile: Profile) -> str:
    """The architecture, and its pages where they are not of 4 KiB."""
    sizes = [f"{size >> 10}k" for size in profile.page_sizes]
    return profile.arch if sizes == ["4k"] else f"{profile.arch} ({'/'.join(sizes)})"


def _evidence(each: Listing) -> str:
    levels = {profile.arch: profile.evidence.level for profile in each.profiles}
    if len(set(levels.values())) == 1:
        return next(iter(levels.values()))
    return ", ".join(f"{level} ({arch})" for arch, level in levels.items())
