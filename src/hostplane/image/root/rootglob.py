"""Globs over the image's root: like a shell in the image would see them, and never out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hostplane.image.root.rootpath import within

__all__ = ["matches", "remove"]


def matches(root: Path, pattern: str) -> list[Path]:
    """What `pattern` (absolute in the image; * and ? within a part, ** for any depth) stands for, sorted.

    Links on the way are followed inside the root; one at the very end is itself the match. The root is never one.
    """
    parts = PurePosixPath("/", pattern).parts[1:]
    return sorted(set(_walk(root, root, parts))) if parts else []


def _walk(root: Path, here: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    head, rest = parts[0], parts[1:]
    if head == "..":
        return
    if head == "**":
        if rest:
            yield from _walk(root, here, rest)
        for entry in _entries(here):
            if not rest:
                yield here / entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, here / entry.name, parts)
        return
    plain = not any(sign in head for sign in "*?[")
    names = [head] if plain else [entry.name for entry in _entries(here) if fnmatchcase(entry.name, head)]
    for name in names:
        path = here / name
        if not rest:
            if os.path.lexists(path):
                yield path
            continue
        inner = within(root, PurePosixPath("/", path.relative_to(root)))
        if inner.is_dir():
            yield from _walk(root, inner, rest)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except NotADirectoryError:
        return []


def remove(path: Path) -> int:
    """Delete a file, a link or a tree; the bytes that its files had.

    What is gone already is nothing; what is mounted stays.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            if path.is_mount():
                return 0
            freed = sum(remove(path / entry.name) for entry in _entries(path))
            path.rmdir()
            return freed
        facts = path.lstat()
        path.unlink()
    except FileNotFoundError:
        return 0
    return facts.st_size if facts.st_nlink == 1 else 0
