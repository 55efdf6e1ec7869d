"""Patches from an earlier bundle's images to new ones, for the hosts that run the earlier one.

New blocks are taken four MiB at a time, in the image's order. Old blocks that the new images do not have any more are
what most of them were made from: the segments of them that share most anchors with the new bytes are the window, and
`matching` finds the copies in it. File systems are not looked into, so any of them will do. What is told here is one
way to the new blocks; the bundle's frames hold each of them as well, so nothing has to be right, or be there.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
from array import array
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import IO, NamedTuple

from hostplane.agent.bundle import frame as frames
from hostplane.agent.bundle.blockindex import CODECS, FRAME, HASH, PATCH_MAGIC, BlockIndex, Frame, transpose
from hostplane.agent.bundle.limits import BLOCK, MAX_PATCH_OPS, MAX_PATCH_RAW, MAX_PATCH_WINDOW, MAX_REPORT
from hostplane.agent.bundle.manifest import IMAGES
from hostplane.agent.bundle.patch import COPY, COUNT, RUN
from hostplane.image.bundle.frames import NOWHERE, encode_index
from hostplane.image.bundle.matching import SPARSE, anchors, copies, difference
from hostplane.image.bundle.unpack import places

__all__ = ["Earlier", "Patched", "pack_patches", "shorts_of"]

_SEGMENT = 16
"""Blocks that come into a window together."""
_SEGMENTS = MAX_PATCH_WINDOW // BLOCK // _SEGMENT
_MOST_ANCHORS = 1 << 21
_PRESET = 6
_DECODED = 8
"""Frames of the earlier bundle that are unpacked at once."""


def shorts_of(index: BlockIndex) -> set[bytes]:
    """The heads of the hashes of an image's blocks."""
    return {entry[:HASH] for entry in index.entries()}


