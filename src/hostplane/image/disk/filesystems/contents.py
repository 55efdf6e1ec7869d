"""What a tree weighs and holds, told in one walk: what a file system must have room for and be able to carry.

Nothing is followed and nothing is opened but directories. A file with several names counts once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

__all__ = ["Weight", "walk", "weigh", "xattrs"]

_ACCESS_LISTS = ("system.posix_acl_access", "system.posix_acl_default")
_XATTRS_KEPT = ("user.", "security.", "trusted.")
_XATTRS_OURS = ("trusted.overlay.", "user.overlay.")
"""Marks of overlayfs, hence of the building machine."""


class Weight(Struct, frozen=True, kw_only=True):
    """What a tree comes to with blocks of a given size."""

    inodes: int
    data_blocks: int
    """Blocks of files, directories, long symbolic links and extended attributes."""
    file_bytes: int
    large_files: int
    """Files that may need an extent block of their own."""


def walk(tree: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(path, lstat) of the tree's top and of all below it, sorted, a directory before what it holds."""
    yield str(tree), os.lstat(tree)
    yield from _below(str(tree))


def _below(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(directory) as listing:
        entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        yield entry.path, entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path)


def xattrs(path: str) -> dict[str, bytes]:
    """The extended attributes of `path` that belong to the image, access lists among them."""
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in _names(path)}


def _names(path: str) -> list[str]:
    names = os.listxattr(path, follow_symlinks=False)
    return [n for n in sorted(names) if n in _ACCESS_LISTS or (n.startswith(_XATTRS_KEPT) and not _is_ours(n))]


def _is_ours(name: str) -> bool:
    return name.startswith(_XATTRS_OURS)


def weigh(tree: Path, block_size: int) -> Weight:
    """Weigh `tree` for blocks of `block_size` bytes."""
    inodes = data = file_bytes = large = 0
    seen: set[tuple[int, int]] = set()
    inside = 0
    entries: dict[str, int] = {}
    for path, status in walk(tree):
        parent = os.path.dirname(path)
        entries[parent] = entries.get(parent, 0) + 8 + (len(os.fsencode(os.path.basename(path))) + 3) // 4 * 4
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        inodes += 1
        if stat.S_ISREG(status.st_mode):
            data += -(-status.st_size // block_size)
            file_bytes += status.st_size
            large += status.st_size >= 32 << 20
        elif stat.S_ISLNK(status.st_mode):
            data += status.st_size >= 60
        elif stat.S_ISDIR(status.st_mode):
            inside += 1
        if kept := xattrs(path):
            weight = sum(16 + len(name) + len(value) for name, value in kept.items())
            data += weight > 80
    usable = block_size - 280  # an entry that does not fit leaves the rest of its block empty
    data += sum(max(1, -(-weight // usable)) for weight in entries.values()) + inside
    return Weight(inodes=inodes, data_blocks=data, file_bytes=file_bytes, large_files=large)
