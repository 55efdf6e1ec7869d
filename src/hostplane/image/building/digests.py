"""Digests of the files a recipe names, for keys: content, mode and kind, never a path of the building machine."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from hostplane.errors import RecipeError

__all__ = ["source_digest", "text_digest"]


def text_digest(text: str) -> str:
    """64 hex digits over the text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def source_digest(source: str | Path) -> str:
    """64 hex digits over a file, or over a directory's whole tree; a link counts as the link it is, inside a tree.

    Raises:
        RecipeError: SourceMissing when it is not there or cannot be read.
    """
    path = Path(source)
    digest = hashlib.sha256()
    try:
        if not path.is_dir():
            digest.update(_line("", path, path.stat()))
        else:
            for directory, names, files in os.walk(path, onerror=_refuse):
                names.sort()
                for name in sorted([*files, *names]):
                    entry = Path(directory, name)
                    digest.update(_line(str(entry.relative_to(path)), entry, entry.lstat()))
    except OSError as error:
        raise RecipeError("SourceMissing", path=path, error=error.strerror or error) from error
    return digest.hexdigest()


def _refuse(error: OSError) -> None:
    raise error


def _line(name: str, path: Path, status: os.stat_result) -> bytes:
    mode = status.st_mode
    what = ""
    if stat.S_ISREG(mode):
        with path.open("rb") as file:
            what = hashlib.file_digest(file, "sha256").hexdigest()
    elif stat.S_ISLNK(mode):
        what = os.readlink(path)
    return f"{name}\0{mode:o} {what}\n".encode("utf-8", "surrogateescape")
