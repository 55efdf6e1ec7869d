"""`--set KEY=VALUE`: values from the command line, laid over everything a recipe says.

KEY is dotted as in TOML, with a list entry's number as a part (`file.0.mode`). VALUE is a TOML value, or a bare word
that stands for itself. `KEY+=VALUE` appends to a list: VALUE is a list or one entry.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from hostplane.errors import RecipeError
from hostplane.image.reading.layers import Node, Place, Plain, graft

__all__ = ["overridden"]

_FORM = re.compile(
    r"""(?P<key>(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\.(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*(?P<sign>\+?=)(?P<value>.*)""",
    re.DOTALL,
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def overridden(root: Node, override: str, directory: Path) -> Node:
    """The tree with one override laid over it; relative paths in it start from `directory`.

    Raises:
        RecipeError: it is not KEY=VALUE, or KEY does not lead to a place that can hold VALUE.
    """
    match = _FORM.fullmatch(override.strip())
    if match is None:
        raise RecipeError("OverrideNotKeyValue", override=override)
    place = Place(file=directory, override=override)
    parts = [part.strip("\"'") for part in _PART.findall(match["key"])]
    value = graft(_value(match["value"].strip()), place)
    return _put(root, parts, value, is_appended=match["sign"] == "+=")


def _value(text: str) -> Plain:
    try:
        found: Plain = tomllib.loads(f"value = {text}\n")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return found


def _put(node: Node, parts: list[str], value: Node, *, is_appended: bool) -> Node:
    here = node.value
    if not parts:
        if not is_appended:
            return value
        if not isinstance(here, list):
            raise RecipeError("OverrideMisplaced", override=value.place.override, part="+=")
        return Node([*here, *(value.value if isinstance(value.value, list) else [value])], value.place)
    part, *rest = parts
    if isinstance(here, dict):
        empty: Plain = {} if rest else []
        below = _put(here.get(part, Node(empty, value.place)), rest, value, is_appended=is_appended)
        return Node({**here, part: below}, node.place)
    if isinstance(here, list) and part.isdecimal() and int(part) < len(here):
        index = int(part)
        below = _put(here[index], rest, value, is_appended=is_appended)
        return Node([*here[:index], below, *here[index + 1 :]], node.place)
    raise RecipeError("OverrideMisplaced", override=value.place.override, part=part)
