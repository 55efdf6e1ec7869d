"""One image's block index: which frames there are, where each block comes from, and what each block's content is.

A binary file read front to back in bounded memory, big-endian, in four parts:

    header    88 bytes
    frames    76 bytes each: codec, content and stored size, sha256 of both; they lie in the frames blob in this order
    extents   in chunks: (operation, count, source) runs that cover the image from its first block to its last
    entries   in chunks: (first 8 bytes of a block's sha256, its number), sorted, one for each block that is not zero

Entries are sorted so that a host finds what it holds already by merging this file with the same file of the slot it
runs from: two streams side by side and no table. Eight bytes are a hint, never a proof: whoever copies a block because
of one proves the result by the frame's or the image's full digest.

A chunk is (records, stored bytes) and deflated records, transposed: first the first byte of every record, and so on,
which leaves of sorted hashes little more than their entropy.

A patch index has the same parts without entries: its frames are patches (`patch`), and its extents say which blocks
of the image are in them.
"""

import struct
import zlib
from typing import Callable, Iterator, NamedTuple, Optional, Tuple

from hostplane.agent.bundle.limits import BLOCK, CHUNK_RECORDS, MAX_FRAME_RAW, MAX_FRAMES, MAX_IMAGE, MAX_PATCH_RAW
from hostplane.agent.bundle.strict import check_schema, invalid
from hostplane.errors import HostError

__all__ = [
    "CHUNK_HEAD",
    "CODECS",
    "COPY",
    "ENTRY",
    "EXTENT",
    "FETCH",
    "FRAME",
    "HASH",
    "HEADER",
    "MAGIC",
    "PATCH",
    "PATCH_MAGIC",
    "ZERO",
    "BlockIndex",
    "Extent",
    "Frame",
    "Header",
    "PatchIndex",
    "parse_header",
    "transpose",
]

MAGIC = b"HPBLOCKS"
PATCH_MAGIC = b"HPPATCHS"
HEADER = struct.Struct(">8sHHIQ32sIIIIQQ")
"""magic, major, minor, block size, image size, image sha256, frames, extents, entries, zero, bytes of extents and of
entries."""
FRAME = struct.Struct(">BxxxII32s32s")
"""codec, content bytes, stored bytes, sha256 of the content, sha256 of the stored bytes."""
EXTENT = struct.Struct(">BxxxII")
"""operation, blocks, source block."""
ENTRY = struct.Struct(">8sI")
"""Hash, block of the image."""
CHUNK_HEAD = struct.Struct(">II")
"""Records, stored bytes."""
HASH = 8
CODECS = ("none", "deflate", "xz", "zstd")
"""By number. A reader refuses a number it does not know."""
ZERO, FETCH, COPY, PATCH = 0, 1, 2, 3
"""All zero; from the frames' content at `source`; as the image's own block `source` before it; reserved."""


class Header(NamedTuple):
    """The head of a block index; `extent_bytes` and `entry_bytes` are the sizes of those parts as stored."""

    image_size: int
    image_sha256: bytes
    frames: int
    extents: int
    entries: int
    extent_bytes: int
    entry_bytes: int

    @property
    def blocks(self) -> int:
        """Blocks of the image."""
        return self.image_size // BLOCK

    @property
    def total(self) -> int:
        """Bytes of the whole block index."""
        return HEADER.size + self.frames * FRAME.size + self.extent_bytes + self.entry_bytes


class Frame(NamedTuple):
    """One frame: `offset` is where its stored bytes begin in the blob, `block` the number of its first block."""

    number: int
    codec: int
    raw: int
    stored: int
    raw_sha256: bytes
    stored_sha256: bytes
    offset: int
    block: int


class Extent(NamedTuple):
    """`length` blocks of the image from `block` on: `op` says from where, `source` which."""

    op: int
    block: int
    length: int
    source: int


def parse_header(raw: bytes, size: int, magic: bytes = MAGIC) -> Header:
    """The header of a block index of `size` bytes in all, from its first bytes.

    Raises:
        HostError: BundleInvalid, BundleSchemaUnknown, BundleTooLarge.
    """
    part = "block index"
    if len(raw) < HEADER.size or not raw.startswith(magic):
        raise invalid(part, "it does not begin as one")
    _, major, minor, block, image, sha256, frames, extents, entries, _, extent_bytes, entry_bytes = HEADER.unpack_from(
        raw
    )
    check_schema(part, "%d.%d" % (major, minor) if max(major, minor) < 10000 else "0.0")
    header = Header(image, sha256, frames, extents, entries, extent_bytes, entry_bytes)
    if image > MAX_IMAGE or frames > MAX_FRAMES:
        limit = MAX_IMAGE if image > MAX_IMAGE else MAX_FRAMES
        raise HostError("BundleTooLarge", part=part, size=image if image > MAX_IMAGE else frames, limit=limit)
    if block != BLOCK or image % BLOCK or not image:
        raise invalid(part, "the image is not made of blocks of %d bytes" % BLOCK)
    if not 0 < extents <= header.blocks or entries > header.blocks or header.total != size:
        raise invalid(part, "its counts cannot be true")
    return header


