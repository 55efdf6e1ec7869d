"""A block index that lies about itself is refused before it costs more than a chunk of memory."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.agent.bundle.blockindex import (
    CHUNK_HEAD,
    COPY,
    ENTRY,
    EXTENT,
    FETCH,
    FRAME,
    HEADER,
    MAGIC,
    PATCH,
    ZERO,
    BlockIndex,
    Extent,
    transpose,
)
from hostplane.agent.bundle.limits import BLOCK, MAX_FRAME_RAW, MAX_FRAMES, MAX_IMAGE
from hostplane.errors import HostError

FRAMES = [(2, 4 * BLOCK, 100), (0, BLOCK, BLOCK)]
EXTENTS = [(FETCH, 3, 0), (ZERO, 2, 0), (COPY, 1, 1), (FETCH, 2, 3)]
ENTRIES = [(bytes([9 * at]) * 8, number) for at, number in enumerate((0, 1, 5, 2, 6, 7))]


def chunk(width: int, records: Sequence[bytes], claim: int | None = None) -> bytes:
    stored = zlib.compress(transpose(b"".join(records), width))
    return CHUNK_HEAD.pack(len(records) if claim is None else claim, len(stored)) + stored


def index(
    *,
    magic: bytes = MAGIC,
    major: int = 1,
    block: int = BLOCK,
    size: int = 8 * BLOCK,
    frames: Sequence[tuple[int, int, int]] = FRAMES,
    extents: Sequence[tuple[int, int, int]] = EXTENTS,
    entries: Sequence[tuple[bytes, int]] = ENTRIES,
    counts: tuple[int, int, int] | None = None,
    extent_part: bytes | None = None,
    entry_part: bytes | None = None,
    tail: bytes = b"",
) -> bytes:
    """A block index of an image of eight blocks, spoiled as asked."""
    table = b"".join(FRAME.pack(codec, raw, stored, b"r" * 32, b"s" * 32) for codec, raw, stored in frames)
    if extent_part is None:
        extent_part = chunk(EXTENT.size, [EXTENT.pack(*one) for one in extents])
    if entry_part is None:
        entry_part = chunk(ENTRY.size, [ENTRY.pack(*one) for one in entries])
    numbers = counts or (len(frames), len(extents), len(entries))
    head = HEADER.pack(magic, major, 0, block, size, b"i" * 32, *numbers, 0, len(extent_part), len(entry_part))
    return head + table + extent_part + entry_part + tail


def read(raw: bytes, size: int | None = None) -> BlockIndex:
    return BlockIndex(io.BytesIO(raw).read, len(raw) if size is None else size)


def test_a_right_one_is_read_in_order() -> None:
    reader = read(index())
    frames, extents, entries = list(reader.frames()), list(reader.extents()), list(reader.entries())
    assert [(one.offset, one.block) for one in frames] == [(0, 0), (100, 4)]
    assert extents == [Extent(FETCH, 0, 3, 0), Extent(ZERO, 3, 2, 0), Extent(COPY, 5, 1, 1), Extent(FETCH, 6, 2, 3)]
    assert [ENTRY.unpack(one) for one in entries] == ENTRIES


def test_asking_for_the_last_part_passes_over_the_others() -> None:
    assert len(list(read(index()).entries())) == len(ENTRIES)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        index()[: HEADER.size - 1],
        index(magic=b"HPBLOCKZ"),
        index(block=512),
        index(size=8 * BLOCK + 1),
        index(size=0),
        index(frames=[(2, 0, 0)]),
        index(frames=[(2, BLOCK + 1, 10)]),
        index(frames=[(2, MAX_FRAME_RAW + BLOCK, 10)]),
        index(frames=[(2, BLOCK, BLOCK + 1)]),
        index(frames=[(2, BLOCK, 0)]),
        index(frames=[(0, BLOCK, BLOCK - 1)]),
        index(frames=[(2, 17 * BLOCK, 9)]),
        index(extents=EXTENTS[:-1], counts=(2, 4, 6)),
        index(extents=EXTENTS[:-1]),
        index(extents=[*EXTENTS, (ZERO, 1, 0)]),
        index(extents=[(ZERO, 0, 0), *EXTENTS]),
        index(extents=[(ZERO, 8, 1)]),
        index(extents=[(FETCH, 8, 0)]),
        index(extents=[(FETCH, 3, 0xFFFFFFFF), *EXTENTS[1:]]),
        index(extents=[(COPY, 1, 0), *EXTENTS[1:]]),
        index(extents=[(FETCH, 3, 0), (COPY, 5, 0)]),
        index(extents=[(PATCH, 3, 0), *EXTENTS[1:]]),
        index(extents=[(77, 3, 0), *EXTENTS[1:]]),
        index(extents=[(ZERO, 0xFFFFFFFF, 0)]),
        index(entries=ENTRIES[::-1]),
        index(entries=[ENTRIES[0], *ENTRIES[:-1]]),
        index(entries=[*ENTRIES[:-1], (b"\xff" * 8, 8)]),
        index(entries=ENTRIES[:-1]),
        index(entries=[*ENTRIES, (b"\xff" * 8, 3)]),
        index(counts=(2, 4, 7)),
        index(counts=(3, 4, 6)),
        index(counts=(2, 9, 6)),
        index(counts=(2, 0, 6)),
        index(tail=b"x"),
        index(extent_part=CHUNK_HEAD.pack(4, 1 << 31)),
        index(extent_part=CHUNK_HEAD.pack(4, 4) + b"junk"),
        index(extent_part=CHUNK_HEAD.pack(0, 8) + zlib.compress(b"")),
        index(extent_part=CHUNK_HEAD.pack(4, 3)[:5]),
        index(entry_part=chunk(ENTRY.size, [ENTRY.pack(*one) for one in ENTRIES], claim=5)),
        index(entry_part=chunk(ENTRY.size, [ENTRY.pack(*one) for one in ENTRIES]) + b"rest"),
        index(entry_part=CHUNK_HEAD.pack(6, len(zlib.compress(bytes(1 << 20)))) + zlib.compress(bytes(1 << 20))),
    ],
)
def test_one_that_contradicts_itself_is_refused(raw: bytes) -> None:
    with pytest.raises(HostError) as caught:
        read(raw).check()
    assert caught.value.name == "BundleInvalid"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (index(size=MAX_IMAGE + BLOCK), "BundleTooLarge"),
        (index(counts=(MAX_FRAMES + 1, 4, 6)), "BundleTooLarge"),
        (index(major=2), "BundleSchemaUnknown"),
        (index(major=0xFFFF), "BundleSchemaUnknown"),
        (index(frames=[(4, BLOCK, 10), *FRAMES]), "BundleCodecUnknown"),
    ],
)
def test_one_past_a_limit_or_of_another_schema_is_refused_by_name(raw: bytes, name: str) -> None:
    with pytest.raises(HostError) as caught:
        read(raw).check()
    assert caught.value.name == name


def test_a_reader_that_gives_more_than_asked_is_not_trusted() -> None:
    with pytest.raises(HostError):
        BlockIndex(lambda size: bytes(size + 1), 100)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(index()) - 1), value=st.integers(1, 255), cut=st.integers(0, 40))
def test_any_change_is_read_within_bounds_or_refused_with_a_sentence(at: int, value: int, cut: int) -> None:
    raw = bytearray(index())
    raw[at] ^= value
    spoiled = bytes(raw[: len(raw) - cut])
    try:
        reader = read(spoiled)
        total = sum(extent.length for extent in reader.extents())
        list(reader.entries())
    except HostError:
        return
    assert total == reader.header.blocks
