"""A bundle that was signed by a trusted key and is malicious all the same: nothing beside the passive slot is written.

The block index is made up or spoiled, its frames hold what they say, and manifest and signature fit. The staging ends
with the very image that the signed metadata names, or with one refusal; the running slot and every other file of the
host are as before, and the passive slot's file is no longer than the image it was told to expect.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from hostplane.agent.bundle.blockindex import COPY, EXTENT, FETCH, FRAME, HEADER, ZERO, transpose
from hostplane.agent.bundle.limits import BLOCK
from hostplane.image.bundle.ocilayout import canonical
from tests.unit.agent.fuzz.spoiling import campaign, refusal, spoiled_bytes
from tests.unit.agent.payload.bundle_host import BundleHost
from tests.unit.image.bundle_play import blocks, replace_layer

PROGRAM = random.Random(7).randbytes(30 * BLOCK)
REBUILT = b"new" + PROGRAM[: 12 * BLOCK] + b"put in" + PROGRAM[12 * BLOCK : -9]
OLD = blocks([*range(1, 20), 0, -5])
SLOT = blocks([3, 2, 1, -9, 0, 7])
_MAY_CHANGE = ("dev/hostplane/ROOT-B", "dev/hostplane/BOOT-B", "var/lib/hostplane/", "bundles/")


class Lie(NamedTuple):
    """A root image as its index tells it."""

    index: bytes
    frames: bytes
    size: int
    sha256: str


def _chunk(records: list[bytes]) -> bytes:
    if not records:
        return b""
    packed = zlib.compress(transpose(b"".join(records), len(records[0])))
    return len(records).to_bytes(4, "big") + len(packed).to_bytes(4, "big") + packed


@st.composite
def lies(draw: st.DrawFn) -> Lie:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    content = random.Random(draw(st.integers(0, 3))).randbytes(sum(lengths) * BLOCK)
    frames, at = b"", 0
    for length in lengths:
        raw = content[at : at + length * BLOCK]
        digest = hashlib.sha256(raw).digest()
        frames += FRAME.pack(0, len(raw), len(raw), digest, digest)
        at += len(raw)
    image, extents = b"", []
    while len(image) < BLOCK * 24 and (not image or draw(st.integers(0, 7))):
        op = draw(st.sampled_from([ZERO, FETCH, FETCH, COPY]))
        have = {ZERO: 1, FETCH: len(content) // BLOCK, COPY: len(image) // BLOCK}[op]
        if not have:
            continue
        source = 0 if op == ZERO else draw(st.integers(0, have - 1))
        count = draw(st.integers(1, 5 if op == ZERO else have - source))
        origin = {ZERO: bytes(count * BLOCK), FETCH: content, COPY: image}[op]
        image += origin[source * BLOCK : (source + count) * BLOCK]
        extents.append((op, count, source))
    honest = draw(st.booleans())
    if not honest and draw(st.booleans()):
        at = draw(st.integers(0, len(extents) - 1))
        extents[at] = draw(
            st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 1 << 32) | st.integers(0, 30))
        )
    entries = []
    for number in range(len(image) // BLOCK):
        block = image[number * BLOCK : (number + 1) * BLOCK]
        if any(block):
            short = hashlib.sha256(block).digest()[:8]
            if not honest and not draw(st.integers(0, 9)):
                short = draw(st.sampled_from([bytes(8), hashlib.sha256(SLOT[:BLOCK]).digest()[:8]]))
            entries.append(short + number.to_bytes(4, "big"))
    entries.sort()
    packed = [EXTENT.pack(op, count, source & 0xFFFFFFFF) for op, count, source in extents]
    first, second = _chunk(packed), _chunk(entries)
    sha256 = hashlib.sha256(image).digest()
    header = HEADER.pack(
        *(b"HPBLOCKS", 1, 0, BLOCK, len(image), sha256, len(lengths), len(packed), len(entries), 0),
        *(len(first), len(second)),
    )
    index = header + frames + first + second
    if not honest and draw(st.booleans()):
        index = draw(spoiled_bytes(index))
    return Lie(index, content, len(image), sha256.hex())


class Victim:
    """One host for a campaign, put back after every example."""

    def __init__(self, old: bytes = OLD, new: bytes = blocks([5, 6, 7]), is_patched: bool = False) -> None:
        self._home = tempfile.TemporaryDirectory()
        self.root = Path(self._home.name) / "host"
        self.host = BundleHost(self.root)
        self.host.install_in_a(self.host.bundle("old", old))
        self.host.bundle("new", new, previous=self.host.layout("old") if is_patched else None)
        self._kept = Path(self._home.name) / "kept"
        shutil.copytree(self.root, self._kept, symlinks=True)

    def files(self) -> dict[str, bytes]:
        """Every file below the directory that holds the host, but those a staging may change."""
        found = {}
        for path in Path(self._home.name).rglob("*"):
            name = str(path.relative_to(self._home.name))
            if path.is_file() and not name.removeprefix("host/").startswith(_MAY_CHANGE):
                found[name] = path.read_bytes()
        return found

    def restore(self) -> None:
        for name in ("dev/hostplane", "var/lib/hostplane", "bundles/new"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            shutil.copytree(self._kept / name, self.root / name)
        self.host.put("ROOT-B", SLOT)


_victim: list[Victim] = []


def victim() -> Victim:
    if not _victim:
        _victim.append(Victim())
    return _victim[0]


def _lied(host: BundleHost, lie: Lie) -> Any:
    """The bundle `new` with this root, signed."""
    opened = host.opened("new")
    root = opened.manifest.images["root"]
    metadata = json.loads(opened.layout.path(opened.manifest.metadata.digest).read_bytes())
    metadata["images"]["root"].update(size=lie.size, sha256=lie.sha256)
    changes = [
        (root[0].digest, lie.index),
        (root[1].digest, lie.frames),
        (opened.manifest.metadata.digest, canonical(metadata)),
    ]
    for digest, raw in changes:
        replace_layer(host.opened("new"), digest, raw)
    return host.sign("new", host.opened("new").manifest.digest)


@campaign(lies(), cost=10)
def test_a_signed_lie_is_written_nowhere_but_into_the_passive_slot(lie: Lie) -> None:
    here = victim()
    here.restore()
    image = _lied(here.host, lie)
    before = here.files()
    name = refusal(lambda: here.host.stage(image))
    assert here.files() == before
    assert len(here.host.slot("ROOT-B")) <= max(len(SLOT), lie.size)
    if not name:
        assert hashlib.sha256(here.host.slot("ROOT-B", lie.size)).hexdigest() == lie.sha256


_patched: list[Victim] = []


@campaign(st.sampled_from([0, 1]), st.data(), cost=10)
def test_signed_patches_that_are_spoiled_change_nothing_of_what_is_staged(which: int, data: st.DataObject) -> None:
    """The frames are right, so the image is there in the end, whatever the patches make."""
    if not _patched:
        _patched.append(Victim(PROGRAM, REBUILT, is_patched=True))
    here = _patched[0]
    here.restore()
    opened = here.host.opened("new")
    assert opened.manifest.patches is not None
    layer = opened.manifest.patches.images["root"][which]
    raw = opened.layout.path(layer.digest).read_bytes()
    replace_layer(opened, layer.digest, data.draw(spoiled_bytes(raw)))
    image = here.host.sign("new", here.host.opened("new").manifest.digest)
    before = here.files()
    here.host.stage(image)
    assert here.files() == before
    assert here.host.slot("ROOT-B", len(REBUILT)) == REBUILT
