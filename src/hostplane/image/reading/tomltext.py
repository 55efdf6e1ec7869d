"""Writes a recipe as TOML: tables of strings, numbers, lists and tables, in the order given, with comments on top."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

__all__ = ["document"]

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


def document(table: Mapping[str, object], comments: Iterable[str] = ()) -> str:
    """The text of a whole file."""
    head = [f"# {line}" for comment in comments for line in comment.splitlines() or [""]]
    return "\n".join([*head, *_lines(table, "")]).lstrip("\n") + "\n"


def _lines(table: Mapping[str, object], path: str) -> Iterator[str]:
    """Plain values first: after a header, nothing belongs to the table above any more."""
    for key, value in table.items():
        if not _is_table(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        below = f"{path}.{_key(key)}" if path else _key(key)
        if isinstance(value, Mapping):
            yield from ("", f"[{below}]", *_lines(value, below))
        elif isinstance(value, list) and _is_table(value):
            for entry in value:
                yield from ("", f"[[{below}]]", *_lines(entry, below))


def _is_table(value: object) -> bool:
    is_tables = isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value)
    return isinstance(value, Mapping) or bool(is_tables)


def _key(key: str) -> str:
    return key if _BARE.match(key) else _quoted(key)


def _value(value: object) -> str:
    if isinstance(value, list):
        inner = [_value(entry) for entry in value]
        short = f"[{', '.join(inner)}]"
        return short if len(short) < 100 else "[\n" + "".join(f"    {entry},\n" for entry in inner) + "]"
    if isinstance(value, str) and "\n" in value:
        text = "\n".join(_quoted(line)[1:-1] for line in value.split("\n"))
        return f'"""\n{text}"""'
    return _quoted(value)


def _quoted(value: object) -> str:
    """A string, number or truth on one line: as JSON has it, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
