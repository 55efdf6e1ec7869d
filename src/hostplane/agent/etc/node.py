"""A tree of /etc as a value: what each name is, its attributes, and its content when somebody asks for it.

The same value stands for what was read from a disk and for what is to be written: a file's content is either copied
from `path` or is `data`. Content is compared by size first and by digest then, in pieces, so that a file of any size
costs no memory. Sockets are not part of a tree: nobody can copy one, and whoever made it makes it again.
"""

import errno
import hashlib
import os
import stat
from typing import IO, Callable, Dict, NamedTuple, Optional, Tuple

from hostplane.errors import HostError

__all__ = [
    "BLOCK",
    "CHAR",
    "DIRECTORY",
    "FIFO",
    "FILE",
    "LINK",
    "Meta",
    "Node",
    "Vanished",
    "open_plain",
    "read_tree",
    "shown",
]

FILE, DIRECTORY, LINK, FIFO, CHAR, BLOCK = "file", "directory", "link", "fifo", "char", "block"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK,
}
_DEEPEST = 100  # directories in each other: more is an accident, and each level costs stack
_PIECE = 1 << 20
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.ENOSYS, errno.ENODATA, errno.EACCES)
_SKIPPED = "trusted.overlay."  # what an overlay notes for itself

Xattrs = Tuple[Tuple[str, bytes], ...]


class Vanished(Exception):
    """A file of the running host went away, or grew, while it was being read: the whole reading is worth nothing."""


class Meta(NamedTuple):
    """Everything about a name but its content."""

    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    xattrs: Xattrs = ()


_PLAIN = Meta()


class Node(object):
    """One name of a tree. `target` is a link's text, `rdev` a device's number, `mtime` in nanoseconds."""

    __slots__ = ("_digest", "children", "data", "kind", "meta", "mtime", "path", "rdev", "size", "target")

    def __init__(
        self,
        kind: str,
        meta: Meta = _PLAIN,
        path: str = "",
        data: Optional[bytes] = None,
        size: int = 0,
        target: str = "",
        rdev: int = 0,
        mtime: int = 0,
        children: Optional[Dict[str, "Node"]] = None,
    ) -> None:
        self.kind, self.meta, self.path, self.data = kind, meta, path, data
        self.size = size if data is None else len(data)
        self.target, self.rdev, self.mtime = target, rdev, mtime
        self.children: Dict[str, Node] = {} if children is None else children
        self._digest = b""

    @property
    def is_directory(self) -> bool:
        return self.kind == DIRECTORY

    def dressed(self, meta: Meta) -> "Node":
        """The same with other attributes."""
        return Node(
            self.kind, meta, self.path, self.data, self.size, self.target, self.rdev, self.mtime, dict(self.children)
        )

    def read(self, limit: int) -> Optional[bytes]:
        """The content, or None when it has more than `limit` bytes. Raises Vanished, HostError EtcReadFailed."""
        if self.size > limit:
            return None
        if self.data is not None:
            return self.data
        pieces = []

        def take(piece: bytes) -> None:
            pieces.append(piece)

        self._each(take)
        return b"".join(pieces)

    def digest(self) -> bytes:
        """SHA-256 of the content. Raises Vanished, HostError EtcReadFailed."""
        if not self._digest:
            digest = hashlib.sha256(self.data or b"")
            if self.data is None:
                self._each(digest.update)
            self._digest = digest.digest()
        return self._digest

    def _each(self, take: Callable[[bytes], None]) -> None:
        left = self.size
        try:
            with open_plain(self.path) as handle:
                while left:
                    piece = handle.read(min(_PIECE, left))
                    if not piece:
                        raise Vanished(self.path)
                    take(piece)
                    left -= len(piece)
        except OSError as fault:
            raise HostError("EtcReadFailed", path=shown(self.path), detail=fault.strerror or str(fault)) from fault

    def is_same(self, other: Optional["Node"]) -> bool:
        """Whether `other` has the same content; attributes and what is below a directory do not count."""
        if other is None or self.kind != other.kind:
            return False
        if self.kind == FILE:
            return self.size == other.size and (self.path == other.path != "" or self.digest() == other.digest())
        return self.target == other.target and self.rdev == other.rdev


def open_plain(path: str) -> IO[bytes]:
    """The file at `path`, unbuffered. A link or a pipe that has taken its place since is not followed, nor waited for.

    Raises:
        Vanished: it is no file any more.
        OSError: whatever else is wrong.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        if fault.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise Vanished(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Vanished(path)
    return open(descriptor, "rb", buffering=0)


def shown(path: str) -> str:
    """A path for people and JSON: bytes that are no UTF-8 as backslash escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_tree(path: str, depth: int = 0) -> Optional[Node]:
    """The tree at `path`; None for what is not there (any more), and for sockets. Follows no link.

    Raises:
        HostError: EtcReadFailed.
    """
    if depth > _DEEPEST:
        raise HostError("EtcReadFailed", path=shown(path)[:200], detail="more than %d directories deep" % _DEEPEST)
    try:
        found = os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return None
        meta = Meta(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, _xattrs(path))
        node = Node(kind, meta, path, size=found.st_size if kind == FILE else 0, mtime=found.st_mtime_ns)
        if kind == LINK:
            node.target = os.readlink(path)
        elif kind in (CHAR, BLOCK):
            node.rdev = found.st_rdev
        elif kind == DIRECTORY:
            for name in sorted(os.listdir(path)):
                child = read_tree(os.path.join(path, name), depth + 1)
                if child is not None:
                    node.children[name] = child
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise HostError("EtcReadFailed", path=shown(path), detail=fault.strerror or str(fault)) from fault
    return node


def _xattrs(path: str) -> Xattrs:
    try:
        names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(_SKIPPED)]
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))
    except FileNotFoundError:
        raise
    except OSError as fault:
        if fault.errno in _NO_ATTRIBUTES:
            return ()
        raise
