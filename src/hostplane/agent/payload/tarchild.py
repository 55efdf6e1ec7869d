"""The process that mounts a slot's new file systems where nobody sees them, and fills them from a tar on its input.

    sees   ROOT-x below scratch/root (first writable, then read-only), BOOT-x below scratch/boot, the running slot's
           BOOT below scratch/active
    gets   the tar on standard input, then one word on a pipe: that the tar's digest is the one that was granted
    gives  one JSON object: {} or {"error", "params"}

Until that word has come, nothing is on BOOT-x, so whatever the tar holds can not be booted. It ends with everything it
mounted; killed at any moment it leaves a slot that no loader tries.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import resource
import shutil
import stat
import sys
from typing import Dict, List, Optional, Tuple

from hostplane.agent.bundle.versions import compare
from hostplane.agent.payload import mounting, untar
from hostplane.errors import HostError

__all__ = ["find_kernel", "main", "slot_config"]

_MEMORY = 1 << 30
_SAFE = mounting.NOSUID | mounting.NODEV | mounting.NOEXEC
_READ = _SAFE | mounting.RDONLY
_NEEDED = ("usr/lib/hostplane/agent.pyz", "usr/lib/hostplane/mounts")
_KERNELS = (re.compile(r"vmlinu[xz]\Z|kernel\Z"), re.compile(r"vmlinu[xz]-(?!.*rescue)(.+)\Z"))
_INITRAMFS = ("initramfs.img", "initrd.img", "initrd")
_NAMED = ("initrd.img-%s", "initramfs-%s.img", "initrd-%s")
_ARGUMENTS = re.compile(r"^set hp_args='([!#-&(-\[\]-~ ]*)'$", re.MULTILINE)
_VERSION = re.compile(r"[^0-9A-Za-z._+~-]+")


def main(words: str) -> int:
    """Do what the plan in `words` (JSON, from tarroot.py) says; gives the exit code."""
    plan: Dict[str, str] = json.loads(words)
    said: Dict[str, object] = {}
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        os.umask(0)
        _work(plan)
    except HostError as fault:
        params = dict(fault.reason.params)
        if fault.name == "SlotFull":
            params = {"slot": plan["slot"]}
        said = {"error": fault.name, "params": params}
    except (OSError, MemoryError) as fault:
        said = {"error": "TarFailed", "params": {"slot": plan["slot"], "detail": str(fault) or type(fault).__name__}}
        if getattr(fault, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
            said = {"error": "SlotFull", "params": {"slot": plan["slot"]}}
    sys.stdout.write(json.dumps(said))
    sys.stdout.flush()
    return 0


def _work(plan: Dict[str, str]) -> None:
    scratch = plan["scratch"]
    root, boot, active = (os.path.join(scratch, name) for name in ("root", "boot", "active"))
    mounting.enter(scratch)
    mounting.mount(plan["root"], root, plan["kind"], _SAFE)
    unpacked = untar.unpack(sys.stdin.buffer, root)
    if os.read(int(plan["verdict"]), 16) != b"right":
        raise HostError("TarFailed", slot=plan["slot"], detail="the download was given up")
    for name in _NEEDED:
        if not os.path.lexists(os.path.join(root, name)):
            raise HostError("TarUnfit", path="/" + name, detail="it is missing, so nobody would watch over this root")
    _sync(root)
    mounting.unmount(root)
    _forget(plan["root"])
    mounting.mount(plan["root"], root, plan["kind"], _READ)
    untar.verify(root, unpacked)
    parts = find_kernel(root)
    arguments = _arguments(plan["active"], active)
    _fill_boot(plan, boot, parts, slot_config(plan["kind"], _title(root, plan["version"]), arguments))
    mounting.unmount(root)


def find_kernel(root: str) -> Tuple[str, str]:
    """The kernel and the initramfs below the tree `root`: KubeOS's plain names, or the newest kernel that has its own.

    Raises:
        HostError: TarUnfit.
    """
    boot = os.path.join(root, "boot")
    names = sorted(os.listdir(boot)) if os.path.isdir(boot) and not os.path.islink(boot) else []
    for name in names:
        if _KERNELS[0].match(name):
            for initramfs in _INITRAMFS:
                if initramfs in names:
                    return _inside(root, "boot/" + name), _inside(root, "boot/" + initramfs)
    versions: List[Tuple[str, str, str]] = []
    for name in names:
        match = _KERNELS[1].match(name)
        for pattern in _NAMED if match else ():
            if pattern % match.group(1) in names:  # type: ignore[union-attr]
                versions.append((match.group(1), name, pattern % match.group(1)))  # type: ignore[union-attr]
    if not versions:
        raise HostError("TarUnfit", path="/boot", detail="it holds no kernel with an initramfs")
    best = versions[0]
    for one in versions[1:]:
        best = one if compare(one[0], best[0]) > 0 else best
    return _inside(root, "boot/" + best[1]), _inside(root, "boot/" + best[2])


def _inside(root: str, name: str) -> str:
    """The regular file that `name` is in the tree, followed through links as the tree itself would."""
    at = name
    for _ in range(8):
        way = os.path.normpath(os.path.join("/", at)).lstrip("/")
        path = os.path.join(root, way)
        if os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
            break
        about = os.lstat(path) if os.path.lexists(path) else None
        if about is not None and stat.S_ISREG(about.st_mode) and about.st_size:
            return path
        if about is None or not stat.S_ISLNK(about.st_mode):
            break
        at = os.path.join(os.path.dirname(way), os.readlink(path))
    raise HostError("TarUnfit", path="/" + name, detail="it is no file that a loader could read")


def slot_config(kind: str, title: str, arguments: str) -> str:
    """BOOT-x's slot.cfg, as docs/reference/boot.md has it."""
    lines = ["# " + title, "set hp_title='%s'" % title, "set hp_rootfs='%s'" % kind, "set hp_verity=''"]
    lines += ["set hp_args='%s'" % arguments, "set hp_trial='nmi_watchdog=panic'", "set hp_complete=1", ""]
    return "\n".join(lines)


