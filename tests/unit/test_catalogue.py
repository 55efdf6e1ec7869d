"""The catalogue and the code agree: every name used is an entry, every entry is used, no text is left with holes."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import pytest

import hostplane
from hostplane.errors import catalogue

ROOT = Path(hostplane.__file__).parent
ROOMS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "catalogue").glob("*.json"))}
ENTRIES = [(room, code, entry) for room, entries in ROOMS.items() for code, entry in entries.items()]
RANGES = {
    "api": range(1000, 1200),
    "planning": range(2000, 3000),
    "kube": range(3000, 3100),
    "operator": range(4000, 5000),
    "proxy": range(5000, 5500),
    "rpc": range(5500, 6000),
    "agent": range(6000, 6700),
    "local": range(7000, 7500),
    "cli": range(7500, 8000),
    "image": range(8000, 8300),
    "distros": range(8300, 8350),
}
MAKERS = {
    "reason",
    "HostplaneError",
    "ApiError",
    "ClusterError",
    "NotFoundError",
    "ConflictError",
    "GoneError",
    "ThrottledError",
    "UnreachableError",
    "HostError",
    "LocalError",
    "RecipeError",
    "ImageError",
}


class Use(NamedTuple):
    """One place where a reason or an error is made under a name that can be read."""

    where: str
    name: str
    given: frozenset[str]
    is_open: bool
    """More parameters may come from a dict."""


def holes(words: dict[str, str]) -> set[str]:
    """The parameters of a text and its remedy."""
    found: set[str] = set()
    for text in words.values():
        for _, field, spec, _ in Formatter().parse(text):
            if field is not None:
                assert field.isidentifier(), f"{{{field}}} in {text!r}: only plain names"
                assert not spec, f"{{{field}:{spec}}}: a missing parameter cannot be formatted"
                found.add(field)
    return found


def _names(node: ast.expr) -> Iterator[str]:
    """The names that an argument may be: a constant, one of two, or a default."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _names(node.body)
        yield from _names(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _names(value)


def _uses(path: Path, tree: ast.Module) -> Iterator[Use]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        callee = node.func
        called = callee.id if isinstance(callee, ast.Name) else callee.attr if isinstance(callee, ast.Attribute) else ""
        if called not in MAKERS:
            continue
        given = frozenset(k.arg for k in node.keywords if k.arg is not None)
        is_open = any(k.arg is None for k in node.keywords)
        for name in _names(node.args[0]):
            yield Use(f"{path.relative_to(ROOT)}:{node.lineno}", name, given, is_open)


def _is_ours(path: Path) -> bool:
    return "vendor" not in path.parts


SOURCES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py")) if _is_ours(path)}
USES = [use for path, tree in SOURCES.items() for use in _uses(path, tree)]
WORDS = {
    node.value
    for tree in SOURCES.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
}


def test_the_code_was_found() -> None:
    assert len(USES) > 100
    assert set(ROOMS) == set(RANGES)


def test_codes_and_names_are_unique() -> None:
    assert [c for c, n in Counter(code for _, code, _ in ENTRIES).items() if n > 1] == []
    assert [c for c, n in Counter(entry["name"] for *_, entry in ENTRIES).items() if n > 1] == []


@pytest.mark.parametrize("path", sorted((ROOT / "catalogue").glob("*.json")), ids=lambda p: p.stem)
def test_no_code_is_written_twice_in_one_file(path: Path) -> None:
    """A second entry under the same code would silently replace the first."""
    found: list[str] = []

    def count(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.extend(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        return dict(pairs)

    json.loads(path.read_text("utf-8"), object_pairs_hook=count)
    assert found == []


@pytest.mark.parametrize(("room", "code", "entry"), ENTRIES, ids=lambda v: v if isinstance(v, str) else "")
def test_an_entry_is_whole(room: str, code: str, entry: dict[str, Any]) -> None:
    assert code.startswith("HP-")
    assert int(code[3:]) in RANGES[room], f"{code} is not one of {room}'s"
    assert entry["name"].isidentifier()
    assert entry["name"][0].isupper()
    assert set(entry) == {"name", "en", "zh_CN"}
    for language in ("en", "zh_CN"):
        assert set(entry[language]) == {"text", "remedy"}
        assert all(words.strip() == words and words for words in entry[language].values())
    assert holes(entry["en"]) == holes(entry["zh_CN"])
    assert any("\u4e00" <= letter <= "\u9fff" for letter in entry["zh_CN"]["text"]), "the Chinese text is not Chinese"


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.where} {use.name}")
def test_a_name_in_the_code_is_an_entry_and_fills_its_text(use: Use) -> None:
    entry: Any = catalogue().get(use.name)
    assert entry is not None, f"{use.where}: no entry {use.name}"
    missing = holes(entry["en"]) - use.given
    assert use.is_open or not missing, f"{use.where}: {use.name} is left without {sorted(missing)}"


@pytest.mark.parametrize("name", [entry["name"] for *_, entry in ENTRIES])
def test_every_entry_is_used(name: str) -> None:
    assert name in WORDS, f"nothing says {name}"
