"""From the store to the directory the user asked for.

Outputs share their blocks with the store: a disk of a gigabyte is neither written twice nor kept twice. Since a disk is
there to be booted, and so to be changed, the store knows of each output its size and time, and whether it is still what
was made. Each file appears whole or not at all; a file of the user's own beside them stays; what an earlier build
delivered and this one does not goes.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

import msgspec
from msgspec import Struct

__all__ = ["Delivered", "Files", "deliver", "files_of"]

_STAMP = ".hostplane-build.json"
_FICLONE = 0x40049409
_CHUNK = 64 << 20


Files = dict[str, tuple[int, int]]
"""Bytes and time stamp in nanoseconds, by path."""


class Delivered(Struct, frozen=True, kw_only=True):
    """A file or directory below the output directory."""

    path: str
    size: int
    """Bytes, all files together."""
    on_disk: int
    """Bytes that its blocks take: less than `size` for a sparse disk."""


class _Stamp(Struct, frozen=True, kw_only=True):
    key: str
    files: Files


def files_of(top: Path) -> Files:
    """What lies below `top`, so that a change of any of it can be seen later."""
    return {str(path.relative_to(top)): _seen(path) for path in sorted(top.rglob("*")) if path.is_file()}


def deliver(source: Path, target: Path, key: str) -> list[Delivered]:
    """Put the tree `source`, the result of `key`, into `target`; touches nothing when it is there already."""
    target.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        _deliver(source, target, key)
    return [_account(source / name, target / name) for name in sorted(os.listdir(source))]


def _deliver(source: Path, target: Path, key: str) -> None:
    last = _last(target)
    if last is None or last.key != key or not all(_is_as(target / name, said) for name, said in last.files.items()):
        files = files_of(source)
        (target / _STAMP).unlink(missing_ok=True)
        for name in files:
            _put(source / name, target / name)
        stamp = _Stamp(key=key, files={name: _seen(target / name) for name in files})
        for gone in sorted(set(last.files if last else ()) - set(stamp.files), reverse=True):
            _drop(target, target / gone)
        (target / _STAMP).write_bytes(msgspec.json.encode(stamp))


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Two builds do not deliver to one place at the same time."""
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _put(source: Path, target: Path) -> None:
    if target.parent.is_symlink() or (target.is_dir() and not target.is_symlink()):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}-????????"):  # by a build that was killed
        left.unlink()
    fresh = target.with_name(f".{target.name}-{token_hex(4)}")
    try:
        if not _linked(source, fresh):
            _copy(source, fresh)
        os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)


def _linked(source: Path, fresh: Path) -> bool:
    try:
        os.link(source, fresh)
    except OSError:  # another file system, or the store belongs to somebody else
        return False
    return True


def _copy(source: Path, fresh: Path) -> None:
    """By reference, or else the parts that hold data."""
    with source.open("rb") as old, fresh.open("xb") as new:
        status = os.fstat(old.fileno())
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            _copy_data(old.fileno(), new.fileno(), status.st_size)
    shutil.copystat(source, fresh)


def _copy_data(old: int, new: int, size: int) -> None:
    os.ftruncate(new, size)
    at = 0
    while at < size:
        try:
            start = os.lseek(old, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but holes to the end
                return
            raise
        at = os.lseek(old, start, os.SEEK_HOLE)
        while start < at:
            try:
                moved = os.copy_file_range(old, new, min(at - start, _CHUNK), start, start)
            except OSError:  # between file systems, on older kernels
                moved = os.pwrite(new, os.pread(old, min(at - start, 1 << 20), start), start)
            if not moved:
                raise OSError(errno.EIO, "the store's file ended early")
            start += moved


def _drop(top: Path, path: Path) -> None:
    with suppress(OSError):
        path.unlink()
    for parent in path.parents:
        if parent == top:
            return
        try:
            parent.rmdir()
        except OSError:
            return


def _last(target: Path) -> _Stamp | None:
    try:
        return msgspec.json.decode((target / _STAMP).read_bytes(), type=_Stamp)
    except (OSError, msgspec.MsgspecError):
        return None


def _seen(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _is_as(path: Path, said: tuple[int, int]) -> bool:
    try:
        return _seen(path) == tuple(said)
    except OSError:
        return False


def _account(source: Path, target: Path) -> Delivered:
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    seen = [path.stat() for path in files]
    return Delivered(
        path=str(target),
        size=sum(status.st_size for status in seen),
        on_disk=sum(status.st_blocks * 512 for status in seen),
    )
