"""Bundles and disks that do not hold what they promise: nothing wrong is ever taken for staged."""

from __future__ import annotations

import hashlib
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.bundle.blockindex import (
    CHUNK_HEAD,
    COPY,
    ENTRY,
    EXTENT,
    FETCH,
    FRAME,
    HASH,
    HEADER,
    ZERO,
    BlockIndex,
    transpose,
)
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.payload import record
from hostplane.agent.state import Image
from tests.unit.agent.payload.bundle_host import BundleHost, refusal
from tests.unit.image import bundle_play
from tests.unit.image.bundle_play import blocks, replace_layer

OLD = [*range(1, 120), 0, 0, *range(120, 200)]
NEW = [*range(1, 60), -1, -2, *range(60, 119), 0, *range(121, 200), 0, 119]


@pytest.fixture
def host(tmp_path: Path) -> BundleHost:
    return BundleHost(tmp_path)


def _reindexed(host: BundleHost, name: str, change: Callable[[list[bytes], list[bytes]], None]) -> Image:
    """The bundle `name` with the root's index changed, all digests and signatures right again."""
    opened = host.opened(name)
    index, _ = opened.manifest.images["root"]
    with opened.path(index).open("rb") as file:
        reader = BlockIndex(file.read, index.size)
        header = reader.header
        frames = [FRAME.pack(f.codec, f.raw, f.stored, f.raw_sha256, f.stored_sha256) for f in reader.frames()]
        extents = [EXTENT.pack(e.op, e.length, e.source) for e in reader.extents()]
        listed = list(reader.entries())
    change(extents, listed)

    def chunk(records: list[bytes], width: int) -> bytes:
        stored = zlib.compress(transpose(b"".join(records), width))
        return CHUNK_HEAD.pack(len(records), len(stored)) + stored

    parts = chunk(extents, EXTENT.size), chunk(sorted(listed), ENTRY.size)
    head = HEADER.pack(
        b"HPBLOCKS", 1, 0, BLOCK, header.image_size, header.image_sha256, len(frames), len(extents), len(listed), 0,
        len(parts[0]), len(parts[1]),
    )  # fmt: skip
    replace_layer(opened, index.digest, b"".join((head, *frames, *parts)))
    return host.sign(name, host.opened(name).manifest.digest)


def test_a_planted_collision_costs_a_frame_and_never_a_wrong_block(host: BundleHost) -> None:
    host.put("ROOT-B", blocks([7, 2, 3]))
    host.bundle("v1", blocks([1, 2, 3]))

    def collide(extents: list[bytes], listed: list[bytes]) -> None:
        first = next(at for at, entry in enumerate(listed) if entry[HASH:] == b"\0\0\0\0")
        listed[first] = hashlib.sha256(blocks([7])).digest()[:HASH] + b"\0\0\0\0"

    image = _reindexed(host, "v1", collide)
    host.stage(image)
    assert host.slot("ROOT-B") == blocks([1, 2, 3])


@pytest.mark.parametrize("size", [1, 6])
def test_copies_within_the_image_are_followed(host: BundleHost, size: int) -> None:
    first = list(range(1, size + 1))
    host.bundle("v1", blocks([*first, *first, 0]))

    def copy(extents: list[bytes], listed: list[bytes]) -> None:
        extents[:] = [EXTENT.pack(FETCH, size, 0), EXTENT.pack(COPY, size, 0), EXTENT.pack(ZERO, 1, 0)]

    image = _reindexed(host, "v1", copy)
    host.put("ROOT-B", blocks([0, 0, 9, 9, 9]))
    host.stage(image)
    assert host.slot("ROOT-B", (2 * size + 1) * BLOCK) == blocks([*first, *first, 0])


