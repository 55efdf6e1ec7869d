"""A raw disk as far as it can be read without mounting it: its partition table, and what BOOT-A says of the image.

BOOT-x is ext4 on every disk we make, and debugfs reads files of it at their offset; a root's own file system is left
alone, because its packages are told by the bundle.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hostplane.agent import gpt
from hostplane.errors import HostplaneError, ImageError

__all__ = ["DiskView", "Part", "read"]

_SECTOR = 512
_SECONDS = 60.0
_BOOT = "BOOT-A"
_ARGUMENTS = re.compile(r"^\s*set\s+hp_args=(['\"]?)(.*?)\1\s*$", re.MULTILINE)


class Part(Struct, frozen=True, kw_only=True):
    """One partition: bytes from `offset` on."""

    number: int
    name: str
    offset: int
    size: int
    guid: str


class DiskView(Struct, frozen=True, kw_only=True):
    """What a disk tells of itself."""

    partitions: list[Part]
    image: dict[str, Any]
    """BOOT-A's image.json; empty where it cannot be read."""
    boot_arguments: list[str]
    notes: list[str]


def read(path: Path) -> DiskView:
    """Read the raw disk in `path`.

    Raises:
        ImageError: InspectNothing, when it is not a disk with a partition table (a qcow2 is not read).
    """
    try:
        table = gpt.read_disk(str(path), _SECTOR).table
    except (HostplaneError, OSError) as fault:
        raise ImageError("InspectNothing", path=path) from fault
    parts = [
        Part(
            number=one.number,
            name=one.name,
            offset=one.first * _SECTOR,
            size=(one.last - one.first + 1) * _SECTOR,
            guid=one.guid,
        )
        for one in table.partitions
    ]
    boot = next((part for part in parts if part.name == _BOOT), None)
    if boot is None:
        return DiskView(partitions=parts, image={}, boot_arguments=[], notes=[f"no partition is named {_BOOT}"])
    if shutil.which("debugfs") is None:
        note = f"{_BOOT} cannot be read: debugfs (e2fsprogs) is not on this machine"
        return DiskView(partitions=parts, image={}, boot_arguments=[], notes=[note])
    image, configuration = (_cat(path, boot.offset, name) for name in ("/image.json", "/slot.cfg"))
    found = _ARGUMENTS.search(configuration.decode("utf-8", "replace"))
    return DiskView(
        partitions=parts,
        image=_object(image),
        boot_arguments=found[2].split() if found else [],
        notes=[] if image else [f"{_BOOT} has no readable image.json"],
    )


def _cat(disk: Path, offset: int, name: str) -> bytes:
    """A small file of the ext4 file system at `offset` of the disk; empty when there is none."""
    command = ["debugfs", "-R", f"cat {name}", f"{disk}?offset={offset}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout


def _object(raw: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
