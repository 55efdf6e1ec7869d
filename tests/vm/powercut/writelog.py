"""The log of QEMU's `blklogwrites` (the kernel's dm-log-writes, version 1), read back: writes in the order they began.

A sector with the super block, then for each entry a sector with its header and, for a write, its data (the text of a
mark has a length of its own). All numbers are little-endian; sectors are counted in the log's own sector size. QEMU
counts its entries at every flush, so what was written after the last flush is not in the log; whoever records ends with
a flush. It notes no FUA (virtio has none).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

__all__ = ["Entry", "Flag", "WriteLog", "WriteLogError", "render"]

_MAGIC, _VERSION = 0x6A736677736872, 1
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


class WriteLogError(ValueError):
    """The log is not one, or is cut off."""


class Flag(IntFlag):
    """What an entry is; 0: a write."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8


class Entry(NamedTuple):
    """One entry. `offset` and `size` are bytes of the disk; `data_at` is where its `data_size` bytes are in the log."""

    number: int
    offset: int
    size: int
    flags: Flag
    data_at: int
    data_size: int


class WriteLog:
    """An open log; iterate over `entries`, ask for their `data`. Close it, or use it with `with`."""

    def __init__(self, path: Path) -> None:
        """Raises: WriteLogError."""
        self._file = path.open("rb")
        raw = self._file.read(_SUPER.size)
        if len(raw) < _SUPER.size:
            self._file.close()
            raise WriteLogError(f"{path.name} is shorter than a super block")
        magic, version, self.count, self.sector = _SUPER.unpack(raw)
        if magic != _MAGIC or version != _VERSION or self.sector not in (512, 4096):
            self._file.close()
            raise WriteLogError(f"{path.name} is no log of writes: {magic:#x}, version {version}, sector {self.sector}")

    def __enter__(self) -> WriteLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def entries(self) -> Iterator[Entry]:
        """Every entry, first to last.

        Raises:
            WriteLogError: an entry or its data lies past the end of the log, or has an unknown flag.
        """
        at, end = self.sector, self._file.seek(0, 2)
        for number in range(self.count):
            self._file.seek(at)
            raw = self._file.read(_ENTRY.size)
            if len(raw) < _ENTRY.size:
                raise WriteLogError(f"entry {number} of {self.count} is missing")
            sector, sectors, flags, mark_size = _ENTRY.unpack(raw)
            if flags >> 4:
                raise WriteLogError(f"entry {number} has the flags {flags:#x}")
            size = sectors * self.sector
            data_at = at + self.sector
            stored = 0 if flags & Flag.DISCARD else mark_size if flags & Flag.MARK else size
            at = data_at + -(-stored // self.sector) * self.sector
            if data_at + stored > end:
                raise WriteLogError(f"the data of entry {number} are cut off")
            yield Entry(number, sector * self.sector, size, Flag(flags), data_at, stored)

    def data(self, entry: Entry) -> bytes:
        """What the entry put on the disk: a discard zeros (as QEMU's raw files do), a flush or a mark nothing."""
        if entry.flags & Flag.DISCARD:
            return bytes(entry.size)
        if entry.flags & Flag.MARK:
            return b""
        self._file.seek(entry.data_at)
        return self._file.read(entry.data_size)


def render(entries: list[tuple[int, bytes, Flag]], *, discarded: int = 0, sector: int = 512) -> bytes:
    """A log with these (offset, data, flags), for tests; an entry with DISCARD covers `discarded` bytes."""
    out = [_SUPER.pack(_MAGIC, _VERSION, len(entries), sector).ljust(sector, b"\0")]
    for offset, data, flags in entries:
        size = discarded if flags & Flag.DISCARD else 0 if flags & Flag.MARK else len(data)
        mark_size = len(data) if flags & Flag.MARK else 0
        out.append(_ENTRY.pack(offset // sector, -(-size // sector), flags, mark_size).ljust(sector, b"\0"))
        out.append(data.ljust(-(-len(data) // sector) * sector, b"\0"))
    return b"".join(out)
