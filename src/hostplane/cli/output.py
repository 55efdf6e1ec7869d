"""How verbs print: JSON for scripts, a plain aligned table for people. No verb formats by hand."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import click
import msgspec

__all__ = ["print_json", "print_table", "table"]


def print_json(value: Any) -> None:
    """One JSON document on standard output; Structs are written with their wire names."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output."""
    click.echo("\n".join(table(headings, rows)))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[int] = ()) -> list[str]:
    """The lines of a table: columns as wide as their widest cell and at least `least`, `-` for an empty cell."""
    cells = [list(headings), *([printable(cell) or "-" for cell in row] for row in rows)]
    columns = range(len(headings))
    widths = [max(*(_width(row[c]) for row in cells), least[c] if least else 0) for c in columns]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def printable(text: str) -> str:
    """Without control characters: what a cluster object says must not steer the reader's terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
