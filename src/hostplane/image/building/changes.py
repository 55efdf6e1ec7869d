"""What a layer changed that an initramfs can hold, as one digest: a part of the boot stage's key.

Making an initramfs is the dearest of the late steps, and most of what recipes change later cannot be in one. The list
of what it cannot hold is short and stands here; a path that is not in it counts. Directories count only where they hide
what was below them, because a changed file makes all its parents appear in a layer.
"""

from __future__ import annotations

import hashlib
import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

__all__ = ["initramfs_digest", "is_relevant"]

_CANNOT_HOLD = tuple(
    PurePosixPath(path)
    for path in (
        *("etc", "var", "opt", "home", "root", "srv", "tmp", "run"),
        *("usr/local/share", "usr/share/doc", "usr/lib/hostplane"),
    )
)
_BUT = (
    *("etc/initramfs-tools", "etc/dracut*", "etc/cmdline.d", "etc/modprobe*", "etc/modules*", "etc/udev"),
    *("etc/crypttab", "etc/fstab", "etc/mdadm*", "etc/lvm", "etc/multipath*", "etc/kernel", "etc/ld.so.conf*"),
    *("etc/vconsole.conf", "etc/locale.conf", "etc/plymouth"),
    *("etc/systemd/system.conf*", "etc/systemd/journald.conf*"),
    "usr/lib/hostplane/mounts",  # the one of our own files that goes into it
)
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def is_relevant(path: PurePosixPath) -> bool:
    """Whether an initramfs can hold what is at `path` (relative to the root)."""
    if not any(path.is_relative_to(place) for place in _CANNOT_HOLD):
        return True
    heads = [*reversed([str(p) for p in path.parents if p.name]), str(path)]
    return any(fnmatchcase(head, pattern) for head in heads for pattern in _BUT)


def initramfs_digest(tree: Path) -> str:
    """64 hex digits over the relevant part of a layer's tree (an overlay's upper directory)."""
    digest = hashlib.sha256()
    for directory, names, files in os.walk(tree):
        names.sort()
        here = PurePosixPath(directory).relative_to(tree)
        for name in sorted([*files, *names]):
            path = here / name
            said = _describe(Path(directory, name)) if is_relevant(path) else None
            if said is not None:
                digest.update(f"{path}\0{said}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _describe(path: Path) -> str | None:
    status = path.lstat()
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        return "opaque" if any(_has(path, name) for name in _OPAQUE) else None
    if stat.S_ISLNK(mode):
        what = os.readlink(path)
    elif stat.S_ISREG(mode):
        with path.open("rb") as file:
            what = hashlib.file_digest(file, "sha256").hexdigest()
    else:  # a device; 0,0 is a whiteout
        what = str(status.st_rdev)
    return f"{mode:o} {status.st_uid} {status.st_gid} {what}"


def _has(path: Path, attribute: str) -> bool:
    try:
        return bool(os.getxattr(path, attribute, follow_symlinks=False))
    except OSError:
        return False
