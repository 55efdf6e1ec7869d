"""The same on a disk that the kernel itself knows: a loop device with partitions, found, taken and written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostplane.agent import gpt
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.disk import partitions
from hostplane.agent.disk.volume import Volume
from hostplane.errors import HostError
from tests.unit.agent.disk.made_up import LINUX, MIB, NUMBERS, guid
from tests.unit.agent.payload.bundle_host import BundleHost, refusal
from tests.unit.image.bundle_play import blocks

SIZE = 8 * MIB


def _has_loop() -> bool:
    return os.geteuid() == 0 and shutil.which("losetup") is not None and os.path.exists("/dev/loop-control")


pytestmark = pytest.mark.skipif(not _has_loop(), reason="needs root and loop devices")


class Disk:
    """A host that runs from the sixth partition of a loop device."""

    def __init__(self, root: Path, device: str) -> None:
        self.device, name = device, os.path.basename(device)
        self.host = BundleHost(root)
        shutil.rmtree(root / "dev")
        (root / "dev").symlink_to("/dev")
        (root / "sys").symlink_to("/sys")
        (root / "proc/self").mkdir()
        running = Path(f"/sys/block/{name}/{name}p{NUMBERS['ROOT-A']}/dev").read_text().strip()
        (root / "proc/self/mountinfo").write_text(f"20 1 {running} / / ro - ext4 /dev/root ro\n")
        line = f"hostplane.slot=A hostplane.root=PARTUUID={guid('ROOT-A')}\n"
        (root / "proc/cmdline").write_text(line)

    def path(self, label: str) -> str:
        return f"{self.device}p{NUMBERS[label]}"

    def put(self, label: str, content: bytes) -> None:
        with open(self.path(label), "r+b") as file:
            file.write(content)

    def read(self, label: str) -> bytes:
        with open(self.path(label), "rb") as file:
            return file.read()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    sectors = SIZE // 512
    listed = tuple(
        gpt.Partition(number, LINUX, guid(label), 2048 + at * sectors, 2047 + (at + 1) * sectors, label)
        for at, (label, number) in enumerate(NUMBERS.items())
    )
    table = gpt.make(guid("disk"), (len(NUMBERS) + 1) * SIZE, listed)
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate((len(NUMBERS) + 1) * SIZE)
        gpt.write_disk(file.fileno(), table)
    words = ["losetup", "--partscan", "--find", "--show", str(image)]
    device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    made = []
    try:
        name = os.path.basename(device)
        subprocess.run(["partx", "--add", device], check=False, capture_output=True)  # where --partscan did not do it
        for number in NUMBERS.values():
            path = f"{device}p{number}"
            if not os.path.exists(path):  # no udev here
                major, minor = Path(f"/sys/block/{name}/{name}p{number}/dev").read_text().split(":")
                os.mknod(path, 0o060600, os.makedev(int(major), int(minor)))
                made.append(path)
        yield Disk(tmp_path / "host", device)
    finally:
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", device], check=True)
        for path in made:
            os.unlink(path)


def test_a_bundle_reaches_the_passive_partitions_and_no_other(disk: Disk) -> None:
    old, new = [*range(1, 900)], [*range(1, 400), -1, -2, *range(405, 950)]
    disk.put("ROOT-A", blocks(old))
    disk.put("ROOT-B", blocks(old[5:]))
    before = {label: disk.read(label) for label in NUMBERS}
    image = disk.host.bundle("v2", blocks(new))
    disk.host.stage(image)
    after = {label: disk.read(label) for label in NUMBERS}
    assert after["ROOT-B"][: len(new) * BLOCK] == blocks(new)
    assert {label for label in NUMBERS if after[label] != before[label]} == {"BOOT-B", "ROOT-B"}


def test_a_partition_that_is_mounted_anywhere_is_not_written(disk: Disk, tmp_path: Path) -> None:
    """Here the mount table that the host reads does not show it, as it would not in another namespace."""
    subprocess.run(["mkfs.ext4", "-q", disk.path("ROOT-B")], check=True)
    before = disk.read("ROOT-B")
    target = tmp_path / "mnt"
    target.mkdir()
    subprocess.run(["mount", "-o", "ro,noload", disk.path("ROOT-B"), str(target)], check=True)
    try:
        assert refusal(lambda: disk.host.stage(disk.host.bundle("v2", blocks([1, 2])))) == "SlotUnfit"
        assert disk.read("ROOT-B") == before
    finally:
        subprocess.run(["umount", str(target)], check=True)


def test_a_device_that_took_the_name_is_not_written(disk: Disk) -> None:
    found = partitions.find(disk.host.host).of("root", "B")
    volume = Volume(found._replace(path=disk.path("PERSIST")), lambda: None)
    with pytest.raises(HostError, match="has taken its name"):
        volume.open_writer(BLOCK)
    volume.close()
