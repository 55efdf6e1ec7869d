"""A guest's reboot starts its machine anew, on the disk as it left it, and a log of writes goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.errors import LocalError
from hostplane.local.qemu import Machine
from tests.vm.powercut.recording import recorded
from tests.vm.powercut.test_recording import _COUNTER
from tests.vm.powercut.writelog import Flag, WriteLog
from tests.vm.restarting import Restarting


def test_reboots_are_new_starts_on_the_same_disk(tmp_path: Path) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.write_bytes(bytes.fromhex(_COUNTER).ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    opened = recorded(log)

    def build() -> Machine:
        return Machine(disk, memory_mib=64, cpus=1, overlay=False, reboots=False, opened=opened)

    with Restarting(build) as machine:
        machine.wait_for("boots 1", 60)
        machine.send("r")
        machine.wait_for("boots 2", 60)
        machine.send("r")
        machine.wait_for("boots 3", 60)
        assert "boots 1" in machine.console
        with pytest.raises(LocalError, match="boots 9"):
            machine.wait_for("boots 9", 0.5)
        machine.send("q")
        assert machine.wait_off(60) == 0
    assert disk.read_bytes()[512] == 3
    with WriteLog(log) as read:
        counts = [read.data(entry)[0] for entry in read.entries() if entry.flags == Flag(0)]
    assert sorted(set(counts)) == [1, 2, 3]
