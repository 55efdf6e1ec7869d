"""A plan carried out on one passive partition, and the proof that the outcome is the image.

Moves and copies first, each block hashed again as it is read; what turns out wrong or unreadable joins what is fetched.
Then patches, where the running slot holds what they are made for: one that gives something else costs its frames.
Then the frames that are wanted, each one proven before and after it is decoded; then zeros, and blocks that the index
says are copies of others. Any instant may be the last: what is on the medium then is found by the next plan's scan, and
the blocks that a move had overwritten are fetched. Only blocks that differ are written.

The whole image, read back from the medium, decides. If its digest is wrong, every frame is compared with its own and
what differs is fetched once more; after that the slot is given up.
"""

import hashlib
import logging
from array import array
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from hostplane.agent.bundle import frame as frames
from hostplane.agent.bundle import patch
from hostplane.agent.bundle.blockindex import COPY, ZERO, Extent, Frame
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.bundle.manifest import Descriptor
from hostplane.agent.disk.volume import Volume
from hostplane.errors import HostError

from .blocks import ZERO_BLOCK, Sorter, short_of
from .plan import BACK, MOVE, ImagePlan
from .supply import COPIED, IN_PLACE, MISSING, Supply, open_blocks

__all__ = ["ImageWriter", "Patching", "reads_back"]

_log = logging.getLogger("hostplane.agent")
_RUN = 256
"""Blocks of one read or write."""
_ROUNDS = 3
"""How often a frame that came wrong is asked for."""


def reads_back(volume: Volume, size: int, sha256: str) -> bool:
    """Whether the first `size` bytes, read from the medium, have that digest.

    Raises:
        HostError: SlotReadFailed, SlotUnfit.
    """
    digest = hashlib.sha256()
    for _, piece in volume.scan(size):
        digest.update(piece)
    return digest.hexdigest() == sha256


class Patching(NamedTuple):
    """Patches that fit: their blob, and the running slot's volumes in the order of IMAGES."""

    blob: Descriptor
    holders: Sequence[Volume]


