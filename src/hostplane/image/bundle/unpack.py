"""A bundle's images back from their frames: the reference reader, and the proof that a bundle is whole.

It reads as a host that holds nothing would: block index, then frames, each proven before and after decoding, then the
image's own digest. Memory is a handful of frames, whatever the image's size.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache

from hostplane.agent.bundle import frame as frames
from hostplane.agent.bundle.blockindex import COPY, FETCH, HASH, BlockIndex, Frame, PatchIndex
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.bundle.manifest import Descriptor
from hostplane.errors import HostError
from hostplane.image.bundle.ocilayout import Opened

__all__ = ["NOWHERE", "places", "read_image", "verify"]

NOWHERE = 0xFFFFFFFF
"""The place of a block that is zero."""
_KEPT_FRAMES = 4
_PIECE = 256
_ZERO = bytes(BLOCK)


def places(reader: BlockIndex) -> array[int]:
    """Where each block of the image is in the frames' content; a copy is where its original is."""
    found = array("I", [NOWHERE]) * reader.header.blocks
    for extent in reader.extents():
        source = extent.source
        if extent.op == FETCH:
            found[extent.block : extent.block + extent.length] = array("I", range(source, source + extent.length))
        elif extent.op == COPY:
            found[extent.block : extent.block + extent.length] = found[source : source + extent.length]
    return found


def read_image(opened: Opened, name: str) -> Iterator[bytes]:
    """The bytes of the image `name` (boot or root), in pieces of whole blocks.

    Raises:
        HostError: whatever is not as it should be; after the last piece, when the whole is not.
    """
    index, blob = opened.manifest.images[name]
    facts = opened.metadata.images[name]
    opened.check(f"{name} block index", index)
    with opened.path(index).open("rb") as file:
        reader = BlockIndex(file.read, index.size)
        if (reader.header.image_size, reader.header.image_sha256.hex()) != (facts.size, facts.sha256):
            raise HostError("BundleInvalid", part=f"{name} block index", detail="it is of another image")
        table = list(reader.frames())
        where = places(reader)
        shorts = bytearray(HASH * len(where))
        for entry in reader.entries():
            number = int.from_bytes(entry[HASH:], "big")
            shorts[number * HASH : (number + 1) * HASH] = entry[:HASH]
    if sum(frame.stored for frame in table) != blob.size:
        raise HostError("BundleInvalid", part=f"{name} frames", detail="their sizes do not add up")
    digest, number = hashlib.sha256(), 0
    with opened.path(blob).open("rb") as file:
        content = lru_cache(_KEPT_FRAMES)(lambda number: _content(file.fileno(), table[number]))
        for piece in _pieces(where, table, content):
            digest.update(piece)
            for at in range(0, len(piece), BLOCK):
                block = piece[at : at + BLOCK]
                short = bytes(HASH) if block == _ZERO else hashlib.sha256(block).digest()[:HASH]
                if short != shorts[number * HASH : (number + 1) * HASH]:
                    raise HostError("BundleInvalid", part=f"{name} block index", detail="an entry is of another block")
                number += 1
            yield piece
    if digest.hexdigest() != facts.sha256:
        raise HostError("BundleDigestMismatch", part=f"{name} image", got=digest.hexdigest(), want=facts.sha256)


def verify(opened: Opened) -> None:
    """Read the bundle's every byte and compare it with what names it.

    Raises:
        HostError: the first thing that is not as it should be. ImageError: BundlePartMissing.
    """
    for layer in opened.manifest.layers:
        opened.check(layer.media_type, layer)
    opened.check("config", opened.manifest.config)
    if opened.manifest.patches is not None:
        for index, blob in opened.manifest.patches.images.values():
            _verify_patches(opened, index, blob)
    for name in opened.manifest.images:
        for _ in read_image(opened, name):
            pass


def _verify_patches(opened: Opened, index: Descriptor, blob: Descriptor) -> None:
    """Whether the patches can be read; what they make needs the earlier image, and a host to compare it."""
    with opened.path(index).open("rb") as listing, opened.path(blob).open("rb") as file:
        for patch in PatchIndex(listing.read, index.size).frames():
            if hashlib.sha256(file.read(patch.stored)).digest() != patch.stored_sha256:
                raise HostError("BundleInvalid", part="patches", detail=f"patch {patch.number} is another one")
        if file.read(1):
            raise HostError("BundleInvalid", part="patches", detail="their sizes do not add up")
    with opened.path(index).open("rb") as listing:
        PatchIndex(listing.read, index.size).check()


def _content(blob: int, frame: Frame) -> bytes:
    return frames.decode(frame, os.pread(blob, frame.stored, frame.offset))


def _pieces(where: array[int], table: list[Frame], content: Callable[[int], bytes]) -> Iterator[bytes]:
    starts = [frame.block for frame in table]
    at = 0
    while at < len(where):
        first, end = where[at], at + 1
        if first == NOWHERE:
            while end < len(where) and where[end] == NOWHERE and end - at < _PIECE:
                end += 1
            yield bytes((end - at) * BLOCK)
        else:
            frame = bisect_right(starts, first) - 1
            last = starts[frame] + table[frame].raw // BLOCK
            while end < len(where) and where[end] == first + end - at and where[end] < last:
                end += 1
            offset = (first - starts[frame]) * BLOCK
            yield content(frame)[offset : offset + (end - at) * BLOCK]
        at = end
