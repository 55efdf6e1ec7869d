"""What belongs to a host stays with it: /etc, machine-id, keys, data disks. What is broken there costs an attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hostplane.agent.bootstate import BootState
from tests.vm.guest import BOOT_SECONDS, COMMAND_SECONDS, TEST_SECONDS, Bench, Guest, blank_disk
from tests.vm.restarting import rebooting

pytestmark = pytest.mark.timeout(TEST_SECONDS)
UNIT = r"[Mount]\nWhat=/dev/vdc\nWhere=/srv/two\nType=ext4\n\n[Install]\nWantedBy=multi-user.target\n"
KEYS = "cat /etc/machine-id /etc/ssh/ssh_host_*_key.pub"


def test_a_host_keeps_what_is_its_own_over_a_reboot(debian_disk: Callable[..., Path], tmp_path: Path) -> None:
    data = [blank_disk(tmp_path / name, 16) for name in ("one", "two")]
    with rebooting(debian_disk(), drives=data) as machine:
        host = Guest(machine)
        assert host.banner() == ("A", "healthy")
        host.log_in()
        before = host.run(KEYS)
        assert len(before.splitlines()) == 4
        host.run("mkdir -p /srv/one /srv/two")
        host.run("echo '/dev/vdb /srv/one ext4 defaults 0 2' >>/etc/fstab")
        host.run(f"printf '{UNIT}' >/etc/systemd/system/srv-two.mount && systemctl enable srv-two.mount")
        host.run("hostnamectl set-hostname renamed && echo mine >/etc/mine && echo log >/var/log/mine")
        host.run("echo x >/usr/x", fails=True)
        host.reboot()
        assert host.banner() == ("A", "healthy")
        host.log_in()
        assert host.run(KEYS) == before
        assert (
            host.run("cat /etc/mine /var/log/mine /etc/hostname; hostname").split() == ["mine", "log"] + ["renamed"] * 2
        )
        assert host.run("findmnt -no SOURCE /srv/one; findmnt -no SOURCE /srv/two").split() == ["/dev/vdb", "/dev/vdc"]
        assert host.run("systemctl is-system-running").strip() == "running"
        assert "dpkg" in host.run("dpkg-query -W | head -40; dpkg-query -W dpkg")


def test_a_slot_whose_etc_is_broken_costs_its_attempt_and_not_the_host(
    debian_disk: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(debian_disk(), tmp_path)
    bench.copy_slot()
    nothing = tmp_path / "nothing"
    nothing.write_bytes(b"not a directory\n")
    bench.debugfs("PERSIST", "mkdir etc", "cd etc", f"write {nothing} B")
    bench.boot_state(BootState(7, "B", True, 0, False, 1))
    with rebooting(bench.path) as machine:
        host = Guest(machine)
        machine.wait_for("hostplane: etc/B in PERSIST is not a directory", BOOT_SECONDS)
        machine.wait_for("hostplane: this boot is given up; rebooting", COMMAND_SECONDS)
        assert host.banner() == ("A", "healthy")
