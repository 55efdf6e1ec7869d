"""POSIX ACLs: from the words that tar archives carry to the bytes that the kernel takes."""

from __future__ import annotations

import struct
from pathlib import Path

from hostplane.image.root.rootpath import within

__all__ = ["NAMES", "binary_acl"]

NAMES = {"SCHILY.acl.access": "system.posix_acl_access", "SCHILY.acl.default": "system.posix_acl_default"}
"""The archive's key: the extended attribute."""

_VERSION = 2
_UNNAMED = 0xFFFFFFFF
_TAGS = {("user", False): 1, ("user", True): 2, ("group", False): 4, ("group", True): 8, ("mask", False): 16}
_OTHER = 32
_FILES = {"user": "/etc/passwd", "group": "/etc/group"}


def binary_acl(text: str, root: Path) -> bytes:
    """The attribute's value for an ACL such as "user::rw-,user:1000:r--,…"; names are looked up in `root`.

    An entry whose name the root does not know is left out.
    """
    entries = []
    for entry in text.replace("\n", ",").split(","):
        fields = entry.strip().split(":")
        if len(fields) < 3:
            continue
        kind, who, rights = fields[0], fields[1], fields[2]
        tag = _TAGS.get((kind, bool(who)), _OTHER)
        number = _number(kind, who, fields[3] if len(fields) > 3 else "", root) if who else _UNNAMED
        if number is not None:
            bits = sum(bit for sign, bit in (("r", 4), ("w", 2), ("x", 1)) if sign in rights)
            entries.append((tag, bits, number))
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries, key=_order))


def _order(entry: tuple[int, int, int]) -> tuple[int, int]:
    return entry[0], entry[2]


def _number(kind: str, who: str, said: str, root: Path) -> int | None:
    for word in (said, who):
        if word.isdigit():
            return int(word)
    path = within(root, _FILES.get(kind, "/etc/passwd"))
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split(":")
            if fields[0] == who and len(fields) > 2 and fields[2].isdigit():
                return int(fields[2])
    return None
