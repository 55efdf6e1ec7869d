"""A Debian recipe becomes a disk that boots: both firmwares, every root file system, sealed or not, large or small."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hostplane.agent.bootstate import BootState
from hostplane.image.recipe import Firmware
from hostplane.local.qemu import Machine
from tests.image.conftest import Build
from tests.vm.conftest import RECIPE
from tests.vm.guest import BOOT_SECONDS, TEST_SECONDS, Bench, Guest, larger
from tests.vm.restarting import rebooting

pytestmark = pytest.mark.timeout(TEST_SECONDS)
IDLE_MIB = 150
XFS = ("disk.fs=xfs", "disk.persist_fs=xfs")
SEALED = ("disk.fs=erofs", "disk.verity=true")


@pytest.mark.parametrize(
    ("firmware", "overrides", "gib"),
    [
        pytest.param(Firmware.UEFI, (), 6, id="uefi-ext4"),
        pytest.param(Firmware.BIOS, XFS, 9, id="bios-xfs"),
        pytest.param(Firmware.UEFI, XFS, 4, id="uefi-xfs", marks=pytest.mark.long),
    ],
)
def test_it_boots_to_a_healthy_status_and_fills_its_disk(
    debian_disk: Callable[..., Path], tmp_path: Path, firmware: Firmware, overrides: tuple[str, ...], gib: int
) -> None:
    disk = debian_disk(*overrides)
    with Machine(larger(disk, gib, tmp_path) if gib > 4 else disk, firmware) as machine:
        host = Guest(machine)
        assert host.banner() == ("A", "healthy")
        host.log_in()
        status = host.status()
        assert (status["phase"], status["activeSlot"]) == ("Idle", "A")
        slot = sum(int(size) for size in host.run("blockdev --getsize64 /dev/hostplane/*-A").split())
        assert 0 < status["slots"]["A"].pop("size") <= slot
        assert status["slots"]["A"] == {"state": "Confirmed", "digest": "", "version": "1.0.0"}
        kind = "xfs" if overrides else "ext4"
        assert host.run("findmnt -no FSTYPE,OPTIONS / | cut -d, -f1").split() == [kind, "ro"]
        grown = int(host.run("stat -fc '%b %S' /persist | (read -r b s; echo $((b * s >> 20)))"))
        assert grown > (gib - 2.4) * 1024
        assert host.run("ls /dev/hostplane").split() == sorted(
            ("BIOS-BOOT", "BOOT-A", "BOOT-B", "BOOTSTATE", "ESP", "PERSIST", "ROOT-A", "ROOT-B")
        )


def test_an_idle_host_leaves_the_memory_to_its_pods(debian_disk: Callable[..., Path]) -> None:
    """KubeOS's figure. Measured on the console, so a login is in it."""
    with Machine(debian_disk()) as machine:
        host = Guest(machine)
        assert host.banner() == ("A", "healthy")
        host.log_in()
        host.run("while pgrep -f 'hostplane-agent serve' >/dev/null; do sleep 1; done")
        used = host.memory_mib()
        assert used < IDLE_MIB


def test_a_sealed_root_boots_and_a_corrupt_one_costs_its_attempt(
    debian_disk: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(debian_disk(*SEALED), tmp_path)
    bench.copy_slot()
    for mib in range(8, 64):
        bench.write("ROOT-B", mib << 20, b"not what was sealed")
    bench.boot_state(BootState(7, "B", True, 0, False, 1))
    with rebooting(bench.path, Firmware.UEFI) as machine:
        host = Guest(machine)
        machine.wait_for("hostplane.slot=B", BOOT_SECONDS)
        assert host.banner() == ("A", "healthy")
        host.log_in()
        assert host.run("findmnt -no SOURCE,FSTYPE /").split() == ["/dev/mapper/hostplane-root", "erofs"]
        assert "hostplane.slot=A" in host.run("cat /proc/cmdline")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts the layers of a root to pack it")
def test_a_root_that_somebody_else_made_boots(build_shared: Build, tmp_path: Path) -> None:
    """The `tree` backend: no package manager is asked; here the tree is a tar of what another build installed."""
    built = build_shared(RECIPE, out=tmp_path / "packages", until="packages")
    lower = ":".join(str(Path(row.layer) / "tree") for row in reversed(built.stages))
    (tmp_path / "root").mkdir()
    script = 'mount -t overlay overlay -o "lowerdir=$1" "$2" && tar -C "$2" --xattrs --sort=name -cf "$3" .'
    command = ["unshare", "-m", "sh", "-c", script, "sh", lower, tmp_path / "root", tmp_path / "root.tar"]
    subprocess.run(command, check=True, timeout=300)
    source = ("packages.backend=tree", f"packages.source={tmp_path / 'root.tar'}", "packages.include=[]")
    build_shared(RECIPE, out=tmp_path / "out", overrides=source)
    (tmp_path / "root.tar").unlink()
    with Machine(tmp_path / "out/disk.raw") as machine:
        host = Guest(machine)
        assert host.banner() == ("A", "healthy")
