"""Where each block of a new image comes from: it is there already, is copied, or is fetched. Nothing is written here.

The passive partition is read once. Its blocks are compared with the image's own hashes in place, and become, beside the
recorded entries of the running slot, the sorted lists that the image's entries are merged with. What no list has is
fetched, by whole frames. Blocks that the passive slot itself holds elsewhere are moved before anything else is written:
those that move towards the front in ascending order, the others in descending order, so that none is overwritten before
it was read; the few for which no order helps are fetched instead.

Eight bytes of a hash propose. A copied block is hashed again as it is copied, a frame has its digest, and the whole
image has one: a wrong proposal costs a download, never a wrong block. Memory is one byte a block, and a few MiB.
"""

import heapq
import struct
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence

from hostplane.agent.bundle.blockindex import HASH, BlockIndex, PatchIndex
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.disk.volume import Volume

from .blocks import Sorter, hashed
from .supply import COPIED, IN_PLACE, MISSING, IndexFile, Supply

__all__ = [
    "AHEAD",
    "BACK",
    "MOVE",
    "STABLE",
    "Held",
    "ImagePlan",
    "Plan",
]

_MOVED_AHEAD = 4
AHEAD, BACK, STABLE = 0, 1, 2
"""The order of copies: moves towards the front, moves towards the back, copies of what stays as it is."""
MOVE = struct.Struct(">BIBI8s")
"""Order, key (the block, or its complement for BACK), number of the holder, its block, head of the hash."""
_NUMBER = struct.Struct(">I")
_CANDIDATES = 16
_ENTRY_BYTES = HASH + _NUMBER.size


class Plan(NamedTuple):
    """What an upgrade costs, in bytes: over the network at most; of the images' content found on this host; of all."""

    download: int = 0
    reused: int = 0
    total: int = 0


class Held(NamedTuple):
    """A list of blocks at hand: `entries` gives its records of ENTRY anew each time, `volume` the blocks."""

    volume: Volume
    entries: Callable[[], Iterator[bytes]]


class ImagePlan(object):
    """The plan of one image. `close` in any case; `map` has one byte a block."""

    def __init__(self, name: str, index: IndexFile, volume: Volume, held: Sequence[Held], scratch: str) -> None:
        self.name, self.volume, self._scratch = name, volume, scratch
        self.holders = [one.volume for one in held] + [volume]
        self.full = Supply(name, index, scratch)
        self.patches: Optional[Supply] = None
        self.header = self.full.header
        self.map = bytearray(self.header.blocks)
        self.copies = Sorter(MOVE.size, scratch)
        self._held = list(held)

    def close(self) -> None:
        """Give memory and disk back; safe to repeat."""
        self.copies.close()

    def make(self, scan_bytes: int) -> None:
        """Read the passive partition (`scan_bytes`, at least the image) and decide.

        Raises:
            HostError: what index, partition and scratch raise; what the volumes' `pace` raises.
        """
        there = Sorter(_ENTRY_BYTES, self._scratch)
        try:
            self._compare(there, scan_bytes)
            self.full.read(lambda reader: self._join(reader, there))
            self._settle_moves()
        finally:
            there.close()

    @property
    def missing(self) -> int:
        """Blocks that are nowhere at hand."""
        return self.map.count(MISSING)

    def use_patches(self, index: IndexFile) -> None:
        """Prefer the patches of this patch index; the running slot holds what they are made for. Raises HostError."""
        self.patches = Supply(self.name, index, self._scratch, PatchIndex)

    def cost(self) -> Plan:
        """What is fetched of patches and frames, and what is not for being here."""
        states = bytearray(self.map)
        patched = (0, 0) if self.patches is None else self.patches.take(states)
        whole = self.full.take(states)
        reused = (self.header.entries - patched[1] - whole[1]) * BLOCK
        return Plan(patched[0] + whole[0], reused, self.header.image_size)

    def _compare(self, there: Sorter, scan_bytes: int) -> None:
        """Fill `there` with the passive partition's entries, and mark what is in place."""
        by_block = Sorter(_ENTRY_BYTES, self._scratch)
        try:
            self.full.read(lambda reader: _turned(reader, by_block))
            wanted, blocks, states = iter(by_block), self.header.blocks, self.map
            record = next(wanted, b"")
            expected = _number(record)
            pack, add = _NUMBER.pack, there.add
            for number, short in hashed(self.volume.scan(scan_bytes, strict=False)):
                while expected < number:
                    record = next(wanted, b"")
                    expected = _number(record)
                if expected == number:
                    if record[4:] == short:
                        states[number] = IN_PLACE
                elif not short and number < blocks:
                    states[number] = IN_PLACE
                if short:
                    add(short + pack(number))
        finally:
            by_block.close()

    def _join(self, reader: BlockIndex, there: Sorter) -> None:
        streams = [_tagged(one.entries(), tag) for tag, one in enumerate(self._held)]
        held = heapq.merge(*(streams + [_tagged(iter(there), len(self._held))]))
        current = next(held, b"")
        short = b""
        found: List[bytes] = []
        states = self.map
        for entry in reader.entries():
            number = int.from_bytes(entry[HASH:], "big")
            if states[number] == IN_PLACE:
                continue
            if entry[:HASH] != short:
                short, found = entry[:HASH], []
                while current and current[:HASH] < short:
                    current = next(held, b"")
                while current[:HASH] == short:
                    if len(found) < _CANDIDATES:
                        found.append(current[HASH:])
                    current = next(held, b"")
            if found:
                self.copies.add(self._chosen(number, short, found))
                states[number] = COPIED
            else:
                states[number] = MISSING

    def _chosen(self, number: int, short: bytes, found: List[bytes]) -> bytes:
        """The copy that makes block `number`: of what stays as it is, the same block first; else a move."""
        own = len(self._held)
        moved: Optional[bytes] = None
        stable: Optional[bytes] = None
        for candidate in found:
            source, holder = int.from_bytes(candidate[:4], "big"), candidate[4]
            if holder != own or self.map[source : source + 1] == b"\1":
                record = MOVE.pack(STABLE, number, holder, source, short)
                if source == number:
                    return record
                stable = stable or record
            elif moved is None:
                is_ahead = source > number
                key = number if is_ahead else 0xFFFFFFFF - number
                moved = MOVE.pack(AHEAD if is_ahead else BACK, key, holder, source, short)
        chosen = stable or moved
        assert chosen is not None  # `found` is not empty
        return chosen

    def _settle_moves(self) -> None:
        """Moves towards the front come first: what they overwrite cannot move towards the back any more."""
        states = self.map
        for record in self.copies:
            order, key, _, source, _ = MOVE.unpack(record)
            if order == AHEAD:
                states[key] = _MOVED_AHEAD
            elif order == BACK:
                if source < len(states) and states[source] == _MOVED_AHEAD:
                    states[0xFFFFFFFF - key] = MISSING
            else:
                break
        for record in self.copies:
            if record[0] != AHEAD:
                break
            states[MOVE.unpack(record)[1]] = COPIED


def _number(record: bytes) -> int:
    return int.from_bytes(record[:4], "big") if record else 1 << 32


def _turned(reader: BlockIndex, by_block: Sorter) -> None:
    for entry in reader.entries():
        by_block.add(entry[HASH:] + entry[:HASH])


def _tagged(entries: Iterator[bytes], holder: int) -> Iterator[bytes]:
    tag = bytes((holder,))
    return (entry + tag for entry in entries)
