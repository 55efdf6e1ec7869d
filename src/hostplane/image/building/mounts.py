"""Mounts and namespaces, by system call: what `os` lacks before Python 3.12, and no program needed for it.

Everything here is called only by a worker inside its own mount namespace: a mount ends with its process, however that
ends. A path that is a symbolic link is never mounted over, since the root's links may lead out of it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = [
    "MS_BIND",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "NEW_IPC",
    "NEW_MOUNTS",
    "NEW_NET",
    "NEW_PIDS",
    "NEW_USER",
    "api_mounts",
    "die_with_parent",
    "go_offline",
    "mount",
    "mount_proc",
    "umount",
    "unshare",
]

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_MNT_DETACH, _PR_SET_PDEATHSIG, _SIGKILL = 2, 1, 9
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x1 | 0x40
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError naming the target."""
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _check(result, str(target))


def umount(target: Path | str) -> None:
    """Detach `target` now, also while something still uses it; its last user frees it."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), str(target))


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends; to be called after a fork."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(_SIGKILL), 0, 0, 0), "prctl")


def go_offline() -> None:
    """Leave the network: an empty one with the loop-back interface up, which some programs expect."""
    unshare(NEW_NET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP_RUNNING))


def mount_proc(target: Path) -> None:
    """A /proc of this process's pid namespace at `target`; the machine's where a container forbids a new one."""
    try:
        mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except PermissionError:
        mount("/proc", target, "", MS_BIND | MS_REC)


def _mount_sys(target: Path) -> None:
    try:
        mount("sysfs", target, "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    except PermissionError:
        mount("/sys", target, "", MS_BIND | MS_REC)


def _mount_dev(target: Path) -> None:
    """A small /dev: the devices that programs expect, bound from the machine's, so that none must be made."""
    mount("dev", target, "tmpfs", MS_NOSUID, "mode=0755")
    for name in _DEVICES:
        (target / name).touch()
        mount(f"/dev/{name}", target / name, "", MS_BIND)
    for name in ("pts", "shm"):
        (target / name).mkdir()
    mount("devpts", target / "pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    mount("shm", target / "shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for name, goal in _LINKS.items():
        (target / name).symlink_to(goal)


def _mount_run(target: Path) -> None:
    mount("run", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    (target / "lock").mkdir(mode=0o1777)


@contextmanager
def api_mounts(root: Path, *, resolver: bool = False) -> Iterator[None]:
    """/proc, /sys, /dev and /run in `root`, for as long as the block runs; with `resolver` the machine's resolv.conf.

    May be nested: what is mounted already stays as it is. A missing directory is made and stays.
    """
    with ExitStack() as undo:
        for name, attach in {"proc": mount_proc, "sys": _mount_sys, "dev": _mount_dev, "run": _mount_run}.items():
            target = root / name
            if target.is_symlink() or target.is_mount():
                continue
            target.mkdir(exist_ok=True)
            undo.callback(_detach, target)
            attach(target)
        if resolver:
            undo.enter_context(_resolver(root))
        yield


def _detach(target: Path) -> None:
    if target.is_mount():
        umount(target)


@contextmanager
def _resolver(root: Path) -> Iterator[None]:
    """The machine's resolv.conf in `root`, over a file that is there or in place of one that is not."""
    target = root / "etc/resolv.conf"
    for _ in range(8):  # a link is followed inside the root: distributions point it into /run
        if not target.is_symlink():
            break
        goal = os.readlink(target)
        inner = os.path.normpath(os.path.join("/", target.parent.relative_to(root), goal))
        target = root / inner.lstrip("/")
    if target.is_symlink() or not os.path.exists("/etc/resolv.conf") or not (root / "etc").is_dir():
        yield
        return
    made = not target.exists()
    if made:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("/etc/resolv.conf", target, "", MS_BIND)
    try:
        yield
    finally:
        umount(target)
        if made:
            target.unlink()
