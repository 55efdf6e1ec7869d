"""Mounts that nobody else sees: a process of its own, a mount namespace of its own, gone when it ends.

Only for processes that were started for this: `enter` changes the whole process. Nothing is ever mounted where another
process could come upon it, so a killed agent leaves nothing behind.
"""

import ctypes
import os
from typing import List

__all__ = ["NODEV", "NOEXEC", "NOSUID", "RDONLY", "enter", "mount", "unmount"]

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
_PRIVATE, _RECURSIVE, _NEW_NAMESPACE, _NOFOLLOW = 1 << 18, 1 << 14, 0x00020000, 8


def enter(scratch: str) -> None:
    """Go into a mount namespace of our own, with an empty file system in memory at the directory `scratch`.

    Raises:
        OSError.
    """
    _call("unshare", ctypes.c_int(_NEW_NAMESPACE), path="a mount namespace")
    _mount(b"none", b"/", None, _PRIVATE | _RECURSIVE, None)
    os.makedirs(scratch, exist_ok=True)
    _mount(b"hostplane", os.fsencode(scratch), b"tmpfs", NOSUID | NODEV | NOEXEC, b"mode=0700,size=4m")


def mount(device: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount `device` at `target`, which is made. Raises OSError."""
    os.makedirs(target, exist_ok=True)
    _mount(os.fsencode(device), os.fsencode(target), kind.encode("ascii"), flags, options.encode("ascii"))


def unmount(target: str) -> None:
    """Take a mount away, everything on it written. Raises OSError."""
    _call("umount2", ctypes.c_char_p(os.fsencode(target)), ctypes.c_int(_NOFOLLOW), path=target)


def _mount(device: bytes, target: bytes, kind: "bytes | None", flags: int, options: "bytes | None") -> None:
    words: List[object] = [ctypes.c_char_p(device), ctypes.c_char_p(target), ctypes.c_char_p(kind)]
    words += [ctypes.c_ulong(flags), ctypes.c_char_p(options)]
    _call("mount", *words, path=os.fsdecode(device))


def _call(name: str, *arguments: object, path: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
