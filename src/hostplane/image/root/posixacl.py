"""The ids that a root's own files give to the names in a tar archive's ACLs."""

from __future__ import annotations

from pathlib import Path

from hostplane.agent.payload import posixacl
from hostplane.agent.payload.posixacl import NAMES
from hostplane.image.root.rootpath import within

__all__ = ["NAMES", "binary_acl"]

_FILES = {"user": "/etc/passwd", "group": "/etc/group"}


def binary_acl(text: str, root: Path) -> bytes:
    """The attribute's value for an ACL such as "user::rw-,user:1000:r--,…"; names are looked up in `root`.

    An entry whose name the root does not know is left out.
    """
    return posixacl.binary_acl(text, lambda kind, who: _number(kind, who, root))


def _number(kind: str, who: str, root: Path) -> int | None:
    path = within(root, _FILES.get(kind, "/etc/passwd"))
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split(":")
            if fields[0] == who and len(fields) > 2 and fields[2].isdecimal():
                return int(fields[2])
    return None
