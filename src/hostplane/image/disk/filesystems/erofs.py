"""erofs: a read-only format that mkfs.erofs fills from a tree, uncompressed, so that unchanged blocks stay unchanged.

Block-wise downloads gain nothing from an image that is compressed inside. The tree is taken in the order of its names;
times later than the epoch become the epoch, which is also the image's own; the rest follows from the tree.
"""

from __future__ import annotations

import os
from pathlib import Path

from hostplane.image.stage import Run

__all__ = ["make"]

_MIB = 1 << 20


def make(tree: Path, target: Path, *, uuid: str, epoch: int, run: Run) -> int:
    """Make `target` an erofs image of `tree`, its size a multiple of 1 MiB; give its size in bytes.

    Modes, owners, device nodes, several names of one file, extended attributes, capabilities, access lists, labels and
    times of the last change (at most `epoch` seconds) are carried over.

    Raises:
        ImageError: ToolMissing, ToolFailed.
    """
    target.unlink(missing_ok=True)
    words = ["mkfs.erofs", "--quiet", "-x1", "-U", uuid, str(target), str(tree)]
    run(words, env={"SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC"})
    size = -(-target.stat().st_size // _MIB) * _MIB
    os.truncate(target, size)
    return size
