"""A booted host, seen from its serial console: the line above the login, a shell; and its disk, before that."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hostplane.agent import gpt
from hostplane.agent.bootstate import BootState, render
from hostplane.local.qemu import Machine, make_overlay
from tests.vm.restarting import Restarting

PATIENCE = float(os.environ.get("HOSTPLANE_VM_PATIENCE", "1"))  # more on a machine that does other things, too
BOOT_SECONDS = 300.0 * PATIENCE  # one takes 30 to 60 where nothing else runs
COMMAND_SECONDS = 120.0 * PATIENCE
TEST_SECONDS = 900.0 * PATIENCE
_LINE = r"Hostplane: slot (\w+) · ([^·\n]*) · (?!starting)([^\n]*)\n"


class Guest:
    """What a test does with a running machine."""

    def __init__(self, machine: Machine | Restarting) -> None:
        self._machine = machine

    def banner(self, seconds: float = BOOT_SECONDS) -> tuple[str, str]:
        """(slot, state) of the line above the login, once the boot is over."""
        found = self._machine.wait_for(_LINE, seconds)
        return found.group(1), found.group(3).strip()

    def log_in(self) -> None:
        self._machine.send("")
        self._machine.wait_for("login: ", COMMAND_SECONDS)
        self._machine.send("root")
        self._machine.wait_for("Password: ", COMMAND_SECONDS)
        self._machine.send("hostplane")
        self._machine.wait_for("# ", COMMAND_SECONDS)
        self.run("dmesg -n 1; export PAGER=cat SYSTEMD_PAGER=cat")

    def run(self, command: str, *, fails: bool = False) -> str:
        """What `command` prints."""
        self._machine.send(f"echo SAI''D:; {{ {command}; }} 2>&1; echo EN''D:$?")
        found = self._machine.wait_for(r"(?s)SAID:\n(.*?)END:(\d+)", COMMAND_SECONDS)
        assert (found.group(2) != "0") is fails, found.group(1)
        return found.group(1)

    def status(self) -> dict[str, Any]:
        """The agent's report."""
        report: dict[str, Any] = json.loads(self.run("hostplane-agent status --json"))
        return report

    def reboot(self) -> None:
        self._machine.send("systemctl reboot")

    def memory_mib(self) -> int:
        """What is in use and could not be given back at once."""
        table = dict(re.findall(r"(\w+): +(\d+) kB", self.run("cat /proc/meminfo")))
        free = sum(int(table[name]) for name in ("MemFree", "Buffers", "Cached", "SReclaimable"))
        return (int(table["MemTotal"]) - free) // 1024


def larger(disk: Path, gib: int, directory: Path) -> Path:
    """The same disk written to one of `gib` GiB."""
    overlay = make_overlay(disk, directory / f"{gib}.qcow2")
    subprocess.run(["qemu-img", "resize", "-q", overlay, f"{gib}G"], check=True, timeout=60)
    return overlay


class Bench:
    """A disk on the bench: a copy to be changed before a machine boots it."""

    def __init__(self, disk: Path, directory: Path) -> None:
        self.path = directory / "bench.raw"
        command = ["cp", "--sparse=always", "--reflink=auto", disk, self.path]
        subprocess.run(command, check=True, timeout=120)
        table = gpt.read_disk(str(self.path)).table
        self.parts = {part.name: (part.first * 512, (part.last - part.first + 1) * 512) for part in table.partitions}

    def copy_slot(self, source: str = "A", target: str = "B") -> None:
        """Both partitions of a slot, byte for byte."""
        for kind in ("BOOT", "ROOT"):
            offset, size = self.parts[f"{kind}-{source}"]
            with self.path.open("rb") as old, self.path.open("r+b") as new:
                old.seek(offset)
                new.seek(self.parts[f"{kind}-{target}"][0])
                shutil.copyfileobj(_Part(old, size), new, 1 << 20)

    def write(self, label: str, offset: int, content: bytes) -> None:
        with self.path.open("r+b") as disk:
            disk.seek(self.parts[label][0] + offset)
            disk.write(content)

    def debugfs(self, label: str, *commands: str) -> str:
        """Change an ext4 partition from outside."""
        image = f"{self.path}?offset={self.parts[label][0]}"
        script = self.path.with_name("commands")
        script.write_text("".join(f"{command}\n" for command in commands))
        done = subprocess.run(
            ["debugfs", "-w", "-f", script, image], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def boot_state(self, state: BootState) -> None:
        """Both copies, in place."""
        for name in ("env1", "env2"):
            block = int(re.findall(r"^(\d+)$", self.debugfs("BOOTSTATE", f"bmap {name} 0"), re.MULTILINE)[0])
            self.write("BOOTSTATE", block * 4096, render(state))


class _Part:
    """The first bytes of a file, to be read."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        piece: bytes = self._file.read(min(size, self._left))
        self._left -= len(piece)
        return piece


def blank_disk(path: Path, mib: int) -> Path:
    """An empty disk with an ext4 on the whole of it."""
    path.touch()
    os.truncate(path, mib << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", path], check=True, timeout=60)
    return path
