"""TOML files as trees whose every node knows where it was written, and how one is laid over another.

A recipe is the sum of profiles, included files, its own words and the command line's. The rule of merging stands here
alone: tables merge by key; lists of tables follow one another; a list that collects wishes (`COLLECTING`) grows by what
is not in it yet; every other value is replaced by the upper one. Keeping the place beside the value is what lets a
check name the line of a value that came from an included file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from hostplane.errors import RecipeError
from hostplane.image.reading.positions import KeyPath, lines_of

__all__ = ["COLLECTING", "Node", "Place", "Plain", "graft", "grown", "merged", "parsed", "places", "plain"]

Plain = object
"""What a TOML value may be: str, int, float, bool, a date or time, list, dict."""

COLLECTING: frozenset[KeyPath] = frozenset(
    {
        ("packages", "include"),
        ("packages", "exclude"),
        ("boot", "arguments"),
        ("boot", "modules"),
        ("disk", "persist_dirs"),
        ("modules_load",),
        ("modules_block",),
        ("slim", "modules_keep"),
        ("slim", "remove"),
        ("settings", "allowed_paths"),
        ("settings", "signed_models"),
    }
)
"""Lists that grow from layer to layer; all other plain lists are replaced. `--set KEY=[…]` replaces these too."""


class Place(Struct, frozen=True, kw_only=True, order=True):
    """Where a value was written: a line of a file, or an override on the command line."""

    file: Path
    """As the user or the including file named it. Of an override: the directory its paths are relative to."""
    line: int = 0
    override: str = ""
    """`KEY=VALUE` of an override, else empty."""

    @property
    def directory(self) -> Path:
        """The directory that relative paths of this value start from."""
        return self.file if self.override else self.file.parent

    def __str__(self) -> str:
        return f"--set {self.override}" if self.override else f"{self.file}:{self.line}"


class Node(Struct, frozen=True):
    """A value and its place; the entries of tables and lists are nodes again."""

    value: Plain
    place: Place


def parsed(text: str, file: Path) -> Node:
    """The tree of a TOML text.

    Raises:
        RecipeError: it is not TOML; the sentence has the line and the column.
    """
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        why, line = str(error), text.count("\n") + 1
        if position := re.search(r"\(at line (\d+), (column \d+)\)$", why):
            why, line = f"{why[: position.start()]}({position[2]})", int(position[1])
        raise RecipeError("RecipeNotToml", where=f"{file}:{line}", why=why) from error
    lines = lines_of(text)

    def annotated(value: Plain, path: KeyPath) -> Node:
        return graft(value, Place(file=file, line=lines.get(path, 1)), path, annotated)

    return annotated(value, ())


def graft(
    value: Plain, place: Place, path: KeyPath = (), below: Callable[[Plain, KeyPath], Node] | None = None
) -> Node:
    """A node of a plain value, whose entries stand where `below` says, else all at `place`."""

    def same_place(value: Plain, path: KeyPath) -> Node:
        return graft(value, place, path)

    below = below or same_place
    if isinstance(value, dict):
        return Node({key: below(entry, (*path, key)) for key, entry in value.items()}, place)
    if isinstance(value, list):
        return Node([below(entry, (*path, index)) for index, entry in enumerate(value)], place)
    return Node(value, place)


def merged(lower: Node, upper: Node, path: KeyPath = ()) -> Node:
    """`upper` laid over `lower`."""
    under, over = lower.value, upper.value
    if isinstance(under, dict) and isinstance(over, dict):
        both = dict(under)
        for key, node in over.items():
            both[key] = merged(under[key], node, (*path, key)) if key in under else node
        return Node(both, upper.place)
    if isinstance(under, list) and isinstance(over, list):
        if path in COLLECTING:
            return grown(lower, upper)
        if over and under and all(isinstance(node.value, dict) for node in (*under, *over)):
            return Node([*under, *over], upper.place)
    return upper


def grown(lower: Node, upper: Node) -> Node:
    """A list and what another one adds to it, each entry once."""
    under, over = lower.value, upper.value
    assert isinstance(under, list)
    assert isinstance(over, list)
    known = [plain(node) for node in under]
    return Node([*under, *(node for node in over if plain(node) not in known)], upper.place)


def plain(node: Node) -> Plain:
    """The value without places."""
    if isinstance(node.value, dict):
        return {key: plain(entry) for key, entry in node.value.items()}
    if isinstance(node.value, list):
        return [plain(entry) for entry in node.value]
    return node.value


def places(node: Node, path: KeyPath = ()) -> Mapping[KeyPath, Place]:
    """The place of every table, key and list entry."""
    found = {path: node.place}
    entries: list[tuple[str | int, Node]] = []
    if isinstance(node.value, dict):
        entries = list(node.value.items())
    elif isinstance(node.value, list):
        entries = list(enumerate(node.value))
    for key, entry in entries:
        found.update(places(entry, (*path, key)))
    return found
