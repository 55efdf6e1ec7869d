"""How long the command line takes to begin: `hostplane --version`, against an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.figures import Figure, save

__all__ = ["run"]

_TIMES = 10
_SCRIPT = Path(sys.executable).with_name("hostplane")


def _times(command: Sequence[str], count: int) -> list[float]:
    """Milliseconds of each run, after one that fills the caches."""
    found = []
    for _ in range(count + 1):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append((time.perf_counter() - begun) * 1000)
    return found[1:]


def run(quick: bool) -> list[Figure]:
    """A few seconds; `quick` changes nothing."""
    floor = _times([sys.executable, "-c", "pass"], _TIMES)
    ours = _times([str(_SCRIPT), "--version"], _TIMES)
    figure = Figure(
        name="hostplane --version",
        measured=median(ours),
        target=100,
        unit="ms",
        note=f"median of {_TIMES}; best {min(ours):.0f}; bare interpreter {median(floor):.0f}",
    )
    save("cli", [figure], {"hostplane": ours, "interpreter": floor})
    return [figure]