class Earlier:
    """The earlier bundle's images: which blocks they have, and those that are not in the new ones, as bytes."""

    def __init__(
        self, images: Mapping[str, tuple[Path, Path]], kept: set[bytes], scratch: IO[bytes], pool: Executor
    ) -> None:
        """`images` gives block index and frames, `kept` the hashes of all new images' blocks; `scratch` is empty.

        Raises:
            HostError: what reading the bundle raises.
        """
        self.shorts: set[bytes] = set()
        self._where: list[tuple[int, int]] = []  # image and block of each block in the scratch file
        self._scratch = scratch
        seen = set(kept)
        for image, name in enumerate(IMAGES):
            self._collect(image, *images[name], seen, pool)
        self._anchors: dict[bytes, int] = {}
        for first in range(0, len(self._where), _SEGMENT):
            for _, gram in anchors(self._read(first, _SEGMENT), SPARSE):
                if len(self._anchors) < _MOST_ANCHORS:
                    self._anchors.setdefault(gram, first // _SEGMENT)

    def _collect(self, image: int, index: Path, blob: Path, seen: set[bytes], pool: Executor) -> None:
        with index.open("rb") as file:
            reader = BlockIndex(file.read, index.stat().st_size)
            table, where = list(reader.frames()), places(reader)
            lost = []
            for entry in reader.entries():
                short = entry[:HASH]
                self.shorts.add(short)
                if short not in seen:
                    seen.add(short)
                    lost.append(int.from_bytes(entry[HASH:], "big"))
        lost.sort()
        users = sorted((where[number], len(self._where) + at) for at, number in enumerate(lost))
        self._where += [(image, number) for number in lost]
        asked, at = [], 0
        for frame in table:
            end = at
            while end < len(users) and users[end][0] < frame.block + frame.raw // BLOCK:
                end += 1
            if end > at:
                asked.append((frame, users[at:end]))
            at = end
        with blob.open("rb") as file:
            for first in range(0, len(asked), _DECODED):
                some = asked[first : first + _DECODED]
                for job in [pool.submit(self._keep, file.fileno(), frame, own) for frame, own in some]:
                    job.result()

    def _keep(self, blob: int, frame: Frame, users: list[tuple[int, int]]) -> None:
        content = frames.decode(frame, os.pread(blob, frame.stored, frame.offset))
        for place, at in users:
            begin = (place - frame.block) * BLOCK
            os.pwrite(self._scratch.fileno(), content[begin : begin + BLOCK], at * BLOCK)

    def _read(self, first: int, count: int) -> bytes:
        return os.pread(self._scratch.fileno(), count * BLOCK, first * BLOCK)

    def window(self, new: bytes) -> tuple[list[bytes], bytes]:
        """(records of RUN, their bytes) of what is most like `new`."""
        votes: Counter[int] = Counter()
        for _, gram in anchors(new, SPARSE):
            segment = self._anchors.get(gram)
            if segment is not None:
                votes[segment] += 1
        chosen = sorted(segment for segment, _ in votes.most_common(_SEGMENTS))
        runs: list[tuple[int, int, int]] = []
        for segment in chosen:
            for image, number in self._where[segment * _SEGMENT : (segment + 1) * _SEGMENT]:
                if runs and (runs[-1][0], runs[-1][1] + runs[-1][2]) == (image, number):
                    runs[-1] = image, runs[-1][1], runs[-1][2] + 1
                else:
                    runs.append((image, number, 1))
        content = b"".join(self._read(segment * _SEGMENT, _SEGMENT) for segment in chosen)
        return [RUN.pack(*run) for run in runs], content


class Patched(NamedTuple):
    """One image's patches: their index, and the bytes of the patches."""

    listing: bytes
    stored: int


def pack_patches(
    image: Path, index: bytes, held: set[bytes], earlier: Earlier, sink: IO[bytes], pool: Executor, *, depth: int
) -> Patched | None:
    """Write patches to the blocks of `image` (of this block index) that are not among the hashes `held` to `sink`.

    None where nothing could be patched. Frames of the earlier bundle that a host of it has need none.

    Raises:
        HostError: what reading the index raises.
    """
    reader = BlockIndex(io.BytesIO(index).read, len(index))
    lost = sorted(
        (int.from_bytes(entry[HASH:], "big"), entry[:HASH]) for entry in reader.entries() if entry[:HASH] not in held
    )
    first: dict[bytes, int] = {}
    for number, short in lost:
        first.setdefault(short, number)
    numbers = list(first.values())
    where = array("I", [NOWHERE]) * reader.header.blocks
    records: list[bytes] = []
    position = stored_bytes = 0
    under_way: deque[tuple[list[int], bytes, Future[bytes]]] = deque()

    def store() -> None:
        nonlocal position, stored_bytes
        own, content, job = under_way.popleft()
        stored = job.result()
        if len(stored) > len(content) or stored_bytes + len(stored) > MAX_REPORT:
            return
        hashes = hashlib.sha256(content).digest(), hashlib.sha256(stored).digest()
        records.append(FRAME.pack(CODECS.index("xz"), len(content), len(stored), *hashes))
        sink.write(stored)
        for at, number in enumerate(own, position):
            where[number] = at
        position, stored_bytes = position + len(own), stored_bytes + len(stored)

    step = MAX_PATCH_RAW // BLOCK
    with image.open("rb") as file:
        for begin in range(0, len(numbers), step):
            own = numbers[begin : begin + step]
            content = b"".join(os.pread(file.fileno(), BLOCK, number * BLOCK) for number in own)
            under_way.append((own, content, pool.submit(_packed, _patch(content, earlier))))
            if len(under_way) >= depth:
                store()
    while under_way:
        store()
    if not records:
        return None
    for number, short in lost:
        where[number] = where[first[short]]
    header = reader.header
    raw = encode_index(PATCH_MAGIC, (header.image_size, header.image_sha256), records, where, [])
    return Patched(raw, stored_bytes)


def _patch(content: bytes, earlier: Earlier) -> bytes:
    """The patch that makes `content`, unpacked."""
    runs, window = earlier.window(content)
    found: list[bytes] = []
    corrections, new, done = [], [], 0
    for at, source, length in copies(content, window):
        if len(found) == MAX_PATCH_OPS:
            break
        found.append(COPY.pack(at - done, source, length))
        new.append(content[done:at])
        corrections.append(difference(content[at : at + length], window[source : source + length]))
        done = at + length
    new.append(content[done:])
    table = transpose(b"".join(found), COPY.size) if found else b""
    head = COUNT.pack(len(runs)), *runs, COUNT.pack(len(found)), table
    return b"".join((*head, *corrections, *new))


def _packed(raw: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": _PRESET, "dict_size": max(len(raw), BLOCK)}]
    return lzma.compress(raw, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters)
