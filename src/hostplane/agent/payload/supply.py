"""Frames that could be fetched: which blocks of an image they hold, which of them are wanted, and their ranges.

The same for the frames of an image and for the patches of one; each is known by its index, read front to back as often
as it takes. Places are sorted on the disk, ranges cost sixteen bytes each.
"""

import struct
from array import array
from typing import Callable, Iterator, List, NamedTuple, Sequence, Tuple, Type, TypeVar, Union, overload

from hostplane.agent.bundle.blockindex import FETCH, BlockIndex, Extent, Frame
from hostplane.agent.bundle.limits import BLOCK
from hostplane.errors import HostError

from .blocks import Sorter

__all__ = ["COPIED", "IN_PLACE", "MISSING", "UNKNOWN", "IndexFile", "Ranges", "Supply", "open_blocks"]

UNKNOWN, IN_PLACE, COPIED, MISSING = 0, 1, 2, 3
"""What a plan's map says of a block: nothing (zeros to be written, or an entry that is missing), there already, written
or to be copied, to be fetched."""
_PLACE = struct.Struct(">II")
_T = TypeVar("_T")


class IndexFile(NamedTuple):
    """A block index or patch index on the disk, and what it must be of."""

    path: str
    size: int
    image_size: int
    image_sha256: str

    def entries(self) -> Iterator[bytes]:
        """Its records of ENTRY, sorted."""
        with open(self.path, "rb") as file:
            for entry in BlockIndex(file.read, self.size).entries():
                yield entry


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


class Supply(object):
    """What the index file `index`, of the kind `reader`, says of the frames of the image `name`.

    Raises:
        HostError: BundleInvalid when it is of another image, and what its reader raises.
    """

    def __init__(self, name: str, index: IndexFile, scratch: str, reader: Type[BlockIndex] = BlockIndex) -> None:
        self._index, self._scratch, self._reader = index, scratch, reader
        self.header = self.read(lambda one: one.header)
        if (self.header.image_size, self.header.image_sha256.hex()) != (index.image_size, index.image_sha256):
            raise HostError("BundleInvalid", part="%s block index" % name, detail="it is of another image")

    def read(self, act: Callable[[BlockIndex], _T]) -> _T:
        """What `act` makes of the index, read anew."""
        with open(self._index.path, "rb") as file:
            return act(self._reader(file.read, self._index.size))

    @property
    def blob_size(self) -> int:
        """Bytes of all frames."""
        return self.read(lambda reader: sum(frame.stored for frame in reader.frames()))

    def extents(self) -> Iterator[Extent]:
        """The runs that make the image, in its order."""
        with open(self._index.path, "rb") as file:
            for extent in self._reader(file.read, self._index.size).extents():
                yield extent

    def wanted(self, states: bytearray) -> Sorter:
        """(place in the frames' content, block) of each block that must be fetched, sorted; the caller closes it."""
        places = Sorter(_PLACE.size, self._scratch)
        for extent in self.extents():
            if extent.op == FETCH:
                shift = extent.source - extent.block
                for number in open_blocks(states, extent):
                    places.add(_PLACE.pack(number + shift, number))
        return places

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
            for frame in self._reader(file.read, self._index.size).frames():
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

    def take(self, states: bytearray) -> Tuple[int, int]:
        """(bytes to fetch, blocks) of what is open in `states` and held here; marks those blocks as written."""
        places = self.wanted(states)
        try:
            for record in places:
                states[_PLACE.unpack(record)[1]] = COPIED
            return self.ranges(places).total, places.count
        finally:
            places.close()


def open_blocks(states: bytearray, extent: Extent) -> Iterator[int]:
    """The blocks of `extent` that nobody has or will have written."""
    own = states[extent.block : extent.block + extent.length]
    if own.count(IN_PLACE) + own.count(COPIED) == len(own):
        return
    for number, state in enumerate(own, extent.block):
        if state in (UNKNOWN, MISSING):
            yield number
