"""Gives files below some directories other owners, by number; access lists too. Follows no link, stays on one disk."""

import os
import stat
from typing import Dict, Iterable, Iterator

from .attributes import renumbered
from .build import sync
from .node import Meta
from .rules import Paths
from .users import Numbers

__all__ = ["Map", "renumber"]

Map = Dict[int, int]
_ACCESS = ("system.posix_acl_access", "system.posix_acl_default")
_CAPABILITY = "security.capability"


def renumber(root: str, places: Iterable[str], uids: Map, gids: Map, without: Paths) -> int:
    """Change every file at or below `places` (paths below `root`), except what `without` covers; then sync.

    Gives how many files were changed. Raises OSError.
    """
    if not uids and not gids:
        return 0
    device = os.lstat(root).st_dev
    changed = 0
    for path in _paths(root, places, device, without):
        try:
            changed += _change(path, uids, gids)
        except FileNotFoundError:
            continue
    sync(root)
    return changed


def _paths(root: str, places: Iterable[str], device: int, without: Paths) -> Iterator[str]:
    done = ""
    for place in sorted(places):
        if (done and (place + "/").startswith(done + "/")) or without.covers(place):
            continue
        top = os.path.join(root, place)
        if os.path.realpath(os.path.dirname(top)) != os.path.dirname(top) or not os.path.lexists(top):
            continue  # a link on the way leads somewhere else
        done = place
        yield top
        if os.path.islink(top) or not os.path.isdir(top):
            continue
        for directory, names, files in os.walk(top):
            for name in list(names):
                path = os.path.join(directory, name)
                if without.covers(os.path.relpath(path, root)) or os.lstat(path).st_dev != device:
                    names.remove(name)
                else:
                    yield path
            for name in files:
                yield os.path.join(directory, name)


def _change(path: str, uids: Map, gids: Map) -> int:
    found = os.lstat(path)
    xattrs = {}
    if not stat.S_ISLNK(found.st_mode):
        for name in _xattr_names(path):
            xattrs[name] = os.getxattr(path, name, follow_symlinks=False)
    before = Meta(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, tuple(sorted(xattrs.items())))
    after = renumbered(before, Numbers(uids, gids))
    if after == before:
        return 0
    if (after.uid, after.gid) != (before.uid, before.gid):
        os.chown(path, after.uid, after.gid, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and before.mode & 0o6000:
            os.chmod(path, before.mode)  # chown took the bits away
    for name, value in after.xattrs:
        if value != xattrs[name] or name == _CAPABILITY:
            os.setxattr(path, name, value, follow_symlinks=False)
    return 1


def _xattr_names(path: str) -> Iterable[str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return ()
    return [name for name in names if name in _ACCESS or name == _CAPABILITY]
