"""A host that runs the bundle's base takes patches; any other, or one whose blocks are not the base's, takes frames."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.disk import partitions
from hostplane.agent.payload import install
from hostplane.agent.payload.pace import Pace
from hostplane.agent.state import Image
from hostplane.image.bundle.difference import compare
from hostplane.image.bundle.ocilayout import Opened
from tests.unit.agent.payload import signed
from tests.unit.agent.payload.bundle_host import METADATA, BundleHost
from tests.unit.image.bundle_play import replace_layer

PROGRAMS = [random.Random(at).randbytes(50 * BLOCK + 100 * at) for at in range(9)]


def image_of(programs: list[bytes]) -> bytes:
    """A file system of sorts: programs from block to block, then nothing."""
    return b"".join(one.ljust(-(-len(one) // BLOCK) * BLOCK, b"\0") for one in programs) + bytes(4 * BLOCK)


def rebuilt(program: bytes) -> bytes:
    """As a compiler gives it the next time: something put in, and addresses that changed."""
    new = bytearray(program[:3000] + b"one more function" * 5 + program[3000:])
    for at in range(5000, len(new), 211):
        new[at] = (new[at] + 85) % 256
    return bytes(new)


OLD = image_of(PROGRAMS[:8])
NEW = image_of([one if at % 3 else rebuilt(one) for at, one in enumerate(PROGRAMS[:8])])
OLD_BOOT = image_of([PROGRAMS[8], b"kernel" * 9000])
NEW_BOOT = image_of([rebuilt(PROGRAMS[8]), rebuilt(PROGRAMS[3]), b"kernel" * 9100])


class Upgrade:
    """A host that runs v1, and v2, built upon it."""

    def __init__(self, root: Path) -> None:
        self.host = BundleHost(root)
        self.old = self.host.bundle("v1", OLD, OLD_BOOT)
        self.host.install_in_a(self.old)
        self.new = self.host.bundle("v2", NEW, NEW_BOOT, previous=self.host.layout("v1"))

    @property
    def opened(self) -> Opened:
        return self.host.opened("v2")

    def staged(self, image: Image | None = None) -> Any:
        """Stage it, whatever it takes; gives the source, which counted."""
        source = self.host.source(image or self.new)
        self.host.stage(image or self.new, source)
        assert self.host.slot("ROOT-B", len(NEW)) == NEW
        assert self.host.slot("BOOT-B", len(NEW_BOOT)) == NEW_BOOT
        return source

    def sizes(self) -> tuple[int, int]:
        """Bytes of all patches, and of all frames."""
        manifest = self.opened.manifest
        assert manifest.patches is not None
        return tuple(sum(blob.size for _, blob in one.values()) for one in (manifest.patches.images, manifest.images))  # type: ignore[return-value]


@pytest.fixture
def upgrade(tmp_path: Path) -> Upgrade:
    return Upgrade(tmp_path)


def test_patches_are_all_that_is_fetched_beside_the_indexes(upgrade: Upgrade) -> None:
    patches, _ = upgrade.sizes()
    source = upgrade.staged()
    assert source.frames_bytes == patches
    assert patches < 0.1 * 150 * BLOCK
    manifest = upgrade.opened.manifest
    assert manifest.patches is not None
    indexes = [one[0].size for one in (*manifest.images.values(), *manifest.patches.images.values())]
    fixed = manifest.metadata.size + len(upgrade.opened.layout.path(manifest.digest).read_bytes())
    assert upgrade.host.plan.download == patches + sum(indexes) + fixed
    found = compare(upgrade.host.layout("v1"), upgrade.host.layout("v2")).download
    assert found is not None
    assert found.total == upgrade.host.plan.download
    assert not list(upgrade.host.root.glob("var/lib/hostplane/slots/B/*.patches"))


def test_the_plan_tells_it_beforehand(upgrade: Upgrade) -> None:
    host, source = upgrade.host.host, upgrade.host.source(upgrade.new)
    plan = install.estimate(host, partitions.find(host), "B", upgrade.new, source, Pace())
    upgrade.staged()
    assert plan == upgrade.host.plan


def test_a_host_of_another_version_takes_frames(upgrade: Upgrade) -> None:
    upgrade.host.install_in_a(upgrade.host.bundle("v0", OLD[: 200 * BLOCK], OLD_BOOT, frame_bytes=8 * BLOCK))
    source = upgrade.staged()
    assert "application/vnd.hostplane.patchindex.v1" not in source.blobs
    assert source.frames_bytes > sum(upgrade.sizes()[:1])


def test_a_disk_that_was_just_built_takes_patches(upgrade: Upgrade) -> None:
    root, opened = upgrade.host.root, upgrade.host.opened("v1")
    shutil.rmtree(root / "var/lib/hostplane/slots/A")
    for name, raw in (
        ("manifest.json", opened.layout.path(opened.manifest.digest).read_bytes()),
        ("metadata.json", opened.read("metadata", opened.manifest.metadata)),
    ):
        signed.put(root, "boot/hostplane/installed/" + name, raw)
    about = b'{"name": "node", "version": "%s", "arch": "%s"}' % (METADATA.version.encode(), METADATA.arch.encode())
    signed.put(root, "usr/lib/hostplane/image.json", about)
    assert upgrade.staged().frames_bytes == upgrade.sizes()[0]


@pytest.mark.parametrize("lost", [range(1 << 20), range(140, 150)])
def test_blocks_that_are_not_the_bases_cost_frames_and_nothing_else(upgrade: Upgrade, lost: range) -> None:
    content = bytearray(OLD)
    for number in lost:
        if number * BLOCK < len(content) and any(content[number * BLOCK : (number + 1) * BLOCK]):
            content[number * BLOCK : (number + 1) * BLOCK] = random.Random(number).randbytes(BLOCK)
    upgrade.host.put("ROOT-A", bytes(content))
    upgrade.staged()


def test_a_staging_that_was_cut_fetches_only_what_is_left(upgrade: Upgrade) -> None:
    patches, _ = upgrade.sizes()
    broken = upgrade.host.source(upgrade.new)
    broken.break_after = patches - 10
    with pytest.raises(ConnectionError):
        upgrade.host.stage(upgrade.new, broken)
    source = upgrade.staged()
    assert 0 < source.frames_bytes < patches


def _spoiled(upgrade: Upgrade, which: int, change: Any) -> Image:
    patches = upgrade.opened.manifest.patches
    assert patches is not None
    layer = patches.images["root"][which]
    raw = upgrade.opened.layout.path(layer.digest).read_bytes()
    replace_layer(upgrade.opened, layer.digest, change(raw))
    return upgrade.host.sign("v2", upgrade.opened.manifest.digest)


@pytest.mark.parametrize(
    ("which", "change"),
    [
        (1, lambda raw: raw[:-1] + b"x"),
        (1, lambda raw: bytes(len(raw))),
        (1, lambda raw: raw + b"x"),
        (0, lambda raw: raw[:-1]),
        (0, lambda raw: b"HPBLOCKS" + raw[8:]),
        (0, lambda raw: raw[:24] + hashlib.sha256(b"another image").digest() + raw[56:]),
        (0, lambda raw: b""),
    ],
)
def test_patches_that_make_no_sense_cost_frames_and_nothing_else(upgrade: Upgrade, which: int, change: Any) -> None:
    image = _spoiled(upgrade, which, change)
    source = upgrade.staged(image)
    assert source.frames_bytes > upgrade.sizes()[0]


def test_building_upon_the_same_twice_gives_the_same(upgrade: Upgrade, tmp_path: Path) -> None:
    again = upgrade.host.bundle("again", NEW, NEW_BOOT, previous=upgrade.host.layout("v1"), jobs=1)
    assert again.digest == upgrade.new.digest


def test_an_image_without_new_blocks_has_no_patches(upgrade: Upgrade) -> None:
    upgrade.host.bundle("same", OLD, OLD_BOOT, previous=upgrade.host.layout("v1"))
    assert upgrade.host.opened("same").manifest.patches is None
