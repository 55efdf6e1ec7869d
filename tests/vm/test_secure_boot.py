"""Under Secure Boot: what a distribution has signed starts, counted as always; what nobody has signed does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hostplane.agent.bootstate import DEFAULT
from hostplane.image.recipe import Firmware
from hostplane.local.qemu import Machine
from tests.vm.grub_disk import GrubDisk
from tests.vm.guest import PATIENCE, TEST_SECONDS

_SECONDS = 240.0 * PATIENCE


@pytest.mark.long
@pytest.mark.timeout(TEST_SECONDS)
def test_a_signed_chain_reaches_a_kernel_that_knows_it(debian_disk: Callable[..., Path]) -> None:
    with Machine(debian_disk(), Firmware.UEFI, secure_boot=True) as machine:
        machine.wait_for("Hostplane: slot A", _SECONDS)
        machine.wait_for("Secure boot enabled", _SECONDS)
        machine.wait_for(r"Hostplane: slot A · .* · healthy", _SECONDS * 2)


def test_a_loader_that_nobody_signed_is_not_started(tmp_path: Path) -> None:
    disk = GrubDisk(tmp_path, DEFAULT)
    with Machine(disk.path, Firmware.UEFI, memory_mib=256, cpus=1, secure_boot=True) as machine:
        machine.wait_for("Access Denied|Security Violation", _SECONDS, unless="Hostplane:")
