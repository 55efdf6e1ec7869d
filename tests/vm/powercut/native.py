"""An upgrade on a real disk without a machine: the agent's own process on partitions of a loop device, all recorded.

The disk is a file below QEMU's write log, shown by qemu-storage-daemon (FUSE) and made a block device with partitions
by the kernel; BOOTSTATE and PERSIST are mounted, /etc of slot A is edited. The host is a directory whose /dev, /sys and
mount table lead there, so the agent finds, opens and writes partitions as on any host. What a boot does besides (the
loader's writes, the trial service's first act) is done here, in its order. Needs root, FUSE and a free loop device.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hostplane.agent import gpt
from hostplane.agent.bootstate import BootFiles, BootState, plan_boot, render
from hostplane.agent.trial.guard import take_tries
from hostplane.errors import HostError
from hostplane.image.bundle import bundle
from hostplane.image.bundle.signing import generate, sign_bundle
from hostplane.image.bundle.trust import create, sign_newest
from hostplane.image.disk.filesystems.ext4 import BOOT_FEATURES, ROOT_FEATURES, STATE_FEATURES
from hostplane.rpc.client import AgentClient
from tests.vm.powercut.bootmodel import Known
from tests.vm.powercut.campaign import Recording
from tests.vm.powercut.ext4 import Ext4

__all__ = ["NativeHost", "is_possible"]

_MIB = 1 << 20
_SIZES = {"ESP": 1, "BOOTSTATE": 4, "BOOT-A": 8, "BOOT-B": 8, "ROOT-A": 64, "ROOT-B": 64, "PERSIST": 256}
_TYPE = "0fc63daf-8483-4772-8e79-3d69d8477de4"
_SECONDS = 60.0
_UID = "11111111-2222-3333-4444-555555555555"
_OS_RELEASE = 'NAME="Small"\nID=small\nVERSION_ID="{0}"\n'


def is_possible() -> bool:
    """Whether this process may do all that."""
    return os.geteuid() == 0 and os.path.exists("/dev/fuse") and os.path.exists("/dev/loop-control")


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS).stdout


def _ends_well(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False).returncode == 0


def _ext4(tree: Path, image: Path, mib: int, features: tuple[str, ...]) -> None:
    with image.open("wb") as file:
        file.truncate(mib * _MIB)
    options = ("-q", "-F", "-t", "ext4", "-O", ",".join(("none", *features)), "-b", "4096", "-m", "0")
    _run("mke2fs", *options, "-d", tree, image)


def _etc(tree: Path, version: int) -> None:
    """An image's /etc: a few kinds of files, some of them different in each version."""
    passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n" + (
        "two:x:150:150::/:/bin/false\n" * (version - 1)
    )
    files = {
        "passwd": passwd,
        "group": "root:x:0:\ndaemon:x:1:\n" + "two:x:150:\n" * (version - 1),
        "hostname": "small\n",
        "machine-id": "",
        "os-release": _OS_RELEASE.format(f"{version}.0"),
        "small.conf": f"colour = {'red' if version == 1 else 'blue'}\nsize = 1\n",
        "systemd/system/one.service": "[Service]\nExecStart=/bin/true\n",
    }
    files |= {
        f"many/{number:03}.conf": f"number = {number}\nversion = {version if number % 7 == 0 else 1}\n"
        for number in range(150)
    }
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    (tree / "link").symlink_to("small.conf")


