"""The user databases: passwd, group, shadow, gshadow, subuid and subgid, merged by entry and all together.

Users that the image brings come in, users the administrator made stay, and so do passwords, shells and memberships the
host set. Numbers: files of an image carry numbers in a root that nobody can change, so where a name has another number
in the new image, the image's holds; a local user whose number the image now needs gets a free one. What that means for
files elsewhere is in `Numbers`: by it, owners in the merged /etc are translated, and files on PERSIST are given their
new owners when the new slot starts (owners.py). A user that the image dropped goes, unless the host had done something
with it. Lines of no known form (NIS) stay at the end of the local file. Pure: bytes in, bytes out.
"""

from typing import Dict, List, NamedTuple, Optional, Tuple

from hostplane.agent.etc.lines import split
from hostplane.agent.etc.userrows import (
    Row,
    Rows,
    by_number,
    free_number,
    merge_fields,
    merge_members,
    merge_ranges,
    number_of,
    parse,
)

__all__ = ["FILES", "Moved", "Numbers", "UsersMerge", "merge_users", "numbers_of"]

FILES = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
Three = Tuple[bytes, bytes, bytes]

_UID, _GID = 2, 3  # fields of passwd
_GROUP_ID, _MEMBERS = 2, 3  # fields of group
_GSHADOW_ADMINS, _GSHADOW_MEMBERS = 2, 3


class Numbers(NamedTuple):
    """Which number of one side is which in the merged databases; a number without a row stays as it is."""

    uids: Dict[int, int] = {}
    gids: Dict[int, int] = {}


class Moved(NamedTuple):
    """A name whose number is another one in the merged databases than on the host. `kind` is uid or gid."""

    kind: str
    name: str
    old: int
    new: int


class UsersMerge(NamedTuple):
    """The merged files (of those that were given), and what they mean for owners."""

    files: Dict[str, bytes]
    conflicts: List[Tuple[str, str]]  # (file, what the host kept its own of)
    numbers: Tuple[Numbers, Numbers, Numbers]  # of base, ours, theirs
    moved: List[Moved]


def numbers_of(passwd: bytes, group: bytes) -> Tuple[Dict[str, int], Dict[str, int]]:
    """(uid by name, gid by name)."""
    users, groups = parse("passwd", passwd), parse("group", group)
    return (
        {name: number_of(row, _UID) for name, row in users.rows.items()},
        {name: number_of(row, _GROUP_ID) for name, row in groups.rows.items()},
    )


def merge_users(files: Dict[str, Three]) -> UsersMerge:
    """Merge the databases in `files` (name -> base, ours, theirs; b"" for a missing one)."""
    return _Merge(files).run()