class BlockIndex(object):
    """Reads the four parts in their order. `read(n)` gives up to n bytes of the blob, b"" at its end.

    Each part is an iterator to be used up once, in the order frames, extents, entries; asking for a later part passes
    over the earlier ones, checking them. The last part's end is checked to be the blob's end. What is upper case is
    what this kind of index may have.
    """

    MAGIC = MAGIC
    OPERATIONS: Tuple[int, ...] = (ZERO, FETCH, COPY)
    CODECS: Tuple[int, ...] = (0, 1, 2, 3)
    FRAME_RAW = MAX_FRAME_RAW

    def __init__(self, read: Callable[[int], bytes], size: int) -> None:
        self._read = read
        self.header = parse_header(self._exactly(HEADER.size), size, self.MAGIC)
        self._content = 0
        self._filled = 0
        self._frames = self._read_frames()
        self._extents = self._read_extents()
        self._entries = self._read_entries()

    def frames(self) -> Iterator[Frame]:
        """The frames, in the blob's order."""
        return self._frames

    def extents(self) -> Iterator[Extent]:
        """The runs that make the image, in its order."""
        _pass_over(self._frames)
        return self._extents

    def entries(self) -> Iterator[bytes]:
        """The records of ENTRY, packed, sorted by hash and block."""
        _pass_over(self._frames)
        _pass_over(self._extents)
        return self._entries

    def check(self) -> None:
        """Read the whole rest and check it.

        Raises:
            HostError: BundleInvalid, BundleCodecUnknown.
        """
        _pass_over(self.entries())

    def _exactly(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = self._read(size)
            if not piece or len(piece) > size:
                raise invalid("block index", "it ends too early")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _read_frames(self) -> Iterator[Frame]:
        offset = block = 0
        for number in range(self.header.frames):
            codec, raw, stored, raw_sha256, stored_sha256 = FRAME.unpack(self._exactly(FRAME.size))
            if codec not in self.CODECS:
                raise HostError("BundleCodecUnknown", codec=codec)
            if not 0 < raw <= self.FRAME_RAW or raw % BLOCK or not 0 < stored <= raw or (codec == 0 and stored != raw):
                raise invalid("block index", "frame %d has sizes it may not have" % number)
            yield Frame(number, codec, raw, stored, raw_sha256, stored_sha256, offset, block)
            offset += stored
            block += raw // BLOCK
        if block * BLOCK > 2 * self.header.image_size:
            raise invalid("block index", "the frames hold more than twice the image")
        self._content = block

    def _read_extents(self) -> Iterator[Extent]:
        at = 0
        for record in self._records(EXTENT, self.header.extents, self.header.extent_bytes):
            op, count, source = EXTENT.unpack(record)
            if not 0 < count <= self.header.blocks - at:
                raise invalid("block index", "an extent leaves the image")
            if op == FETCH:
                is_right = source + count <= self._content
            elif op == COPY:
                is_right = source + count <= at
            else:
                is_right = op == ZERO and source == 0
            if not is_right or op not in self.OPERATIONS:
                raise invalid("block index", "an extent asks for what there is not, or in an unknown way")
            yield Extent(op, at, count, source)
            at += count
            self._filled += 0 if op == ZERO else count
        if at != self.header.blocks:
            raise invalid("block index", "the extents do not cover the image")

    def _read_entries(self) -> Iterator[bytes]:
        before = b""
        blocks = self.header.blocks
        for record in self._records(ENTRY, self.header.entries, self.header.entry_bytes):
            if record <= before:
                raise invalid("block index", "its entries are not sorted")
            if int.from_bytes(record[HASH:], "big") >= blocks:
                raise invalid("block index", "an entry is outside of the image")
            yield record
            before = record
        if self.header.entries != self._filled:
            raise invalid("block index", "it does not have one entry for each block that is not zero")
        if self._read(1):
            raise invalid("block index", "something follows its end")

    def _records(self, layout: struct.Struct, count: int, stored: int) -> Iterator[bytes]:
        """`count` packed records from chunks of `stored` bytes in all."""
        width = layout.size
        while count:
            if stored < CHUNK_HEAD.size:
                raise invalid("block index", "a chunk is missing")
            records, size = CHUNK_HEAD.unpack(self._exactly(CHUNK_HEAD.size))
            stored -= CHUNK_HEAD.size + size
            count -= records
            if not 0 < records <= CHUNK_RECORDS or count < 0 or stored < 0 or size > 2 * CHUNK_RECORDS * width:
                raise invalid("block index", "a chunk has sizes it may not have")
            raw = _inflated(self._exactly(size), records * width)
            if raw is None:
                raise invalid("block index", "a chunk cannot be unpacked")
            plain = transpose(raw, records)
            for at in range(0, len(plain), width):
                yield plain[at : at + width]
        if stored:
            raise invalid("block index", "a chunk is not accounted for")


class PatchIndex(BlockIndex):
    """A patch index. An extent of ZERO says that the patches do not have these blocks."""

    MAGIC = PATCH_MAGIC
    OPERATIONS = (ZERO, FETCH)
    CODECS = (CODECS.index("xz"),)
    FRAME_RAW = MAX_PATCH_RAW

    def _read_entries(self) -> Iterator[bytes]:
        if self.header.entries or self.header.entry_bytes:
            raise invalid("block index", "patches have no entries")
        if self._read(1):
            raise invalid("block index", "something follows its end")
        yield from ()


def transpose(raw: bytes, columns: int) -> bytes:
    """Column after column of `raw`, which has `columns` of them: its own inverse with the other dimension."""
    return b"".join(raw[at::columns] for at in range(columns))


def _inflated(stored: bytes, size: int) -> Optional[bytes]:
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(stored, size + 1)
    except zlib.error:
        return None
    is_whole = unpacker.eof and not unpacker.unused_data and not unpacker.unconsumed_tail
    return raw if is_whole and len(raw) == size else None


def _pass_over(records: "Iterator[object]") -> None:
    for _ in records:
        pass
