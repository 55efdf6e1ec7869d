"""A machine below a directory as the kernel shows it: /sys, /dev, /proc, partition tables, files for partitions."""

from __future__ import annotations

import uuid
from pathlib import Path

from hostplane.agent import gpt

MIB = 1 << 20
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
LABELS = ("BIOS-BOOT", "ESP", "BOOTSTATE", "BOOT-A", "BOOT-B", "ROOT-A", "ROOT-B", "PERSIST")
NUMBERS = dict(zip(LABELS, range(1, 9), strict=True))


def guid(label: str) -> str:
    """The same on every disk: two disks written from one image are told apart by nothing in their tables."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, label))


class Machine:
    """Disks, mounts and mappings are added one by one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._minor = 0
        self.nodes: dict[str, Path] = {}
        self.mounts: list[str] = []
        for directory in ("dev", "sys/dev/block", "proc/self", "var/lib/hostplane"):
            (root / directory).mkdir(parents=True, exist_ok=True)
        self.boot("ROOT-A")

    def boot(self, label: str, words: str | None = None) -> None:
        """The kernel line of a boot from the partition `label`."""
        words = f"hostplane.slot={label[-1]} hostplane.root=PARTUUID={guid(label)}" if words is None else words
        (self.root / "proc/cmdline").write_text(f"quiet {words} ro\n")

    def disk(
        self,
        name: str,
        part: str,
        *,
        numbers: dict[str, int] = NUMBERS,
        size: int = MIB,
        kinds: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
    ) -> None:
        """A disk whose partition number N is called `part` % N; `labels` gives partitions other names in the table."""
        node = self._node(self.root / "sys/devices/pci0/block" / name.replace("/", "!"), name)
        (node / "queue").mkdir()
        (node / "queue/logical_block_size").write_text("512\n")
        sectors = size // 512
        table = gpt.make(
            guid(name),
            (len(numbers) + 2) * size,
            tuple(
                gpt.Partition(
                    number,
                    (kinds or {}).get(label, LINUX),
                    guid(label),
                    2048 + at * sectors,
                    2047 + (at + 1) * sectors,
                    (labels or {}).get(label, label),
                )
                for at, (label, number) in enumerate(numbers.items())
            ),
        )
        device = self.root / "dev" / name
        device.parent.mkdir(parents=True, exist_ok=True)
        with device.open("wb") as file:
            file.truncate(table.sectors * 512)
            gpt.write_disk(file.fileno(), table)
        for entry in table.partitions:
            own = part % entry.number
            under = self._node(node / own.replace("/", "!"), own)
            for key, value in (("partition", entry.number), ("start", entry.first), ("ro", 0)):
                (under / key).write_text(f"{value}\n")
            (under / "size").write_text(f"{entry.last - entry.first + 1}\n")
            self._file(own, size)

    def mapped(self, name: str, below: str, id_: str, size: int = MIB) -> None:
        """A device of the device mapper over `below`."""
        node = self._node(self.root / "sys/devices/virtual/block" / name, name)
        (node / "queue").mkdir()
        (node / "queue/logical_block_size").write_text("512\n")
        (node / "dm").mkdir()
        (node / "dm/uuid").write_text(id_ + "\n")
        (node / "size").write_text(f"{size // 512}\n")
        (node / "slaves").mkdir()
        (node / "slaves" / below).symlink_to(self.nodes[below])
        (self.nodes[below] / "holders" / name).symlink_to(node)
        self._file(name, size)

    def mount(self, name: str, target: str = "/") -> None:
        """`name` is mounted at `target`."""
        numbers = (self.nodes[name] / "dev").read_text().strip()
        self.mounts.append(f"{len(self.mounts) + 20} 1 {numbers} / {target} ro - ext4 /dev/{name} ro\n")
        (self.root / "proc/self/mountinfo").write_text("".join(self.mounts))

    def content(self) -> dict[str, bytes]:
        """Every device's bytes."""
        files = (path for path in (self.root / "dev").rglob("*") if path.is_file())
        return {str(path.relative_to(self.root / "dev")): path.read_bytes() for path in files}

    def _node(self, node: Path, name: str) -> Path:
        node.mkdir(parents=True)
        (node / "holders").mkdir()
        self._minor += 1
        (node / "dev").write_text(f"259:{self._minor}\n")
        (node / "uevent").write_text(f"MAJOR=259\nMINOR={self._minor}\nDEVNAME={name}\n")
        (self.root / f"sys/dev/block/259:{self._minor}").symlink_to(node)
        self.nodes[name] = node
        return node

    def _file(self, name: str, size: int) -> None:
        path = self.root / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