class _Merge(object):
    def __init__(self, files: Dict[str, Three]) -> None:
        self._given = files
        self._tables: Dict[str, Tuple[Rows, Rows, Rows]] = {}
        for name in FILES:
            base, ours, theirs = files.get(name, (b"", b"", b""))
            self._tables[name] = (parse(name, base), parse(name, ours), parse(name, theirs))
        self._conflicts: List[Tuple[str, str]] = []
        self._uids: Dict[str, int] = {}
        self._gids: Dict[str, int] = {}

    def run(self) -> UsersMerge:
        groups = self._present("group", "gshadow")
        users = self._present("passwd", "shadow")
        for name in users:  # a user that stays keeps its primary group
            for side in (2, 1):
                row = self._tables["passwd"][side].rows.get(name)
                primary = by_number(self._tables["group"][side], _GROUP_ID).get(number_of(row, _GID)) if row else None
                if primary is not None and primary not in groups and not self._is_deleted("group", primary):
                    groups.append(primary)
        self._gids = self._numbers("group", groups, _GROUP_ID)
        self._uids = self._numbers("passwd", users, _UID)
        merged = {
            "group": self._groups(groups, users),
            "passwd": self._users(users),
            "shadow": self._shadows("shadow", users),
            "gshadow": self._shadows("gshadow", groups, users),
            "subuid": merge_ranges(self._tables["subuid"], users, self._conflicts, "subuid"),
            "subgid": merge_ranges(self._tables["subgid"], users, self._conflicts, "subgid"),
        }
        written = {name: self._written(name, merged[name]) for name in FILES if name in self._given}
        sides = tuple(self._numbers_of_side(side) for side in range(3))
        return UsersMerge(written, self._conflicts, (sides[0], sides[1], sides[2]), self._moved())

    # --- who is there

    def _present(self, name: str, secret: str) -> List[str]:
        """The names of the merged table: the image's in its order, then the host's own in theirs."""
        base, ours, theirs = (table.rows for table in self._tables[name])
        found = [entry for entry in theirs if entry in ours or entry not in base]
        for entry, row in ours.items():
            if entry in theirs:
                continue
            was = [self._tables[table][0].rows.get(entry) for table in (name, secret)]
            now = [row, self._tables[secret][1].rows.get(entry)]
            if entry not in base or was != now:
                found.append(entry)
        return found

    def _is_deleted(self, name: str, entry: str) -> bool:
        base, ours, _ = self._tables[name]
        return entry in base.rows and entry not in ours.rows

    # --- numbers

    def _numbers(self, name: str, present: List[str], field: int) -> Dict[str, int]:
        base, ours, theirs = self._tables[name]
        of_image = {entry: number_of(theirs.rows[entry], field) for entry in present if entry in theirs.rows}
        holders = {number: entry for entry, number in reversed(list(of_image.items()))}
        used = {number_of(row, field) for table in (base, ours, theirs) for row in table.rows.values()}
        numbers: Dict[str, int] = {}
        for entry in present:
            mine = ours.rows.get(entry)
            local = None if mine is None else number_of(mine, field)
            wish = of_image.get(entry)
            if local is not None and local != wish:
                was = base.rows.get(entry)
                is_own = wish is None or (was is not None and number_of(was, field) != local)
                holder = holders.get(local)
                # Two names of one number are one user with two names, where the host has it so already.
                is_shared = holder in ours.rows and number_of(ours.rows[holder], field) == local if holder else False
                if is_own and (holder in (None, entry) or is_shared):
                    wish = local
            if wish is None:
                assert local is not None  # who is present is in the image or on the host
                wish = free_number(local, used)
                used.add(wish)
            numbers[entry] = wish
        return numbers

    def _numbers_of_side(self, side: int) -> Numbers:
        maps: List[Dict[int, int]] = []
        for name, field, merged in (("passwd", _UID, self._uids), ("group", _GROUP_ID, self._gids)):
            found: Dict[int, int] = {}
            for entry, row in self._tables[name][side].rows.items():
                if entry in merged:
                    found.setdefault(number_of(row, field), merged[entry])
            maps.append(found)
        return Numbers(maps[0], maps[1])

    def _moved(self) -> List[Moved]:
        moved = []
        for kind, name, field, merged in (("uid", "passwd", _UID, self._uids), ("gid", "group", _GROUP_ID, self._gids)):
            for entry, row in self._tables[name][1].rows.items():
                old = number_of(row, field)
                if entry in merged and merged[entry] != old:
                    moved.append(Moved(kind, entry, old, merged[entry]))
        return moved

    # --- rows

    def _users(self, users: List[str]) -> List[Row]:
        primary = [by_number(table, _GROUP_ID) for table in self._tables["group"]]
        merged = []
        for name in users:
            rows = [table.rows.get(name) for table in self._tables["passwd"]]
            fields = self._fields("passwd", name, rows, skipped=(_UID, _GID))
            fields[_UID] = str(self._uids[name])
            group, number = self._primary(primary, rows)
            fields[_GID] = str(self._gids.get(group, number))
            merged.append(tuple(fields))
        return merged

    @staticmethod
    def _primary(names: List[Dict[int, str]], rows: List[Optional[Row]]) -> Tuple[str, int]:
        """The primary group's name (empty for none) and number: of the side that changed it, else the host's."""
        sides: List[Optional[Tuple[str, int]]] = []
        for side, row in enumerate(rows):
            sides.append(None if row is None else (names[side].get(int(row[_GID]), ""), int(row[_GID])))
        base, ours, theirs = sides
        is_changed = ours is not None and base is not None and (ours[0] or ours) != (base[0] or base)
        chosen = ours if theirs is None or is_changed else theirs
        assert chosen is not None  # who is present is in the image or on the host
        return chosen

    def _groups(self, groups: List[str], users: List[str]) -> List[Row]:
        merged = []
        for name in groups:
            rows = [table.rows.get(name) for table in self._tables["group"]]
            fields = self._fields("group", name, rows, skipped=(_GROUP_ID, _MEMBERS))
            fields[_GROUP_ID] = str(self._gids[name])
            fields[_MEMBERS] = self._members(rows, _MEMBERS, users)
            merged.append(tuple(fields))
        return merged

    def _shadows(self, name: str, present: List[str], users: Optional[List[str]] = None) -> List[Row]:
        tables = self._tables[name]
        rows_of = [table.rows for table in tables]
        merged = []
        names = [entry for entry in present if any(entry in rows for rows in rows_of[1:])]
        names += [entry for entry in rows_of[1] if entry not in present and entry not in rows_of[0]]
        for entry in names:
            rows = [found.get(entry) for found in rows_of]
            if rows[1] is None and rows[0] is not None:
                continue
            skipped = () if users is None else (_GSHADOW_ADMINS, _GSHADOW_MEMBERS)
            fields = self._fields(name, entry, rows, skipped)
            for field in skipped:
                fields[field] = self._members(rows, field, users or [])
            merged.append(tuple(fields))
        return merged

    def _fields(self, name: str, entry: str, rows: List[Optional[Row]], skipped: Tuple[int, ...]) -> List[str]:
        fields, clashes = merge_fields(rows[0], rows[1], rows[2], skipped)
        if clashes:
            self._conflicts.append((name, entry))
        return fields

    def _members(self, rows: List[Optional[Row]], field: int, users: List[str]) -> str:
        known = set(users)
        gone = {user for side in (0, 1) for user in self._tables["passwd"][side].rows if user not in known}
        return merge_members([None if row is None else row[field] for row in rows], gone)

    def _written(self, name: str, rows: List[Row]) -> bytes:
        """The table as text: the image's or the host's own bytes where they say just this."""
        base, ours, theirs = self._given[name]
        local, image = self._tables[name][1], self._tables[name][2]
        if ours == base and image.list == rows:
            return theirs
        if local.list == rows:
            return ours
        if image.list == rows and not local.strays:
            return theirs
        lines = [":".join(row) + "\n" for row in rows]
        strays = ["".join(split(line + "\n")) for line in local.strays]
        return "".join(lines + strays).encode("utf-8", "surrogateescape")