class NativeHost:
    """Makes everything below `directory`; `recorded` lets an upgrade happen and gives its recording."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.disk, self.log = directory, directory / "disk", directory / "log"
        self.root = directory / "host"
        self.offsets: dict[str, int] = {}
        self._stop: list[Callable[[], None]] = []
        self.images = [self._image(version) for version in (1, 2)]
        self._bundle()
        self._disk()
        self._host()

    # --- what there is before

    def _image(self, version: int) -> Known:
        """A root of nearly 64 MiB, a fifth of it different in the second version, and a BOOT of 6."""
        dice, work = random.Random(7), self.directory / f"v{version}"
        tree, boot = work / "root", work / "boot"
        _etc(tree / "etc", version)
        for number in range(50):
            content = (
                random.Random(version * 1000 + number).randbytes(_MIB) if number % 5 == 0 else dice.randbytes(_MIB)
            )
            (tree / "usr").mkdir(parents=True, exist_ok=True)
            (tree / f"usr/file-{number}").write_bytes(content)
        (tree / "usr/lib/hostplane").mkdir(parents=True)
        (tree / "usr/lib/hostplane/identity").write_text("machine-id\nhostname\n")
        (tree / "usr/lib/os-release").write_text(_OS_RELEASE.format(f"{version}.0"))
        boot.mkdir()
        (boot / "vmlinuz").write_bytes(random.Random(version).randbytes(2 * _MIB))
        (boot / "initrd.img").write_bytes(random.Random(10 + version).randbytes(3 * _MIB))
        (boot / "slot.cfg").write_text(f"# {version}\nset hp_complete=1\n")
        _ext4(tree, work / "root.img", 62, ROOT_FEATURES)
        _ext4(boot, work / "boot.img", 7, BOOT_FEATURES)
        return Known(f"v{version}", work / "boot.img", work / "root.img")

    def _bundle(self) -> None:
        self.root.mkdir()
        for name in ("key", "spare"):
            generate(self.directory / name, self.directory / f"{name}.pub")
        trusted = self.directory / "trusted"
        create(trusted, [(name, self.directory / f"{name}.pub") for name in ("key", "spare")])
        sign_newest(trusted, self.directory / "key")
        about = self.directory / "about.json"
        about.write_text("{}")
        metadata = bundle.Metadata(
            name="small", version="2.0", distro="small", release="1", arch=os.uname().machine, created=1, root_fs="ext4"
        )
        made = bundle.write(
            self.root / "bundle",
            root=self.images[1].root,
            boot=self.images[1].boot,
            metadata=metadata,
            sbom=about,
            licences=about,
            codec="none",
        )
        sign_bundle(made.path, self.directory / "key", key_id="key")
        self.digest = made.digest
        self.image = {
            "format": "bundle",
            "ref": "file:///bundle",
            "digest": made.digest,
            "size": made.size,
            "version": "2.0",
        }

    def _disk(self) -> None:
        parts, offset = [], _MIB
        for number, (name, mib) in enumerate(_SIZES.items(), start=1):
            guid = f"00000000-0000-4000-8000-{number:012}"
            parts.append(gpt.Partition(number, _TYPE, guid, offset // 512, (offset + mib * _MIB) // 512 - 1, name))
            self.offsets[name] = offset
            offset += mib * _MIB
        self._guid = parts[4].guid
        table = gpt.make("00000000-0000-4000-8000-000000000000", offset + _MIB, tuple(parts))
        work = self.directory / "trees"
        block = render(BootState(1, "A", True, 0, False, 0))
        (work / "BOOTSTATE/grub").mkdir(parents=True)
        (work / "BOOTSTATE/grub/grub.cfg").write_text("menu\n" * 500)
        for name in ("env1", "env2"):
            (work / "BOOTSTATE" / name).write_bytes(block)
        live = work / "PERSIST/etc/A"
        shutil.copytree(self.directory / "v1/root/etc", live, symlinks=True)
        (live / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (live / "mine.conf").write_text("mine\n")
        (live / "small.conf").write_text("colour = red\nsize = 7\n")
        (live / "many/003.conf").unlink()
        (work / "PERSIST/var/lib/hostplane").mkdir(parents=True)
        (work / "PERSIST/last-slot").write_text("A\n")
        _ext4(work / "BOOTSTATE", work / "bootstate.img", _SIZES["BOOTSTATE"], BOOT_FEATURES)
        _ext4(work / "PERSIST", work / "persist.img", _SIZES["PERSIST"], STATE_FEATURES)
        with self.disk.open("w+b") as disk:
            disk.truncate(table.sectors * 512)
            gpt.write_disk(disk.fileno(), table)
            for name, image in (
                ("BOOTSTATE", work / "bootstate.img"),
                ("PERSIST", work / "persist.img"),
                ("BOOT-A", self.images[0].boot),
                ("ROOT-A", self.images[0].root),
            ):
                os.pwrite(disk.fileno(), image.read_bytes(), self.offsets[name])

    def _host(self) -> None:
        root = self.root
        for path in (
            "boot/hostplane",
            "persist",
            "proc/self",
            "proc/sys/kernel/random",
            "run/hostplane",
            "dev/hostplane",
        ):
            (root / path).mkdir(parents=True)
        shutil.copytree(self.directory / "v1/root/etc", root / "etc", symlinks=True)
        shutil.copytree(self.directory / "v1/root/usr/lib", root / "usr/lib")
        (root / "usr/lib/hostplane/keys").mkdir()
        shutil.copyfile(self.directory / "trusted", root / "usr/lib/hostplane/keys/trusted.json")
        (root / "etc/hostplane").mkdir()
        (root / "etc/hostplane/agent.json").write_text('{"bootTries": 2}')
        (root / "var").symlink_to("persist/var")
        (root / "sys").symlink_to("/sys")

    # --- the upgrade

    def recorded(self) -> Recording:
        """Stage, switch, two boots of which the first fails, trial, commit."""
        base = self.directory / "base"
        shutil.copyfile(self.disk, base)
        self.log.write_bytes(b"")
        with self._device(
            *(
                f"driver=file,node-name={name},filename={path}"
                for name, path in (("disk", self.disk), ("log", self.log))
            ),
            "driver=blklogwrites,node-name=top,file=disk,log=log,log-sector-size=512",
        ) as loop:
            self._boot(loop, "A", 1)
            with self._mounted(loop), self._agent(reboots=True) as agent:
                agent.call("stage", image=self.image)
                self.until(agent, "Staged")
                agent.call("switch", seq=1, operation="upgrade", digest=self.digest, trialSeconds=600)
            self._load(loop, 2)  # a boot that gets nowhere: only the loader has written
            self._load(loop, 3)
            with self._mounted(loop):
                take_tries(BootFiles(str(self.root / "boot/hostplane"), lambda: None), "B")
                with self._agent() as agent:
                    self.until(agent, "Trial")
                    report = self._confirmed(agent)
                    assert (report["phase"], report["activeSlot"]) == ("Idle", "B")
        return Recording(base, self.log, (self.images[0], self.images[1]))

    @contextmanager
    def running(self, *nodes: str, is_cached: bool = True) -> Iterator[tuple[AgentClient, Path]]:
        """(the agent on slot A, the host's root), the disk being behind these nodes of QEMU's; the last is `top`.

        Args:
            is_cached: whether this machine's kernel may answer reads of what it has written itself. Without that,
                faults of the nodes are seen at once; but QEMU's FUSE then mixes up writes that come at the same time.
        """
        with self._device(*nodes, is_cached=is_cached) as loop:
            self._boot(loop, "A", 1)
            with self._mounted(loop), self._agent() as agent:
                yield agent, self.root

    @contextmanager
    def _device(self, *nodes: str, is_cached: bool = True) -> Iterator[str]:
        shown = self.directory / "shown"
        shown.touch()
        command = ["qemu-storage-daemon", *(word for node in nodes for word in ("--blockdev", node))]
        command += ["--export", f"type=fuse,id=shown,node-name=top,mountpoint={shown},writable=on"]
        with ExitStack() as stack:
            daemon = subprocess.Popen(command)
            stack.callback(daemon.wait, _SECONDS)
            stack.callback(daemon.terminate)
            self._await(lambda: shown.stat().st_size > 0)
            loop = _run(
                "losetup", "--find", "--show", "--partscan", f"--direct-io={'off' if is_cached else 'on'}", shown
            ).strip()
            stack.callback(_run, "losetup", "--detach", loop)
            if not os.path.exists(f"{loop}p1"):  # a kernel that knows no GPT
                _run("partx", "--add", loop)
                stack.callback(self._await, lambda: _ends_well("partx", "--delete", loop))
            self._await(lambda: os.path.exists(f"{loop}p{len(_SIZES)}"))
            name = os.path.basename(loop)
            for number, label in enumerate(_SIZES, start=1):
                for link in (self.root / f"dev/{name}p{number}", self.root / f"dev/hostplane/{label}"):
                    link.symlink_to(f"{loop}p{number}")
            (self.root / f"dev/{name}").symlink_to(loop)
            yield loop
            _run("sync", "-f", shown)
            _run("blockdev", "--flushbufs", loop)

    @contextmanager
    def _mounted(self, loop: str) -> Iterator[None]:
        with ExitStack() as stack:
            for label, place in (("BOOTSTATE", "boot/hostplane"), ("PERSIST", "persist")):
                _run("mount", "-t", "ext4", self._node(loop, label), self.root / place)
                stack.callback(_run, "umount", self.root / place)
            yield

    @contextmanager
    def _agent(self, reboots: bool = False) -> Iterator[AgentClient]:
        """The agent, asked over its socket; `reboots`: it ends by itself, to be booted again."""
        socket = str(self.root / "run/hostplane/agent.sock")
        command = [sys.executable, "-m", "hostplane.agent.main", "serve", "--root", str(self.root), "--socket", socket]
        process = subprocess.Popen(command)
        try:
            self._await(lambda: os.path.exists(socket) or process.poll() is not None)
            with AgentClient(socket, timeout=_SECONDS, host_uid=_UID) as agent:
                yield agent
            if reboots:
                process.wait(_SECONDS)
                assert (self.root / "run/hostplane/reboot").exists()
        finally:
            if process.poll() is None and not (self.root / "run/hostplane/reboot").exists():
                process.terminate()
            assert process.wait(_SECONDS) == 0
            shutil.rmtree(self.root / "run/hostplane")
            (self.root / "run/hostplane").mkdir()

    def _load(self, loop: str, boot: int) -> None:
        """What the loader does: it reads the boot state and takes a try from a slot on trial, in place, unflushed."""
        node = self._node(loop, "BOOTSTATE")
        with open(node, "rb") as device:
            fs = Ext4(lambda offset, size: os.pread(device.fileno(), size, offset))
            found = [fs.find(f"/env{number}") for number in (1, 2)]
            envs = [(fs.content(inode), fs.blocks(inode)[0][1] * fs.block) for inode in found if inode is not None]
        slot, block = plan_boot(envs[0][0], envs[1][0])
        assert slot is not None
        if block is not None:
            page = mmap.mmap(-1, 4096)
            page[:1024] = block
            for _, offset in reversed(envs):
                descriptor = os.open(node, os.O_RDWR | os.O_DIRECT)
                os.preadv(descriptor, [memoryview(page)], offset)
                page[:1024] = block
                os.pwritev(descriptor, [page], offset)
                os.close(descriptor)
        self._boot(loop, slot, boot)

    def _boot(self, loop: str, slot: str, boot: int) -> None:
        root = self.root
        numbers = Path(f"/sys/class/block/{os.path.basename(self._node(loop, f'ROOT-{slot}'))}/dev").read_text().strip()
        guid = f"00000000-0000-4000-8000-{list(_SIZES).index(f'ROOT-{slot}') + 1:012}"
        (root / "proc/cmdline").write_text(f"hostplane.slot={slot} hostplane.root=PARTUUID={guid}\n")
        (root / "proc/sys/kernel/random/boot_id").write_text(f"boot-{boot}\n")
        (root / "proc/self/mountinfo").write_text(f"1 0 {numbers} / / ro - ext4 /dev/root ro\n")
        (root / "proc/swaps").write_text("Filename Type Size Used Priority\n")

    def _node(self, loop: str, label: str) -> str:
        return f"{loop}p{list(_SIZES).index(label) + 1}"

    def until(self, agent: AgentClient, *phases: str) -> dict[str, Any]:
        """The report in one of these phases.

        Raises:
            AssertionError: staging failed, where that is none of them.
        """
        report: dict[str, Any] = agent.call("status")
        deadline = time.monotonic() + _SECONDS
        while report["phase"] not in phases:
            assert report["phase"] != "Failed", report["lastError"]
            assert time.monotonic() < deadline, report
            report = agent.call("wait", revision=report["revision"], timeoutSeconds=5)
        return report

    def _confirmed(self, agent: AgentClient) -> dict[str, Any]:
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                report: dict[str, Any] = agent.call("confirm", seq=1)
                return report
            except HostError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def gone(self, root: Path) -> None:
        """Wait until the agent has asked for its reboot."""
        self._await((root / "run/hostplane/reboot").exists)

    @staticmethod
    def _await(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _SECONDS
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.02)
