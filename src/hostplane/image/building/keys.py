"""What a stage's result is called, and why it has to be made again.

A key is the SHA-256 of everything that decides a result: the stage, its code, its inputs, and the keys of the results
it builds on. The same key means the same result, on this machine or another; nothing here reads a file or a clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from hostplane.image.recipe import StageName
from hostplane.image.stage import Inputs

__all__ = ["Inputs", "Made", "before", "canonical", "changes", "key_of", "why"]

_FORMAT = 1
_LONGEST = 60


class Made(Struct, frozen=True, kw_only=True):
    """What a result was made of: the key's whole input."""

    stage: StageName
    code: str
    inputs: dict[str, Any]
    before: dict[str, str]
    """The results it builds on, by stage name; for boot also what files and scripts changed that matters to it."""


def canonical(value: object) -> bytes:
    """`value` (JSON values only) as the one byte string that stands for it."""
    return msgspec.json.encode(value, order="deterministic")


def key_of(made: Made) -> str:
    """64 hex digits."""
    return hashlib.sha256(canonical([_FORMAT, made])).hexdigest()


def before(stage: StageName, *, boot_in_tree: bool) -> tuple[StageName, ...]:
    """The stages whose results decide `stage`'s.

    Boot builds on the packages, and on the part of what files and scripts changed that an initramfs can hold (the
    engine adds it). Slim knows nothing of boot, so the two can be made at the same time. Only with `boot_in_tree`, when
    steps of the user's own change the root around boot, each one builds on the one before it.
    """
    order = tuple(StageName)
    if stage is order[0]:
        return ()
    if not boot_in_tree:
        if stage is StageName.BOOT:
            return (StageName.PACKAGES,)
        if stage is StageName.SLIM:
            return (StageName.SCRIPTS,)
        if stage is StageName.SEAL:
            return (StageName.BOOT, StageName.SLIM)
    return (order[order.index(stage) - 1],)


def changes(old: object, new: object, path: str = "") -> Iterator[str]:
    """The dotted names of the values that differ, with both values where they are short; lists by position."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from changes(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for position, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from changes(was, now, f"{path}[{_title(now, position)}]")
    elif isinstance(old, list) and isinstance(new, list):
        gone, come = [v for v in old if v not in new], [v for v in new if v not in old]
        said = [f"-{_short(v)}" for v in gone] + [f"+{_short(v)}" for v in come]
        yield f"{path}: {', '.join(said)}" if said and len(said) <= 6 else f"{path}: {len(old)} -> {len(new)} entries"
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def why(last: Made | None, now: Made) -> list[str]:
    """Why a result as `now` is not the one that was made last time, in words; empty when it is the same."""
    if last is None:
        return ["never built"]
    reasons = [f"{name} changed" for name in sorted({*last.before, *now.before}) if _differs(last, now, name)]
    plain: dict[str, Any] = msgspec.to_builtins(now.inputs)
    reasons += list(changes(last.inputs, plain))
    if last.code != now.code:
        reasons.append("the stage's program changed")
    return reasons


def _differs(last: Made, now: Made, name: str) -> bool:
    return last.before.get(name) != now.before.get(name)


def _title(value: object, position: int) -> str:
    """How a reader finds an entry of a list again: by what it calls itself."""
    if isinstance(value, Mapping):
        for name in ("name", "path", "label"):
            if isinstance(value.get(name), str):
                return str(value[name])
    return str(position)


def _short(value: object) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else canonical(value).decode()
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return text[:12]
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
