"""The line scanner says of every key and entry what the standard parser would, if it told."""

from __future__ import annotations

import tomllib
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.image.reading.positions import KeyPath, lines_of, written

Draw = Any


def paths_of(value: object, path: KeyPath = ()) -> set[KeyPath]:
    """Every path that the standard parser finds."""
    found = {path} if path else set()
    entries: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    for key, entry in entries:
        found |= paths_of(entry, (*path, key))
    return found


class _Writer:
    """Writes random TOML; each key carries a number of its own, so that its line can be recognised."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.numbers = count()
        self.lines: list[str] = []

    def choose(self, *choices: str) -> str:
        return str(self.draw(st.sampled_from(choices)))

    def key(self) -> str:
        name = f"k{next(self.numbers)}k"
        return self.choose(name, f'"{name}"', f"'{name}'", f'"{name} . # ]"', f'"\\u0041{name}\\""', f"'{name}=['")

    def dotted(self) -> str:
        gap = self.choose("", " ")
        return f"{gap}.{gap}".join(self.key() for _ in range(self.draw(st.integers(1, 3))))

    def value(self, depth: int, *, is_inline: bool = False) -> str:
        kinds = ["1", "1_0.5e3", "true", "1979-05-27 07:32:00", "''", '""', r'"a\"b # ]"', "'\"[{'", "''' '' '''"]
        if not is_inline:
            kinds += ['"""\n# [x]\nk = 1 \\"""\n""\n"""""', "'''\n[[y]]\n''\n'''"]
        if depth:
            kinds += ["[]", "{}", "list", "table"]
        kind = self.choose(*kinds)
        if kind == "list":
            entries = [self.value(depth - 1, is_inline=is_inline) for _ in range(self.draw(st.integers(1, 3)))]
            gap = "" if is_inline else self.choose("", " ", "\n", " # ], [\n  ")
            return f"[{gap}" + f"{gap},{gap}".join(entries) + gap + self.choose("]", f",{gap}]")
        if kind == "table":
            pairs = [
                f"{self.dotted()} = {self.value(depth - 1, is_inline=True)}"
                for _ in range(self.draw(st.integers(1, 3)))
            ]
            return "{ " + " , ".join(pairs) + " }"
        return kind

    def table(self, depth: int) -> None:
        for _ in range(self.draw(st.integers(0, 3))):
            self.lines.append(self.choose("", "  ") + f"{self.dotted()}{self.choose('=', ' = ')}{self.value(depth)}")
            self.lines.extend(self.draw(st.lists(st.sampled_from(["", "# [no] = {header}", "\t"]), max_size=2)))

    def document(self) -> str:
        self.table(2)
        for _ in range(self.draw(st.integers(0, 3))):
            name = self.dotted()
            if self.draw(st.booleans()):
                self.lines.append(f"[{name}]{self.choose('', ' # [x]')}")
                self.table(2)
                continue
            for _ in range(self.draw(st.integers(1, 3))):
                self.lines.append(f"[[ {name} ]]")
                self.table(1)
                if self.draw(st.booleans()):
                    self.lines.append(f"[{name}.{self.dotted()}]")
                    self.table(1)
                if self.draw(st.booleans()):
                    self.lines += [f"[[{name}.inner]]", f"[[{name}.inner]]"]
                    self.table(1)
        return self.choose("\n", "\r\n").join(self.lines) + self.choose("", "\n")


@st.composite
def documents(draw: Draw) -> str:
    """TOML that the standard parser takes."""
    return _Writer(draw).document()


@settings(max_examples=100, deadline=None)
@given(documents())
def test_every_path_is_found_and_every_key_is_on_its_line(text: str) -> None:
    lines = lines_of(text)
    assert set(lines) == paths_of(tomllib.loads(text))
    rows = text.split("\n")
    for path, line in lines.items():
        last = path[-1]
        if isinstance(last, str) and last.strip('A"').startswith("k"):
            number = last.strip('A"').split("k")[1]
            assert f"k{number}k" in rows[line - 1], (path, line)


def test_entries_of_lists_have_their_own_lines() -> None:
    text = 'a = [\n  "x", # one, two ]\n  [\n    1,\n    2 ],\n  { b = 3 },\n]\n'
    lines = lines_of(text)
    assert {key: lines["a", *key] for key in [(0,), (1,), (1, 0), (1, 1), (2,), (2, "b")]} == {
        (0,): 2,
        (1,): 3,
        (1, 0): 4,
        (1, 1): 5,
        (2,): 6,
        (2, "b"): 6,
    }


def test_a_table_has_the_line_of_its_own_header_even_when_a_child_came_first() -> None:
    assert lines_of("[a.b]\n\n[a]\nc = 1\n") == {("a",): 3, ("a", "b"): 1, ("a", "c"): 4}


def test_tables_below_an_entry_belong_to_the_newest_one() -> None:
    lines = lines_of("[[a]]\n[a.b]\nx = 1\n[[a]]\n[a.b]\nx = 2\n[[a.c]]\n[[a.c]]\n")
    assert lines["a", 0, "b", "x"] == 3
    assert lines["a", 1, "b", "x"] == 6
    assert lines["a", 1, "c", 1] == 8


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("disk", "size_gib"), "disk.size_gib"),
        (("file", 0, "path"), "file[0].path"),
        (("sysctl", "net.ipv4.ip_forward"), 'sysctl."net.ipv4.ip_forward"'),
    ],
)
def test_a_path_is_written_as_a_person_would(path: KeyPath, text: str) -> None:
    assert written(path) == text
