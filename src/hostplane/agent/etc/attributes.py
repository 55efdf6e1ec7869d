"""Attributes of a merged name: mode, owner, group and each extended attribute, three-way on its own.

Owners are numbers of three different user databases. They are brought to the merged one's numbers first (`Owners`), in
access lists too, and only then compared; so a user who got another number in the new image changes no file. The SELinux
label of a name that only the host has follows its directory, since the new image's policy may not know the old one's.
"""

import struct
from typing import Dict, List, Optional, Tuple

from .node import Meta, Node
from .users import Numbers

__all__ = ["LABEL", "merge_meta", "unprivileged", "relabelled", "renumbered", "renumbered_tree"]

LABEL = "security.selinux"
_ACCESS_LISTS = ("system.posix_acl_access", "system.posix_acl_default")
_CAPABILITY, _SET_ID = "security.capability", 0o6000
_ENTRY = struct.Struct("<HHI")
_HEADER = struct.Struct("<I")
_USER, _GROUP = 0x02, 0x08  # tags of entries that name somebody


def renumbered(meta: Meta, numbers: Numbers) -> Meta:
    """`meta` with the owners of the merged databases."""
    uid, gid = numbers.uids.get(meta.uid, meta.uid), numbers.gids.get(meta.gid, meta.gid)
    if not any(name in _ACCESS_LISTS for name, _ in meta.xattrs):
        return meta if (uid, gid) == (meta.uid, meta.gid) else meta._replace(uid=uid, gid=gid)
    xattrs = tuple(
        (name, _access_list(value, numbers) if name in _ACCESS_LISTS else value) for name, value in meta.xattrs
    )
    return Meta(meta.mode, uid, gid, xattrs)


def _access_list(value: bytes, numbers: Numbers) -> bytes:
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        return value
    entries = []
    for tag, permissions, number in _ENTRY.iter_unpack(value[_HEADER.size :]):
        table = numbers.uids if tag == _USER else numbers.gids if tag == _GROUP else {}
        entries.append((tag, permissions, table.get(number, number)))
    entries.sort(key=lambda entry: (entry[0], entry[2]))  # the kernel wants them in order
    return value[: _HEADER.size] + b"".join(_ENTRY.pack(*entry) for entry in entries)


def renumbered_tree(node: Optional[Node], numbers: Numbers) -> None:
    """The whole tree with the merged databases' owners, in place."""
    if node is None or not (numbers.uids or numbers.gids):
        return
    pending = [node]
    while pending:
        each = pending.pop()
        each.meta = renumbered(each.meta, numbers)
        pending.extend(each.children.values())


def merge_meta(base: Optional[Node], ours: Optional[Node], theirs: Optional[Node]) -> Meta:
    """Each attribute from the side that changed it; from the host where both did."""
    if ours is None or theirs is None:
        only = theirs if ours is None else ours
        assert only is not None  # a name in the result comes from somewhere
        return only.meta
    was, mine, new = (base or ours).meta, ours.meta, theirs.meta
    if base is None:
        return mine
    numbers: List[int] = []
    for before, local, image in zip(was[:3], mine[:3], new[:3]):
        numbers.append(image if local == before else local)
    return Meta(
        numbers[0], numbers[1], numbers[2], _merge_xattrs(dict(was.xattrs), dict(mine.xattrs), dict(new.xattrs))
    )


def unprivileged(meta: Meta, ours: Meta) -> Meta:
    """`meta` for content of the host's own: a privilege that the image gives to its own content is not given to it."""
    xattrs = {name: value for name, value in meta.xattrs if name != _CAPABILITY}
    xattrs.update({name: value for name, value in ours.xattrs if name == _CAPABILITY})
    return meta._replace(mode=meta.mode & ~_SET_ID | ours.mode & _SET_ID, xattrs=tuple(sorted(xattrs.items())))


def _merge_xattrs(
    was: Dict[str, bytes], mine: Dict[str, bytes], new: Dict[str, bytes]
) -> Tuple[Tuple[str, bytes], ...]:
    merged: Dict[str, bytes] = {}
    for name in set(was) | set(mine) | set(new):
        before, local, image = was.get(name), mine.get(name), new.get(name)
        chosen = image if local == before or (name == LABEL and local is None) else local
        if chosen is not None:
            merged[name] = chosen
    return tuple(sorted(merged.items()))


def relabelled(meta: Meta, was_parent: Optional[Meta], parent: Meta) -> Meta:
    """A local name's attributes below `parent`: its label follows the directory's where it did so on the host."""
    label = dict(parent.xattrs).get(LABEL)
    if label is None:
        return meta
    own = dict(meta.xattrs)
    before = None if was_parent is None else dict(was_parent.xattrs).get(LABEL)
    if own.get(LABEL) != before and LABEL in own:
        return meta
    own[LABEL] = label
    return meta._replace(xattrs=tuple(sorted(own.items())))
