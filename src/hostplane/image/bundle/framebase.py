"""An earlier bundle's image, to build upon: which of its blocks a new one still holds, and which frames are kept.

A frame is kept when at least three quarters of its blocks are still in use: the rest is dead weight for a host that
starts from nothing, and so it is bounded. The index's short hashes only propose: every block of a frame that is
kept is compared with the new image byte for byte.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

from hostplane.agent.bundle import frame as frames
from hostplane.agent.bundle.blockindex import FETCH, FRAME, HASH, BlockIndex, Frame
from hostplane.agent.bundle.limits import BLOCK

__all__ = ["Base", "KeptFrame"]

_NOWHERE = 0xFFFFFFFF
_LEAST_USED = 0.75


class KeptFrame(NamedTuple):
    """A frame as it stands in the base: its record of the block index and its stored bytes."""

    record: bytes
    stored: bytes
    blocks: int


class _Users:
    """Which blocks of the new image want a block of the base: one, as a rule, and so without an object for each."""

    def __init__(self, held: array[int], blocks: int) -> None:
        self._first = array("I", [_NOWHERE]) * blocks
        self._more: dict[int, list[int]] = {}
        for number, place in enumerate(held):
            if place == _NOWHERE:
                continue
            if self._first[place] == _NOWHERE:
                self._first[place] = number
            else:
                self._more.setdefault(place, []).append(number)

    def of(self, place: int) -> list[int]:
        """Their numbers."""
        first = self._first[place]
        return [] if first == _NOWHERE else [first, *self._more.get(place, ())]


class Base:
    """One image of an earlier bundle, by its block index and its frames blob."""

    def __init__(self, index: Path, blob: Path) -> None:
        """Reads the whole index.

        Raises:
            HostError: BundleInvalid and the like.
        """
        self._blob = blob
        with index.open("rb") as file:
            reader = BlockIndex(file.read, index.stat().st_size)
            self._frames = list(reader.frames())
            places = array("I", [_NOWHERE]) * reader.header.blocks
            for extent in reader.extents():
                if extent.op == FETCH:
                    for at in range(extent.length):
                        places[extent.block + at] = extent.source + at
            shorts, self._places = bytearray(), array("I")
            for entry in reader.entries():
                shorts += entry[:HASH]
                self._places.append(places[int.from_bytes(entry[HASH:], "big")])
            self._shorts = bytes(shorts)

    def match(self, entries: list[bytes], blocks: int) -> array[int]:
        """For each block of the new image the place of an equal one in the base's content, or 0xFFFFFFFF.

        `entries` are the new image's, sorted: both lists are walked side by side.
        """
        held = array("I", [_NOWHERE]) * blocks
        at, total, before = 0, len(self._places), b""
        for entry in entries:
            short = entry[:HASH]
            if short == before and at + 1 < total and self._short(at + 1) == short:
                at += 1  # the same content again on both sides: pair them off
            while at < total and self._short(at) < short:
                at += 1
            if at == total:
                break
            if self._short(at) == short:
                held[int.from_bytes(entry[HASH:], "big")] = self._places[at]
            before = short
        return held

    def _short(self, at: int) -> bytes:
        return self._shorts[at * HASH : (at + 1) * HASH]

    def kept_frames(
        self, held: array[int], image: int, pool: Executor
    ) -> Iterator[tuple[KeptFrame, list[tuple[int, int]]]]:
        """Each frame worth keeping, and (block of the new image, block in the frame) for each of its blocks in use.

        A block that turns out to differ from the new image (file descriptor `image`) is left out, and taken out of
        `held`.
        """
        users = _Users(held, sum(frame.raw for frame in self._frames) // BLOCK)
        worth = [frame for frame in self._frames if self._use(frame, users) >= _LEAST_USED]
        for at in range(0, len(worth), 8):
            for job in [pool.submit(self._proven, frame, users, image) for frame in worth[at : at + 8]]:
                kept, places, lost = job.result()
                for number in lost:
                    held[number] = _NOWHERE
                if places:
                    yield kept, places

    @staticmethod
    def _use(frame: Frame, users: _Users) -> float:
        count = frame.raw // BLOCK
        return sum(bool(users.of(frame.block + at)) for at in range(count)) / count

    def _proven(self, frame: Frame, users: _Users, image: int) -> tuple[KeptFrame, list[tuple[int, int]], list[int]]:
        with self._blob.open("rb") as file:
            stored = os.pread(file.fileno(), frame.stored, frame.offset)
        content = frames.decode(frame, stored)
        places, lost = [], []
        for at in range(frame.raw // BLOCK):
            own = content[at * BLOCK : (at + 1) * BLOCK]
            for number in users.of(frame.block + at):
                if os.pread(image, BLOCK, number * BLOCK) == own:
                    places.append((number, at))
                else:
                    lost.append(number)
        record = FRAME.pack(frame.codec, frame.raw, frame.stored, frame.raw_sha256, frame.stored_sha256)
        return KeptFrame(record, stored, frame.raw // BLOCK), places, lost
