"""From a TOML file to a Recipe: profiles, included files and overrides merged, paths made absolute, places kept.

The layers, lowest first: for every file its profiles, then its includes, then its own words; over all of them the
overrides of the command line. A file that is reached twice counts once, where it was reached first. How values merge
is said in `layers.py`. A relative path starts from the directory of the file that names it (of an override: from the
working directory). What a value may be is said by the types in `recipe.py`; rules beyond that live in `check.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

import msgspec
from msgspec import Struct, inspect

from hostplane.errors import RecipeError
from hostplane.image.reading.findings import Finding, RecipeRefusedError
from hostplane.image.reading.layers import Node, Place, merged, parsed, places, plain
from hostplane.image.reading.overrides import overridden
from hostplane.image.reading.positions import KeyPath, written
from hostplane.image.reading.shape import misfits
from hostplane.image.recipe import Arch, Firmware, Recipe

__all__ = ["Loaded", "profile_names", "read_recipe"]

_PATHS = frozenset(
    {
        "packages.repositories.url",
        "packages.repositories.key",
        "packages.repositories.ca",
        "packages.repositories.client_certificate",
        "packages.repositories.client_key",
        "packages.lock",
        "packages.directory",
        "packages.source",
        "file.source",
        "script.source",
        "kubernetes.kubelet",
        "kubernetes.cni_plugins",
        "image.previous",
        "signing.key",
        "signing.trusted_keys",
    }
)
"""Keys that name a file of the building machine; a value with :// in it is an address and stays."""

_LOWER = ("profiles", "include")


class Loaded(Struct, frozen=True, kw_only=True):
    """A recipe and where each of its values was written."""

    recipe: Recipe
    where: Mapping[KeyPath, Place]
    files: tuple[Path, ...]
    """Every file that was read, the recipe itself last."""

    def place(self, path: KeyPath) -> Place:
        """Where `path` was written; for a default, where the table it belongs to was."""
        while path not in self.where:
            path = path[:-1]
        return self.where[path]


def profile_names() -> tuple[str, ...]:
    """The built-in profiles."""
    return tuple(sorted(file.name.removesuffix(".toml") for file in _profiles().glob("*.toml")))


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """The recipe in `path`, with everything below and above it merged in.

    Raises:
        RecipeError: a file cannot be read or is not TOML, a profile is unknown, an override leads nowhere.
        RecipeRefusedError: keys are unknown or missing, or values are not what their key wants; all are listed.
    """
    own: list[str] = []
    others: list[str] = []
    for override in overrides:
        (own if override.lstrip().startswith(_LOWER) else others).append(override)
    tree = _tree(path)
    for override in own:  # these decide what else is read
        tree = overridden(tree, override, Path.cwd())
    layers = dict(_layers(path, tree, {path.resolve()}))
    root, *above = layers.values()
    for layer in above:
        root = merged(root, layer)
    for override in others:
        root = overridden(root, override, Path.cwd())
    root = _absolute(root, ())
    where = dict(places(root))
    where[()] = Place(file=path, line=1)
    found = [
        Finding(place=where.get(key, where[()]), key=written(key), reason=reason)
        for key, reason in misfits(plain(root), inspect.type_info(Recipe))
    ]
    if found:
        raise RecipeRefusedError(path, found)
    return Loaded(recipe=_converted(root), where=where, files=tuple(layers))


def _converted(root: Node) -> Recipe:
    recipe = msgspec.convert(plain(root), Recipe)
    boot = root.value.get("boot") if isinstance(root.value, dict) else None
    is_said = boot is not None and isinstance(boot.value, dict) and "firmware" in boot.value
    if recipe.arch is not Arch.X86_64 and not is_said:  # the default fits what the processor can start from
        return msgspec.structs.replace(recipe, boot=msgspec.structs.replace(recipe.boot, firmware=(Firmware.UEFI,)))
    return recipe


def _profiles() -> Path:
    return Path(str(resources.files("hostplane.image") / "data" / "profiles"))


def _tree(path: Path) -> Node:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("RecipeUnreadable", file=path, error=error) from error
    return parsed(text, path)


def _layers(path: Path, tree: Node, seen: set[Path]) -> Iterator[tuple[Path, Node]]:
    """What a file stands on, lowest first, and the file itself."""
    for below in (*_named_profiles(tree), *_included(tree)):
        if below.resolve() not in seen:
            seen.add(below.resolve())
            for file, layer in _layers(below, _tree(below), seen):
                yield file, Node({key: node for key, node in _table(layer).items() if key not in _LOWER}, layer.place)
    yield path, tree


def _named_profiles(tree: Node) -> Iterator[Path]:
    for node in _strings(tree, "profiles"):
        if node.value not in profile_names():
            known = ", ".join(profile_names())
            raise RecipeError("ProfileUnknown", where=node.place, profile=node.value, known=known)
        yield _profiles() / f"{node.value}.toml"


def _included(tree: Node) -> Iterator[Path]:
    for node in _strings(tree, "include"):
        file = node.place.directory / Path(str(node.value)).expanduser()
        if not file.is_file():
            raise RecipeError("IncludeMissing", where=node.place, file=file)
        yield file


def _strings(tree: Node, key: str) -> list[Node]:
    """The strings in a list; what is not one is left for the check of types."""
    node = _table(tree).get(key)
    if node is None or not isinstance(node.value, list):
        return []
    return [entry for entry in node.value if isinstance(entry.value, str)]


def _table(node: Node) -> dict[str, Node]:
    assert isinstance(node.value, dict)
    return node.value


def _absolute(node: Node, path: tuple[str, ...]) -> Node:
    value = node.value
    if isinstance(value, dict):
        return Node({key: _absolute(entry, (*path, key)) for key, entry in value.items()}, node.place)
    if isinstance(value, list):
        return Node([_absolute(entry, path) for entry in value], node.place)
    if isinstance(value, str) and value and ".".join(path) in _PATHS and "://" not in value:
        return Node(os.path.abspath(node.place.directory / Path(value).expanduser()), node.place)
    return node
