"""Lines of fields of which some are the key: fstab, hosts, limits, services, nsswitch and lists of words.

Each kind is one function from a line's fields to its key. Blanks and tabs separate; a comment behind the fields
belongs to the line's text and is not compared.
"""

import re
from typing import Callable, List, Tuple

from hostplane.agent.etc.lines import Entry, Merged, NotMergeable, merge_lines, split

__all__ = [
    "merge_colons",
    "merge_fstab",
    "merge_hosts",
    "merge_limits",
    "merge_services",
    "merge_table",
    "merge_words",
]

_KeyOf = Callable[[List[str]], Tuple[str, ...]]
_COMMENT = re.compile(r"(?:^|\s)#")


def _merge(base: bytes, ours: bytes, theirs: bytes, key_of: _KeyOf) -> Merged:
    def parse(text: str) -> List[Entry]:
        entries = []
        for line in split(text):
            fields = _COMMENT.split(line, 1)[0].split()
            key = key_of(fields) if fields else None
            entries.append(Entry(line, key, " ".join(fields)))
        return entries

    return merge_lines(base, ours, theirs, parse)


def merge_fstab(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """By mount point; swap, which has none, by device. Raises NotMergeable."""

    def key_of(fields: List[str]) -> Tuple[str, ...]:
        if not 3 <= len(fields) <= 6:
            raise NotMergeable("a line is no mount")
        where = fields[1].rstrip("/") or "/"
        return ("swap", fields[0]) if fields[2] == "swap" else (where,)

    return _merge(base, ours, theirs, key_of)


def merge_hosts(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """By address: an address may have several lines. Raises NotMergeable."""
    return _merge(base, ours, theirs, lambda fields: (fields[0],))


def merge_limits(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """By domain, type and item. Raises NotMergeable."""

    def key_of(fields: List[str]) -> Tuple[str, ...]:
        if len(fields) != 4:
            raise NotMergeable("a line is no limit")
        return tuple(fields[:3])

    return _merge(base, ours, theirs, key_of)


def merge_services(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """By name and port with protocol. Raises NotMergeable."""

    def key_of(fields: List[str]) -> Tuple[str, ...]:
        if len(fields) < 2:
            raise NotMergeable("a line has a name only")
        return tuple(fields[:2])

    return _merge(base, ours, theirs, key_of)


def merge_table(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """By the first word: login.defs, crypttab, networks, protocols. Raises NotMergeable."""
    return _merge(base, ours, theirs, lambda fields: (fields[0],))


def merge_colons(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """By what stands before the first colon: nsswitch.conf, aliases. Raises NotMergeable."""

    def key_of(fields: List[str]) -> Tuple[str, ...]:
        name, colon, _ = " ".join(fields).partition(":")
        if not colon or not name.strip():
            raise NotMergeable("a line has no colon")
        return (name.strip(),)

    return _merge(base, ours, theirs, key_of)


def merge_words(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """A list without an order: shells, modules-load.d, ld.so.conf.d. Raises NotMergeable."""
    return _merge(base, ours, theirs, tuple)
