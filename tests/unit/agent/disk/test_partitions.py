"""The slots on a disk: found whatever devices are called, and refused whenever something does not add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hostplane.agent.disk import partitions
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError
from tests.unit.agent.disk.made_up import MIB, NUMBERS, Machine, guid

TRAPS = [
    ("nvme2n1", "nvme2n1p%d", {"ROOT-A": 3, "ROOT-B": 2}),
    ("nvme2n1", "nvme2n1p%d", {"ROOT-A": 2, "ROOT-B": 3}),
    ("nvme0n2", "nvme0n2p%d", {"ROOT-A": 12, "ROOT-B": 22}),
    ("sda", "sda%d", {"ROOT-A": 23, "ROOT-B": 32}),
    ("sda", "sda%d", {"ROOT-A": 2, "ROOT-B": 22}),
    ("sdab", "sdab%d", {"ROOT-A": 13, "ROOT-B": 12}),
    ("mmcblk2", "mmcblk2p%d", {"ROOT-A": 2, "ROOT-B": 3}),
    ("mmcblk2", "mmcblk2p%d", {"ROOT-A": 3, "ROOT-B": 2}),
    ("md127", "md127p%d", {"ROOT-A": 6, "ROOT-B": 7}),
    ("nbd3", "nbd3p%d", {"ROOT-A": 3, "ROOT-B": 33}),
    ("loop23", "loop23p%d", {"ROOT-A": 2, "ROOT-B": 3}),
    ("cciss/c2d3", "cciss/c2d3p%d", {"ROOT-A": 2, "ROOT-B": 3}),
    ("vda", "vda%d", {}),
]


def numbered(more: dict[str, int]) -> dict[str, int]:
    """Numbers for all labels: the given ones, and others out of their way."""
    free = (number for number in range(1, 128) if number not in more.values())
    return {label: more.get(label) or next(free) for label in NUMBERS}


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(HostError) as caught:
        act()
    return f"{caught.value.name}: {caught.value}"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def found(machine: Machine) -> partitions.Partitions:
    return partitions.find(HostRoot(str(machine.root)))


def checked(machine: Machine, label: str = "ROOT-B", size: int = MIB) -> None:
    host = HostRoot(str(machine.root))
    partitions.check(host, partitions.find(host).by_label[label], "A", size)


@pytest.mark.parametrize(("disk", "part", "numbers"), TRAPS, ids=str)
@pytest.mark.parametrize("slot", ["A", "B"])
def test_no_digit_of_a_name_decides(machine: Machine, disk: str, part: str, numbers: dict[str, int], slot: str) -> None:
    numbers = numbered(numbers)
    machine.disk("sdz", "sdz%d")  # a clone: the same labels and GUIDs on another disk
    machine.disk(disk, part, numbers=numbers)
    machine.boot("ROOT-" + slot)
    machine.mount(part % numbers["ROOT-" + slot])
    seen = found(machine)
    assert seen.active == slot
    assert seen.disk == str(machine.root / "dev" / disk)
    for label in ("BOOT-A", "BOOT-B", "ROOT-A", "ROOT-B", "BOOTSTATE", "PERSIST"):
        own = seen.by_label[label]
        assert own.path == str(machine.root / "dev" / (part % numbers[label]))
        assert (own.guid, own.size) == (guid(label), MIB)


def test_the_root_is_found_under_a_seal(machine: Machine) -> None:
    machine.disk("sda", "sda%d", numbers=numbered({"ROOT-A": 23, "ROOT-B": 32}))
    machine.mapped("dm-2", "sda23", "CRYPT-VERITY-abc-hostplane-root")
    machine.mount("dm-2")
    assert found(machine).of("root", "B").path.endswith("/sda32")
    checked(machine)


def test_partitions_of_a_disk_with_several_paths_are_the_mapped_ones(machine: Machine) -> None:
    machine.disk("sda", "sda%d")
    machine.mapped("dm-3", "sda", "mpath-360000", size=(machine.root / "dev/sda").stat().st_size)
    (machine.root / "dev/dm-3").write_bytes((machine.root / "dev/sda").read_bytes())
    for label, number in NUMBERS.items():
        machine.mapped(f"dm-{number + 20}", "dm-3", f"part{number}-mpath-360000")
        assert label in NUMBERS
    machine.mapped("dm-2", f"dm-{NUMBERS['ROOT-A'] + 20}", "CRYPT-VERITY-abc-hostplane-root")
    machine.mount("dm-2")
    seen = found(machine)
    assert seen.disk.endswith("/dm-3")
    assert seen.of("boot", "B").path.endswith(f"/dm-{NUMBERS['BOOT-B'] + 20}")


def test_a_root_over_two_devices_is_refused(machine: Machine) -> None:
    machine.disk("sda", "sda%d")
    machine.mapped("dm-2", "sda6", "LVM-abc")
    (machine.nodes["dm-2"] / "slaves/sda7").symlink_to(machine.nodes["sda7"])
    machine.mount("dm-2")
    assert "on 2 devices" in refusal(lambda: found(machine))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("hostplane.slot=A hostplane.root=PARTUUID=" + guid("ROOT-B"), "kernel line names"),
        ("hostplane.slot=B hostplane.root=PARTUUID=" + guid("ROOT-B"), "kernel line names"),
        ("hostplane.root=PARTUUID=" + guid("ROOT-A"), "ActiveSlotUnknown"),
    ],
)
def test_a_kernel_line_that_names_another_root_is_refused(machine: Machine, words: str, why: str) -> None:
    machine.disk("sda", "sda%d")
    machine.mount("sda6")
    machine.boot("ROOT-A", words)
    assert why in refusal(lambda: found(machine))


def test_two_partitions_of_one_label_are_refused(machine: Machine) -> None:
    machine.disk("sda", "sda%d", labels={"PERSIST": "ROOT-B"})
    machine.mount("sda6")
    assert "two partitions called ROOT-B" in refusal(lambda: found(machine))


def test_a_missing_slot_is_named_when_it_is_wanted(machine: Machine) -> None:
    machine.disk("sda", "sda%d", labels={"BOOT-B": "data"})
    machine.mount("sda6")
    assert "PartitionMissing" in refusal(lambda: found(machine).of("boot", "B"))


def test_a_table_that_changed_since_the_boot_is_refused(machine: Machine) -> None:
    machine.disk("sda", "sda%d")
    machine.mount("sda6")
    (machine.nodes["sda7"] / "start").write_text("4096\n")
    assert "reboot" in refusal(lambda: found(machine))


def test_a_disk_without_a_table_is_refused(machine: Machine) -> None:
    machine.disk("sda", "sda%d")
    machine.mount("sda6")
    (machine.root / "dev/sda").write_bytes(bytes(4 * MIB))
    assert "PartitionTableUnreadable" in refusal(lambda: found(machine))


def test_an_idle_slot_may_be_written(machine: Machine) -> None:
    machine.disk("sda", "sda%d")
    machine.mount("sda6")
    checked(machine)
    checked(machine, "BOOT-B")


@pytest.mark.parametrize("label", ["ROOT-A", "BOOT-A", "PERSIST", "BOOTSTATE"])
def test_what_runs_is_never_written(machine: Machine, label: str) -> None:
    machine.disk("sda", "sda%d")
    machine.mount("sda6")
    assert "belongs to what runs" in refusal(lambda: checked(machine, label))


def mounted(machine: Machine) -> None:
    machine.mount("sda7", "/mnt")


def held(machine: Machine) -> None:
    machine.mapped("dm-9", "sda7", "LVM-abc")


def read_only(machine: Machine) -> None:
    (machine.nodes["sda7"] / "ro").write_text("1\n")


def swapped(machine: Machine) -> None:
    (machine.root / "proc/swaps").write_text("Filename Type Size\n/dev/sda7 partition 1\n")


def vetoed(machine: Machine) -> None:
    (machine.root / "etc/hostplane").mkdir(parents=True)
    (machine.root / "etc/hostplane/never").touch()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (mounted, "mounted"),
        (held, "held by dm-9"),
        (read_only, "read-only"),
        (swapped, "swapped"),
        (vetoed, "VetoedByHost"),
    ],
)
def test_a_slot_in_use_is_refused(machine: Machine, spoil: Callable[[Machine], None], why: str) -> None:
    machine.disk("sda", "sda%d")
    machine.mount("sda6")
    spoil(machine)
    assert why in refusal(lambda: checked(machine))


def test_a_partition_of_another_type_is_refused(machine: Machine) -> None:
    machine.disk("sda", "sda%d", kinds={"ROOT-B": "e6d6d379-f507-44c2-a23c-238f2a3df928"})
    machine.mount("sda6")
    assert "its type is" in refusal(lambda: checked(machine))


def test_an_image_larger_than_the_partition_is_refused(machine: Machine) -> None:
    machine.disk("sda", "sda%d")
    machine.mount("sda6")
    assert "PayloadTooLarge" in refusal(lambda: checked(machine, size=MIB + 4096))


def test_a_directory_has_files_for_slots(tmp_path: Path) -> None:
    (tmp_path / "dev/hostplane").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("hostplane.slot=B\n")
    seen = partitions.find(HostRoot(str(tmp_path)))
    assert seen.active == "B"
    assert seen.of("boot", "A").path == str(tmp_path / "dev/hostplane/BOOT-A")
    assert seen.of("root", "A").size > 0
