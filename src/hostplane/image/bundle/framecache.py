"""Packed frames by content, shared by all builds: it saves time and decides nothing.

A file is codec (1 byte), sha256 of codec and stored bytes, stored bytes; one that is damaged is not believed. Files are
written by rename, read without a lock, and thrown away oldest use first.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

__all__ = ["put", "take", "trim"]

_BYTES = 4 << 30
_SUM = hashlib.sha256().digest_size


def take(path: Path, size: int) -> tuple[int, bytes] | None:
    """(codec number, stored bytes) of the frame in `path`, of at most `size` bytes; None when it is not there whole."""
    try:
        kept = path.read_bytes()
        os.utime(path)  # what is in use is the last to be thrown away
    except OSError:
        return None
    codec, checksum, stored = kept[:1], kept[1 : 1 + _SUM], kept[1 + _SUM :]
    if len(kept) <= 1 + _SUM or len(stored) > size or hashlib.sha256(codec + stored).digest() != checksum:
        return None
    return codec[0], stored


def put(path: Path, codec: int, stored: bytes) -> None:
    """Keep a frame. A full disk costs the next build time, not this one its success."""
    head = bytes((codec,))
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, fresh = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(head + hashlib.sha256(head + stored).digest() + stored)
            os.replace(fresh, path)
        except OSError:
            os.unlink(fresh)


def trim(cache: Path, most: int = _BYTES) -> None:
    """Throw the frames away that were not used for the longest time, once the cache has more than `most` bytes.

    Safe beside other builds: a frame that is gone is packed again.
    """
    kept = []
    for path in cache.rglob("*"):
        with suppress(OSError):
            state = path.lstat()
            if stat.S_ISREG(state.st_mode):
                kept.append((state.st_mtime_ns, state.st_size, path))
    excess = sum(size for _, size, _ in kept) - most
    if excess > 0:
        excess += most // 4  # so that not every build has to
        for _, size, path in sorted(kept):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
