"""FAT for the EFI system partition: mkfs.vfat and mtools, nothing mounted, nothing of the clock or of chance.

FAT has no owners and no links, and firmware compares names without case. A tree with two names that differ only in
case, or with anything but files and directories, is refused.
"""

from __future__ import annotations

import stat
from pathlib import Path

from hostplane.errors import ImageError
from hostplane.image.disk.filesystems.contents import walk
from hostplane.image.stage import Run

__all__ = ["make"]

_MIB = 1 << 20
_FAT32_LEAST = 34 * _MIB
"""Firmware expects FAT32; a volume with fewer clusters than this gives, one sector each, is FAT16 by definition."""
_BATCH = 64


def make(tree: Path | None, target: Path, *, size: int, label: str, uuid: str, epoch: int, run: Run) -> int:
    """Make `target` a FAT volume of `size` bytes; the volume's id is the head of `uuid`.

    Raises:
        ImageError: FatNameTwice, FatFileKind, ContentTooLarge, ToolMissing, ToolFailed.
    """
    files = _contents(tree) if tree else {}
    if sum(-(-file.stat().st_size // 4096) * 4096 + 4096 for group in files.values() for file in group) > size:
        raise ImageError("ContentTooLarge", label=label, room=size // _MIB)
    target.unlink(missing_ok=True)
    with target.open("wb") as image:
        image.truncate(size)
    width = ["-F", "32", "-s", "1"] if _FAT32_LEAST <= size < 512 * _MIB else ["-F", "32"]
    width = width if size >= _FAT32_LEAST else ["-F", "16"]
    run(["mkfs.vfat", "--invariant", *width, "-i", uuid[:8], "-n", label, str(target)])
    frozen = {"SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
    for directory, group in files.items():
        if directory:
            run(["mmd", "-D", "s", "-i", str(target), f"::/{directory}"], env=frozen)
        for start in range(0, len(group), _BATCH):
            batch = [str(file) for file in group[start : start + _BATCH]]
            run(["mcopy", "-D", "o", "-i", str(target), *batch, f"::/{directory}"], env=frozen)
    return size


def _contents(tree: Path) -> dict[str, list[Path]]:
    """By directory (relative, parents first): the files in it."""
    found: dict[str, list[Path]] = {}
    seen: dict[str, str] = {}
    for path, status in walk(tree):
        name = str(Path(path).relative_to(tree)) if path != str(tree) else ""
        if (first := seen.setdefault(name.lower(), name)) != name:
            raise ImageError("FatNameTwice", first=first, second=name)
        if stat.S_ISDIR(status.st_mode):
            found[name] = []
        elif stat.S_ISREG(status.st_mode):
            found[str(Path(name).parent) if "/" in name else ""].append(Path(path))
        else:
            raise ImageError("FatFileKind", path=name)
    return found
