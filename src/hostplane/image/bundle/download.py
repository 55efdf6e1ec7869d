"""What a host that runs one bundle would fetch of another: computed offline from the two block indexes.

The indexes are merged, sorted side by side. A block is held when either image of the running slot has one of the same
hash, or, for the boot image, the new root, which a host writes first; the other slot may hold more, so this is the most
a host of that version fetches. Patches come first, where they are made for that version; whole frames have the rest.
Per block is the share of whole frames' stored bytes that the missing blocks are, as if there were no patches.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from msgspec import Struct

from hostplane.agent.bundle.blockindex import HASH, BlockIndex, PatchIndex
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.bundle.manifest import Descriptor
from hostplane.image.bundle.ocilayout import Opened
from hostplane.image.bundle.unpack import NOWHERE, places

__all__ = ["Download", "estimate"]


class Download(Struct, frozen=True, kw_only=True, rename="camel"):
    """An upgrade's cost in bytes; `blocks` and `frames` are counts."""

    blocks: int
    """Blocks of content, the zero ones left out."""
    missing_blocks: int
    missing_frames: int
    per_block: int
    whole_frames: int
    """Bytes of the frames with the missing blocks that no patch has."""
    patches: int
    """Bytes of the patches with missing blocks, and of their indexes; 0 where they are for another version."""
    index: int
    """The block indexes, metadata and manifest, which are always fetched."""
    full: int
    """All frames: what a host that holds nothing fetches."""

    @property
    def total(self) -> int:
        """Patches, whole frames and what is always fetched."""
        return self.patches + self.whole_frames + self.index


def estimate(old: Opened, new: Opened) -> Download:
    """What a host running `old` fetches to install `new`.

    Raises:
        HostError: what reading the indexes raises.
    """
    blocks = missing = missing_frames = whole = full = index_bytes = patched = 0
    share = 0.0
    for name, (index, blob) in new.manifest.images.items():
        index_bytes += index.size
        full += blob.size
        with new.path(index).open("rb") as file:
            reader = BlockIndex(file.read, index.size)
            stored, starts, lengths = array("Q"), array("I"), array("I")
            for frame in reader.frames():
                stored.append(frame.stored)
                starts.append(frame.block)
                lengths.append(frame.raw // BLOCK)
            where = places(reader)
            lost: dict[int, set[int]] = {}
            open_frames: set[int] = set()
            held = [(old, one) for one, _ in old.manifest.images.values()]
            if name == "boot":
                held.append((new, new.manifest.images["root"][0]))
            numbers = [int.from_bytes(entry[HASH:], "big") for entry in _missing(reader.entries(), held)]
            size, left = _patched(old, new, name, numbers)
            patched += size
            for number in numbers:
                at = bisect_right(starts, where[number]) - 1
                lost.setdefault(at, set()).add(where[number])
                if number in left:
                    open_frames.add(at)
            blocks += reader.header.entries
        missing += sum(len(own) for own in lost.values())
        missing_frames += len(open_frames)
        whole += sum(stored[frame] for frame in open_frames)
        share += sum(stored[frame] * len(own) / lengths[frame] for frame, own in lost.items())
    return Download(
        blocks=blocks,
        missing_blocks=missing,
        missing_frames=missing_frames,
        per_block=round(share),
        whole_frames=whole,
        patches=patched,
        index=index_bytes + new.manifest.metadata.size + int(new.descriptor["size"]),
        full=full,
    )


def _patched(old: Opened, new: Opened, name: str, numbers: Sequence[int]) -> tuple[int, set[int]]:
    """(bytes of patches and their index, the blocks among `numbers` that they leave open)."""
    patches, left = new.manifest.patches, set(numbers)
    if patches is None or patches.base != old.manifest.digest or name not in patches.images or not left:
        return 0, left
    index, _ = patches.images[name]
    with new.path(index).open("rb") as file:
        reader = PatchIndex(file.read, index.size)
        table = list(reader.frames())
        where = places(reader)
    starts = [frame.block for frame in table]
    asked = {bisect_right(starts, where[number]) - 1 for number in left if where[number] != NOWHERE}
    return index.size + sum(table[one].stored for one in asked), {one for one in left if where[one] == NOWHERE}


def _missing(entries: Iterator[bytes], held: Sequence[tuple[Opened, Descriptor]]) -> Iterator[bytes]:
    """The entries whose hash is in none of the block indexes `held`."""
    with ExitStack() as files:
        readers = []
        for opened, index in held:
            readers.append(BlockIndex(files.enter_context(opened.path(index).open("rb")).read, index.size))
        shorts = (entry[:HASH] for entry in heapq.merge(*(reader.entries() for reader in readers)))
        current = next(shorts, None)
        for entry in entries:
            short = entry[:HASH]
            while current is not None and current < short:
                current = next(shorts, None)
            if current != short:
                yield entry
