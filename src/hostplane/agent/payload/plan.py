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
from array import array
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union, overload

from hostplane.agent.bundle.blockindex import FETCH, HASH, BlockIndex, Extent, Frame
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.disk.volume import Volume
from hostplane.errors import HostError

from .blocks import Sorter, hashed

__all__ = [
    "AHEAD",
    "BACK",
    "COPIED",
    "IN_PLACE",
    "MISSING",
    "MOVE",
    "STABLE",
    "UNKNOWN",
    "Held",
    "ImagePlan",
    "IndexFile",
    "Plan",
    "Ranges",
]

UNKNOWN, IN_PLACE, COPIED, MISSING, _MOVED_AHEAD = 0, 1, 2, 3, 4
"""What the map says of a block: nothing (zeros to be written, or an entry that is missing), there already, written or
to be copied, to be fetched."""
AHEAD, BACK, STABLE = 0, 1, 2
"""The order of copies: moves towards the front, moves towards the back, copies of what stays as it is."""
MOVE = struct.Struct(">BIBI8s")
"""Order, key (the block, or its complement for BACK), number of the holder, its block, head of the hash."""
_PLACE = struct.Struct(">II")
_NUMBER = struct.Struct(">I")
_CANDIDATES = 16
_T = TypeVar("_T")
_ENTRY_BYTES = HASH + _NUMBER.size


class Plan(NamedTuple):
    """What an upgrade costs, in bytes: over the network at most; of the images' content found on this host; of all."""

    download: int = 0
    reused: int = 0
    total: int = 0


class IndexFile(NamedTuple):
    """A block index on the disk, and what it must be of."""

    path: str
    size: int
    image_size: int
    image_sha256: str

    def entries(self) -> Iterator[bytes]:
        """Its records of ENTRY, sorted."""
        with open(self.path, "rb") as file:
            for entry in BlockIndex(file.read, self.size).entries():
                yield entry


class Held(NamedTuple):
    """A list of blocks at hand: `entries` gives its records of ENTRY anew each time, `volume` the blocks."""

    volume: Volume
    entries: Callable[[], Iterator[bytes]]


class Ranges(Sequence[Tuple[int, int]]):
    """(offset, length) of what is fetched of a blob, ascending; neighbours are one. Sixteen bytes a range."""

    def __init__(self) -> None:
        self._offsets, self._lengths = array("Q"), array("Q")
        self.total = 0

    def add(self, offset: int, length: int) -> None:
        """One more, behind all before it."""
        self.total += length
        if self._offsets and self._offsets[-1] + self._lengths[-1] == offset:
            self._lengths[-1] += length
        else:
            self._offsets.append(offset)
            self._lengths.append(length)

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, at: int) -> Tuple[int, int]: ...

    @overload
    def __getitem__(self, at: slice) -> List[Tuple[int, int]]: ...

    def __getitem__(self, at: Union[int, slice]) -> Union[Tuple[int, int], List[Tuple[int, int]]]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        return self._offsets[at], self._lengths[at]


class ImagePlan(object):
    """The plan of one image. `close` in any case; `map` has one byte a block."""

    def __init__(self, name: str, index: IndexFile, volume: Volume, held: Sequence[Held], scratch: str) -> None:
        self.name, self.volume, self._index, self._scratch = name, volume, index, scratch
        self.holders = [one.volume for one in held] + [volume]
        self.header = self._with_index(lambda reader: reader.header)
        if (self.header.image_size, self.header.image_sha256.hex()) != (index.image_size, index.image_sha256):
            raise HostError("BundleInvalid", part="%s block index" % name, detail="it is of another image")
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
            self._with_index(lambda reader: self._join(reader, there))
            self._settle_moves()
        finally:
            there.close()

    @property
    def blob_size(self) -> int:
        """Bytes of all frames."""
        return self._with_index(lambda reader: sum(frame.stored for frame in reader.frames()))

    def wanted(self) -> Sorter:
        """(place in the frames' content, block) of each block that must be fetched, sorted; the caller closes it."""
        places = Sorter(_PLACE.size, self._scratch)
        for extent in self.extents():
            if extent.op == FETCH:
                shift = extent.source - extent.block
                for number in self.open_blocks(extent):
                    places.add(_PLACE.pack(number + shift, number))
        return places

    def open_blocks(self, extent: Extent) -> Iterator[int]:
        """The blocks of `extent` that nobody has or will have written."""
        states = self.map[extent.block : extent.block + extent.length]
        if states.count(IN_PLACE) + states.count(COPIED) == len(states):
            return
        for number, state in enumerate(states, extent.block):
            if state in (UNKNOWN, MISSING):
                yield number

    def extents(self) -> Iterator[Extent]:
        """The runs that make the image, in its order."""
        with open(self._index.path, "rb") as file:
            for extent in BlockIndex(file.read, self._index.size).extents():
                yield extent

    def frames(self, places: Sorter) -> Iterator[Tuple[Frame, Iterator[Tuple[int, int]]]]:
        """Each frame that `places` asks for, and (block of the frame, block of the image) for what it is asked for."""
        wanted = (_PLACE.unpack(record) for record in places)
        current = next(wanted, None)

        def users(frame: Frame) -> Iterator[Tuple[int, int]]:
            nonlocal current
            while current is not None and current[0] < frame.block + frame.raw // BLOCK:
                yield current[0] - frame.block, current[1]
                current = next(wanted, None)

        with open(self._index.path, "rb") as file:
            for frame in BlockIndex(file.read, self._index.size).frames():
                if current is None:
                    return
                if current[0] < frame.block + frame.raw // BLOCK:
                    own = users(frame)
                    yield frame, own
                    for _ in own:
                        pass

    def ranges(self, places: Sorter) -> Ranges:
        """What has to be fetched of the frames for `places`."""
        ranges = Ranges()
        for frame, _ in self.frames(places):
            ranges.add(frame.offset, frame.stored)
        return ranges

    def cost(self) -> Plan:
        """What is fetched of the frames, and what is not for being here."""
        places = self.wanted()
        try:
            download = self.ranges(places).total
            missing = places.count
        finally:
            places.close()
        return Plan(download, (self.header.entries - missing) * BLOCK, self.header.image_size)

    def _with_index(self, act: Callable[[BlockIndex], _T]) -> _T:
        with open(self._index.path, "rb") as file:
            return act(BlockIndex(file.read, self._index.size))

    def _compare(self, there: Sorter, scan_bytes: int) -> None:
        """Fill `there` with the passive partition's entries, and mark what is in place."""
        by_block = Sorter(_ENTRY_BYTES, self._scratch)
        try:
            self._with_index(lambda reader: _turned(reader, by_block))
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
