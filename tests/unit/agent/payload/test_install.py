"""Bundles into slots: what is fetched, what is written, and what is left after every kind of interruption and lie."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostplane
from hostplane.agent.bundle.blockindex import (
    ENTRY,
)
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.disk import partitions
from hostplane.agent.payload import install, record
from hostplane.agent.payload.pace import Pace
from tests.unit.agent.disk.made_up import MIB, Machine
from tests.unit.agent.payload.bundle_host import BundleHost, differing, refusal
from tests.unit.agent.test_zipapp import interpreters
from tests.unit.image.bundle_play import blocks

OLD = [*range(1, 120), 0, 0, *range(120, 200)]
NEW = [*range(1, 60), -1, -2, *range(60, 119), 0, *range(121, 200), 0, 119]


@pytest.fixture
def host(tmp_path: Path) -> BundleHost:
    return BundleHost(tmp_path)


def entries(content: bytes) -> set[bytes]:
    found = {content[at : at + BLOCK] for at in range(0, len(content), BLOCK)}
    return found - {bytes(BLOCK)}


def test_an_empty_slot_gets_the_whole_image(host: BundleHost) -> None:
    image = host.bundle("v1", blocks(OLD), boot=blocks([-8, 0, -9]))
    source = host.source(image)
    host.stage(image, source)
    assert host.slot("ROOT-B") == blocks(OLD)
    assert host.slot("BOOT-B") == blocks([-8, 0, -9])
    assert source.frames_bytes == sum(blob.size for _, blob in host.opened("v1").manifest.images.values())
    assert host.begun == 1


def test_only_blocks_that_neither_slot_holds_are_fetched_and_only_those_that_differ_written(host: BundleHost) -> None:
    host.install_in_a(host.bundle("v1", blocks(OLD)))
    moved = blocks([-2, *reversed(NEW[:-1])])
    host.put("ROOT-B", moved)
    image = host.bundle("v2", blocks(NEW), frame_bytes=2 * BLOCK, codec="none")
    source = host.source(image)
    bundle = host.stage(image, source)
    assert host.slot("ROOT-B", len(blocks(NEW))) == blocks(NEW)
    assert source.frames_bytes <= 4 * BLOCK  # the frame of block -1; -2 moves
    assert bundle.written == differing(blocks(NEW), moved) * BLOCK + 2 * BLOCK  # and the boot image's two
    assert host.plan.reused >= (len(NEW) - 4) * BLOCK


def test_a_slot_that_is_right_already_is_only_read(host: BundleHost) -> None:
    image = host.bundle("v1", blocks(OLD))
    host.stage(image)
    source = host.source(image)
    bundle = host.stage(image, source)
    assert bundle.written == source.frames_bytes == 0


@pytest.mark.parametrize("shift", [1, 7, -1, -7, 300, -300])
def test_a_passive_image_that_has_shifted_is_moved_and_not_fetched(host: BundleHost, shift: int) -> None:
    plain = list(range(1, 700))
    old = plain[-shift:] if shift < 0 else [*range(1000, 1000 + shift), *plain]
    host.put("ROOT-B", blocks(old))
    image = host.bundle("v1", blocks(plain), frame_bytes=4 * BLOCK)
    source = host.source(image)
    host.stage(image, source)
    assert host.slot("ROOT-B", len(plain) * BLOCK) == blocks(plain)
    lost = abs(shift)  # what is not there, or lies behind the new image's end and was not read
    full = sum(blob.size for _, blob in host.opened("v1").manifest.images.values())
    assert source.frames_bytes < full * (lost + 40) / len(plain)


numbers = st.lists(st.integers(-3, 9), min_size=1, max_size=24)


SLOTS = {"active": numbers, "passive": numbers, "new": numbers, "is_recorded": st.booleans()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**SLOTS)
def test_whatever_the_slots_hold_the_image_is_there_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, **held: Any
) -> None:
    install_over(BundleHost(tmp_path_factory.mktemp("host")), **held)


@pytest.mark.long
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**SLOTS)
def test_whatever_the_slots_hold_for_long(tmp_path_factory: pytest.TempPathFactory, **held: Any) -> None:
    install_over(BundleHost(tmp_path_factory.mktemp("host")), **held)


def install_over(host: BundleHost, active: list[int], passive: list[int], new: list[int], is_recorded: bool) -> None:
    if is_recorded:
        host.install_in_a(host.bundle("v1", blocks(active), frame_bytes=2 * BLOCK))
    else:
        host.put("ROOT-A", blocks(active))
    host.put("ROOT-B", blocks(passive))
    image = host.bundle("v2", blocks(new), boot=blocks([0]), frame_bytes=2 * BLOCK, codec="none")
    source = host.source(image)
    bundle = host.stage(image, source)
    assert host.slot("ROOT-B", len(new) * BLOCK) == blocks(new)
    assert bundle.written == BLOCK * differing(blocks(new), blocks(passive))
    assert host.slot("ROOT-A") == blocks(active)
    if not entries(blocks(new)) - entries(blocks(active)):
        assert source.frames_bytes == 0


def test_a_slot_without_a_record_is_read_once_and_remembered(host: BundleHost) -> None:
    host.put("ROOT-A", blocks(OLD))
    image = host.bundle("v2", blocks(OLD))
    read: list[int] = []

    class Counting(Pace):
        def step(self, size: int) -> None:
            read.append(size)
            super().step(size)

    host.stage(image, pace=Counting())
    assert (host.root / "var/lib/hostplane/slots/A/root.scan").stat().st_size == (len(OLD) - 2) * ENTRY.size + 32
    first = sum(read)
    for label in ("ROOT-B", "BOOT-B"):
        host.put(label, b"")
    read.clear()
    host.stage(image, pace=Counting())
    assert first - sum(read) == len(blocks(OLD))


def test_a_damaged_scan_is_made_again(host: BundleHost) -> None:
    host.put("ROOT-A", blocks(OLD))
    image = host.bundle("v2", blocks(OLD))
    host.stage(image)
    scan = host.root / "var/lib/hostplane/slots/A/root.scan"
    right = scan.read_bytes()
    scan.write_bytes(b"x" + right[1:])
    host.stage(image)
    assert scan.read_bytes() == right


# --- the record


def test_the_record_appears_with_the_proof_and_vanishes_before_the_first_byte(host: BundleHost) -> None:
    first, second = host.bundle("v1", blocks(OLD)), host.bundle("v2", blocks(NEW))
    host.stage(first)
    kept = record.load(host.host, "B")
    assert kept is not None
    assert kept.manifest.digest == first.digest
    assert record.metadata(host.host, "B") == kept.metadata

    def note(size: int) -> None:
        raise AssertionError  # between the first byte and the proof

    with pytest.raises(AssertionError):
        host.stage(second, note=note)
    again = record.load(host.host, "B")
    assert again is None or again.manifest.digest == first.digest


def test_what_is_held_is_judged_and_read_back_without_its_source(host: BundleHost) -> None:
    image = host.bundle("v1", blocks(OLD))
    host.stage(image)
    found = partitions.find(host.host)
    assert install.held_size(host.host, found, "B", image, Pace()) == (len(OLD) + 3) * BLOCK
    host.put("BOOT-B", blocks([1, 0, 3]))
    assert install.held_size(host.host, found, "B", image, Pace()) == 0
    (host.root / "etc/hostplane/blocked").write_text(image.digest + "\n")
    assert refusal(lambda: install.held_size(host.host, found, "B", image, Pace())) == "DigestBlocked"


AGENT = """
import sys, threading
from hostplane.agent.disk.partitions import find
from hostplane.agent.fetch import open_bundle
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import install
from hostplane.agent.payload.pace import IdleDisk, Pace
from hostplane.agent.state import Image
host, image = HostRoot(sys.argv[1]), Image(format="bundle", ref=sys.argv[2], digest=sys.argv[3])
with IdleDisk():
    bundle = install.Bundle(host, find(host), "B", image, open_bundle(host, image, threading.Event()), Pace())
    bundle.stage(install.Steps(lambda plan: None, lambda: None, lambda size: None))
    bundle.close()
