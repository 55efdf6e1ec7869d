"""The two images' own /etc, seen without touching anything: mounts in a namespace that only one thread is in.

The running image's /etc lies below the mount that hides it: a bind of the root file system alone, without what is
mounted on it, shows it. The new image is mounted from its slot, read-only and without replaying a journal, so that not
a bit of the slot changes. Both mounts belong to a mount namespace made for a thread of its own; when the thread ends,
however it ends, the kernel takes them away.
"""

import ctypes
import errno
import os
import stat
import struct
import subprocess
import threading
from typing import Callable, List, NamedTuple, Optional, TypeVar

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

__all__ = ["Images", "read_os_id", "see"]

_CLONE_NEWNS = 0x00020000
_SECONDS = 60
_EXT, _EROFS = (1024 + 56, struct.pack("<H", 0xEF53)), (1024, struct.pack("<I", 0xE0F5E1E2))
_XFS = (0, b"XFSB")
_OPTIONS = {"ext4": "ro,noload", "xfs": "ro,norecovery,nouuid", "erofs": "ro"}

_Result = TypeVar("_Result")


class Images(NamedTuple):
    """Roots of the two images: directories that show each as it was built."""

    running: str
    new: str


def see(host: HostRoot, target: str, work: Callable[[Images], _Result]) -> _Result:
    """`work` with the running image and the one in the slot `target` to look at, in a thread of its own.

    Without a target only the running image is shown. A slot that is a directory (tests, simulated hosts) is taken as
    it is.

    Raises:
        HostError: EtcImageUnreadable, and what `work` raises.
    """
    slot = host.path("dev/hostplane/ROOT-" + target) if target else ""
    if host.root != "/" and (not slot or os.path.isdir(slot)):
        return work(Images(host.root, slot))
    results: List[_Result] = []
    faults: List[BaseException] = []

    def run() -> None:
        try:
            results.append(_see_mounted(host, target, slot, work))
        except BaseException as fault:  # carried over to the thread that waits
            faults.append(fault)

    thread = threading.Thread(target=run, name="hostplane-etc")
    thread.start()
    thread.join()
    if faults:
        raise faults[0]
    return results[0]


def _see_mounted(host: HostRoot, target: str, slot: str, work: Callable[[Images], _Result]) -> _Result:
    places = host.path("run/hostplane/etc")
    running, new = os.path.join(places, "running"), os.path.join(places, "new")
    try:
        try:
            _leave_namespace()
            _run("mount", "-n", "--make-rprivate", "/")
            for place in (running, new):
                os.makedirs(place, mode=0o700, exist_ok=True)
            if slot:
                kind = _kind_of_file_system(slot)
                options = _OPTIONS[kind] + (",loop" if stat.S_ISREG(os.stat(slot).st_mode) else "")
                _run("mount", "-n", "-t", kind, "-o", options, slot, new)
            if host.root == "/":
                _run("mount", "-n", "-o", "bind", "/", running)
        except (OSError, ValueError, subprocess.SubprocessError) as fault:
            raise HostError("EtcImageUnreadable", slot=target or "that runs", detail=_words(fault)) from fault
        return work(Images(running if host.root == "/" else host.root, new))
    finally:
        for place in (running, new):
            if os.path.ismount(place):
                subprocess.call(["umount", "-n", place])


def _leave_namespace() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _kind_of_file_system(device: str) -> str:
    with open(device, "rb", buffering=0) as handle:
        head = handle.read(4096)
    for kind, (offset, magic) in (("xfs", _XFS), ("erofs", _EROFS), ("ext4", _EXT)):
        if head[offset : offset + len(magic)] == magic:
            return kind
    raise ValueError("it holds no ext4, xfs or erofs file system")


def _run(*command: str) -> None:
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_SECONDS,
        check=True,
    )


def _words(fault: BaseException) -> str:
    output = getattr(fault, "output", None)
    said = output.decode("utf-8", "replace") if isinstance(output, bytes) else ""
    if isinstance(fault, OSError) and fault.errno == errno.EPERM:
        said = "it takes root and CAP_SYS_ADMIN to mount it"
    return " ".join((said or str(fault)).split())[:300]


def read_os_id(root: str) -> Optional[str]:
    """ID of the distribution in the image at `root`; None where it does not say."""
    for name in ("usr/lib/os-release", "etc/os-release"):
        try:
            with open(os.path.join(root, name), encoding="utf-8", errors="replace") as handle:
                for line in handle.read(1 << 16).splitlines():
                    if line.startswith("ID="):
                        return line[3:].strip().strip("\"'")
        except OSError:
            continue
    return None
