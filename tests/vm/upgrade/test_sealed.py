"""Sealed roots (dm-verity) are upgraded as others are; a byte that changed costs an attempt and leads back."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.vm.guest import BOOT_SECONDS, TEST_SECONDS
from tests.vm.upgrade.host import UpgradeHost, powered_on
from tests.vm.upgrade.images import V2, Images, Made
from tests.vm.upgrade.story import switched_off

pytestmark = [pytest.mark.long, pytest.mark.timeout(4 * TEST_SECONDS)]
SEALED = "disk.verity=true"
_CORRUPT = "dm-verity device corrupted"  # the last words; the shell of a test hears no others of the kernel
_FLIP = (
    "import os; disk = os.open('/dev/hostplane/ROOT-{slot}', os.O_RDWR); byte = os.pread(disk, 1, {at}); "
    "os.pwrite(disk, bytes([byte[0] ^ 1]), {at}); os.fsync(disk)"
)


def _place(root: Path, path: str) -> int:
    """Where the first byte of a file lies in an ext4 image, and so in its slot."""
    command = ["debugfs", "-R", f"bmap {path} 0", str(root)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return int(said.split()[-1]) * 4096


def _corrupt(host: UpgradeHost, slot: str, at: int) -> None:
    host.run(f'python3 -c "{_FLIP.format(slot=slot, at=at)}"')


def _is_sealed(host: UpgradeHost) -> bool:
    return host.run("findmnt -no SOURCE /").strip() == "/dev/mapper/hostplane-root"


def _refused(host: UpgradeHost, made: Made, name: str) -> str:
    """The sentence of a host that does not stage `made`."""
    host.call("stage", image=host.image(made, name))
    report = host.wait(lambda report: report["phase"] in ("Failed", "Staged"))
    assert (report["phase"], report["lastError"]["name"]) == ("Failed", "SealingChanges")
    assert report["slots"]["B"]["state"] == "Empty"
    return str(report["lastError"]["message"])


def _went_back(host: UpgradeHost, two: Made, reason: str) -> None:
    report = host.returns()
    assert (report["phase"], report["activeSlot"]) == ("Returned", "A")
    assert (report["slots"]["A"]["state"], report["slots"]["B"]["state"]) == ("Confirmed", "Bad")
    why = report["lastError"]
    assert (why["name"], why["reasonClass"], why["digest"]) == (reason, "HostFault", two.digest), why
    assert reason in host.refused("stage", image=host.image(two, "two"))
    assert _is_sealed(host)


def test_a_sealed_host_takes_a_sealed_version_as_it_was_signed_and_no_other(images: Images) -> None:
    one, two, plain = images.made(SEALED), images.made(*V2, SEALED), images.made(*V2)
    assert one.disk is not None
    with powered_on(one.disk, {"two": two, "plain": plain}) as host:
        assert _is_sealed(host)
        host.run("echo mine >/etc/mine.conf")
        before = host.tree("/etc")
        assert "not sealed" in _refused(host, plain, "plain")

        host.stage(two, "two")
        _corrupt(host, "B", _place(two.root, "/usr/lib/systemd/systemd"))
        host.switch(1, two)
        host.machine.wait_for("Hostplane: slot B", BOOT_SECONDS)
        host.machine.wait_for(_CORRUPT, BOOT_SECONDS)
        _went_back(host, two, "BootFellBack")
        assert host.machine.console.count(_CORRUPT) == 2, "each try found it"
        assert host.tree("/etc") == before

        host.stage(two, "two", attempt=1)
        with two.root.open("rb") as good:
            want = hashlib.file_digest(good, "sha256").hexdigest()
        assert host.run(f"head -c {two.root.stat().st_size} /dev/hostplane/ROOT-B | sha256sum").split()[0] == want
        host.switch(2, two)
        assert host.arrive("B").startswith("on trial")
        report = host.confirm(2)
        assert (report["phase"], report["activeSlot"], report["slots"]["B"]["state"]) == ("Idle", "B", "Confirmed")
        assert _is_sealed(host)
        assert host.run("cat /usr/share/two /etc/mine.conf").split() == ["two", "mine"]
        switched_off(host)


def test_a_root_that_changes_while_it_is_on_trial_leads_back(images: Images) -> None:
    one, two = images.made(SEALED), images.made(*V2, SEALED)
    assert one.disk is not None
    with powered_on(one.disk, {"two": two}) as host:
        before = host.tree("/etc")
        host.stage(two, "two")
        host.switch(1, two)
        assert host.arrive("B").startswith("on trial")
        _corrupt(host, "B", _place(two.root, "/usr/share/two"))
        host.machine.send("echo 3 >/proc/sys/vm/drop_caches; cat /usr/share/two")
        host.machine.wait_for(_CORRUPT, BOOT_SECONDS)
        _went_back(host, two, "TrialInterrupted")
        assert host.tree("/etc") == before


def test_an_unsealed_host_is_sealed_by_its_administrators_word_alone(images: Images) -> None:
    one, two = images.made(), images.made(*V2, SEALED)
    assert one.disk is not None
    with powered_on(one.disk, {"two": two}) as host:
        assert not _is_sealed(host)
        assert "sealed" in _refused(host, two, "two")
        host.run("sed -i '1s/{/{\"allowSealingChange\": true,/' /etc/hostplane/agent.json")
        host.run("systemctl stop hostplane-agent.service")
        host.upgrade(1, two, "two", "B")
        assert _is_sealed(host)
