"""On which line of a TOML text each key and each list entry stands.

The standard library's parser tells what a file says but not where, and a check that cannot name the line is half a
check. This scanner reads text that the parser has accepted already: it finds lines, it judges nothing, and what it
does with text that is not TOML is undefined.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left

__all__ = ["KeyPath", "lines_of", "written"]

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the root: ("file", 0, "path")."""

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*?"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[A-Za-z0-9_-]+\Z")


def lines_of(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of every table, key and list entry of a valid TOML text.

    A table has the line of its header, or of the first key or header that makes it; a list entry the line it starts on.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def written(path: KeyPath) -> str:
    """The path as a person writes it: file[0].path, sysctl."net.ipv4.ip_forward"."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _PLAIN.match(part) else f'"{part}"')
    return text


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self._breaks = [i for i, c in enumerate(text) if c == "\n"]
        self._last: dict[KeyPath, int] = {}  # arrays of tables: the index of the newest entry

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._entry_header()
            elif self.text[self.at] == "[":
                table = self._table_header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _line(self) -> int:
        return bisect_left(self._breaks, self.at) + 1

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Steps over what `pattern` matches here; it must match, be it nothing."""
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not TOML at line {self._line()}")
        self.at = match.end()
        return match.group()

    def _entry_header(self) -> KeyPath:
        line = self._line()
        self.at += 2
        *above, name = self._key()
        self.at += 2
        path = (*self._descend((), above, line), name)
        index = self._last[path] = self._last.get(path, -1) + 1
        self.lines.setdefault(path, line)
        self.lines[(*path, index)] = line
        return (*path, index)

    def _table_header(self) -> KeyPath:
        line = self._line()
        self.at += 1
        names = self._key()
        self.at += 1
        path = self._descend((), names, line)
        self.lines[path] = line
        return path

    def _descend(self, path: KeyPath, names: list[str], line: int) -> KeyPath:
        """From `path` along `names`, into the newest entry of every array of tables on the way."""
        for name in names:
            path = (*path, name)
            self.lines.setdefault(path, line)
            if path in self._last:
                path = (*path, self._last[path])
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        *above, name = self._key()
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        path = (*self._descend(table, above, line), name)
        self.lines[path] = line
        self._value(path)

    def _key(self) -> list[str]:
        """A dotted key, up to the sign after it."""
        names = []
        while True:
            self._skip(_SPACE)
            if self.text[self.at] in "\"'":
                names.append(str(tomllib.loads(f"key = {self._skip(_STRING)}")["key"]))
            else:
                names.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return names
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        first = self.text[self.at]
        if first == "[":
            self._list(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._skip(_STRING if first in "\"'" else _SCALAR)

    def _list(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while self._next_until("]"):
            self.lines[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while self._next_until("}"):
            self._pair(path)

    def _next_until(self, end: str) -> bool:
        """Whether another entry follows; steps over commas, and over the end."""
        self._skip(_BLANK)
        if self.text[self.at] == ",":
            self.at += 1
            self._skip(_BLANK)
        if self.text[self.at] == end:
            self.at += 1
            return False
        return True
