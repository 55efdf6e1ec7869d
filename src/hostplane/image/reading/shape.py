"""Whether a document has the shape of a type: all that is wrong with it at once, each with its key.

msgspec stops at the first mistake and does not name keys of a map; a person who edits a recipe wants the whole list.
What passes here is converted by msgspec without an error; a property test holds the two against each other.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from msgspec import inspect

from hostplane.errors import Reason, reason
from hostplane.image.reading.positions import KeyPath, written

__all__ = ["misfits", "wanted"]


def misfits(value: object, kind: inspect.Type, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Reason]]:
    """Every key that is unknown, missing, or not what its type says."""
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        choices = [choice for choice in kind.types if not isinstance(choice, inspect.NoneType)]
        if len(choices) == 1:
            yield from misfits(value, choices[0], path)
        elif all(any(True for _ in misfits(value, choice, path)) for choice in choices):
            yield path, _wrong(path, value, kind)
    elif isinstance(kind, inspect.StructType) and isinstance(value, dict):
        yield from _table(value, kind, path)
    elif isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        for index, entry in enumerate(value):
            yield from misfits(entry, kind.item_type, (*path, index))
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        for key, entry in value.items():
            yield from misfits(entry, kind.value_type, (*path, key))
    elif not _fits(value, kind):
        yield path, _wrong(path, value, kind)


def _table(value: dict[str, object], kind: inspect.StructType, path: KeyPath) -> Iterator[tuple[KeyPath, Reason]]:
    fields = {field.encode_name: field for field in kind.fields}
    for key, entry in value.items():
        if key in fields:
            yield from misfits(entry, fields[key].type, (*path, key))
            continue
        near = difflib.get_close_matches(key, fields, n=1)
        known = ", ".join(near or fields)
        yield (*path, key), reason("RecipeKeyUnknown", key=written((*path, key)), known=known)
    for key, field in fields.items():
        if field.required and key not in value:
            yield path, reason("RecipeKeyMissing", key=written((*path, key)))


def _fits(value: object, kind: inspect.Type) -> bool:
    match kind:
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType(ge=least, le=most):
            return (
                isinstance(value, int)
                and not isinstance(value, bool)
                and (least is None or value >= least)
                and (most is None or value <= most)
            )
        case inspect.StrType(pattern=pattern):
            if not isinstance(value, str) or pattern is None:
                return isinstance(value, str)
            return re.search(pattern, value) is not None and not value.endswith("\n")  # $ lets a last line break pass
        case inspect.EnumType(cls=cls):
            return isinstance(value, str) and value in [member.value for member in cls]
    return False


def _wrong(path: KeyPath, value: object, kind: inspect.Type) -> Reason:
    return reason("RecipeValueWrong", key=written(path), value=_shown(value), wanted=wanted(kind))


def _shown(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}…"'
        case list():
            return "[…]"
        case dict():
            return "{…}"
    return str(value)


def wanted(kind: inspect.Type) -> str:
    """The type in a notation that needs no translation."""
    match kind:
        case inspect.BoolType():
            return "true | false"
        case inspect.IntType(ge=least, le=most):
            bounds = f" {'' if least is None else least}…{'' if most is None else most}"
            return "integer" + (bounds if bounds != " …" else "")
        case inspect.StrType(pattern=pattern):
            choice = pattern and re.fullmatch(r"\^\(([a-z0-9|-]+)\)\$", pattern)
            if choice:
                return " | ".join(f'"{word}"' for word in choice[1].split("|"))
            return f"string =~ {pattern}" if pattern else "string"
        case inspect.EnumType(cls=cls):
            return " | ".join(f'"{member.value}"' for member in cls)
        case inspect.VarTupleType(item_type=item):
            return f"[{wanted(item)}, …]"
        case inspect.UnionType(types=types):
            return " | ".join(wanted(choice) for choice in types if not isinstance(choice, inspect.NoneType))
        case inspect.Metadata(type=inner):
            return wanted(inner)
    return "{…}"
