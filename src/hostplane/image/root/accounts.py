"""Accounts of a root: passwd, group, shadow and gshadow, edited as text.

No program of the root or of this machine is asked, so that it works for any architecture and always gives the same
bytes: ids are the lowest free ones in the recipe's order, a password's day is the image's. Refused: taking over another
account's id, a group that the root does not have, a plain password (the recipe's types already do).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hostplane.errors import ImageError
from hostplane.image.recipe import User
from hostplane.image.root.rootpath import within

__all__ = ["Account", "Accounts"]

_FIRST_ID, _LAST_ID = 1000, 59999
_DEFAULT_SHELL = "/bin/bash"
_NO_PASSWORD = "*"
_MODES = {"passwd": 0o644, "group": 0o644, "shadow": 0o640, "gshadow": 0o640}


class Account:
    """A line of passwd, taken apart."""

    def __init__(self, line: str) -> None:
        """`line` has the seven fields of passwd(5)."""
        self.name, self.password, uid, gid, self.comment, self.home, self.shell = line.split(":")
        self.uid, self.gid = int(uid), int(gid)

    def __str__(self) -> str:
        fields = (self.name, self.password, self.uid, self.gid, self.comment, self.home, self.shell)
        return ":".join(map(str, fields))


class Accounts:
    """The four files of one root, read once, changed here, written by `write`."""

    def __init__(self, root: Path, day: int) -> None:
        """`day` since 1970 is when passwords count as set."""
        self._root, self._day = root, day
        self._users = [Account(line) for line in self._lines("passwd") if line.count(":") == 6]
        self._groups, self._shadow, self._gshadow = (
            [line.split(":") for line in self._lines(name) if ":" in line] for name in ("group", "shadow", "gshadow")
        )

    def ids(self, owner: str, group: str) -> tuple[int, int]:
        """The numbers of a user's and a group's name, or of numbers written out.

        Raises:
            ImageError: AccountUnknown.
        """
        users = {user.name: user.uid for user in self._users}
        groups = {fields[0]: int(fields[2]) for fields in self._groups}
        return _number(owner, {"root": 0, **users}), _number(group, {"root": 0, **groups})

    def add(self, wish: User) -> Account:
        """Make the account, or bring the one that is there to what the recipe says.

        Raises:
            ImageError: AccountIdTaken, AccountUnknown for a group that is not there.
        """
        account = next((user for user in self._users if user.name == wish.name), None)
        if account is None:
            account = self._new(wish)
        elif wish.uid is not None and wish.uid != account.uid:
            raise ImageError("AccountIdTaken", account=wish.name, id=wish.uid, other=f"{wish.name} ({account.uid})")
        if wish.shell != _DEFAULT_SHELL:
            account.shell = wish.shell
        if wish.home is not None:
            account.home = wish.home
        if wish.primary_group is not None:
            account.gid = self._group(wish.primary_group)
        for name in wish.groups:
            self._join(name, wish.name)
        if wish.password_hash is not None:
            self._set_password(wish.name, wish.password_hash)
        return account

    def write(self) -> None:
        """Put the files back; each one appears whole."""
        files = {
            "passwd": [str(user) for user in self._users],
            "group": [":".join(fields) for fields in self._groups],
            "shadow": [":".join(fields) for fields in self._shadow],
            "gshadow": [":".join(fields) for fields in self._gshadow],
        }
        for name, lines in files.items():
            path = within(self._root, f"/etc/{name}")
            if not lines and not path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            path.write_text("".join(f"{line}\n" for line in lines), "utf-8", "surrogateescape")
            if new:
                path.chmod(_MODES[name])

    def _new(self, wish: User) -> Account:
        taken = {user.uid: user.name for user in self._users}
        if wish.uid is not None and wish.uid in taken:
            raise ImageError("AccountIdTaken", account=wish.name, id=wish.uid, other=taken[wish.uid])
        uid = _free(taken) if wish.uid is None else wish.uid
        if wish.primary_group is not None:
            gid = self._group(wish.primary_group)
        elif any(fields[0] == wish.name for fields in self._groups):
            gid = self._group(wish.name)
        else:
            used = {int(fields[2]): fields[0] for fields in self._groups}
            gid = uid if uid not in used else _free(used)
            self._groups.append([wish.name, "x", str(gid), ""])
            if self._gshadow:
                self._gshadow.append([wish.name, "!", "", ""])
        home = "/root" if wish.name == "root" else f"/home/{wish.name}"
        account = Account(f"{wish.name}:x:{uid}:{gid}:{wish.name}:{home}:{wish.shell}")
        self._users.append(account)
        self._set_password(wish.name, _NO_PASSWORD)
        return account

    def _group(self, name: str) -> int:
        for fields in self._groups:
            if fields[0] == name:
                return int(fields[2])
        raise ImageError("AccountUnknown", account=name)

    def _join(self, group: str, user: str) -> None:
        self._group(group)
        for fields in self._groups + self._gshadow:
            if fields[0] == group:
                members = [name for name in fields[3].split(",") if name]
                if user not in members:
                    fields[3] = ",".join([*members, user])

    def _set_password(self, name: str, password: str) -> None:
        for fields in self._shadow:
            if fields[0] == name:
                fields[1:3] = [password, str(self._day)]
                return
        self._shadow.append([name, password, str(self._day), "0", "99999", "7", "", "", ""])

    def _lines(self, name: str) -> Sequence[str]:
        try:
            return within(self._root, f"/etc/{name}").read_text("utf-8", "surrogateescape").splitlines()
        except FileNotFoundError:
            return []


def _free(taken: dict[int, str]) -> int:
    return next(number for number in range(_FIRST_ID, _LAST_ID) if number not in taken)


def _number(name: str, known: dict[str, int]) -> int:
    if name.isdecimal():
        return int(name)
    if name not in known:
        raise ImageError("AccountUnknown", account=name)
    return known[name]
