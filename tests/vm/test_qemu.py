"""A virtual machine is started, waited for, cut and ended; its disk stays as it was unless asked.

The disk holds one boot sector: it counts its starts in the next sector, says `boots N` on the first serial port and
`2` on the second, and does as it is typed: r reboots, q switches off. (x86, 16 bit; BIOS alone, so a second a boot.)
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from hostplane.errors import LocalError
from hostplane.image.recipe import Firmware
from hostplane.local.qemu import Machine, make_overlay

_SECTOR = (
    "fa31c08ed88ec08ed0bc007cfbfcb80102bb0080b90200ba8000cd13fe060080b80103bb0080b90200ba8000cd13"
    "baf803be717cac84c07403eeebf8a000800430eeb00aeebaf802b032eebafd03eca80174f8baf803ec3c72740d3c"
    "7175ecba0406b80020efebe3baf90cb006eef4ebfd626f6f74732000"
)
_SECONDS = 60.0


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = tmp_path / "a, b.raw"  # a comma means something to QEMU
    made.write_bytes(bytes.fromhex(_SECTOR).ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    return made


def _small(disk: Path, firmware: Firmware = Firmware.BIOS, *, overlay: bool = True, reboots: bool = True) -> Machine:
    return Machine(disk, firmware, memory_mib=64, cpus=1, overlay=overlay, reboots=reboots, consoles=2)


def _counted(disk: Path) -> int:
    return disk.read_bytes()[512]


def test_a_machine_boots_reboots_and_leaves_its_disk_alone(disk: Path) -> None:
    with _small(disk) as machine:
        machine.wait_for("boots 1", _SECONDS)
        machine.serials[1].wait_for("2", _SECONDS)
        machine.send("r")
        machine.wait_for("boots 2", _SECONDS)
        machine.reset()
        machine.wait_for("boots 3", _SECONDS)
        assert machine.exit_code is None
        machine.send("q")
        assert machine.wait_off(_SECONDS) == 0
    assert _counted(disk) == 0


def test_a_machine_writes_to_its_disk_when_asked_and_ends_instead_of_rebooting(disk: Path) -> None:
    with _small(disk, overlay=False, reboots=False) as machine:
        machine.wait_for("boots 1", _SECONDS)
        machine.send("r")
        machine.wait_off(_SECONDS)
    assert _counted(disk) == 1


def test_an_overlay_of_ones_own_lives_over_a_power_cut(disk: Path, tmp_path: Path) -> None:
    overlay = make_overlay(disk, tmp_path / "kept.qcow2")
    for boot in (1, 2):
        with _small(overlay, overlay=False) as machine:
            machine.wait_for(f"boots {boot}", _SECONDS)
            machine.kill()
    assert _counted(disk) == 0


@pytest.mark.parametrize("ending", ["stop", "kill", "error"])
def test_nothing_is_left_of_a_machine_that_ended(disk: Path, ending: str) -> None:
    machine = _small(disk)
    with contextlib.suppress(KeyboardInterrupt), machine:
        process, directory = machine._process, machine._directory
        if ending == "error":
            raise KeyboardInterrupt
        machine.stop() if ending == "stop" else machine.kill()
    assert process is not None
    assert directory is not None
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert machine.serials[0].closed


def test_what_qemu_says_is_told_when_it_does_not_start(disk: Path) -> None:
    with pytest.raises(LocalError, match="no-such-device") as caught:
        Machine(disk, arguments=["-device", "no-such-device"]).start()
    assert caught.value.reason.name == "MachineNotStarted"


def test_a_missing_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"absent\.raw"):
        Machine(tmp_path / "absent.raw").start()
    with pytest.raises(LocalError, match=r"absent\.raw"):
        Machine(tmp_path / "absent.raw", overlay=False).start()


def test_uefi_keeps_its_variables_where_asked(disk: Path, tmp_path: Path) -> None:
    kept = tmp_path / "variables.fd"
    with Machine(disk, Firmware.UEFI, memory_mib=128, cpus=1, variables=kept) as machine:
        machine.wait_for("BdsDxe", _SECONDS)
    assert kept.stat().st_size > 0
