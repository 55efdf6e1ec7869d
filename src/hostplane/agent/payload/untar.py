"""Unpacks a root's tar, as it comes, below one directory, with all that a file carries, and reads it back.

The tar is known by its digest only, and that is known when its last byte came. So no name may lead anywhere else: every
step of every path is opened from the directory before it and never through a link. Owners (as numbers), modes, times,
hard links, labels, capabilities, access lists and other extended attributes arrive as they are, or all is refused.
Device files are left out: the kernel makes them when the host boots.

What was unpacked is remembered in 24 bytes a file; `verify` walks the tree again, read from the medium, and finds any
difference.
"""

import base64
import binascii
import errno
import hashlib
import os
import stat
import tarfile
from typing import IO, Any, Dict, Iterator, List, Optional, Tuple
from urllib.parse import unquote_to_bytes

from hostplane.agent.payload.posixacl import NAMES, binary_acl
from hostplane.agent.tarheader import StrictInfo
from hostplane.errors import HostError

__all__ = ["Unpacked", "unpack", "verify"]

_PIECE = 256 << 10
_HASH = 12
_IGNORED = ("security.selinux", "security.ima", "security.evm")
"""What the kernel gives files by itself; set where the tar has it, never compared."""
_SKIPPED = ("trusted.overlay.", "user.overlay.", "trusted.SGI_ACL_")  # the last: how xfs shows access lists again
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MOST = 4 << 20
_MOST_BYTES = 1 << 40  # of all files, holes too: what is announced takes its time, however little comes


class Unpacked(object):
    """What was unpacked: bytes of regular files, and a hash for each path."""

    def __init__(self) -> None:
        self.bytes = 0
        self.seen: Dict[bytes, bytes] = {}


def unpack(stream: IO[bytes], directory: str) -> Unpacked:
    """Unpack the plain tar in `stream`, to its very end, below the empty `directory`; in bounded memory.

    Raises:
        HostError: TarUnfit, SlotFull without a slot's name.
    """
    return _Unpacker(directory).run(stream)


def verify(directory: str, unpacked: Unpacked) -> None:
    """Compare the tree below `directory` with what was unpacked.

    Raises:
        HostError: TarReadBackMismatch naming the first path that differs.
    """
    left = dict(unpacked.seen)
    links: Dict[int, bytes] = {}
    for path in _walk(os.fsencode(directory)):
        name = os.path.relpath(path, os.fsencode(directory))
        if name == b"lost+found" and _key(name) not in left:
            continue
        try:
            found = _read_back(path, links)
        except OSError as fault:
            raise HostError("TarReadBackMismatch", path=_shown(name), detail=fault.strerror or str(fault)) from fault
        if left.pop(_key(name), None) != found:
            raise HostError("TarReadBackMismatch", path=_shown(name), detail="it is not what was written")
    if left:
        raise HostError("TarReadBackMismatch", path="/", detail="%d files are missing" % len(left))


def _walk(directory: bytes) -> Iterator[bytes]:
    left = [directory]
    while left:
        path = left.pop()
        yield path
        if stat.S_ISDIR(os.lstat(path).st_mode):
            left += [os.path.join(path, name) for name in os.listdir(path)]


def _read_back(path: bytes, links: Dict[int, bytes]) -> bytes:
    about = os.lstat(path)
    if about.st_ino in links:
        return links[about.st_ino]
    content = b""
    if stat.S_ISLNK(about.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(about.st_mode):
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            for piece in iter(lambda: file.read(_PIECE), b""):
                digest.update(piece)
        content = digest.digest()
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _compared(path)}
    found = _hash(about.st_mode, about.st_uid, about.st_gid, content, attributes)
    if about.st_nlink > 1 and not stat.S_ISDIR(about.st_mode):
        links[about.st_ino] = found
    return found


def _compared(path: bytes) -> List[str]:
    return [
        name
        for name in os.listxattr(path, follow_symlinks=False)
        if name not in _IGNORED and not name.startswith(_SKIPPED)
    ]


def _key(name: bytes) -> bytes:
    return hashlib.sha256(name).digest()[:_HASH]


def _hash(mode: int, uid: int, gid: int, content: bytes, attributes: Dict[str, bytes]) -> bytes:
    """A file as it must come back. An access list is not among the attributes: the kernel respells it."""
    kept = sorted((name, value) for name, value in attributes.items() if not name.startswith("system."))
    return hashlib.sha256(repr((mode, uid, gid, content, kept)).encode("utf-8", "surrogateescape")).digest()[:_HASH]


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")[:200]