def _title(root: str, version: str) -> str:
    """Name and version without anything that GRUB would read as more than text."""
    said: Dict[str, str] = {}
    for name in ("etc/os-release", "usr/lib/os-release"):
        path = os.path.join(root, name)
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, encoding="utf-8", errors="replace") as lines:
                said = dict(line.rstrip("\n").partition("=")[::2] for line in lines.readlines(65536))
            break
    words = (said.get("ID", "").strip("\"'") or "root", version or said.get("VERSION_ID", "").strip("\"'"))
    return " ".join(_VERSION.sub("", word)[:64] for word in words).strip()


def _arguments(device: str, place: str) -> str:
    """The running slot's kernel arguments (consoles and the recipe's): the tar has none of its own."""
    mounting.mount(device, place, "ext4", _READ)
    try:
        with open(os.path.join(place, "slot.cfg"), encoding="utf-8", errors="replace") as file:
            match = _ARGUMENTS.search(file.read(65536))
    except OSError:
        match = None
    finally:
        mounting.unmount(place)
    return match.group(1) if match else ""


def _fill_boot(plan: Dict[str, str], boot: str, parts: Tuple[str, str], config: str) -> None:
    """Kernel and initramfs, then slot.cfg, without which no loader takes the slot; then all of it read back."""
    mounting.mount(plan["boot"], boot, "ext4", _SAFE)
    about = {"schema": "1.0", "version": plan["version"], "digest": plan["digest"], "rootFs": plan["kind"]}
    wanted: Dict[str, Optional[bytes]] = {}
    for source, name in ((parts[0], "vmlinuz"), (parts[1], "initrd.img")):
        shutil.copyfile(source, os.path.join(boot, name), follow_symlinks=False)
        wanted[name] = _digest(source)
    for name, content in (("image.json", json.dumps(about).encode("ascii") + b"\n"), ("slot.cfg", config.encode())):
        _sync(boot)
        with open(os.path.join(boot, name), "wb") as file:
            file.write(content)
        wanted[name] = hashlib.sha256(content).digest()
    for name in wanted:
        os.chmod(os.path.join(boot, name), 0o644)
    _sync(boot)
    mounting.unmount(boot)
    _forget(plan["boot"])
    mounting.mount(plan["boot"], boot, "ext4", _READ)
    try:
        for name, digest in wanted.items():
            if _digest(os.path.join(boot, name)) != digest:
                raise HostError("TarReadBackMismatch", path="BOOT/" + name, detail="it is not what was written")
    finally:
        mounting.unmount(boot)


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.digest()


def _sync(place: str) -> None:
    """Everything of the file system at `place` onto its medium. Raises OSError, also for an earlier write."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), place)
    finally:
        os.close(descriptor)


def _forget(device: str) -> None:
    """Drop what memory holds of `device`, so that the next reading is of the medium."""
    descriptor = os.open(device, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
