"""Lock files: the exact version and digest of every package of a recipe, the same form for deb and RPM.

A lock is written once beside its recipe, committed with it, and read by every build after; a build never writes one.
It names no host, so that it serves every mirror, and it is TOML with one package a line, so that a review shows what an
upgrade changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path

import msgspec

from hostplane.errors import RecipeError
from hostplane.image.backends import Lock

__all__ = ["SUFFIX", "beside", "digest", "read", "write"]

SUFFIX = ".lock"
_HEAD = "# Written by `hostplane image lock`; put into force by packages.lock in the recipe. Not for editing by hand.\n"


def beside(recipe: Path) -> Path:
    """Where the lock of a recipe file goes: recipe.toml has recipe.lock."""
    return recipe.with_suffix(SUFFIX)


def read(path: Path) -> Lock:
    """The lock in `path`.

    Raises:
        RecipeError: LockUnreadable.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Lock)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise RecipeError("LockUnreadable", path=path, error=error) from error


def write(lock: Lock, path: Path) -> None:
    """Put `lock` into `path`, all at once."""
    facts = msgspec.to_builtins(lock)
    packages = facts.pop("packages", ())
    facts = {"schema": lock.schema, **facts}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    lines.append("packages = [")
    for package in packages:
        entries = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in package.items())
        lines.append(f"  {{ {entries} }},")
    lines.append("]")
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    new.replace(path)


def digest(path: str | None) -> str:
    """SHA-256 of the file's bytes, to be part of a stage's key; empty for none and for one that is not there."""
    if path is None or not Path(path).is_file():
        return ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
