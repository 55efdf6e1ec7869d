"""Rows of the user databases: reading them, and the three-way rules for one row's fields, members and ranges. Pure."""

from typing import Dict, List, NamedTuple, Optional, Set, Tuple

__all__ = [
    "Row",
    "Rows",
    "by_number",
    "free_number",
    "merge_fields",
    "merge_members",
    "merge_ranges",
    "number_of",
    "parse",
]

Row = Tuple[str, ...]
_WIDTHS = {"passwd": 7, "group": 4, "shadow": 9, "gshadow": 4, "subuid": 3, "subgid": 3}
_NUMBERS = {"passwd": (2, 3), "group": (2,), "subuid": (1, 2), "subgid": (1, 2)}
_HIGHEST = (1 << 32) - 2
_SYSTEM, _LAST_USER = 1000, 60000  # system users have lower numbers; the last one a person gets


class Rows(NamedTuple):
    """A database: its rows by name (the first of a name), all of them in order, and lines that are none."""

    rows: Dict[str, Row]
    list: List[Row]
    strays: List[str]


def parse(name: str, content: bytes) -> Rows:
    """The database `name`; never fails: a line of another form is a stray, a name's second line means nothing."""
    rows: Dict[str, Row] = {}
    order: List[Row] = []
    strays: List[str] = []
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        fields = tuple(line.split(":"))
        if not line.strip():
            continue
        if not _is_row(name, fields):
            strays.append(line)
            continue
        if fields[0] in rows and name not in ("subuid", "subgid"):
            continue
        rows.setdefault(fields[0], fields)
        order.append(fields)
    return Rows(rows, order, strays)


def _is_row(name: str, fields: Row) -> bool:
    if len(fields) != _WIDTHS[name] or not fields[0] or fields[0][0] in "+-#":
        return False
    return all(_is_number(fields[field]) for field in _NUMBERS.get(name, ()))


def _is_number(text: str) -> bool:
    return 0 < len(text) <= 10 and all(letter in "0123456789" for letter in text) and int(text) <= _HIGHEST


def number_of(row: Row, field: int) -> int:
    """The number in `field`, which `parse` has seen to be one."""
    return int(row[field])


def by_number(table: Rows, field: int) -> Dict[int, str]:
    """The first name of each number."""
    found: Dict[int, str] = {}
    for name, row in table.rows.items():
        found.setdefault(number_of(row, field), name)
    return found


def free_number(number: int, used: Set[int]) -> int:
    """A number that nobody has, of the sort of `number`: system users count down from 999, others up from 1000."""
    if number < _SYSTEM:
        for candidate in range(_SYSTEM - 1, 99, -1):
            if candidate not in used:
                return candidate
    candidate = _SYSTEM if number < _LAST_USER else _LAST_USER + 1
    while candidate in used or 61184 <= candidate <= 65535:  # systemd's dynamic users, nobody and -1 of 16 bits
        candidate += 1
    return candidate


def merge_fields(
    base: Optional[Row], ours: Optional[Row], theirs: Optional[Row], skipped: Tuple[int, ...]
) -> Tuple[List[str], bool]:
    """(the row, whether both sides changed a field to different values, the host's then staying)."""
    if ours is None or theirs is None:
        row = ours if theirs is None else theirs
        assert row is not None  # one of them is there, or nobody would ask
        return list(row), False
    fields, clashes = list(theirs), False
    for index, (mine, new) in enumerate(zip(ours, theirs)):
        if index in skipped or mine == new:
            continue
        was = mine if base is None else base[index]
        if base is None or mine != was:
            fields[index] = mine
            clashes = clashes or (base is not None and new != was)
    return fields, clashes


def merge_members(lists: List[Optional[str]], gone: Set[str]) -> str:
    """A comma-separated list: what either side added or took away; without users who are gone."""
    base, ours, theirs = ([] if text is None else [name for name in text.split(",") if name] for text in lists)
    is_everywhere = lists[1] is not None and lists[2] is not None
    if not is_everywhere:
        found = theirs if lists[1] is None else ours
    else:
        found = [name for name in theirs if name in ours or name not in base]
        found += [name for name in ours if name not in theirs and name not in base]
    return ",".join(name for name in found if name not in gone)


def merge_ranges(
    tables: Tuple[Rows, Rows, Rows], users: List[str], conflicts: List[Tuple[str, str]], name: str
) -> List[Row]:
    """subuid, subgid: the ranges of a name are one thing; a new one that overlaps the host's stays out."""
    base, ours, theirs = (list(table.list) for table in tables)
    merged: List[Row] = []
    known = set(users)
    owners: List[str] = []
    for row in ours + theirs:
        if row[0] not in owners:
            owners.append(row[0])
    for owner in owners:
        was, mine, new = ([row for row in rows if row[0] == owner] for rows in (base, ours, theirs))
        chosen = new if mine == was else mine
        if owner not in known and not owner.isdecimal() and mine == was:
            continue
        if (
            chosen is new
            and new != mine
            and any(_overlap(row, held) for row in new for held in ours if held[0] != owner)
        ):
            conflicts.append((name, owner))
            continue
        merged += chosen
    return merged


def _overlap(one: Row, other: Row) -> bool:
    first, second = (int(one[1]), int(one[1]) + int(one[2])), (int(other[1]), int(other[1]) + int(other[2]))
    return first[0] < second[1] and second[0] < first[1]