"""


@pytest.mark.parametrize("python", interpreters())
def test_a_hosts_python_does_it(host: BundleHost, python: str) -> None:
    host.put("ROOT-A", blocks(OLD))
    image = host.bundle("v1", blocks(NEW))
    words = [python, "-c", AGENT, str(host.root), image.ref, image.digest]
    environment = {"PYTHONPATH": str(Path(hostplane.__file__).parents[1]), "PATH": os.environ["PATH"]}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert host.slot("ROOT-B") == blocks(NEW)


def test_a_killed_plan_leaves_nothing_for_long(host: BundleHost) -> None:
    left = host.root / "var/lib/hostplane/scratch/plan-4194305-x/bundle"
    left.mkdir(parents=True)
    host.stage(host.bundle("v1", blocks(OLD)))
    assert not left.exists()


def test_a_plan_changes_nothing(host: BundleHost) -> None:
    host.install_in_a(host.bundle("v1", blocks(OLD)))
    image = host.bundle("v2", blocks(NEW))
    source = host.source(image)
    plan = install.estimate(host.host, partitions.find(host.host), "B", image, source, Pace())
    assert source.frames_bytes == 0
    assert host.slot("ROOT-B") == b""
    assert sorted(os.listdir(host.root / "var/lib/hostplane/slots")) == ["A"]
    host.stage(image)
    assert host.plan == plan
    assert plan.total == (len(NEW) + 3) * BLOCK


# --- interruptions


class Cut(Exception):
    """The power fails."""


def test_a_staging_cut_at_any_step_goes_on_with_what_is_missing(host: BundleHost) -> None:
    host.install_in_a(host.bundle("v1", blocks(OLD)))
    new = [*range(50, 150), *(-n for n in range(1, 20)), *range(1, 50)]
    image = host.bundle("v2", blocks(new), frame_bytes=2 * BLOCK)
    steps = 0

    class Cutting(Pace):
        left = 10**9

        def step(self, size: int) -> None:
            nonlocal steps
            steps += 1
            self.left -= 1
            if self.left < 0:
                raise Cut

    host.stage(image, pace=Cutting())
    for cut in range(steps):
        host.put("ROOT-B", blocks(list(range(1, 170))))
        host.put("BOOT-B", b"")
        pace = Cutting()
        pace.left = cut
        with pytest.raises(Cut):
            host.stage(image, pace=pace)
        host.stage(image)
        assert host.slot("ROOT-B", len(new) * BLOCK) == blocks(new)


def test_what_was_fetched_before_a_cut_is_not_fetched_again(host: BundleHost) -> None:
    image = host.bundle("v1", blocks([-n for n in range(1, 200)]), frame_bytes=4 * BLOCK)
    source = host.source(image)
    source.break_after = 400_000
    with pytest.raises(ConnectionError):
        host.stage(image, source)
    again = host.source(image)
    host.stage(image, again)
    assert again.frames_bytes < 200 * BLOCK - 400_000 + 12 * BLOCK
    assert again.blobs.count("application/vnd.hostplane.blockindex.v1") == 0  # the indexes were kept


# --- a real table


def test_on_a_disk_nothing_but_the_passive_slot_is_written(tmp_path: Path) -> None:
    host = BundleHost(tmp_path)
    image = host.bundle("v1", blocks(list(range(1, 250))))
    machine = Machine(tmp_path)
    machine.disk("nvme2n1", "nvme2n1p%d")
    machine.disk("nvme3n1", "nvme3n1p%d")
    machine.mount("nvme2n1p6")
    (tmp_path / "dev/nvme2n1p7").write_bytes(random.Random(1).randbytes(MIB))
    before = machine.content()
    host.stage(image)
    after = machine.content()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"nvme2n1p5", "nvme2n1p7"}
    assert after["nvme2n1p7"][: 249 * BLOCK] == blocks(list(range(1, 250)))
    assert after["nvme2n1p7"][249 * BLOCK :] == before["nvme2n1p7"][249 * BLOCK :]


def test_the_boot_image_takes_from_the_new_root_what_both_have(host: BundleHost) -> None:
    """As an initramfs on block boundaries does."""
    root = blocks([*range(1, 40), *(-n for n in range(1, 60))])
    boot = blocks([0, *(-n for n in range(10, 50)), 7, 0])
    image = host.bundle("v1", root, boot, frame_bytes=4 * BLOCK, codec="none")
    source = host.source(image)
    host.stage(image, source)
    assert (host.slot("ROOT-B"), host.slot("BOOT-B")) == (root, boot)
    frames = host.opened("v1").manifest.images["root"][1].size
    assert source.frames_bytes == frames
