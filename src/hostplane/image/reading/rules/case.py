"""What a rule is given and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from hostplane.distros.profile import Profile
from hostplane.errors import Reason, reason
from hostplane.image.reading.positions import KeyPath, written
from hostplane.image.recipe import Recipe

__all__ = ["Case", "Fault", "Rule", "error", "existing", "in_image", "unique", "warning"]


class Case(Struct, frozen=True, kw_only=True):
    """A recipe under examination."""

    recipe: Recipe
    profile: Profile | None
    """None where the distribution itself was refused: rules that need it stay silent."""
    said: Callable[[KeyPath], bool]
    """Whether somebody wrote this key, so that it is not the default."""
    environment: Mapping[str, str]


class Fault(Struct, frozen=True):
    """What a rule found, at a key."""

    path: KeyPath
    reason: Reason
    is_warning: bool = False


Rule = Callable[[Case], Iterator[Fault]]


def error(path: KeyPath, why: Reason) -> Fault:
    """The image cannot be made, or would not work."""
    return Fault(path, why)


def warning(path: KeyPath, why: Reason) -> Fault:
    """It can be made; somebody should know."""
    return Fault(path, why, is_warning=True)


def unique(values: Iterable[tuple[KeyPath, object]]) -> Iterator[Fault]:
    """A fault for every value that an earlier one equals; None equals nothing."""
    first: dict[object, KeyPath] = {}
    for path, value in values:
        if value is not None and first.setdefault(value, path) != path:
            yield error(path, reason("NamedTwice", key=written(path), value=value, first=written(first[value])))


def existing(path: KeyPath, value: str | None) -> Iterator[Fault]:
    """A fault where a path of the building machine leads nowhere."""
    if value is not None and not (value and Path(value).exists()):
        yield error(path, reason("PathMissing", key=written(path), value=value))


def in_image(path: KeyPath, value: str | None) -> Iterator[Fault]:
    """A fault where a path in the image is not absolute or not plain."""
    if value is None:
        return
    parts = value.split("/")
    is_plain = len(parts) > 1 and parts[0] == "" and not {"", ".", ".."} & set(parts[1:])
    if not is_plain or not value.isprintable():
        yield error(path, reason("ImagePathUnsafe", key=written(path), value=value))
