"""Unpacks tar archives, plain or compressed, and the layers of OCI images into a root: with everything a file carries.

Owners, modes, times, hard links, extended attributes, ACLs and capabilities arrive as they are. A member whose name
climbs out of the root, or that would be written through a link that does, is refused with a sentence, and so is a hard
link to something that is not there; nothing outside the root is ever opened for writing. Device files are left out: the
kernel makes them when the host boots.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from hostplane.errors import ImageError
from hostplane.image.root.posixacl import NAMES, binary_acl
from hostplane.image.root.rootglob import remove

__all__ = ["Unpacker", "opened"]

_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
_XATTR = "SCHILY.xattr."
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_COPY = 1 << 20
_LINKS = 40
_ZSTD_WINDOW = 256 << 20


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The plain bytes of a file that may be compressed with gzip, xz, bzip2 or zstd.

    Raises:
        ImageError: TreeNeedsZstd.
    """
    with path.open("rb") as raw:
        head = raw.read(8)
        raw.seek(0)
        kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
        if kind == "zstd":
            try:
                import zstandard
            except ImportError as error:
                raise ImageError("TreeNeedsZstd", path=path) from error
            reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
            with reader.stream_reader(raw, read_across_frames=True) as plain:
                yield cast(IO[bytes], plain)
        elif kind == "gzip":
            with gzip.open(raw, "rb") as unzipped:
                yield cast(IO[bytes], unzipped)
        elif kind:
            opener = lzma.open if kind == "xz" else bz2.open
            with opener(raw, "rb") as expanded:
                yield cast(IO[bytes], expanded)
        else:
            yield raw


class Unpacker:
    """Puts archives over one another into `root`, the way an image's layers lie over one another."""

    def __init__(self, root: Path) -> None:
        """`root` exists."""
        self._root = root
        self._written: set[str] = set()
        self._folders: dict[str, tuple[float, int]] = {}
        self.skipped: list[str] = []
        """Device files that were left out, and attributes that this file system or user cannot set."""

    def layer(self, path: Path, *, whiteouts: bool) -> None:
        """Unpack one archive; with `whiteouts` the names .wh.* remove what lies below.

        Raises:
            ImageError: TreeEscapes, TreeBroken, TreeLinkDangles, TreeOwnerRefused, TreeNeedsZstd.
        """
        self._written.clear()
        try:
            with (
                opened(path) as stream,
                tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as archive,
            ):
                for member in archive:
                    self._member(archive, member, path, whiteouts)
        except OSError as error:
            raise ImageError("TreeBroken", path=path, error=error.strerror or error) from error
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise ImageError("TreeBroken", path=path, error=error) from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":  # zstandard need not be there to be named
                raise
            raise ImageError("TreeBroken", path=path, error=error) from error
        for name, (seconds, mode) in sorted(self._folders.items(), reverse=True):
            target = self._root / name
            if target.is_dir() and not target.is_symlink():
                target.chmod(mode)
                os.utime(target, (seconds, seconds))
        self._folders.clear()

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, source: Path, whiteouts: bool) -> None:
        parts = _parts(member.name, source)
        if not parts:
            if member.isdir():
                self._finish(self._root, member)
            return
        parent = self._parent(parts[:-1], member.name, source)
        name = parts[-1]
        if whiteouts and name.startswith(_WHITEOUT):
            self._white_out(parent, name)
            return
        target = parent / name
        if member.isdev() and not member.isfifo():
            self.skipped.append(f"device {member.name}")
            return
        if os.path.lexists(target) and not (member.isdir() and target.is_dir() and not target.is_symlink()):
            remove(target)
        if member.isdir():
            target.mkdir(mode=0o700, exist_ok=True)
        elif member.issym():
            os.symlink(member.linkname, target)
        elif member.islnk():
            self._hard_link(member, target, source)
        elif member.isfifo():
            os.mkfifo(target)
        else:
            _write(archive, member, target)
        if not member.islnk():
            self._finish(target, member)
        self._note(target)

    def _note(self, target: Path) -> None:
        """Remember what this layer brought, so that its own opaque mark does not take it away again."""
        inner = str(target.relative_to(self._root))
        while inner not in self._written and inner != ".":
            self._written.add(inner)
            inner = str(PurePosixPath(inner).parent)

    def _white_out(self, parent: Path, name: str) -> None:
        if name != _OPAQUE:
            remove(parent / name.removeprefix(_WHITEOUT))
            return
        for path in parent.iterdir():
            if str(path.relative_to(self._root)) not in self._written:
                remove(path)

    def _hard_link(self, member: tarfile.TarInfo, target: Path, source: Path) -> None:
        parts = _parts(member.linkname, source)
        goal = self._parent(parts[:-1], member.linkname, source) / parts[-1] if parts else self._root
        try:
            os.link(goal, target, follow_symlinks=False)
        except OSError as error:
            raise ImageError("TreeLinkDangles", path=source, member=member.name, goal=member.linkname) from error

    def _parent(self, parts: list[str], name: str, source: Path) -> Path:
        """The directory that `parts` lead to, made where it is missing; never one outside the root."""
        here: list[str] = []
        todo = parts[::-1]
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                if not here:
                    raise ImageError("TreeEscapes", path=source, member=name)
                here.pop()
                continue
            place = self._root.joinpath(*here, part)
            try:
                mode = place.lstat().st_mode
            except FileNotFoundError:
                mode = 0
            if stat.S_ISLNK(mode):
                links += 1
                goal = os.readlink(place)
                if links > _LINKS:
                    raise ImageError("TreeEscapes", path=source, member=name)
                if goal.startswith("/"):
                    here = []
                todo += [each for each in goal.split("/")[::-1] if each not in ("", ".")]
                continue
            if not stat.S_ISDIR(mode):
                if mode:
                    place.unlink()
                place.mkdir(mode=0o755)
            here.append(part)
        return self._root.joinpath(*here)

    def _finish(self, target: Path, member: tarfile.TarInfo) -> None:
        """Owner, mode, attributes and time, in the order in which none undoes another."""
        try:
            os.lchown(target, member.uid, member.gid)
        except OSError as error:
            raise ImageError("TreeOwnerRefused", member=member.name, uid=member.uid, gid=member.gid) from error
        if not member.issym():
            target.chmod(member.mode & 0o7777)
        for key, value in member.pax_headers.items():
            if key.startswith(_XATTR):
                self._attribute(target, key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"))
            elif key in NAMES:
                self._attribute(target, NAMES[key], binary_acl(value, self._root))
        os.utime(target, (member.mtime, member.mtime), follow_symlinks=False)
        if member.isdir():
            self._folders[str(target.relative_to(self._root))] = (float(member.mtime), member.mode & 0o7777)

    def _attribute(self, target: Path, name: str, value: bytes) -> None:
        try:
            os.setxattr(target, name, value, follow_symlinks=False)
        except OSError:
            self.skipped.append(f"attribute {name} of {target.relative_to(self._root)}")


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    with open(target, "xb", opener=_private) as file:
        content = archive.extractfile(member)
        if content is not None:
            shutil.copyfileobj(content, file, _COPY)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _parts(name: str, source: Path) -> list[str]:
    """The parts of a member's name below the root."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageError("TreeEscapes", path=source, member=name)
    return parts
