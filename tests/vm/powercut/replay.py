"""The disks that a power cut could have left, one after the other, from a log of writes.

A disk promises what was written before a finished flush, and nothing else: of what came after it, any part may be
there, in any order, each write as a whole, in 512-byte sectors, or not at all. Between two flushes these are shown:

    none      nothing of it                              prefix    the first n writes, for every n
    alone     each write by itself                       dropped   all of it but one write, for every write
    torn      after the writes before it, a part of the sectors of one: all parts where `thorough` says so and there are
              at most eight sectors, else some heads of it and some sectors of it, drawn with the seed
    mixed     some writes and not others, drawn with the seed

Drawn ones are a sample; all others are all there are. What is assumed: a flush covers the writes that began before it
(the log does not say when a write was finished), and one sector is written whole or not at all.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.vm.powercut.writelog import Flag, WriteLog

__all__ = ["SECTOR", "Cut", "Image", "Replay", "Sample"]

SECTOR = 512
_FEW_SECTORS = 8
_PIECE = 1 << 16


class Cut(NamedTuple):
    """Where the power failed: after flush number `epoch` (0: from the start), which `kind` of state, of which entry."""

    epoch: int
    kind: str
    entry: int


class Sample(NamedTuple):
    """How many are drawn where not all are shown."""

    seed: int = 1
    heads: int = 1
    """Heads of each torn write."""
    scattered: int = 1
    """Selections of sectors of each torn write."""
    mixed: int = 2
    """Selections of writes between two flushes."""


class Image:
    """A disk whose changes stay in memory. `watchers` are told (offset, size) of every change after it is made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.size = len(self._map)
        self.watchers: list[Callable[[int, int], None]] = []

    def read(self, offset: int, size: int) -> bytes:
        return self._map[offset : offset + size]

    def write(self, offset: int, data: bytes) -> None:
        """Raises: ValueError past the end."""
        if not 0 <= offset <= offset + len(data) <= self.size:
            raise ValueError(f"a write of {len(data)} bytes at {offset} does not fit a disk of {self.size}")
        if self._map[offset : offset + len(data)] != data:
            self._map[offset : offset + len(data)] = data
            for watcher in self.watchers:
                watcher(offset, len(data))

    def dump(self, target: Path) -> None:
        """Write the disk as it is now to `target`, zeros as holes."""
        with target.open("wb") as file:
            file.truncate(self.size)
            for at in range(0, self.size, _PIECE):
                piece = self._map[at : at + _PIECE]
                if piece.count(0) != len(piece):
                    os.pwrite(file.fileno(), piece, at)

    def close(self) -> None:
        self._map.close()


class _Write(NamedTuple):
    number: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Replay:
    """Walks `log` over `shown`, a disk as it was when the log began; `durable` is another copy of it."""

    def __init__(
        self,
        shown: Image,
        durable: Image,
        log: WriteLog,
        *,
        sample: Sample = Sample(),  # noqa: B008  # a tuple of numbers
        thorough: Callable[[int, int], bool] = lambda offset, size: False,
    ) -> None:
        self._shown, self._durable, self._log, self._sample, self._thorough = shown, durable, log, sample, thorough
        self._random = Random(sample.seed)
        self.flushes = self.writes = 0

    def states(self) -> Iterator[Cut]:
        """Every state in turn: while the caller looks, the disk it opened as `shown` is in that state.

        Raises:
            WriteLogError: the log is damaged. ValueError: it belongs to another disk, or notes FUA.
        """
        pending: list[_Write] = []
        for entry in self._log.entries():
            if entry.flags & Flag.FUA:
                raise ValueError("the log notes FUA, which is not replayed")
            if entry.flags & Flag.FLUSH:
                yield from self._epoch(pending)
                pending = []
                self.flushes += 1
            if data := self._log.data(entry):
                pending.append(_Write(entry.number, entry.offset, data))
                self.writes += 1
        yield from self._epoch(pending)

    def durable_states(self) -> Iterator[Cut]:
        """Only the disks as of each flush, and as of the end; much faster, and from a fresh start alone."""
        for entry in self._log.entries():
            if entry.flags & Flag.FLUSH:
                yield Cut(self.flushes, "none", -1)
                self.flushes += 1
            if data := self._log.data(entry):
                self._shown.write(entry.offset, data)
                self.writes += 1
        yield Cut(self.flushes, "none", -1)

    def _epoch(self, pending: list[_Write]) -> Iterator[Cut]:
        epoch, shown = self.flushes, self._shown
        yield Cut(epoch, "none", -1)
        if len(pending) > 1:
            for write in pending:
                shown.write(write.offset, write.data)
                yield Cut(epoch, "alone", write.number)
                self._undo(write)
            for _ in range(self._sample.mixed):
                chosen = [write for write in pending if self._random.getrandbits(1)]
                for write in chosen:
                    shown.write(write.offset, write.data)
                yield Cut(epoch, "mixed", -1)
                for write in chosen:
                    self._undo(write)
        for write in pending:
            before = shown.read(write.offset, len(write.data))
            for part in self._torn(write, before):
                shown.write(write.offset, part)
                yield Cut(epoch, "torn", write.number)
            shown.write(write.offset, write.data)
            yield Cut(epoch, "prefix", write.number)
        if len(pending) > 2:  # the last but one prefix is the state without the last write
            yield from self._dropped(pending)
        for write in pending:
            self._durable.write(write.offset, write.data)

    def _dropped(self, pending: list[_Write]) -> Iterator[Cut]:
        full = sorted(pending, key=lambda write: write.offset)
        longest = max(len(write.data) for write in pending)
        low = 0
        for write in full[:]:
            while full[low].offset + longest <= write.offset:
                low += 1
            near = []
            for other in full[low:]:
                if other.offset >= write.end:
                    break
                if other is not write and other.end > write.offset:
                    near.append(other)
            if write is pending[-1]:
                continue
            after = self._shown.read(write.offset, len(write.data))
            self._undo(write)
            for other in sorted(near):
                begin, end = max(other.offset, write.offset), min(other.end, write.end)
                self._shown.write(begin, other.data[begin - other.offset : end - other.offset])
            yield Cut(self.flushes, "dropped", write.number)
            self._shown.write(write.offset, after)

    def _undo(self, write: _Write) -> None:
        self._shown.write(write.offset, self._durable.read(write.offset, len(write.data)))

    def _torn(self, write: _Write, before: bytes) -> Iterator[bytes]:
        """What may be where the write goes, neither all of it nor nothing."""
        sectors = len(write.data) // SECTOR
        if sectors < 2:
            return
        if sectors <= _FEW_SECTORS and self._thorough(write.offset, len(write.data)):
            masks = list(range(1, (1 << sectors) - 1))
        else:
            heads = [(1 << self._random.randrange(1, sectors)) - 1 for _ in range(self._sample.heads)]
            masks = heads + [self._random.getrandbits(sectors) for _ in range(self._sample.scattered)]
        for mask in masks:
            part = bytearray(before)
            for number in range(sectors):
                if mask >> number & 1:
                    part[number * SECTOR : (number + 1) * SECTOR] = write.data[number * SECTOR : (number + 1) * SECTOR]
            yield bytes(part)
