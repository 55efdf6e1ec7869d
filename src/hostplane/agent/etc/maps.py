"""Three-way merge of nested maps (YAML, TOML, JSON): which keys of the local one are to be set or deleted.

Maps are merged key by key; anything else, lists too, is one value. Pure, on plain maps; the kinds carry the edits out
on the objects of their libraries, which keep comments, and compare the outcome with `merged`.
"""

from typing import Any, Dict, List, NamedTuple, Tuple

__all__ = ["ABSENT", "Edit", "MapMerge", "merge_maps"]

Path = Tuple[str, ...]


class _Absent(object):
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()
"""The value of a key that is not there."""


class Edit(NamedTuple):
    """Set the key at `path` to `value`, or delete it where that is ABSENT."""

    path: Path
    value: Any


class MapMerge(NamedTuple):
    """What to do to the local map, what it is then, and the keys that both sides changed."""

    edits: List[Edit]
    merged: Dict[str, Any]
    conflicts: Tuple[str, ...]


def is_equal(one: Any, other: Any) -> bool:
    """Equality that tells 1 from true and 1.0, which settings do."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(is_equal(*pair) for pair in zip(one, other))
    return type(one) is type(other) and (one == other or one != one and other != other)


def merge_maps(base: Dict[str, Any], ours: Dict[str, Any], theirs: Dict[str, Any]) -> MapMerge:
    """`ours` with what changed from `base` to `theirs`."""
    edits: List[Edit] = []
    conflicts: List[str] = []
    merged = _merge((), base, ours, theirs, edits, conflicts)
    return MapMerge(edits, merged, tuple(conflicts))


def _merge(
    path: Path,
    base: Dict[str, Any],
    ours: Dict[str, Any],
    theirs: Dict[str, Any],
    edits: List[Edit],
    conflicts: List[str],
) -> Dict[str, Any]:
    merged = dict(ours)
    for key in list(theirs) + [key for key in base if key not in theirs]:
        was, mine, new = base.get(key, ABSENT), ours.get(key, ABSENT), theirs.get(key, ABSENT)
        here = path + (key,)
        if is_equal(mine, new) or is_equal(new, was):
            continue
        if is_equal(mine, was):
            edits.append(Edit(here, new))
            if new is ABSENT:
                del merged[key]
            else:
                merged[key] = new
        elif isinstance(mine, dict) and isinstance(new, dict):
            merged[key] = _merge(here, was if isinstance(was, dict) else {}, mine, new, edits, conflicts)
        elif mine is not ABSENT and new is not ABSENT:
            conflicts.append(".".join(here))
    return merged
