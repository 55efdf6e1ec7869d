"""A block image packed into frames: all that is not zero, compressed on all cores in bounded memory, deterministic.

Blocks go into frames in the image's order. A frame ends where the content says so (a block whose hash has enough zero
bits), so that a block more at the front moves the frames behind it instead of changing them all: a cache of packed
frames by content then makes a small change cheap, and no build depends on what an earlier one left.

With a bundle to build upon (`base`), the layout follows it on purpose: frames that are still mostly in use are taken as
they are, and what the base does not hold goes into frames of its own, so that a host that runs it fetches little more
than what changed. That is history in the bytes, so only the caller's explicit wish asks for it.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import IO, NamedTuple

from msgspec import Struct

from hostplane.agent.bundle.blockindex import (
    CHUNK_HEAD,
    CODECS,
    ENTRY,
    EXTENT,
    FETCH,
    FRAME,
    HASH,
    HEADER,
    MAGIC,
    ZERO,
    transpose,
)
from hostplane.agent.bundle.limits import BLOCK, CHUNK_RECORDS, MAX_FRAME_RAW, MAX_FRAMES, MAX_IMAGE
from hostplane.agent.bundle.manifest import SCHEMA
from hostplane.errors import ImageError
from hostplane.image.bundle import framecache
from hostplane.image.bundle.framebase import Base

__all__ = ["NOWHERE", "Coding", "Packed", "Packer", "encode_frame", "encode_index", "pack"]

_READ = 1 << 20
_ZERO_BLOCK = bytes(BLOCK)
_ZERO_READ = bytes(_READ)
NOWHERE = 0xFFFFFFFF
"""The place of a block that is in no frame."""
_DEFLATE_LEVEL, _XZ_PRESET, _ZSTD_LEVEL = 6, 1, 12


class Coding(Struct, frozen=True, kw_only=True):
    """How frames are packed. `frame_bytes` is what a frame holds on average: half to twice of it."""

    codec: str = "xz"
    arch: str = ""
    """x86_64 lets xz's filter for its machine code help."""
    frame_bytes: int = 1 << 20
    cache: Path | None = None
    """Directory of packed frames by content, shared by all builds; never part of the outcome."""

    @property
    def recipe(self) -> str:
        """A name for everything that decides a frame's bytes: the cache's shelf."""
        if self.codec == "xz":
            return f"xz{_XZ_PRESET}-{'x86' if self.arch == 'x86_64' else 'plain'}"
        return {"deflate": f"deflate{_DEFLATE_LEVEL}-{zlib.ZLIB_RUNTIME_VERSION}", "zstd": f"zstd{_ZSTD_LEVEL}"}.get(
            self.codec, self.codec
        )


class Packed(Struct, frozen=True, kw_only=True):
    """One image, packed: its block index, and what it came to in bytes and frames."""

    index: bytes
    size: int
    sha256: str
    content: int
    stored: int
    frames: int
    reused: int
    """Frames taken from the base."""
    cached: int
    """Frames found in the cache."""


class _Made(NamedTuple):
    record: bytes
    stored: bytes
    is_cached: bool


def encode_frame(raw: bytes, coding: Coding) -> tuple[int, bytes]:
    """(codec number, stored bytes): the codec asked for, or none where that would not make it smaller.

    Raises:
        ImageError: CodecMissing, for zstd without its module.
    """
    if coding.codec == "xz":
        filters: list[dict[str, int]] = [{"id": lzma.FILTER_X86}] if coding.arch == "x86_64" else []
        filters.append({"id": lzma.FILTER_LZMA2, "preset": _XZ_PRESET, "dict_size": max(len(raw), BLOCK)})
        stored = lzma.compress(raw, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters)
    elif coding.codec == "deflate":
        stored = zlib.compress(raw, _DEFLATE_LEVEL)
    elif coding.codec == "zstd":
        stored = _zstd(raw)
    else:
        return 0, raw
    return (CODECS.index(coding.codec), stored) if len(stored) < len(raw) else (0, raw)


