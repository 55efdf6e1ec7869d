"""One upgrade from beginning to end, every write of it recorded: what the tests of upgrades and of power cuts look at.

A host of v1 is used a little (its /etc is edited), switched off, and started again with the log on: v2 is staged,
switched to, tried, confirmed, and the host is switched off. Both disks and the log are kept in `directory`.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from hostplane.image.recipe import Firmware
from tests.vm.guest import BOOT_SECONDS
from tests.vm.powercut.bootmodel import Known
from tests.vm.powercut.recording import recorded
from tests.vm.upgrade.host import UpgradeHost, powered_on
from tests.vm.upgrade.images import Made

__all__ = ["EDITS", "Story", "tell"]

EDITS = (
    "sed -i s/1/7/ /etc/small.conf",  # the image changes another line of it
    "echo mine >/etc/mine.conf; chmod 640 /etc/mine.conf",
    "useradd -u 1700 local 2>/dev/null || echo local:x:1700:1700::/home/local:/bin/sh >>/etc/passwd",
    "rm /etc/gai.conf",
    "mkdir -p /etc/systemd/system/multi-user.target.wants",
)


class Story(NamedTuple):
    """What was recorded. `base` is the disk before the log, `log` what was written then."""

    base: Path
    log: Path
    known: tuple[Known, Known]
    staged: dict[str, Any]
    committed: dict[str, Any]
    banner: str
    """What the host of v2 said above its login."""
    etc: dict[str, dict[str, str]]
    """/etc of v1 before, of v2 after (`UpgradeHost.tree`)."""
    facts: dict[str, str]
    """What commands said on v1 and on v2."""


_FACTS = {
    "marked": (
        'python3 -c \'import os; p = "/usr/bin/marked"; '
        "print(sorted((n, os.getxattr(p, n)) for n in os.listxattr(p)))'"
    ),
    "version": "cat /usr/lib/hostplane/image.json | grep version",
    "identity": "cat /etc/machine-id /etc/hostname",
    "small": "cat /etc/small.conf /etc/motd /etc/mine.conf",
    "passwd": "cut -d: -f1,3 /etc/passwd",
}


def _facts(host: UpgradeHost, version: str) -> dict[str, str]:
    return {f"{name} {version}": host.run(command) for name, command in _FACTS.items()}


def switched_off(host: UpgradeHost) -> None:
    """Off, with all that was written on the disk."""
    host.machine.send("systemctl poweroff")
    host.machine.wait_off(BOOT_SECONDS)


def tell(one: Made, two: Made, directory: Path, firmware: Firmware = Firmware.BIOS) -> Story:
    """Let it happen."""
    assert one.disk is not None
    base, changed, log = directory / "base.raw", directory / "changed.raw", directory / "writes.log"
    subprocess.run(["cp", "--sparse=always", one.disk, base], check=True, timeout=300)
    with powered_on(base, {}, firmware, overlay=False) as host:
        for command in EDITS:
            host.run(command)
        facts, etc = _facts(host, "v1"), {"v1": host.tree("/etc")}
        switched_off(host)
    subprocess.run(["cp", "--sparse=always", base, changed], check=True, timeout=300)
    try:
        with powered_on(changed, {"v2": two}, firmware, overlay=False, opened=recorded(log)) as host:
            staged = host.stage(two, "v2")
            host.switch(1, two)
            banner = host.arrive("B")
            committed = host.confirm(1)
            facts |= _facts(host, "v2")
            etc["v2"] = host.tree("/etc")
            switched_off(host)
    finally:
        changed.unlink()
    for image in (one, two):
        for part in (image.root, image.boot):
            shutil.copyfile(part, directory / f"{image.version}-{part.name}")
    known = [
        Known(name, directory / f"{image.version}-{image.boot.name}", directory / f"{image.version}-{image.root.name}")
        for name, image in (("v1", one), ("v2", two))
    ]
    return Story(base, log, (known[0], known[1]), staged, committed, banner, etc, facts)