def test_an_index_of_another_image_is_refused_before_anything_is_written(host: BundleHost) -> None:
    one = host.bundle("v1", blocks([1, 2, 3]))
    other = host.opened("v1").read("index", host.opened("v1").manifest.images["root"][0])
    host.bundle("v2", blocks([1, 2, 4]))
    opened = host.opened("v2")
    replace_layer(opened, opened.manifest.images["root"][0].digest, other)
    image = host.sign("v2", host.opened("v2").manifest.digest)
    assert refusal(lambda: host.stage(image)) == "BundleInvalid"
    assert (host.begun, host.slot("ROOT-B")) == (0, b"")
    assert one.digest != image.digest


def test_frames_that_are_not_the_signed_ones_never_reach_the_slot(host: BundleHost) -> None:
    image = host.bundle("v1", blocks([-1, -2, -3]))
    opened = host.opened("v1")
    path = opened.path(opened.manifest.images["root"][1])
    path.write_bytes(bytes(path.stat().st_size))
    assert refusal(lambda: host.stage(image)) == "BundleDigestMismatch"
    assert set(host.slot("ROOT-B")) <= {0}
    assert record.load(host.host, "B") is None


def test_a_frame_that_comes_wrong_once_is_asked_for_again(host: BundleHost) -> None:
    image = host.bundle("v1", blocks([-1, -2, -3]))
    source = host.source(image)
    real, calls = source.ranges, []

    def ranges(*given: Any) -> Any:
        calls.append(given)
        for piece in real(*given):
            yield piece if len(calls) != 2 else bytes(len(piece))

    source.ranges = ranges  # type: ignore[method-assign]
    host.stage(image, source)
    assert host.slot("ROOT-B") == blocks([-1, -2, -3])


def test_a_bundle_that_nobody_signed_is_not_even_read(host: BundleHost) -> None:
    info = bundle_play.write(host.root / "bundles/v1", blocks([1]))
    image = host.bundle("v2", blocks([2]))._replace(ref="file:///bundles/v1/bundle", digest=info.digest)
    source = host.source(image)
    assert refusal(lambda: host.stage(image, source)) == "BundleUnsigned"
    assert source.blobs == []


def test_an_image_that_does_not_fit_is_refused_before_its_first_byte(host: BundleHost) -> None:
    image = host.bundle("v1", blocks(OLD))
    (host.root / "etc/hostplane/agent.json").write_text('{"slotBytes": 100000}')
    assert refusal(lambda: host.stage(image)) == "PayloadTooLarge"
    assert host.begun == 0


# --- a disk that lies


@pytest.mark.parametrize("lasting", [False, True])
def test_a_block_that_the_medium_lost_is_written_again_or_the_slot_given_up(
    host: BundleHost, monkeypatch: pytest.MonkeyPatch, lasting: bool
) -> None:
    image = host.bundle("v1", blocks([-n for n in range(1, 60)]), frame_bytes=4 * BLOCK)
    real, lost = os.pwrite, []

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        if "ROOT-B" in os.readlink(f"/proc/self/fd/{descriptor}") and offset >= 20 * BLOCK and (lasting or not lost):
            lost.append(offset)
            return len(content)
        return real(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    source = host.source(image)
    if lasting:
        assert refusal(lambda: host.stage(image, source)) == "SlotReadBackMismatch"
        assert record.load(host.host, "B") is None
    else:
        host.stage(image, source)
        assert host.slot("ROOT-B") == blocks([-n for n in range(1, 60)])
        assert source.frames_bytes < 61 * BLOCK + 9 * BLOCK  # only the bad frame came twice
    assert lost


def test_blocks_of_the_running_slot_that_rotted_are_fetched(host: BundleHost) -> None:
    host.install_in_a(host.bundle("v1", blocks(OLD)))
    rotten = bytearray(blocks(OLD))
    for number in random.Random(5).sample(range(len(OLD)), 20):
        rotten[number * BLOCK] ^= 1
    host.put("ROOT-A", bytes(rotten))
    image = host.bundle("v2", blocks(NEW))
    host.stage(image)
    assert host.slot("ROOT-B") == blocks(NEW)