def _zstd(raw: bytes) -> bytes:
    try:
        import zstandard
    except ImportError as fault:
        raise ImageError("CodecMissing", codec="zstd") from fault
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True).compress(raw)


def _make(raw: bytes, coding: Coding) -> _Made:
    """A frame's record and stored bytes, from the cache where it has them intact."""
    content = hashlib.sha256(raw).digest()
    name = content.hex()
    place = None if coding.cache is None else coding.cache / coding.recipe / name[:2] / name
    kept = None if place is None else framecache.take(place, len(raw))
    codec, stored = kept or encode_frame(raw, coding)
    if place is not None and kept is None:
        framecache.put(place, codec, stored)
    is_cached = kept is not None
    return _Made(FRAME.pack(codec, len(raw), len(stored), content, hashlib.sha256(stored).digest()), stored, is_cached)


class Packer:
    """Collects blocks into frames, has them packed by `pool`, and writes them to `sink` in order."""

    def __init__(self, sink: IO[bytes], coding: Coding, pool: Executor, depth: int) -> None:
        """`depth` frames may be under way at once: memory is about that many times the largest frame."""
        self._sink, self._coding, self._pool, self._depth = sink, coding, pool, depth
        target = max(coding.frame_bytes // BLOCK, 2)
        self._least, self._most = target // 2, min(2 * target, MAX_FRAME_RAW // BLOCK)
        self._mask = (1 << (target // 2).bit_length() - 1) - 1
        self._open: list[bytes] = []
        self._under_way: deque[Future[_Made]] = deque()
        self.records: list[bytes] = []
        self.position = 0
        """Blocks of content so far: where the next one will be."""
        self.stored = self.cached = self.reused = 0

    def add(self, block: bytes, short: bytes) -> None:
        """One more block, with the head of its hash."""
        self._open.append(block)
        self.position += 1
        count = len(self._open)
        if count >= self._most or (count >= self._least and not int.from_bytes(short, "big") & self._mask):
            self.end_frame()

    def end_frame(self) -> None:
        """What follows begins a frame."""
        if self._open:
            raw, self._open = b"".join(self._open), []
            self._under_way.append(self._pool.submit(_make, raw, self._coding))
            while len(self._under_way) >= self._depth:
                self._store(self._under_way.popleft().result())

    def take(self, record: bytes, stored: bytes, blocks: int) -> None:
        """A frame that is packed already."""
        self.finish()
        self.reused += 1
        self.position += blocks
        self._store(_Made(record, stored, False))

    def finish(self) -> None:
        """Everything added is in the sink when this returns."""
        self.end_frame()
        while self._under_way:
            self._store(self._under_way.popleft().result())

    def _store(self, made: _Made) -> None:
        self.records.append(made.record)
        self.stored += len(made.stored)
        self.cached += made.is_cached
        self._sink.write(made.stored)


class _Seen:
    """Everything that one reading of an image teaches: its digest, its entries, and where its blocks went."""

    def __init__(self, size: int) -> None:
        self.places = array("I", [NOWHERE]) * (size // BLOCK)
        self.entries: list[bytes] = []
        self.sha256 = hashlib.sha256()


def pack(
    image: Path,
    sink: IO[bytes],
    coding: Coding,
    pool: Executor,
    *,
    depth: int,
    base: Base | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> Packed:
    """Pack `image` into `sink` and give its block index. `progress` hears shares from 0.0 to 1.0.

    Raises:
        ImageError: BundleImageUnfit, BundleTooManyFrames, CodecMissing.
        HostError: what reading the base's frames raises.
    """
    size = image.stat().st_size
    if not size or size % BLOCK or size > MAX_IMAGE:
        raise ImageError("BundleImageUnfit", path=image, size=size, block=BLOCK, limit=MAX_IMAGE)
    packer, seen = Packer(sink, coding, pool, depth), _Seen(size)
    if base is None:
        for number, block, short in _blocks(image, seen, progress):
            seen.places[number] = packer.position
            packer.add(block, short)
        packer.finish()
    else:
        for _ in _blocks(image, seen, lambda done: progress(done / 2)):
            pass
        _pack_upon(base, image, seen, packer, pool)
        progress(1.0)
    if len(packer.records) > MAX_FRAMES:
        raise ImageError("BundleTooManyFrames", path=image, frames=len(packer.records), limit=MAX_FRAMES)
    seen.entries.sort()
    return Packed(
        index=encode_index(MAGIC, (size, seen.sha256.digest()), packer.records, seen.places, seen.entries),
        size=size,
        sha256=seen.sha256.hexdigest(),
        content=packer.position * BLOCK,
        stored=packer.stored,
        frames=len(packer.records),
        reused=packer.reused,
        cached=packer.cached,
    )


def _blocks(image: Path, seen: _Seen, progress: Callable[[float], None]) -> Iterator[tuple[int, bytes, bytes]]:
    """(number, content, head of its hash) of each block that is not zero; fills `seen`."""
    with image.open("rb") as file:
        first, total = 0, len(seen.places)
        while piece := file.read(_READ):
            seen.sha256.update(piece)
            if piece != _ZERO_READ:
                for at in range(0, len(piece), BLOCK):
                    block = piece[at : at + BLOCK]
                    if block != _ZERO_BLOCK:
                        short = hashlib.sha256(block).digest()[:HASH]
                        number = first + at // BLOCK
                        seen.entries.append(ENTRY.pack(short, number))
                        yield number, block, short
            first += len(piece) // BLOCK
            progress(first / total)


def _pack_upon(base: Base, image: Path, seen: _Seen, packer: Packer, pool: Executor) -> None:
    """Base's frames that stay, then what base holds elsewhere, then what is new: each in frames of its own."""
    seen.entries.sort()
    held = base.match(seen.entries, len(seen.places))
    with image.open("rb") as file:
        for frame, places in base.kept_frames(held, file.fileno(), pool):
            first = packer.position
            for number, at in places:
                seen.places[number] = first + at
            packer.take(frame.record, frame.stored, frame.blocks)
        by_number = sorted(seen.entries, key=_number)
        for is_held in (True, False):
            for entry in by_number:
                number = _number(entry)
                if seen.places[number] == NOWHERE and (held[number] != NOWHERE) is is_held:
                    seen.places[number] = packer.position
                    packer.add(os.pread(file.fileno(), BLOCK, number * BLOCK), entry[:HASH])
            packer.finish()


def _number(entry: bytes) -> int:
    return int.from_bytes(entry[HASH:], "big")


def encode_index(
    magic: bytes, image: tuple[int, bytes], frames: list[bytes], places: array[int], entries: list[bytes]
) -> bytes:
    """A block index or patch index of the image of (bytes, sha256): `places` says where in the frames each block is."""
    extents = list(_extents(places))
    packed_extents, packed_entries = _chunks(extents, EXTENT.size), _chunks(entries, ENTRY.size)
    version = (int(part) for part in SCHEMA.split("."))
    counts = len(frames), len(extents), len(entries), 0, len(packed_extents), len(packed_entries)
    return b"".join((HEADER.pack(magic, *version, BLOCK, *image, *counts), *frames, packed_extents, packed_entries))


def _extents(places: array[int]) -> Iterator[bytes]:
    """Runs of blocks that are zero, or that follow each other in the frames too."""
    at, total = 0, len(places)
    while at < total:
        first, end = places[at], at + 1
        if first == NOWHERE:
            while end < total and places[end] == NOWHERE:
                end += 1
            yield EXTENT.pack(ZERO, end - at, 0)
        else:
            while end < total and places[end] == first + end - at:
                end += 1
            yield EXTENT.pack(FETCH, end - at, first)
        at = end


def _chunks(records: list[bytes], width: int) -> bytes:
    parts = []
    for at in range(0, len(records), CHUNK_RECORDS):
        chunk = records[at : at + CHUNK_RECORDS]
        stored = zlib.compress(transpose(b"".join(chunk), width), 9)
        parts.append(CHUNK_HEAD.pack(len(chunk), len(stored)) + stored)
    return b"".join(parts)
