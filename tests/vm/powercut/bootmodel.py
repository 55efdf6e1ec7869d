"""What would become of a disk at the next start: the loader's choice, the slot it leads to, that slot's /etc.

The loader is `bootstate.plan_boot`, asked again and again as if each boot on trial failed, until a proven slot is
reached: every slot on that way must hold one known image, whole in BOOT-x and ROOT-x, compared block by block; and
what an initramfs makes of PERSIST (its own e2fsck commands, on a copy) must hold that slot's /etc as it should be, and
the agent's memory readable. Nothing outside BOOTSTATE, the slots and PERSIST may have changed.

It follows an `Image` by its changes, so a state costs what differs from the one before, not the size of the disk.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from hostplane.agent import gpt
from hostplane.agent.bootstate import SLOTS, plan_boot
from hostplane.agent.state import decode
from hostplane.errors import HostError
from tests.vm.powercut.ext4 import Ext4, Ext4Error, Inode
from tests.vm.powercut.replay import Image

__all__ = ["BLOCK", "Known", "Model", "Tree", "boot_state_of", "tree_of", "way"]

BLOCK = 4096
_MOST_BOOTS = 12
_FSCK_SECONDS = 120

Tree = Mapping[str, str]
"""What a tree holds: path -> kind, mode, owner and content in one line."""


class Known(NamedTuple):
    """An image that a slot may hold: its name, and its block images for BOOT-x and ROOT-x."""

    name: str
    boot: Path
    root: Path


class _Part:
    """One partition, and how far it is from what is known."""

    def __init__(self, disk: Image, offset: int, size: int) -> None:
        self.disk, self.offset, self.size = disk, offset, size
        self.known: dict[str, mmap.mmap] = {}
        self.differs: dict[str, set[int]] = {}

    def read(self, offset: int, size: int) -> bytes:
        return self.disk.read(self.offset + offset, max(0, min(size, self.size - offset)))

    def learn(self, name: str, image: Path) -> None:
        with image.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert len(content) % BLOCK == 0
        assert len(content) <= self.size
        self.known[name], self.differs[name] = content, set()
        self.changed(self.offset, len(content))

    def changed(self, offset: int, size: int) -> None:
        begin, end = max(offset, self.offset), min(offset + size, self.offset + self.size)
        for number in range((begin - self.offset) // BLOCK, -(-(end - self.offset) // BLOCK)):
            at = number * BLOCK
            now = self.read(at, BLOCK)
            for name, content in self.known.items():
                if at < len(content):
                    if content[at : at + BLOCK] == now:
                        self.differs[name].discard(number)
                    else:
                        self.differs[name].add(number)

    def holds(self) -> set[str]:
        return {name for name, blocks in self.differs.items() if not blocks}


class Model:
    """Follows `disk`; ask `problems()` in each state. `scratch` is a directory for copies of PERSIST."""

    def __init__(self, disk: Image, known: list[Known], scratch: Path) -> None:
        """Raises: HostError when the disk has no partition table."""
        self._disk, self._scratch = disk, scratch
        table = gpt.parse(disk.read, disk.size).table
        sector = table.sector_size
        self._parts = {
            part.name: _Part(disk, part.first * sector, (part.last - part.first + 1) * sector)
            for part in table.partitions
        }
        for image in known:
            for slot in SLOTS:
                self._parts[f"BOOT-{slot}"].learn(image.name, image.boot)
                self._parts[f"ROOT-{slot}"].learn(image.name, image.root)
        self._ours = sorted(
            (self._parts[name].offset, self._parts[name].offset + self._parts[name].size, name)
            for name in ("BOOTSTATE", "PERSIST", *(f"{kind}-{slot}" for kind in ("BOOT", "ROOT") for slot in SLOTS))
        )
        self._strays: set[int] = set()  # blocks of the disk that nobody may write and somebody did
        self._grub = self._bootstate().file("/grub/grub.cfg")
        self._boot_blocks: tuple[bytes, bytes] | None = None
        self._persist = _Persist(self._parts["PERSIST"], scratch)
        self.wanted: dict[str, Tree] = {}
        """What a slot's /etc must hold at least, by the name of the image in it. Empty: it is not looked at."""
        self._verdicts: dict[object, list[str]] = {}
        self.asked = 0
        disk.watchers.append(self._changed)

    @property
    def distinct(self) -> int:
        """How many of the states that were asked about differed in what decides."""
        return len(self._verdicts)

    @property
    def repaired(self) -> int:
        """How many different PERSIST there were."""
        return self._persist.checked

    def problems(self) -> list[str]:
        """What is wrong with the disk as it is now; empty when it leads to a whole slot."""
        self.asked += 1
        try:
            blocks = self._env()
        except Ext4Error as fault:
            return [f"BOOTSTATE cannot be read: {fault}"]
        holds = {slot: self._images(slot) for slot in SLOTS}
        key = (blocks, holds["A"], holds["B"], self._persist.key, bool(self._strays))
        if key not in self._verdicts:
            self._verdicts[key] = self._judge(blocks, holds)
        return self._verdicts[key]

    def way(self) -> list[str]:
        """The slots that come to be booted, first to last, if every boot on trial fails."""
        return way(*self._env())[0]

    def etc(self, slot: str) -> Tree | None:
        """The slot's /etc as the next boot would find it; None when there is none."""
        return self._persist.look()[1].get(slot)

    def _judge(self, blocks: tuple[bytes, bytes], holds: Mapping[str, frozenset[str]]) -> list[str]:
        found = [f"block {number} of the disk belongs to nobody and changed" for number in sorted(self._strays)[:3]]
        slots, proven = way(*blocks)
        if not proven:
            found.append("the boot state leads to no proven slot")
        for slot in slots:
            if not holds[slot]:
                found.append(f"slot {slot} may be booted and holds no whole image")
        if not self.wanted or found:
            return found
        said, trees = self._persist.look()
        found += said
        for slot in slots:
            found += self._etc_problems(slot, holds[slot], trees.get(slot))
        return found

    def _etc_problems(self, slot: str, images: frozenset[str], tree: Tree | None) -> list[str]:
        wanted = [self.wanted[name] for name in sorted(images) if name in self.wanted]
        if not wanted:
            return [f"slot {slot} holds {', '.join(sorted(images))}, whose /etc nobody made"]
        if tree is None:
            return [f"slot {slot} may be booted and has no /etc"]
        wrong = min(([path for path, fact in each.items() if tree.get(path) != fact] for each in wanted), key=len)
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        return [f"/etc of slot {slot} is not whole: {', '.join(wrong[:4])}{more}"] if wrong else []

    def _images(self, slot: str) -> frozenset[str]:
        return frozenset(self._parts[f"BOOT-{slot}"].holds() & self._parts[f"ROOT-{slot}"].holds())

    def _bootstate(self) -> Ext4:
        return Ext4(self._parts["BOOTSTATE"].read)

    def _env(self) -> tuple[bytes, bytes]:
        if self._boot_blocks is None:
            fs = self._bootstate()
            if fs.file("/grub/grub.cfg") != self._grub:
                raise Ext4Error("grub.cfg is not what it was")
            self._boot_blocks = (fs.file("/env1") or b"", fs.file("/env2") or b"")
        return self._boot_blocks

    def _changed(self, offset: int, size: int) -> None:
        end, covered = offset + size, 0
        for begin, stop, name in self._ours:
            if offset < stop and end > begin:
                covered += min(end, stop) - max(offset, begin)
                part = self._parts[name]
                if name == "BOOTSTATE":
                    self._boot_blocks = None
                elif name == "PERSIST":
                    self._persist.changed(offset, size)
                else:
                    part.changed(offset, size)
        if covered != size:
            with self._disk.path.open("rb") as original:
                for number in range(offset // BLOCK, -(-end // BLOCK)):
                    at = number * BLOCK
                    if self._disk.read(at, BLOCK) == os.pread(original.fileno(), BLOCK, at):
                        self._strays.discard(number)
                    elif not any(begin <= at < stop for begin, stop, _ in self._ours):
                        self._strays.add(number)


def boot_state_of(disk: Image) -> Callable[[int, int], bool]:
    """Whether (offset, size) of the disk lies in BOOTSTATE."""
    part = next(part for part in gpt.parse(disk.read, disk.size).table.partitions if part.name == "BOOTSTATE")
    begin, end = part.first * 512, (part.last + 1) * 512
    return lambda offset, size: begin <= offset and offset + size <= end


def way(env1: bytes, env2: bytes) -> tuple[list[str], bool]:
    """The slots that come to be booted while each boot on trial fails, in order; whether a proven one ends it."""
    slots: list[str] = []
    for _ in range(_MOST_BOOTS):
        slot, written = plan_boot(env1, env2)
        if slot is None:
            return slots, False
        if slot not in slots:
            slots.append(slot)
        if written is None:
            return slots, True
        env1 = env2 = written
    return slots, False


def _fact(fs: Ext4, inode: Inode) -> str:
    kind = stat.S_IFMT(inode.mode)
    about = f"{kind:o} {inode.mode & 0o7777:o} {inode.uid}:{inode.gid}"
    if kind == stat.S_IFLNK:
        return f"{about} {fs.link(inode)}"
    return f"{about} {hashlib.sha256(fs.content(inode)).hexdigest()}" if kind == stat.S_IFREG else about


def tree_of(fs: Ext4, path: str) -> Tree | None:
    """Everything below `path`; None when it is no directory."""
    top = fs.find(path)
    if top is None or not stat.S_ISDIR(top.mode):
        return None
    return {name: _fact(fs, inode) for name, inode in fs.walk(path)}


class _Persist:
    """PERSIST, mirrored in a file, and what it held each time it was looked at."""

    def __init__(self, part: _Part, scratch: Path) -> None:
        self._part, self._mirror, self._copy = part, scratch / "persist", scratch / "persist.copy"
        self._digests: dict[int, int] = {}
        self.key = 0
        self.checked = 0
        self._seen: dict[int, tuple[list[str], dict[str, Tree]]] = {}
        self._trees: dict[frozenset[tuple[str, str]], Tree] = {}  # each once, since most are equal
        with self._mirror.open("wb") as file:
            file.truncate(part.size)
            for at in range(0, part.size, 1 << 20):
                piece = part.read(at, 1 << 20)
                if piece.count(0) != len(piece):
                    os.pwrite(file.fileno(), piece, at)

    def changed(self, offset: int, size: int) -> None:
        """Called after the change. The key sums up what differs from the first state: equal disks, equal keys."""
        part = self._part
        begin, end = max(offset, part.offset) - part.offset, min(offset + size, part.offset + part.size) - part.offset
        with self._mirror.open("r+b") as file:
            for number in range(begin // BLOCK, -(-end // BLOCK)):
                if number not in self._digests:
                    self._digests[number] = self._digest(number, os.pread(file.fileno(), BLOCK, number * BLOCK))
                fresh = self._digest(number, part.read(number * BLOCK, BLOCK))
                self.key ^= self._digests[number] ^ fresh
                self._digests[number] = fresh
            os.pwrite(file.fileno(), part.read(begin, end - begin), begin)

    def look(self) -> tuple[list[str], dict[str, Tree]]:
        """(what is wrong, /etc by slot) once the journal is replayed."""
        if self.key not in self._seen:
            self.checked += 1
            _copy_sparsely(self._mirror, self._copy)
            self._seen[self.key] = self._look()
        return self._seen[self.key]

    def _look(self) -> tuple[list[str], dict[str, Tree]]:
        for options in ("-p", "-fy"):
            command = ["e2fsck", options, str(self._copy)]
            done = subprocess.run(command, capture_output=True, timeout=_FSCK_SECONDS, check=False)
            if done.returncode < 4:
                break
        else:
            return [f"PERSIST cannot be repaired: {done.stdout.decode('utf-8', 'replace')[-200:]}"], {}
        with self._copy.open("rb") as file:
            fs = Ext4(lambda offset, size: os.pread(file.fileno(), size, offset))
            try:
                trees = {slot: tree_of(fs, f"/etc/{slot}") for slot in SLOTS}
                same = {slot: self._same(tree) for slot, tree in trees.items() if tree is not None}
                return _memory_problems(fs), same
            except Ext4Error as fault:
                return [f"PERSIST cannot be read: {fault}"], {}

    def _same(self, tree: Tree) -> Tree:
        return self._trees.setdefault(frozenset(tree.items()), tree)

    @staticmethod
    def _digest(number: int, content: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(content, digest_size=16, salt=number.to_bytes(16, "big")).digest(), "big")


def _memory_problems(fs: Ext4) -> list[str]:
    """The agent's memory must be what it can read, or not be there at all."""
    raw = fs.file("/var/lib/hostplane/state.json")
    try:
        if raw is not None:
            decode(raw)
    except (HostError, ValueError) as fault:
        return [f"the agent's memory cannot be read: {fault}"]
    return []


def _copy_sparsely(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        size, at = os.fstat(old.fileno()).st_size, 0
        new.truncate(size)
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole to the end
                break
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                piece = os.pread(old.fileno(), min(1 << 20, end - at), at)
                os.pwrite(new.fileno(), piece, at)
                at += len(piece)
