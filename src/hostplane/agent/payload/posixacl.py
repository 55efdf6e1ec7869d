"""POSIX ACLs: from the words that tar archives carry to the bytes that the kernel takes."""

import struct
from typing import Callable, List, Optional, Tuple

__all__ = ["NAMES", "binary_acl"]

NAMES = {"SCHILY.acl.access": "system.posix_acl_access", "SCHILY.acl.default": "system.posix_acl_default"}
"""The archive's key: the extended attribute."""

_VERSION = 2
_UNNAMED = 0xFFFFFFFF
_TAGS = {("user", False): 1, ("user", True): 2, ("group", False): 4, ("group", True): 8, ("mask", False): 16}
_OTHER = 32


def binary_acl(text: str, number: Callable[[str, str], Optional[int]]) -> bytes:
    """The attribute's value for an ACL such as "user::rw-,user:1000:r--,…".

    `number` gives the id of a user or group (its kind and its name); an entry for which it gives None is left out.
    """
    entries: List[Tuple[int, int, int]] = []
    for entry in text.replace("\n", ",").split(","):
        fields = entry.strip().split(":")
        if len(fields) < 3:
            continue
        kind, who, rights = fields[0], fields[1], fields[2]
        said = fields[3] if len(fields) > 3 else ""
        found: Optional[int] = _UNNAMED
        if who:
            found = next((int(word) for word in (said, who) if word.isdecimal()), None)
            found = number(kind, who) if found is None else found
        if found is not None and 0 <= found <= _UNNAMED:
            bits = sum(bit for sign, bit in (("r", 4), ("w", 2), ("x", 1)) if sign in rights)
            entries.append((_TAGS.get((kind, bool(who)), _OTHER), bits, found))
    entries.sort(key=lambda one: (one[0], one[2]))
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
