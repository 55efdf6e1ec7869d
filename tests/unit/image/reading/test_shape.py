"""What passes the check of shapes, msgspec converts; what msgspec refuses, the check has told before."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.image.reading.shape import misfits
from hostplane.image.recipe import Recipe

KIND = msgspec.inspect.type_info(Recipe)
GOOD: dict[str, Any] = {
    "name": "node",
    "version": "1",
    "distro": "debian",
    "release": "12",
    "arch": "x86_64",
    "agent": True,
    "packages": {"include": ["vim"], "repositories": [{"name": "a", "url": "/x", "priority": 3}]},
    "disk": {"size_gib": 20, "fs": "xfs", "partitions": [{"label": "DATA", "size_mib": 5}]},
    "boot": {"firmware": ["uefi"], "page_size": 4096},
    "user": [{"name": "root", "uid": 0, "password_hash": "x"}],
    "script": [{"name": "s", "environment": {"A": "1"}, "stage": "boot"}],
    "sysctl": {"vm.swappiness": 1, "kernel.core_pattern": "|x"},
    "slim": {"locales": ["C"]},
}
VALUES = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        7,
        1 << 40,
        1.5,
        1.0,
        "",
        "x",
        "uefi",
        "3",
        "Node",
        [],
        [1],
        ["x"],
        {},
        {"x": 1},
        [{}],
        [{"name": "x"}],
    ]
).filter(lambda value: value is not None)  # TOML has no null


def _spots(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[Any] = list(value.items()) if isinstance(value, dict) else []
    inner += list(enumerate(value)) if isinstance(value, list) else []
    return [path, *(spot for key, entry in inner for spot in _spots(entry, (*path, key)))]


def _converts(document: Any) -> bool:
    try:
        msgspec.convert(document, Recipe)
    except msgspec.ValidationError:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(_spots(GOOD)[1:]), VALUES, st.booleans()), min_size=1, max_size=3))
def test_the_check_and_the_conversion_agree(changes: list[tuple[tuple[str | int, ...], Any, bool]]) -> None:
    document = copy.deepcopy(GOOD)
    for path, value, is_beside in changes:
        spot: Any = document
        try:
            for part in path[:-1]:
                spot = spot[part]
            if isinstance(spot, dict) and is_beside:
                spot["unheard_of"] = value
            elif isinstance(spot, (dict, list)):
                spot[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the spot away
    assert _converts(document) is not any(True for _ in misfits(document, KIND))


def test_what_is_good_has_no_misfit() -> None:
    assert list(misfits(GOOD, KIND)) == []


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"disk": {"sise_gib": 1}}, ("disk", "sise_gib"), "size_gib"),
        ({"agent": 1}, ("agent",), "true | false"),
        ({"agent": "yes" * 50}, ("agent",), "…"),
        ({"sysctl": {"a.b": 1.5}}, ("sysctl", "a.b"), "string | integer"),
        ({"user": [{"name": "a", "uid": 99999}]}, ("user", 0, "uid"), "integer 0…65533"),
        ({"unit": [{"name": "a.service", "state": "on"}]}, ("unit", 0, "state"), '"enabled" | "disabled"'),
        ({"user": {"name": "a"}}, ("user",), "[{…}, …]"),
        ({"disk": [1]}, ("disk",), "{…}"),
    ],
)
def test_a_misfit_names_its_key_and_what_would_fit(
    change: dict[str, Any], path: tuple[str | int, ...], words: str
) -> None:
    [(found, why)] = misfits(GOOD | change, KIND)
    assert found == path
    assert words in f"{why.text} {why.remedy}"