class _Unpacker(object):
    def __init__(self, directory: str) -> None:
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._open: Tuple[Tuple[str, ...], int] = ((), os.dup(self._root))
        self._times: List[Tuple[Tuple[str, ...], float]] = []
        self._lists: List[Tuple[Tuple[str, ...], str, bytes, str]] = []
        self._done = Unpacked()
        self._at = "/"

    def run(self, stream: IO[bytes]) -> Unpacked:
        try:
            try:
                self._all(stream)
            except OSError as fault:
                if fault.errno in _FULL:
                    raise HostError("SlotFull", slot="") from fault
                raise self._unfit(fault.strerror or str(fault)) from fault
            except (tarfile.TarError, ValueError, EOFError, RecursionError) as fault:
                raise self._unfit(str(fault) or type(fault).__name__) from fault
        finally:
            os.close(self._open[1])
            os.close(self._root)
        return self._done

    def _unfit(self, detail: str) -> HostError:
        return HostError(
            "TarUnfit", path=os.fsencode(self._at).decode("utf-8", "backslashreplace")[:200], detail=detail
        )

    def _all(self, stream: IO[bytes]) -> None:
        count = 0
        how: Dict[str, Any] = {"tarinfo": StrictInfo, "encoding": "utf-8", "errors": "surrogateescape"}
        with tarfile.open(fileobj=stream, mode="r|", **how) as archive:
            for member in iter(archive.next, None):
                setattr(archive, "members", [])  # noqa: B010 - else it remembers every one
                count += 1
                self._at = member.name
                if count > _MOST:
                    raise ValueError("it has more than %d members" % _MOST)
                self._member(archive, member)
            self._at = "/"
            rest: Any = archive.fileobj
            for piece in iter(lambda: rest.read(_PIECE), b""):
                if piece.strip(b"\0"):
                    raise ValueError("something follows its end")
        if not count:
            raise ValueError("it is empty")
        self._late()
        if _path_key(()) not in self._done.seen:
            os.chmod(self._root, 0o755)
            self._done.seen[_path_key(())] = _hash(stat.S_IFDIR | 0o755, 0, 0, b"", {})

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _parts(member.name)
        if member.isdev() and not member.isfifo():
            return
        if not parts:
            if not member.isdir():
                raise ValueError("it has no name")
            self._finish(self._root, ".", parts, member, b"")
            return
        parent, name = self._directory(parts[:-1]), parts[-1]
        content = b""
        if member.isdir():
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise
        else:
            self._make_room(parent, name)
            if member.issym():
                content = os.fsencode(member.linkname)
                os.symlink(content, os.fsencode(name), dir_fd=parent)
            elif member.islnk():
                self._link(member, parts, parent, name)
                return
            elif member.isfifo():
                os.mkfifo(name, 0o600, dir_fd=parent)
            elif member.isreg():
                content = self._write(archive, member, parent, name)
            else:
                raise ValueError("it is of kind %r, which no root holds" % member.type)
        self._finish(parent, name, parts, member, content)

    def _directory(self, parts: Tuple[str, ...]) -> int:
        """The directory at `parts`, opened step by step, made where it is missing."""
        if self._open[0] == parts:
            return self._open[1]
        at = os.dup(self._root)
        try:
            for depth, part in enumerate(parts, 1):
                at = self._step(at, part, parts[:depth])
        except BaseException:
            os.close(at)
            raise
        os.close(self._open[1])
        self._open = (parts, at)
        return at

    def _step(self, at: int, part: str, missing: Tuple[str, ...] = ()) -> int:
        """The directory `part` of the open one `at`, which is closed; never through a link. Made if it is `missing`."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            below = os.open(part, flags, dir_fd=at)
        except FileNotFoundError:
            if not missing:
                raise
            os.mkdir(part, 0o755, dir_fd=at)
            self._done.seen[_path_key(missing)] = _hash(stat.S_IFDIR | 0o755, 0, 0, b"", {})
            below = os.open(part, flags, dir_fd=at)
        except OSError as fault:
            if fault.errno in (errno.ELOOP, errno.ENOTDIR):
                raise ValueError("its way leads through something that is no directory") from fault
            raise
        os.close(at)
        return below

    @staticmethod
    def _make_room(parent: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except IsADirectoryError as fault:
            raise ValueError("it would replace a directory") from fault

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> bytes:
        source = archive.extractfile(member)
        if source is None:
            raise ValueError("it has no content")
        if self._done.bytes + member.size > _MOST_BYTES:
            raise ValueError("its files hold more than any slot")
        digest, at = hashlib.sha256(), 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        target = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            for piece in iter(lambda: source.read(_PIECE), b""):
                digest.update(piece)
                view = memoryview(b"" if piece == bytes(len(piece)) else piece)  # zeros are left to be a hole
                while view:
                    view = view[os.pwrite(target, view, at + len(piece) - len(view)) :]
                at += len(piece)
            os.ftruncate(target, at)
        finally:
            os.close(target)
        if at != member.size:
            raise ValueError("it ends too early")
        self._done.bytes += member.size
        return digest.digest()

    def _link(self, member: tarfile.TarInfo, parts: Tuple[str, ...], parent: int, name: str) -> None:
        goal = _parts(member.linkname)
        if not goal:
            raise ValueError("it links to a directory")
        at = os.dup(self._root)
        try:
            for part in goal[:-1]:
                at = self._step(at, part)
            if stat.S_ISDIR(os.stat(goal[-1], dir_fd=at, follow_symlinks=False).st_mode):
                raise ValueError("it links to a directory")
            os.link(goal[-1], name, src_dir_fd=at, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(at)
        self._done.seen[_path_key(parts)] = self._done.seen[_path_key(goal)]

    def _finish(self, parent: int, name: str, parts: Tuple[str, ...], member: tarfile.TarInfo, content: bytes) -> None:
        """Owner first, since its change takes special bits and capabilities away; times last."""
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        mode = member.mode & 0o7777
        way = "/proc/self/fd/%d/%s" % (parent, name)
        if not member.issym():
            os.chmod(way, mode)
        attributes = dict(_attributes(member))
        for key, attribute in NAMES.items():  # some archivers write an access list as it is and in words as well
            value, text = attributes.pop(attribute, b""), member.pax_headers.get(key, "")
            if value or text:
                self._lists.append((parts, attribute, value, text))
        for key, value in attributes.items():
            os.setxattr(way, key, value, follow_symlinks=False)
        if member.isdir():
            self._times.append((parts, member.mtime))
        else:
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
        kind = stat.S_IFMT(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        if kind == stat.S_IFLNK:
            mode = 0o777
        compared = {key: value for key, value in attributes.items() if key not in _IGNORED}
        self._done.seen[_path_key(parts)] = _hash(kind | mode, member.uid, member.gid, content, compared)

    def _late(self) -> None:
        """Access lists, which new files inherit and whose names the root's own files explain; times of directories."""
        for parts, attribute, value, text in self._lists:
            self._at = "/".join(parts)
            value = value or binary_acl(text, self._number)
            way = "/proc/self/fd/%d/%s" % (self._directory(parts[:-1]), parts[-1] if parts else ".")
            os.setxattr(way, attribute, value, follow_symlinks=False)
        for parts, seconds in self._times:
            parent = self._directory(parts[:-1])
            os.utime(parts[-1] if parts else ".", (seconds, seconds), dir_fd=parent, follow_symlinks=False)

    def _number(self, kind: str, who: str) -> Optional[int]:
        """The id of a user or group in the unpacked /etc."""
        try:
            name = "passwd" if kind == "user" else "group"
            table = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._directory(("etc",)))
        except OSError:
            return None
        with os.fdopen(table, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                fields = line.split(":")
                if fields[0] == who and len(fields) > 2 and fields[2].isdecimal():
                    return int(fields[2])
        return None


def _parts(name: str) -> Tuple[str, ...]:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in name:
        raise ValueError("its name leads out of the root")
    return parts


def _path_key(parts: Tuple[str, ...]) -> bytes:
    return _key(os.fsencode("/".join(parts)) or b".")


def _attributes(member: tarfile.TarInfo) -> Iterator[Tuple[str, bytes]]:
    """The extended attributes that archivers write into a member's header."""
    for key, text in member.pax_headers.items():
        value = text.encode("utf-8", "surrogateescape")
        if key.startswith("SCHILY.xattr."):
            name = key[len("SCHILY.xattr.") :]
        elif key.startswith("LIBARCHIVE.xattr."):
            name = os.fsdecode(unquote_to_bytes(key[len("LIBARCHIVE.xattr.") :]))
            try:
                value = base64.b64decode(value + b"=" * (-len(value) % 4))
            except binascii.Error as fault:
                raise ValueError("the attribute %s is not base64" % name) from fault
        elif key == "RHT.security.selinux":
            name, value = "security.selinux", value.rstrip(b"\0") + b"\0"
        else:
            continue
        if not name.startswith(_SKIPPED):
            yield name, value
