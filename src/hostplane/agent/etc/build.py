"""Writes a tree to PERSIST so that power may fail at any instant: NAME.new, synced, then renamed into place.

    before the renames        NAME is what it was; NAME.new is whatever it is, and the next build begins by removing it
    between the two renames   NAME is missing: the initramfs makes it from the image, if it boots that slot at all,
                              which it does not before the boot state says so, after all of this
    after them                NAME is the new tree, whole; NAME.old is what it was, on its way out

Every step goes through `guard`, which the host's veto and the tests use. No file of another tree is ever changed, and
no link is followed.
"""

import ctypes
import errno
import fcntl
import logging
import os
import shutil
import stat
from typing import Callable, Dict, List, Tuple

from hostplane.errors import HostError

from .node import BLOCK, CHAR, DIRECTORY, FIFO, FILE, LINK, Node, Vanished, open_plain, shown

__all__ = ["put", "sync"]

_log = logging.getLogger("hostplane.agent")
_PIECE = 1 << 20
_CLONE = 0x40049409  # FICLONE: share the blocks, where the file system can
_CLONE_FROM = 1 << 20  # bytes: smaller files are copied
_LABELS = ("security.selinux", "security.ima", "security.evm")
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS)

Guard = Callable[[], None]


def put(tree: Node, directory: str, name: str, guard: Guard) -> None:
    """Make `directory`/`name` the tree `tree`; safe to cut anywhere and to repeat.

    Raises:
        HostError: EtcWriteFailed; `name` is then what it was.
        Vanished: a file to copy changed meanwhile.
    """
    target, fresh, former = (os.path.join(directory, name + suffix) for suffix in ("", ".new", ".old"))
    try:
        for left in (fresh, former):
            guard()
            _remove(left)
        writer = _Writer(guard)
        writer.write(fresh, tree)
        for attribute, (count, why) in sorted(writer.lost.items()):
            _log.warning("%d names of %s keep no %s: %s", count, target, attribute, why)
        guard()
        sync(directory)
        if os.path.lexists(target):
            guard()
            os.rename(target, former)
        guard()
        os.rename(fresh, target)
        guard()
        sync(directory)
        guard()
        _remove(former)
    except (OSError, shutil.Error) as fault:
        _undo(target, fresh, former)
        path = getattr(fault, "filename", None) or target
        detail = getattr(fault, "strerror", None) or str(fault)
        raise HostError("EtcWriteFailed", path=shown(str(path)), detail=detail) from fault
    except (HostError, Vanished):
        _undo(target, fresh, former)
        raise


def _undo(target: str, fresh: str, former: str) -> None:
    try:
        if os.path.lexists(former) and not os.path.lexists(target):
            os.rename(former, target)
        _remove(fresh)
    except OSError:
        pass  # the next build goes on from there


def _remove(path: str) -> None:
    if os.path.islink(path) or (os.path.lexists(path) and not os.path.isdir(path)):
        os.unlink(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)


def sync(directory: str) -> None:
    """Everything on the file system of `directory` is on its medium. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), directory)
    finally:
        os.close(descriptor)


class _Writer(object):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.lost: Dict[str, Tuple[int, str]] = {}

    def write(self, path: str, node: Node) -> None:
        self._guard()
        if node.kind == DIRECTORY:
            os.mkdir(path, 0o700)
            for name, child in node.children.items():
                self.write(os.path.join(path, name), child)
        elif node.kind == FILE:
            self._file(path, node)
        elif node.kind == LINK:
            os.symlink(node.target, path)
        elif node.kind == FIFO:
            os.mkfifo(path, 0o600)
        elif node.kind in (CHAR, BLOCK):
            _make_device(path, node)
        self._guard()
        for attribute, why in _dress(path, node):
            self.lost[attribute] = (self.lost.get(attribute, (0, ""))[0] + 1, why)

    def _file(self, path: str, node: Node) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb", buffering=0) as goal:
            if node.data is not None:
                view = memoryview(node.data)
                while view:
                    view = view[goal.write(view) :]
                return
            with open_plain(node.path) as source:
                if node.size >= _CLONE_FROM and _is_cloned(goal.fileno(), source.fileno()):
                    return
                left = node.size
                while left:
                    piece = source.read(min(_PIECE, left))
                    if not piece:
                        raise Vanished(node.path)
                    goal.write(piece)
                    left -= len(piece)


def _is_cloned(goal: int, source: int) -> bool:
    try:
        fcntl.ioctl(goal, _CLONE, source)
    except OSError:
        return False
    return True


def _make_device(path: str, node: Node) -> None:
    os.mknod(path, 0o600 | (stat.S_IFCHR if node.kind == CHAR else stat.S_IFBLK), node.rdev)


def _dress(path: str, node: Node) -> List[Tuple[str, str]]:
    """Owner first, which takes mode bits and capabilities away; then mode, attributes and time.

    Gives the attributes that the running system would not have, each with its reason: a label of a policy it does not
    know, what the file system cannot hold.
    """
    lost = []
    meta = node.meta
    os.chown(path, meta.uid, meta.gid, follow_symlinks=False)
    if node.kind != LINK:
        os.chmod(path, meta.mode)
    for name, value in meta.xattrs:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as fault:
            if name not in _LABELS and fault.errno not in _UNSUPPORTED:
                raise
            lost.append((name, fault.strerror or str(fault)))
    if node.mtime:
        os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)
    return lost
