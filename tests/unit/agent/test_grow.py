"""PERSIST grows to its disk, from any point an earlier attempt was cut at."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.agent import gpt
from hostplane.agent.grow import Place, find, grow
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

MIB = 1 << 20
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
GUID = "00000000-0000-4000-8000-0000000000%02d"


class Disk:
    """A host whose PERSIST lies last on a disk of `mib`, as the kernel shows it."""

    def __init__(self, root: Path, mib: int = 64, kind: str = "ext4", last: str = "PERSIST") -> None:
        self.root, self.image = root, root / "dev/vda"
        self.told: list[tuple[str, int, int, int]] = []
        self.ran: list[list[str]] = []
        self.sysfs = root / "sys/devices/pci/vda/vda8"
        for directory in (root / "dev", self.sysfs, root / "sys/devices/pci/vda/queue", root / "sys/dev/block"):
            directory.mkdir(parents=True)
        (self.sysfs / "partition").write_text("8\n")
        (self.sysfs / "uevent").write_text("MAJOR=254\nDEVNAME=vda8\n")
        (self.sysfs / "size").write_text(f"{16 * MIB // 512}\n")
        (self.sysfs.parent / "uevent").write_text("DEVNAME=vda\n")
        (self.sysfs.parent / "queue/logical_block_size").write_text("512\n")
        (root / "sys/dev/block/254:8").symlink_to("../../devices/pci/vda/vda8")
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/mountinfo").write_text(
            "20 1 254:6 / / ro - ext4 /dev/vda6 ro\n"
            f"21 20 254:8 / /persist rw,relatime shared:1 - {kind} /dev/vda8 rw\n"
            f"22 20 254:8 /var /var rw shared:1 - {kind} /dev/vda8 rw\n"
        )
        parts = [gpt.Partition(8, LINUX, GUID % 8, 2048, 2048 + 16 * 2048 - 1, "PERSIST")]
        if last != "PERSIST":
            parts.append(gpt.Partition(9, LINUX, GUID % 9, 20 * 2048, 22 * 2048 - 1, last))
        with self.image.open("wb") as disk:
            disk.truncate(24 * MIB)
            gpt.write_disk(disk.fileno(), gpt.make(GUID % 1, 24 * MIB, tuple(parts)))
            disk.truncate(mib * MIB)

    def tell(self, disk: str, number: int, start: int, length: int) -> None:
        self.told.append((Path(disk).name, number, start // MIB, length // MIB))
        (self.sysfs / "size").write_text(f"{length // 512}\n")

    def grow(self) -> int | None:
        self.told, self.ran = [], []
        return grow(HostRoot(str(self.root)), self.tell, self.ran.append)

    @property
    def persist_mib(self) -> int:
        last = gpt.read_disk(str(self.image)).table.last
        return (last.last - last.first + 1) // 2048


@pytest.mark.parametrize(("kind", "tool"), [("ext4", ["resize2fs", "dev/vda8"]), ("xfs", ["xfs_growfs", "persist"])])
def test_table_kernel_and_file_system_grow_in_turn(tmp_path: Path, kind: str, tool: list[str]) -> None:
    disk = Disk(tmp_path, kind=kind)
    assert disk.grow() == 62 * MIB
    assert disk.persist_mib == 62
    assert disk.told == [("vda", 8, 1, 62)]
    assert disk.ran == [[tool[0], str(tmp_path / tool[1])]]


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.grow()
    before = disk.image.read_bytes()
    assert disk.grow() is None
    assert disk.told == []
    assert disk.image.read_bytes() == before


def test_a_cut_after_the_table_is_made_good(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.grow()
    (disk.sysfs / "size").write_text(f"{16 * MIB // 512}\n")  # the kernel never heard of it
    assert disk.grow() == 62 * MIB
    assert disk.told == [("vda", 8, 1, 62)]


def test_a_cut_before_the_file_system_is_made_good(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.grow()
    assert disk.grow() is None
    assert disk.ran == [["resize2fs", str(tmp_path / "dev/vda8")]]


def test_a_partition_behind_persist_stops_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path, last="FOREIGN")
    before = disk.image.read_bytes()
    assert disk.grow() is None
    assert disk.ran == []
    assert disk.image.read_bytes() == before


def test_an_unknown_file_system_is_left_alone(tmp_path: Path) -> None:
    disk = Disk(tmp_path, kind="btrfs")
    assert disk.grow() == 62 * MIB
    assert disk.ran == []


def test_a_veto_stops_the_first_write(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    (tmp_path / "etc/hostplane").mkdir(parents=True)
    (tmp_path / "etc/hostplane/never").touch()
    before = disk.image.read_bytes()
    with pytest.raises(HostError, match="HP-6020"):
        disk.grow()
    assert disk.image.read_bytes() == before


def test_a_kernel_that_refuses_is_named(tmp_path: Path) -> None:
    disk = Disk(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    with pytest.raises(HostError, match="busy"):
        grow(HostRoot(str(tmp_path)), refuse, disk.ran.append)
    assert disk.ran == []


def test_persist_elsewhere_is_said_so(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    (tmp_path / "proc/self/mountinfo").write_text("20 1 254:6 / / ro - ext4 /dev/vda6 ro\n")
    with pytest.raises(HostError, match="PERSIST is not mounted"):
        disk.grow()


def test_where_persist_is_comes_from_the_kernel_alone(tmp_path: Path) -> None:
    Disk(tmp_path)
    place = find(HostRoot(str(tmp_path)))
    sectors = str(tmp_path / "sys/devices/pci/vda/vda8/size")
    dev = tmp_path / "dev"
    assert place == Place(str(tmp_path / "persist"), "ext4", str(dev / "vda8"), str(dev / "vda"), 8, sectors, 512)