class ImageWriter(object):
    """Writes what `plan` says. `source` is a bundle's source, `blob` the descriptor of the image's frames.

    The plan's volume is open for writing. `fetched` hears of the bytes of each frame that came.
    """

    def __init__(
        self,
        plan: ImagePlan,
        source: Any,
        blob: Descriptor,
        fetched: Callable[[int], None],
        patching: Optional[Patching] = None,
    ) -> None:
        self._plan, self._source, self._blob, self._fetched = plan, source, blob, fetched
        self._volume, self._patching = plan.volume, patching

    def write(self) -> None:
        """Make the partition hold the image. Safe to cut at any instant and to repeat with a new plan.

        Raises:
            HostError: SlotFull, SlotWriteFailed, SlotReadFailed, VetoedByHost, BundleDigestMismatch, BundleInvalid,
                BundleCodecUnknown, and what the source raises.
        """
        self._copy_held()
        if self._plan.patches is not None and self._patching is not None:
            self._patch(self._plan.patches, self._patching)
        self._fetch()
        self._fill()
        self._volume.sync()

    def repair(self) -> None:
        """Compare all that is there with the frames' digests, and write what differs once more. Raises as `write`."""
        states = self._plan.map
        states[:] = bytes(len(states))
        self._keep_good_frames()
        self._fetch()
        for extent in self._plan.full.extents():
            if extent.op == ZERO:
                self._mark_zeros(extent)
        self._fill()
        self._volume.sync()

    # --- copies

    def _copy_held(self) -> None:
        states = self._plan.map
        run: List[Tuple[int, int, bytes]] = []
        kind = (-1, -1)
        for record in self._plan.copies:
            order, key, holder, source, short = MOVE.unpack(record)
            number = 0xFFFFFFFF - key if order == BACK else key
            if states[number] == MISSING:  # a move that no order could save
                continue
            step = -1 if order == BACK else 1
            follows = bool(run) and (run[-1][0] + step, run[-1][1] + step) == (number, source)
            if kind != (order, holder) or not follows or len(run) == _RUN:
                self._copy(kind[1], run)
                kind, run = (order, holder), []
            run.append((number, source, short))
        self._copy(kind[1], run)

    def _copy(self, holder: int, run: List[Tuple[int, int, bytes]]) -> None:
        """Copy a run of neighbours; all of it is read before any of it is written, so it may overlap itself."""
        if not run:
            return
        run.sort()
        states, volume = self._plan.map, self._plan.holders[holder]
        first = run[0][1]
        try:
            content = volume.read(first, len(run))
        except OSError:
            content = b""
        good: List[Tuple[int, bytes]] = []
        for at, (number, _, short) in enumerate(run):
            block = content[at * BLOCK : (at + 1) * BLOCK]
            if short_of(block) == short:
                good.append((number, block))
            else:
                states[number] = MISSING
        if len(good) == len(run):
            self._volume.write(run[0][0], content)
        else:
            self._write_runs(iter(good))
        if content and volume is not self._volume:
            volume.forget(first, len(run))

    def _write_runs(self, blocks: Iterator[Tuple[int, bytes]]) -> None:
        """Write (block, content) pairs, ascending, neighbours at once."""
        start = 0
        run: List[bytes] = []
        for number, block in blocks:
            if run and (number != start + len(run) or len(run) == _RUN):
                self._volume.write(start, b"".join(run))
                run = []
            if not run:
                start = number
            run.append(block)
        if run:
            self._volume.write(start, b"".join(run))

    # --- patches and frames

    def _patch(self, patches: Supply, patching: Patching) -> None:
        """Make what patches can make; what they cannot stays open for the frames."""
        places = patches.wanted(self._plan.map)
        failed = 0
        try:
            if not places.count:
                return
            for one, stored, users in self._came(patches, places, patching.blob):
                try:
                    content = patch.apply(one, stored, lambda *run: _window(patching.holders, *run))
                except (HostError, OSError) as fault:
                    if isinstance(fault, HostError) and not fault.name.startswith("Bundle"):
                        raise
                    failed += 1
                    _log.warning("%s image: patch %d cannot be used: %s", self._plan.name, one.number, fault)
                    if failed == _ROUNDS:
                        return
                    continue
                del stored
                self._write_runs(self._used(memoryview(content), users))
                del content
        finally:
            places.close()

    def _fetch(self) -> None:
        for left in range(_ROUNDS - 1, -1, -1):
            places = self._plan.full.wanted(self._plan.map)
            try:
                if not places.count:
                    return
                for frame, stored, users in self._came(self._plan.full, places, self._blob):
                    try:
                        content = memoryview(frames.decode(frame, stored))
                    except HostError as fault:
                        if fault.name != "BundleDigestMismatch" or not left:
                            raise
                        self._source.distrust()
                        continue  # its blocks stay open: asked for again in the next round
                    del stored
                    self._write_runs(self._used(content, users))
                    del content
            finally:
                places.close()

    def _came(
        self, supply: Supply, places: Sorter, blob: Descriptor
    ) -> Iterator[Tuple[Frame, bytes, Iterator[Tuple[int, int]]]]:
        """Each frame of `supply` that `places` asks for, its stored bytes, and what it is asked for."""
        taker = _Taker(self._source.ranges(blob, supply.ranges(places)))
        for frame, users in supply.frames(places):
            yield frame, taker.take(frame.stored), users
            self._fetched(frame.stored)
        taker.finish()

    def _used(self, content: memoryview, users: Iterator[Tuple[int, int]]) -> Iterator[Tuple[int, bytes]]:
        for at, number in users:
            yield number, content[at * BLOCK : (at + 1) * BLOCK].tobytes()
            self._plan.map[number] = COPIED

    # --- what no frame holds

    def _fill(self) -> None:
        states = self._plan.map
        for extent in self._plan.full.extents():
            if extent.op == ZERO:
                if states.count(IN_PLACE, extent.block, extent.block + extent.length) < extent.length:
                    self._write_runs((number, ZERO_BLOCK) for number in _span(extent) if states[number] != IN_PLACE)
            elif extent.op == COPY:
                shift = extent.source - extent.block
                self._write_runs((n, self._own(n + shift)) for n in open_blocks(states, extent))

    def _own(self, number: int) -> bytes:
        try:
            return self._volume.read(number, 1)
        except OSError as fault:
            detail = fault.strerror or str(fault)
            raise HostError("SlotReadFailed", slot=self._volume.partition.label, detail=detail) from fault

    # --- repair

    def _keep_good_frames(self) -> None:
        """Mark as written the blocks of every frame whose content is in the partition, whole and right."""
        places = self._plan.full.wanted(self._plan.map)
        bad = array("I")
        try:
            for frame, users in self._plan.full.frames(places):
                digest, expected, before, is_whole = hashlib.sha256(), 0, b"", True
                for at, number in users:
                    block = self._own(number)
                    self._plan.map[number] = COPIED
                    if at == expected:
                        digest.update(block)
                        expected, before = at + 1, block
                    elif at != expected - 1 or block != before:
                        is_whole = False
                if not is_whole or expected * BLOCK != frame.raw or digest.digest() != frame.raw_sha256:
                    bad.append(frame.number)
            wrong = iter(bad)
            current = next(wrong, -1)
            for frame, users in self._plan.full.frames(places):
                if frame.number == current:
                    for _, number in users:
                        self._plan.map[number] = MISSING
                    current = next(wrong, -1)
        finally:
            places.close()

    def _mark_zeros(self, extent: Extent) -> None:
        for number in _span(extent):
            if self._own(number) == ZERO_BLOCK:
                self._plan.map[number] = IN_PLACE


def _span(extent: Extent) -> range:
    return range(extent.block, extent.block + extent.length)


def _window(holders: Sequence[Volume], image: int, first: int, blocks: int) -> bytes:
    """Blocks of the running slot, which need not stay in memory. Raises OSError, HostError SlotUnfit."""
    content = holders[image].read(first, blocks)
    holders[image].forget(first, blocks)
    return content


class _Taker(object):
    """Whole frames from pieces of any size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if len(self._rest) >= size:
            taken, self._rest = self._rest[:size], self._rest[size:]
            return taken
        found = bytearray(self._rest)
        while len(found) < size:
            piece = next(self._pieces, b"")
            if not piece:
                raise HostError("PayloadTruncated", got=len(found), want=size)
            found += piece
        self._rest = bytes(found[size:])
        del found[size:]
        return bytes(found)

    def finish(self) -> None:
        """Let the source see its end."""
        for _ in self._pieces:
            pass
