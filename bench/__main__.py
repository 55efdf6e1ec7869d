"""Every figure of the project, measured on this machine; `python -m bench --help`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile

from bench.figures import RESULTS, Figure, show

_BENCHES = ("cli", "rest", "memory", "rollout", "image", "update")


def main() -> int:
    """Runs the benches, prints the table; 0 when every figure is reached, 1 when one is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", choices=_BENCHES, action="append", help="this bench alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one turn each: a rehearsal")
    options = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="hp-bench-pyc-") as compiled:
        # What is installed carries its bytecode; a checkout that may not write any must not count the compiler.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = compiled
        for name in options.only or _BENCHES:
            print(f"bench/{name} ...", file=sys.stderr, flush=True)
            figures += importlib.import_module(f"bench.{name}").run(options.quick)
    show(figures)
    print(f"details: {RESULTS}", file=sys.stderr)
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
