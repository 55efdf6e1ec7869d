"""The simulated loader does what GRUB does with the boot state, and only that."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.agent.bootstate import BootState, choose, render
from hostplane.errors import LocalError
from hostplane.local.bootloader import boot, read_faults, set_fault
from hostplane.local.disk import install, read_release, slot_path, write_block
from hostplane.local.image import write_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host that runs v1 in A and has nothing in B."""
    root = tmp_path / "h"
    install(root, write_image(tmp_path, "v1", filler_bytes=5000), bootTries=3)
    return root


def write_boot_state(root: Path, state: BootState) -> None:
    for copy in ("env2", "env1"):
        write_block(root / "boot/hostplane" / copy, render(state))


def boot_state(root: Path) -> BootState:
    return choose((root / "boot/hostplane/env1").read_bytes(), (root / "boot/hostplane/env2").read_bytes())


def stage(root: Path, tmp_path: Path, version: str, *, boots: bool = True, tries: int = 3) -> None:
    """Puts an image into B, on trial."""
    image = write_image(tmp_path, version, filler_bytes=5000, boots=boots)
    slot_path(root, "B").write_bytes(Path(image.path).read_bytes() + bytes(1000))
    write_boot_state(root, BootState(seq=2, first="B", a_ok=True, a_left=0, b_ok=False, b_left=tries))


def test_a_fresh_host_boots_what_was_installed(root: Path) -> None:
    (root / "run").mkdir(exist_ok=True)
    (root / "run" / "stale").write_text("from before")
    found = boot(root)
    assert found is not None
    assert (found.slot, found.release.version_id, found.attempts) == ("A", "v1", 1)
    assert "hostplane.slot=A" in (root / "proc/cmdline").read_text().split()
    assert (root / "proc/sys/kernel/random/boot_id").read_text().strip() == found.boot_id
    assert 'VERSION_ID="v1"' in (root / "etc/os-release").read_text()
    assert [p.name for p in (root / "run").iterdir()] == ["hostplane"]


def test_each_boot_has_an_id_of_its_own(root: Path) -> None:
    first, second = boot(root), boot(root)
    assert first is not None
    assert second is not None
    assert first.boot_id != second.boot_id


def test_a_confirmed_boot_writes_nothing(root: Path) -> None:
    before = boot_state(root)
    boot(root)
    assert boot_state(root) == before


def test_a_trial_boot_takes_one_try_away(root: Path, tmp_path: Path) -> None:
    stage(root, tmp_path, "v2")
    found = boot(root)
    assert found is not None
    assert (found.slot, found.release.version_id) == ("B", "v2")
    assert boot_state(root).b_left == 2


@pytest.mark.parametrize("how", ["no-os-release", "truncated", "empty", "fault"])
def test_a_slot_that_does_not_start_uses_its_tries_and_the_old_one_boots(root: Path, tmp_path: Path, how: str) -> None:
    stage(root, tmp_path, "v2", boots=how != "no-os-release")
    slot = slot_path(root, "B")
    if how == "truncated":
        slot.write_bytes(slot.read_bytes()[:4000])
    if how == "empty":
        slot.write_bytes(b"")
    if how == "fault":
        set_fault(root, "B", "no-boot")
    found = boot(root)
    assert found is not None
    assert (found.slot, found.attempts) == ("A", 4)
    assert boot_state(root).b_left == 0


def test_a_hanging_system_costs_one_try_each_time(root: Path, tmp_path: Path) -> None:
    stage(root, tmp_path, "v2", tries=2)
    set_fault(root, "B", "hang-after-boot")
    assert [found.fault if found else None for found in (boot(root), boot(root), boot(root))] == [
        "hang-after-boot",
        "hang-after-boot",
        "",
    ]
    assert boot_state(root).b_left == 0


def test_a_torn_first_copy_is_passed_over(root: Path, tmp_path: Path) -> None:
    stage(root, tmp_path, "v2")
    write_block(root / "boot/hostplane/env1", b"torn" * 256)
    found = boot(root)
    assert found is not None
    assert found.slot == "B"


def test_nothing_to_boot_leaves_the_host_down(root: Path) -> None:
    write_boot_state(root, BootState(seq=3, first="A", a_ok=False, a_left=0, b_ok=False, b_left=0))
    assert boot(root) is None


def test_a_proven_slot_that_does_not_start_is_not_replaced(root: Path) -> None:
    set_fault(root, "A", "no-boot")
    assert boot(root) is None
    set_fault(root, "A", None)
    assert boot(root) is not None


def test_a_dead_machine_stays_down(root: Path) -> None:
    set_fault(root, "A", "dead")
    assert boot(root) is None


def test_faults_are_known_by_name(root: Path) -> None:
    with pytest.raises(ValueError):
        set_fault(root, "A", "made-up")
    assert read_faults(root) == {}


def test_a_tar_without_its_end_is_no_system(tmp_path: Path) -> None:
    image = Path(write_image(tmp_path, "v1", filler_bytes=5000).path)
    content = image.read_bytes().rstrip(b"\0")
    image.write_bytes(content + bytes(-len(content) % 512))
    assert read_release(image) is None


def test_a_path_too_long_for_the_agents_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        install(tmp_path / ("x" * 120), write_image(tmp_path, "v1"))
    assert caught.value.name == "PathTooLong"
