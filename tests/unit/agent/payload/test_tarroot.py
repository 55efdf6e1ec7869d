"""A tar becomes a slot's file systems, complete and read back, or the slot stays one that no loader takes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.disk.partitions import Partition, Partitions
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import tarchild, tarroot
from hostplane.agent.state import Image
from hostplane.errors import HostError
from tests.unit.agent.payload.signed import put, raw
from tests.unit.agent.payload.test_untar import CAPABILITY, attributes, info, packed

ARGUMENTS = "console=ttyS0,115200 quiet"


def _has_loop() -> bool:
    tools = all(shutil.which(tool) for tool in ("losetup", "mke2fs", "mkfs.xfs", "debugfs", "unshare"))
    return os.geteuid() == 0 and tools and os.path.exists("/dev/loop-control")


pytestmark = pytest.mark.skipif(not _has_loop(), reason="mounting needs root and loop devices")


class Disk:
    """A host whose partitions are loop devices; slot A runs."""

    def __init__(self, directory: Path, kind: str = "ext4", root_mib: int = 24, boot_mib: int = 8) -> None:
        self.directory, self.kind = directory, kind
        self.loops: dict[str, str] = {}
        sizes = {"BOOT-A": 4, "BOOT-B": boot_mib, "ROOT-B": root_mib}
        for label, mib in sizes.items():
            image = directory / label
            with image.open("wb") as file:
                file.truncate(mib << 20)
            done = subprocess.run(
                ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=True
            )
            self.loops[label] = done.stdout.strip()
        tree = directory / "boot-a"
        put(tree, "slot.cfg", f"set hp_title='node 1'\nset hp_args='{ARGUMENTS}'\n".encode())
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), self.loops["BOOT-A"]], check=True)
        put(directory, "host/proc/cmdline", f"rootfstype={kind} ro hostplane.slot=A".encode())
        put(directory, "host/etc/hostplane/agent.json", raw({"allowUnsignedTar": True}))
        self.host = HostRoot(str(directory / "host"))
        found = {label: Partition(label, path, sizes[label] << 20) for label, path in self.loops.items()}
        self.partitions = Partitions("disk", "A", found)

    def install(self, tar: bytes, **changes: Any) -> int:
        digest = "sha256:" + hashlib.sha256(tar).hexdigest()
        image = Image(format="osTar", digest=digest, size=len(tar), version="2.0")._replace(**changes)
        pieces = (tar[at : at + 50_000] for at in range(0, len(tar), 50_000))
        return tarroot.install(self.host, self.partitions, "B", pieces, image)

    def refusal(self, tar: bytes, **changes: Any) -> str:
        with pytest.raises(HostError) as caught:
            self.install(tar, **changes)
        return caught.value.name

    @contextlib.contextmanager
    def seen(self, label: str, kind: str = "ext4") -> Iterator[Path]:
        """The file system on a partition, by a look inside a namespace of its own: a copy of its tree."""
        copy = self.directory / f"copy-{label}"
        mount = self.directory / "mount"
        mount.mkdir(exist_ok=True)
        script = f"mount --make-rprivate / && mount -t {kind} -o ro {self.loops[label]} {mount} && cp -a {mount} {copy}"
        subprocess.run(["unshare", "--mount", "sh", "-c", script], check=True)
        yield copy
        shutil.rmtree(copy)

    def boots(self) -> dict[str, bytes]:
        """What the loader finds on BOOT-B."""
        with self.seen("BOOT-B") as tree:
            return {path.name: path.read_bytes() for path in tree.iterdir() if path.is_file()}

    def close(self) -> None:
        for loop in self.loops.values():
            subprocess.run(["losetup", "--detach", loop], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.close()


def os_tar(*more: Any, boot: tuple[str, ...] = ("boot/vmlinuz", "boot/initramfs.img"), agent: bool = True) -> bytes:
    """A root as `hostplane image build` packs it for KubeOS."""
    members: list[Any] = [
        info("./", tarfile.DIRTYPE),
        info("./boot", tarfile.DIRTYPE),
        (info("./etc/os-release"), b"ID=debian\nVERSION_ID='12'\n"),
        (info("./usr/bin/ping", mode=0o4755, uid=3, pax_headers=attributes(CAPABILITY)), b"ping" * 100_000),
        *more,
    ]
    if agent:
        members += [(info("./usr/lib/hostplane/" + name), b"agent") for name in ("agent.pyz", "mounts")]
    return packed(*members, *((info("./" + name), name.encode() * 1000) for name in boot))


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_tar_becomes_a_slot_that_boots(tmp_path: Path, kind: str) -> None:
    with contextlib.closing(Disk(tmp_path, kind, root_mib=300 if kind == "xfs" else 24)) as disk:
        tar = os_tar()
        assert disk.install(tar) == len(tar)
        with disk.seen("ROOT-B", kind) as tree:
            ping = tree / "usr/bin/ping"
            assert ping.read_bytes() == b"ping" * 100_000
            assert (ping.stat().st_mode & 0o7777, ping.stat().st_uid) == (0o4755, 3)
            assert os.getxattr(ping, "security.capability") == CAPABILITY
        found = disk.boots()
        assert found["vmlinuz"] == b"boot/vmlinuz" * 1000
        assert found["initrd.img"] == b"boot/initramfs.img" * 1000
        config = found["slot.cfg"].decode()
        assert config == tarchild.slot_config(kind, "debian 2.0", ARGUMENTS)
        assert not (tmp_path / "host/run/hostplane/tar/root").exists()


def test_a_root_of_small_files_finds_room_for_them(disk: Disk) -> None:
    disk.install(os_tar(*((info(f"usr/share/small/{number}"), b"x") for number in range(4500))))
    assert "slot.cfg" in disk.boots()


def test_both_slots_have_their_own_names(disk: Disk) -> None:
    disk.install(os_tar())
    first = names(disk, "ROOT-B")
    disk.install(os_tar())
    assert names(disk, "ROOT-B") == first
    assert first[0] == "ROOT-B"
    assert names(disk, "BOOT-B")[1] not in (first[1], names(disk, "BOOT-A")[1])


def names(disk: Disk, label: str) -> tuple[str, str]:
    said = subprocess.run(
        ["blkid", "-p", "-o", "export", disk.loops[label]], capture_output=True, text=True, check=True
    )
    found = dict(line.partition("=")[::2] for line in said.stdout.splitlines())
    return found.get("LABEL", ""), found["UUID"]


def test_another_digest_leaves_nothing_to_boot(disk: Disk) -> None:
    disk.install(os_tar())
    assert disk.refusal(os_tar(), digest="sha256:" + "0" * 64) == "PayloadDigestMismatch"
    assert "slot.cfg" not in disk.boots()


def test_a_tar_out_of_a_container_image_is_proven_by_whoever_hands_it_over(disk: Disk) -> None:
    assert disk.install(os_tar(), digest="sha256:" + "0" * 64, ref="oci://registry/os:1")
    assert "slot.cfg" in disk.boots()


def test_a_download_that_breaks_off_leaves_nothing_to_boot(disk: Disk) -> None:
    class Broken(Exception):
        pass

    def stream() -> Iterator[bytes]:
        yield os_tar()[:5000]
        raise Broken

    with pytest.raises(Broken):
        tarroot.install(disk.host, disk.partitions, "B", stream(), Image(digest="sha256:" + "0" * 64))
    assert disk.boots() == {}
    assert not [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


@pytest.mark.parametrize(
    ("tar", "name"),
    [
        (b"no tar at all" * 1000, "TarUnfit"),
        (os_tar(boot=()), "TarUnfit"),
        (os_tar(boot=("boot/vmlinuz",)), "TarUnfit"),
        (os_tar(boot=("boot/vmlinuz-6.1", "boot/initrd.img-6.2")), "TarUnfit"),
        (os_tar(agent=False), "TarUnfit"),
        (os_tar((info("../../evil"), b"x")), "TarUnfit"),
        (os_tar((info("big"), os.urandom(30 << 20))), "SlotFull"),
        (os_tar((info("boot/vmlinuz-1"), os.urandom(9 << 20)), boot=("boot/initrd.img-1",)), "SlotFull"),
        (
            os_tar(info("boot/vmlinuz", tarfile.SYMTYPE, linkname="/etc/hostname"), boot=("boot/initrd.img",)),
            "TarUnfit",
        ),
    ],
    ids=[
        "no tar",
        "no kernel",
        "no initramfs",
        "not its own",
        "no agent",
        "escape",
        "root full",
        "boot full",
        "link out",
    ],
)
def test_a_tar_that_makes_no_slot_is_refused_with_its_reason(disk: Disk, tar: bytes, name: str) -> None:
    assert disk.refusal(tar) == name
    assert "slot.cfg" not in disk.boots()


def test_the_newest_kernel_with_an_initramfs_of_its_own_is_taken(disk: Disk) -> None:
    names = ("vmlinuz-6.1.0-9", "initrd.img-6.1.0-9", "vmlinuz-6.1.0-10", "initrd.img-6.1.0-10", "vmlinuz-6.2")
    link = info("boot/vmlinuz.old", tarfile.SYMTYPE, linkname="vmlinuz-6.2")
    disk.install(os_tar(link, boot=tuple("boot/" + name for name in names)))
    assert disk.boots()["vmlinuz"] == b"boot/vmlinuz-6.1.0-10" * 1000


def test_a_tar_is_taken_only_where_the_host_says_so(disk: Disk) -> None:
    disk.host.config = disk.host.config._replace(allow_unsigned_tar=False)
    assert disk.refusal(os_tar()) == "UnsignedRefused"


@pytest.mark.parametrize("words", ["rootfstype=erofs", "rootfstype=ext4 hostplane.verity=ab"])
def test_no_tar_comes_beside_a_sealed_root_or_erofs(disk: Disk, words: str) -> None:
    put(disk.directory, "host/proc/cmdline", f"{words} hostplane.slot=A".encode())
    assert disk.refusal(os_tar()) == "TarNeedsOtherRoot"


def test_a_missing_tool_or_source_costs_the_slot_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(Iterator[bytes]):
        def __next__(self) -> bytes:
            raise HostError("FormatUnsupported", format="unreachable")

    disk.install(os_tar())
    begun: list[int] = []
    with pytest.raises(HostError):
        tarroot.install(disk.host, disk.partitions, "B", Unreachable(), Image(), lambda: begun.append(1))
    monkeypatch.setattr(tarroot, "_TOOLS", (str(disk.directory),))
    assert disk.refusal(os_tar()) == "MkfsMissing"
    assert not begun
    assert "slot.cfg" in disk.boots()


def test_a_slot_that_is_no_file_system_size_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(Disk(tmp_path, "xfs", root_mib=20)) as disk:
        assert disk.refusal(os_tar()) == "MkfsFailed"


def test_the_floor_that_the_image_names_is_kept(disk: Disk) -> None:
    floor = {"ext4": ["extent", "filetype"], "boot": ["filetype"], "xfs": ["-m", "reflink=0"]}
    put(disk.directory, "host/usr/lib/hostplane/image.json", raw({"mkfs": floor}))
    disk.install(os_tar())
    said = subprocess.run(["dumpe2fs", "-h", disk.loops["ROOT-B"]], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("Filesystem features:")]
    assert set(line.split()[2:]) == {"extent", "filetype", "ext_attr"}  # the last one with the first attribute


def test_the_veto_stops_it_in_the_middle(disk: Disk) -> None:
    def stream() -> Iterator[bytes]:
        yield os_tar()[:5000]
        put(disk.directory, "host/etc/hostplane/never", b"")
        yield b"more"

    with pytest.raises(HostError) as caught:
        tarroot.install(disk.host, disk.partitions, "B", stream(), Image(digest="sha256:" + "0" * 64))
    assert caught.value.name == "VetoedByHost"
