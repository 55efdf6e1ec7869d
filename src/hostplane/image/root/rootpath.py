"""Paths of the image, on this machine: links are followed inside the root and never out of it.

A root is somebody else's tree: an absolute link in it (/var/run -> /run) means the image's own /run, and a careless
open would write to the building machine's.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from hostplane.errors import ImageError

__all__ = ["within"]

_LINKS = 40


def within(root: Path, path: str | PurePosixPath, *, follow: bool = True) -> Path:
    """Where `path` of the image lies; it need not exist. Without `follow` a link at its very end is not followed.

    Raises:
        ImageError: RootPathLoops.
    """
    todo = list(reversed(PurePosixPath("/", path).parts[1:]))
    here: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            here = here[:-1]
            continue
        place = root.joinpath(*here, part)
        if place.is_symlink() and (follow or todo):
            links += 1
            if links > _LINKS:
                raise ImageError("RootPathLoops", path=path)
            goal = os.readlink(place)
            if goal.startswith("/"):
                here = []
            todo += [p for p in reversed(goal.split("/")) if p]
            continue
        here.append(part)
    return root.joinpath(*here)
