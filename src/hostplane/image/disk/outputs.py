"""The root as files for others: a tar of the tree, KubeOS's os.tar, and a disk for a hypervisor.

A tar holds what the images hold: numeric owners, modes, links, extended attributes, capabilities, access lists and
labels; entries in the order of their names, no time later than the epoch. KubeOS's agent unpacks os.tar over an empty
root and boots /boot/vmlinuz with /boot/initramfs.img out of it, so these two are added there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hostplane.image.stage import Run

__all__ = ["os_tar", "qcow2", "root_tar"]

_PAX = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime,delete=mtime"
_TAR = (
    *("tar", "--create", "--format=pax", "--sort=name", "--numeric-owner", "--clamp-mtime"),
    *(_PAX, "--acls", "--selinux", "--xattrs", "--xattrs-include=*"),
    *("--xattrs-exclude=trusted.overlay.*", "--xattrs-exclude=user.overlay.*"),
)


def root_tar(root: Path, target: Path, *, epoch: int, run: Run) -> None:
    """Write the tree `root` as a tar.

    Raises:
        ImageError: ToolMissing, ToolFailed.
    """
    run([*_TAR, f"--mtime=@{epoch}", f"--file={target}", f"--directory={root}", "."])


def os_tar(root: Path, target: Path, *, kernel: Path, initramfs: Path, epoch: int, scratch: Path, run: Run) -> None:
    """Write the tree `root` in KubeOS's form.

    Raises:
        ImageError: ToolMissing, ToolFailed.
    """
    boot = scratch / "kubeos/boot"
    boot.mkdir(parents=True)
    for source, name in ((kernel, "vmlinuz"), (initramfs, "initramfs.img")):
        shutil.copyfile(source, boot / name)
        (boot / name).chmod(0o644)
    owned = ("--owner=0", "--group=0", "--mode=u=rw,go=r", f"--directory={boot.parent}")
    names = ("./boot/initramfs.img", "./boot/vmlinuz")
    root_tar(root, target, epoch=epoch, run=run)
    run(["tar", "--append", "--format=pax", _PAX, f"--mtime=@{epoch}", f"--file={target}", *owned, *names])
    shutil.rmtree(boot.parent)


def qcow2(raw: Path, target: Path, *, run: Run) -> None:
    """Write the disk `raw` as qcow2; empty parts take no room.

    Raises:
        ImageError: ToolMissing, ToolFailed.
    """
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target)])
