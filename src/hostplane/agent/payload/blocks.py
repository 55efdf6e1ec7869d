"""Blocks by what they hold: the heads of their hashes, sorted in bounded memory on the disk, never in a table.

An image of 16 GiB has four million blocks; what is known of them lies in sorted files that are read side by side. A
`Sorter` holds 65,536 records at a time, whatever it is given, and its file has no name: a killed agent leaves nothing.
"""

import hashlib
import heapq
import os
from typing import Iterable, Iterator, List, Tuple

from hostplane.agent.bundle.blockindex import ENTRY, HASH
from hostplane.agent.bundle.limits import BLOCK
from hostplane.errors import HostError

__all__ = ["RUN", "ZERO_BLOCK", "Sorter", "hashed", "short_of"]

RUN = 65536
"""Records in memory at a time."""
_READ_RECORDS = 2048
ZERO_BLOCK = bytes(BLOCK)


def short_of(block: bytes) -> bytes:
    """The head of a block's hash, as the block index has it."""
    return hashlib.sha256(block).digest()[:HASH]


def hashed(pieces: Iterable[Tuple[int, bytes]]) -> Iterator[Tuple[int, bytes]]:
    """(block, head of its hash) for each block of `pieces` (first block, content); b"" for a block of zeros."""
    sha256, zeros, empty = hashlib.sha256, b"", b""
    for first, piece in pieces:
        if len(zeros) != len(piece):
            zeros = bytes(len(piece))
        if piece == zeros:
            for number in range(first, first + len(piece) // BLOCK):
                yield number, empty
            continue
        for at in range(0, len(piece), BLOCK):
            block = piece[at : at + BLOCK]
            yield first + at // BLOCK, empty if block == ZERO_BLOCK else sha256(block).digest()[:HASH]


class Sorter(object):
    """Records of `width` bytes, given in any order, read in ascending order as often as wanted; `close` in any case."""

    def __init__(self, width: int, directory: str) -> None:
        self._width, self._directory = width, directory
        self._open: List[bytes] = []
        self._runs: List[Tuple[int, int]] = []  # offset and bytes
        self._file = -1
        self._end = 0
        self.count = 0

    def add(self, record: bytes) -> None:
        """One more. Raises HostError ScratchFailed."""
        self._open.append(record)
        self.count += 1
        if len(self._open) >= RUN:
            self._spill()

    def _spill(self) -> None:
        self._open.sort()
        content = memoryview(b"".join(self._open))
        self._open = []
        try:
            if self._file < 0:
                path = os.path.join(self._directory, "sort-%d-%d" % (os.getpid(), id(self)))
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                os.unlink(path)
            self._runs.append((self._end, len(content)))
            while content:
                done = os.pwrite(self._file, content, self._end)
                self._end, content = self._end + done, content[done:]
        except OSError as fault:
            raise HostError("ScratchFailed", path=self._directory, detail=fault.strerror or str(fault)) from fault

    def __iter__(self) -> Iterator[bytes]:
        if self._file < 0:
            self._open.sort()
            return iter(self._open)
        if self._open:
            self._spill()
        return heapq.merge(*[self._run(offset, size) for offset, size in self._runs])

    def _run(self, offset: int, size: int) -> Iterator[bytes]:
        width, step = self._width, self._width * _READ_RECORDS
        for at in range(offset, offset + size, step):
            wanted = min(step, offset + size - at)
            piece = os.pread(self._file, wanted, at)
            if len(piece) != wanted:
                raise HostError("ScratchFailed", path=self._directory, detail="a sorted file has lost its end")
            for begin in range(0, wanted, width):
                yield piece[begin : begin + width]

    def close(self) -> None:
        """Give memory and disk back; safe to repeat."""
        self._open, self._runs = [], []
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def entries_of(pieces: Iterable[Tuple[int, bytes]], sorter: Sorter) -> None:
    """Add the entry of each block of `pieces` that is not zero."""
    for number, short in hashed(pieces):
        if short:
            sorter.add(ENTRY.pack(short, number))
