"""Tables that stay aligned and cannot steer the terminal."""

from __future__ import annotations

from hostplane.cli.output import printable, table


def test_columns_are_aligned_and_empty_cells_are_dashes() -> None:
    assert table(["A", "LONG"], [["xyz", ""], ["", "1"]]) == ["A    LONG", "xyz  -", "-    1"]


def test_wide_characters_count_twice() -> None:
    assert table(["A", "B"], [["主机", "x"]]) == ["A     B", "主机  x"]


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc") == "a [2Jb c"
