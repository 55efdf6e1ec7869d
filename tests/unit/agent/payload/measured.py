"""A process of its own that does one piece of a staging and prints its peak of anonymous memory, in bytes.

`stage ROOT REF DIGEST` stages a bundle; `make DIRECTORY MIB` makes an index of that size up, and `plan DIRECTORY MIB`
plans it: the running slot claims to hold each of its blocks, and turns out not to.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import threading
import zlib
from pathlib import Path

from hostplane.agent.bundle.blockindex import CHUNK_HEAD, ENTRY, EXTENT, FETCH, FRAME, HEADER, transpose
from hostplane.agent.bundle.limits import BLOCK, CHUNK_RECORDS
from hostplane.agent.disk.partitions import Partition, find
from hostplane.agent.disk.volume import Volume
from hostplane.agent.fetch import open_bundle
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import install
from hostplane.agent.payload.pace import Pace
from hostplane.agent.payload.plan import Held, ImagePlan
from hostplane.agent.payload.supply import IndexFile
from hostplane.agent.state import Image

FRAME_BLOCKS = 16


class Peak:
    """The most anonymous memory that this process has while the block runs, sampled."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self._sample()

    def _sample(self) -> None:
        with open("/proc/self/status") as status:
            own = next(line for line in status if line.startswith("RssAnon"))
        self.peak = max(self.peak, int(own.split()[1]) << 10)


def stage(root: str, ref: str, digest: str) -> None:
    host = HostRoot(root)
    image = Image(format="bundle", ref=ref, digest=digest)
    source = open_bundle(host, image, threading.Event())
    bundle = install.Bundle(host, find(host), "B", image, source, Pace())
    try:
        bundle.stage(install.Steps(lambda plan: None, lambda: None, lambda size: None))
    finally:
        bundle.close()


def made_up(directory: Path, mib: int) -> tuple[IndexFile, list[Path]]:
    """A block index of `mib`, and a sorted list of entries with the same hashes, which no slot has in truth."""
    blocks = (mib << 20) // BLOCK
    index, listed = directory / "index", directory / "listed"
    step = (1 << 64) // blocks
    numbers = random.Random(1)
    shift, odd = numbers.randrange(blocks), 2654435761 | 1
    chunks = []
    with listed.open("wb") as out:
        for first in range(0, blocks, CHUNK_RECORDS):
            records = [
                ENTRY.pack((at * step + 7).to_bytes(8, "big"), (at * odd + shift) % blocks)
                for at in range(first, min(blocks, first + CHUNK_RECORDS))
            ]
            out.write(b"".join(records))
            stored = zlib.compress(transpose(b"".join(records), ENTRY.size), 1)
            chunks.append(CHUNK_HEAD.pack(len(records), len(stored)) + stored)
    frames = blocks // FRAME_BLOCKS
    frame = FRAME.pack(0, FRAME_BLOCKS * BLOCK, FRAME_BLOCKS * BLOCK, bytes(32), bytes(32))
    extents = zlib.compress(transpose(EXTENT.pack(FETCH, blocks, 0), EXTENT.size))
    extents = CHUNK_HEAD.pack(1, len(extents)) + extents
    size = sum(map(len, chunks))
    sha256 = hashlib.sha256(b"any").digest()
    head = HEADER.pack(b"HPBLOCKS", 1, 0, BLOCK, blocks * BLOCK, sha256, frames, 1, blocks, 0, len(extents), size)
    index.write_bytes(b"".join((head, frame * frames, extents, *chunks)))
    return IndexFile(str(index), index.stat().st_size, blocks * BLOCK, sha256.hex()), [listed]


def plan(directory: str, mib: int) -> None:
    from hostplane.agent.payload.record import _scanned
    from hostplane.agent.payload.write import ImageWriter

    place = Path(directory)
    with (place / "slot").open("wb") as file:
        file.truncate(mib << 20)
    given = json.loads((place / "index.json").read_text())
    partition = Partition("ROOT-B", str(place / "slot"), mib << 20)
    volume, other = Volume(partition, lambda: None), Volume(partition, lambda: None)
    held = Held(other, lambda: _scanned(str(place / "listed")))
    one = ImagePlan("root", IndexFile(**given), volume, [held], directory)
    volume.open_writer(0)
    try:
        one.make(mib << 20)
        one.cost()
        ImageWriter(one, None, None, lambda size: None)._copy_held()  # type: ignore[arg-type]  # nothing is fetched
        places = one.full.wanted(one.map)
        assert places.count == one.header.blocks
        assert one.full.ranges(places).total == mib << 20
        places.close()
    finally:
        one.close()
        volume.close()
        other.close()


def main() -> None:
    verb, *words = sys.argv[1:]
    if verb == "make":
        index, _ = made_up(Path(words[0]), int(words[1]))
        (Path(words[0]) / "index.json").write_text(json.dumps(index._asdict()))
        with (Path(words[0]) / "listed").open("ab") as file:
            file.write(bytes(32))
        return
    with Peak() as peak:
        if verb == "stage":
            stage(*words)
        else:
            plan(words[0], int(words[1]))
    print(peak.peak, os.times().user + os.times().system)


if __name__ == "__main__":
    main()
