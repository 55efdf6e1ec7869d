"""The disk's layout: in place, in order, the same every time, and loud when something does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.agent import gpt
from hostplane.errors import RecipeError
from hostplane.image.disk.layout import LABELS, Layout, fs_uuid, plan, room_left
from hostplane.image.recipe import Disk, Partition, Recipe

MIB = 1 << 20


def recipe(disk: Disk, version: str = "1") -> Recipe:
    return Recipe(name="node", version=version, distro="debian", release="12", disk=disk)


@st.composite
def disks(draw: st.DrawFn) -> Disk:
    """Disks whose partitions fit, with as little left for PERSIST as 256 MiB."""
    root, boot = draw(st.integers(64, 9000)), draw(st.integers(64, 1500))
    labels = draw(st.lists(st.from_regex(r"[A-Z0-9][A-Z0-9-]{0,11}", fullmatch=True), unique=True, max_size=6))
    extras = tuple(
        Partition(label=label, size_mib=draw(st.integers(1, 5000))) for label in labels if label not in LABELS
    )
    esp, state = draw(st.integers(16, 600)), draw(st.integers(8, 64))
    needed = 3 + esp + state + 2 * (root + boot) + sum(extra.size_mib for extra in extras) + 256
    return Disk(
        size_gib=-(-needed // 1024) + draw(st.integers(0, 500)),
        root_mib=root,
        boot_mib=boot,
        esp_mib=esp,
        bootstate_mib=state,
        partitions=extras,
    )


def check(found: Layout, disk: Disk) -> None:
    at = MIB
    for region in found.regions:
        assert region.offset == at
        assert region.size > 0
        assert region.size % MIB == 0
        at += region.size
    assert at == found.size - MIB
    assert found.size == disk.size_gib << 30
    assert {found[label].number: label for label in LABELS} == dict(enumerate(LABELS, start=1))
    assert [region.number for region in found.regions] == [*range(1, 8), *range(9, 9 + len(disk.partitions)), 8]
    assert found["BOOT-A"].size == found["BOOT-B"].size == disk.boot_mib * MIB
    assert found["ROOT-A"].size == found["ROOT-B"].size == disk.root_mib * MIB


@settings(max_examples=30, deadline=None)
@given(disks())
def test_partitions_follow_one_another_and_persist_takes_the_rest(disk: Disk) -> None:
    found = plan(recipe(disk))
    check(found, disk)
    table = found.table()
    assert table.last.name == "PERSIST"
    assert gpt.grown(table, found.size) == table
    assert len({found.disk_guid, *(region.guid for region in found.regions)}) == len(found.regions) + 1


@settings(max_examples=15, deadline=None)
@given(disks(), st.integers(1, 2000))
def test_a_larger_disk_moves_only_the_end_of_persist(disk: Disk, more: int) -> None:
    small, large = plan(recipe(disk)).table(), (disk.size_gib + more) << 30
    longer = gpt.grown(small, large)
    assert longer.last.number == 8
    assert (longer.last.last + 1) * 512 == large - MIB
    assert [p for p in longer.partitions if p.number != 8] == [p for p in small.partitions if p.number != 8]


def test_guids_follow_from_name_version_and_label_alone() -> None:
    one, two = plan(recipe(Disk())), plan(recipe(Disk(root_mib=5000, boot_mib=300)))
    assert [region.guid for region in one.regions] == [region.guid for region in two.regions]
    assert one.disk_guid == two.disk_guid
    other = plan(recipe(Disk(), version="2"))
    assert not {region.guid for region in one.regions} & {region.guid for region in other.regions}


def test_guids_stay_as_they_were_first_published() -> None:
    assert plan(recipe(Disk()))["ROOT-A"].guid == "7590048a-4735-5870-b150-6ee733c26271"


def test_a_file_system_is_not_named_as_its_partition() -> None:
    assert fs_uuid(recipe(Disk()), "PERSIST") != plan(recipe(Disk()))["PERSIST"].guid


def test_types_are_those_that_firmware_and_grub_look_for() -> None:
    found = plan(recipe(Disk()))
    assert found["BIOS-BOOT"].type_guid == "21686148-6449-6e6f-744e-656564454649"
    assert found["ESP"].type_guid == "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
    assert {found[label].type_guid for label in LABELS[2:]} == {"0fc63daf-8483-4772-8e79-3d69d8477de4"}


@pytest.mark.parametrize(("size_gib", "root_mib"), [(1, 4096), (9, 4096), (4, 1400)])
def test_a_disk_that_cannot_hold_it_all_is_refused_with_the_size_it_needs(size_gib: int, root_mib: int) -> None:
    with pytest.raises(RecipeError) as refused:
        plan(recipe(Disk(size_gib=size_gib, root_mib=root_mib)))
    assert refused.value.name == "DiskTooSmall"
    wanted = refused.value.reason.params["wanted"]
    assert isinstance(wanted, int)
    plan(recipe(Disk(size_gib=wanted, root_mib=root_mib)))
    with pytest.raises(RecipeError):
        plan(recipe(Disk(size_gib=wanted - 1, root_mib=root_mib)))


def test_an_image_larger_than_its_partition_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"5000 MiB.*4096 MiB") as refused:
        room_left(plan(recipe(Disk())), {"ROOT-A": 5000 * MIB})
    assert "disk.root_mib" in refused.value.remedy


def test_little_room_for_the_next_version_is_a_warning_with_figures() -> None:
    found = plan(recipe(Disk()))
    assert room_left(found, {"ROOT-A": 3500 * MIB, "BOOT-A": 400 * MIB}) == []
    (warning,) = room_left(found, {"ROOT-A": 4000 * MIB, "BOOT-A": 400 * MIB})
    assert "96 MiB are left" in warning.text
    assert "4600" in warning.remedy
    (warning,) = room_left(found, {"BOOT-A": 512 * MIB})
    assert "disk.boot_mib" in warning.remedy
