"""`hostplane image inspect`: what an image holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostplane.cli.options import json_option

if TYPE_CHECKING:
    from hostplane.image.bundle.inspection import Inspection

__all__ = ["command"]

_PACKAGES, _PLACES = 15, 8


@click.command(name="inspect", short_help="Show what an image holds.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--trust",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Trust file to judge the signatures by (hostplane image keys trust-set).",
)
@click.option("--packages", "all_packages", is_flag=True, help="Every package, not only the largest.")
@click.option("--verify", is_flag=True, help="Unpack everything and compare it with its digests.")
@json_option
def command(path: Path, trust: Path | None, all_packages: bool, verify: bool, as_json: bool) -> None:
    """Show what PATH holds: a build's directory, a bundle, or a raw disk.

    Packages and sizes, files that give rights away, what listens, accounts, signatures and boot arguments. A service
    listens by its unit (socket unit) or by what its package does by default (known service): only a running host proves
    more.
    """
    from hostplane.cli.output import print_json
    from hostplane.image.bundle.inspection import inspect

    found = inspect(path, trust=trust, verified=verify)
    if as_json:
        print_json(found)
    else:
        _print(found, all_packages)


def _print(found: Inspection, all_packages: bool) -> None:
    from hostplane.cli.output import print_table
    from hostplane.image.building.progress import size_said

    said = found.metadata
    rows = [(key, str(value)) for key, value in said.items() if isinstance(value, str | int)]
    for group in ("stateVersions", "facts"):
        rows += [(f"{group}.{key}", str(value)) for key, value in (said.get(group) or {}).items()]
    if found.kind == "bundle":
        rows += [("reachable from", ", ".join(said["reachableFrom"]) or "any version")]
    rows += [("boot arguments", " ".join(found.boot_arguments)), ("digest", found.digest)]
    rows += [("size", size_said(found.size) if found.size else "")]
    rows += [("signatures", found.signature_state), ("every byte verified", "yes" if found.verified else "")]
    rows = [row for row in rows if row[1]]
    _section("", (found.kind.upper(), found.path), rows)
    _section(
        "Signatures",
        ("KEY", "ALGORITHM", "EXPIRES", "STATE"),
        [(one.key_id, one.algorithm, one.expires or "never", one.state) for one in found.signatures],
    )
    _section(
        "Partitions",
        ("NUMBER", "NAME", "OFFSET", "SIZE"),
        [(str(part.number), part.name, str(part.offset), size_said(part.size)) for part in found.partitions],
    )
    if found.images:
        click.echo()
        print_table(
            ("IMAGE", "FS", "SIZE", "CONTENT", "STORED", "INDEX", "FRAMES"),
            [
                (one.name, one.fs, *map(size_said, (one.size, one.content, one.stored, one.index)), str(one.frames))
                for one in found.images
            ],
        )
    largest = found.packages if all_packages else sorted(found.packages, key=lambda one: -one.size)[:_PACKAGES]
    _section(
        f"Packages: {len(found.packages)}" + ("" if all_packages else ", the largest"),
        ("PACKAGE", "VERSION", "SIZE"),
        [(one.name, one.version, size_said(one.size) if one.size else "") for one in largest],
    )
    rest = sorted(found.unowned.items(), key=lambda one: -one[1])[:_PLACES]
    _section("Of no package, the largest", ("PLACE", "SIZE"), [(name, size_said(size)) for name, size in rest])
    removed = [(name, size_said(size)) for name, size in found.removed.items() if size]
    _section("Taken out by slimming", ("WHAT", "SIZE"), removed)
    if inventory := found.inventory:
        _section(
            "Files that run with other rights",
            ("PATH", "RIGHTS"),
            [(one.path, f"mode {one.mode} of {one.owner}:{one.group}") for one in inventory.setuid]
            + [(one.path, one.capabilities) for one in inventory.capabilities],
        )
        _section("Writable by all", ("PATH",), [(path,) for path in inventory.world_writable])
        _section(
            "Listens on the network",
            ("UNIT", "ADDRESS", "KNOWN BY"),
            [
                (one.unit, f"{one.protocol} {one.address}", one.how)
                for one in inventory.listeners
                if one.protocol != "unix"
            ],
        )
        _section(
            "Accounts",
            ("NAME", "UID", "SHELL", "PASSWORD", "SSH KEYS"),
            [(one.name, str(one.uid), one.shell, one.password, str(one.ssh_keys)) for one in inventory.accounts],
        )
    for note in found.notes:
        click.echo(f"note: {note}", err=True)


def _section(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from hostplane.cli.output import print_table

    if rows:
        if title:
            click.echo(f"\n{title}")
        print_table(headings, rows)
