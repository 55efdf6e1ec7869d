"""Disks that are full, that fail and that lie: an upgrade waits, fails with a reason, or works; the host stays well."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hostplane.agent import gpt
from tests.vm.guest import TEST_SECONDS
from tests.vm.powercut.recording import unreadable, worn
from tests.vm.upgrade.host import UpgradeHost, powered_on
from tests.vm.upgrade.images import V2, Images, Made

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * TEST_SECONDS)]
_BLOCK = 4096


def _copied(one: Made, directory: Path) -> Path:
    assert one.disk is not None
    disk = directory / "disk.raw"
    subprocess.run(["cp", "--sparse=always", one.disk, disk], check=True, timeout=300)
    return disk


def _offset(disk: Path, label: str) -> int:
    parts = gpt.read_disk(str(disk)).table.partitions
    return next(part.first for part in parts if part.name == label) * 512


def _blocks(image: Path) -> tuple[int, int]:
    """Two blocks of an image that are not zero and not alike."""
    raw = image.read_bytes()
    offsets = range(len(raw) // 2 // _BLOCK * _BLOCK, len(raw), _BLOCK)
    full = [at for at in offsets if raw[at : at + _BLOCK].strip(b"\0")]
    other = next(at for at in full[100:] if raw[at : at + _BLOCK] != raw[full[0] : full[0] + _BLOCK])
    return full[0], other


def _fails_to_stage(host: UpgradeHost, two: Made) -> str:
    """The name of the reason; the boot state has not changed."""
    before = host.run("sha256sum /boot/hostplane/env1 /boot/hostplane/env2")
    host.call("stage", image=host.image(two, "two"))
    report = host.wait(lambda report: report["phase"] in ("Failed", "Staged"))
    assert report["phase"] == "Failed"
    assert report["slots"]["B"]["state"] not in ("Staged", "Confirmed")
    assert host.run("sha256sum /boot/hostplane/env1 /boot/hostplane/env2") == before
    assert "HP-6025" in host.refused("switch", seq=1, operation="upgrade", digest=two.digest, trialSeconds=60)
    assert report["lastError"]["message"]
    return str(report["lastError"]["name"])


def test_a_worn_slot_is_found_by_reading_it_back(images: Images, tmp_path: Path) -> None:
    one, two = images.made(), images.made(*V2)
    disk = _copied(one, tmp_path)
    root, (first, second) = _offset(disk, "ROOT-B"), _blocks(two.root)
    layer = worn(tmp_path / "worn.vmdk", root + first, root + second)
    with powered_on(disk, {"two": two}, overlay=False, opened=layer) as host:
        assert _fails_to_stage(host, two) == "SlotReadBackMismatch"


def test_a_slot_that_cannot_be_read_is_not_booted(images: Images, tmp_path: Path) -> None:
    one, two = images.made(), images.made(*V2)
    disk = _copied(one, tmp_path)
    bad = (_offset(disk, "ROOT-B") + _blocks(two.root)[0]) // 512
    with powered_on(
        disk, {"two": two}, overlay=False, opened=unreadable(tmp_path / "faults", bad, _BLOCK // 512)
    ) as host:
        _fails_to_stage(host, two)


def test_a_full_disk_delays_an_upgrade_and_breaks_nothing(images: Images) -> None:
    one, two = images.made(), images.made(*V2)
    assert one.disk is not None
    with powered_on(one.disk, {"two": two}) as host:
        host.run("dd if=/dev/zero of=/boot/hostplane/full bs=4k || true")
        host.stage(two, "two")
        host.run("dd if=/dev/zero of=/persist/full bs=64k || true; dd if=/dev/zero of=/persist/fuller bs=1k || true")
        before = host.tree("/etc")
        said = host.asked("switch", seq=1, operation="upgrade", digest=two.digest, trialSeconds=600)
        report = host.wait(lambda report: report["phase"] in ("Staged", "Idle"))
        assert report["activeSlot"] == "A", said
        assert host.tree("/etc") == before
        host.run("rm /persist/full /persist/fuller")
        host.switch(2, two)
        assert host.arrive("B").startswith("on trial")
        assert host.confirm(2)["phase"] == "Idle"
