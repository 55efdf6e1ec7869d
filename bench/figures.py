"""What a benchmark ends in: figures with a target, one table for people and one JSON file per bench for machines."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["RESULTS", "Figure", "rows", "save", "show"]

RESULTS = Path(__file__).parent / "results"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value and the most it may be."""

    name: str
    measured: float
    target: float
    unit: str = ""
    note: str = ""
    """How it came about: sizes, what it was compared with."""

    @property
    def ratio(self) -> float:
        """Measured / target; where the target is 0, 0 for "none" and infinity for any."""
        if self.target:
            return self.measured / self.target
        return float("inf") if self.measured else 0.0

    @property
    def reached(self) -> bool:
        """Whether it is no more than the target."""
        return self.measured <= self.target


def save(bench: str, figures: list[Figure], detail: Any) -> Path:
    """Writes bench/results/<bench>.json: the figures, what they were made of, and on what."""
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    measured = [{**msgspec.structs.asdict(f), "reached": f.reached} for f in figures]
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = {"bench": bench, "at": at, "machine": machine, "figures": measured, "detail": detail}
    path = RESULTS / f"{bench}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(body), indent=2))
    return path


def rows(figures: list[Figure]) -> list[tuple[str, str, str, str, str, str]]:
    """Name, measured, target, ratio, verdict and note, as they are printed."""
    return [
        (
            figure.name,
            f"{figure.measured:.3g} {figure.unit}".strip(),
            f"<= {figure.target:.3g} {figure.unit}".strip(),
            f"{figure.ratio:.2f}",
            "reached" if figure.reached else "MISSED",
            figure.note,
        )
        for figure in figures
    ]


def show(figures: list[Figure]) -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Figures", title_justify="left")
    for name in ("figure", "measured", "target", "ratio", "verdict", "note"):
        table.add_column(name, overflow="fold", justify="right" if name in ("measured", "target", "ratio") else "left")
    for row in rows(figures):
        table.add_row(*row, style=None if row[4] == "reached" else "bold red")
    Console(width=None if os.isatty(1) else 150).print(table)
