"""A disk of a few MiB that has all the model looks at and boots nothing: slots, a boot state, /etc."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

from hostplane.agent import gpt
from hostplane.agent.bootstate import BootState, render
from hostplane.image.disk.filesystems.ext4 import BOOT_FEATURES, STATE_FEATURES
from tests.vm.powercut.bootmodel import Known

__all__ = ["SmallDisk"]

_MIB = 1 << 20
_SIZES = {"ESP": 1, "BOOTSTATE": 2, "BOOT-A": 1, "BOOT-B": 1, "ROOT-A": 1, "ROOT-B": 1, "PERSIST": 8}
_TYPE = "0fc63daf-8483-4772-8e79-3d69d8477de4"


class SmallDisk:
    """`path` is the disk; slot A holds the image v1 and is proven, slot B is empty; `known` are v1 and v2."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "disk"
        self.at: dict[str, int] = {}
        parts, offset = [], _MIB
        for number, (name, mib) in enumerate(_SIZES.items(), start=1):
            guid = f"00000000-0000-4000-8000-{number:012}"
            parts.append(gpt.Partition(number, _TYPE, guid, offset // 512, (offset + mib * _MIB) // 512 - 1, name))
            self.at[name] = offset
            offset += mib * _MIB
        table = gpt.make("00000000-0000-4000-8000-000000000000", offset + _MIB, tuple(parts))
        dice = random.Random(1)
        self.known = []
        for name in ("v1", "v2"):
            for kind in ("boot", "root"):
                (directory / f"{name}.{kind}").write_bytes(dice.randbytes(64 * 4096))
            self.known.append(Known(name, directory / f"{name}.boot", directory / f"{name}.root"))
        with self.path.open("w+b") as disk:
            disk.truncate(table.sectors * 512)
            gpt.write_disk(disk.fileno(), table)
        self.install("A", self.known[0])
        self._format(
            directory, "BOOTSTATE", {"env1": b"#" * 1024, "env2": b"#" * 1024, "grub/grub.cfg": b"menu\n" * 900}
        )
        self.envs = {name: self._block_of("BOOTSTATE", name) for name in ("env1", "env2")}
        self.boot_state(BootState())
        etc = {
            "etc/A/hostname": b"one\n",
            "etc/A/ssh/key": b"k" * 5000,
            "var/lib/hostplane/state.json": b'{"schema": "1.0"}',
        }
        self._format(directory, "PERSIST", etc)

    def install(self, slot: str, image: Known) -> None:
        self.write(self.at[f"BOOT-{slot}"], image.boot.read_bytes())
        self.write(self.at[f"ROOT-{slot}"], image.root.read_bytes())

    def boot_state(self, state: BootState) -> None:
        for place in self.envs.values():
            self.write(place, render(state))

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as disk:
            os.pwrite(disk.fileno(), data, offset)

    def debugfs(self, label: str, *commands: str) -> str:
        image, script = f"{self.path}?offset={self.at[label]}", self.path.with_name("commands")
        script.write_text("".join(f"{command}\n" for command in commands))
        command = ["debugfs", "-w", "-f", str(script), image]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def _format(self, directory: Path, label: str, files: dict[str, bytes]) -> None:
        tree, image = directory / f"{label}.tree", directory / f"{label}.img"
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        if label == "PERSIST":
            (tree / "etc/A/short").symlink_to("hostname")
            (tree / "etc/A/long").symlink_to("../" * 30 + "hostname")
        features = ",".join(("none", *(STATE_FEATURES if label == "PERSIST" else BOOT_FEATURES)))
        with image.open("wb") as file:
            file.truncate(_SIZES[label] * _MIB)
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-b", "4096", "-d", str(tree), str(image)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self.write(self.at[label], image.read_bytes())

    def _block_of(self, label: str, file: str) -> int:
        said = self.debugfs(label, f"bmap /{file} 0")
        return self.at[label] + int(said.split()[-1]) * 4096
