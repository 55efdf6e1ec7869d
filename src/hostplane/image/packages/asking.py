"""Programs that only ask: run on this machine with the network, outside of any root and of any worker.

What a lock or a site's evidence needs to know is asked of repositories before anything is built. There is nothing to
isolate, and an ordinary user could not take the network away from a program that is not in a worker anyway.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from hostplane.image.building.process import Redactor, Runner
from hostplane.image.building.store import Store
from hostplane.image.building.userscripts import secret_values
from hostplane.image.recipe import Recipe
from hostplane.image.stage import Run

__all__ = ["Desk", "desk"]


class Desk(Struct, frozen=True, kw_only=True):
    """What somebody who asks is handed."""

    run: Run
    cache: Path
    """Shared by all builds."""
    scratch: Path
    """Gone afterwards."""


@contextmanager
def desk(recipe: Recipe, store: Path, purpose: str) -> Iterator[Desk]:
    """A place to ask from, with a log of its own in the store; secrets of the recipe are kept out of it."""
    place = Store(store)
    log_path = place.path / "logs" / f"{recipe.name}-{purpose}.log"
    scratch, held = place.begin(purpose)
    with held, log_path.open("wb", 0) as log:
        runner = Runner(Path("/"), log, log_path, redact=Redactor(secret_values(recipe)))

        def run(
            argv: Sequence[str],
            *,
            chroot: bool = False,
            network: bool = False,
            env: Mapping[str, str] | None = None,
            stdin: bytes | None = None,
            timeout: float = 1800.0,
            cwd: Path | None = None,
        ) -> bytes:
            return runner(argv, network=True, env=env, stdin=stdin, timeout=timeout, cwd=cwd)

        try:
            yield Desk(run=run, cache=place.cache, scratch=scratch)
        finally:
            shutil.rmtree(scratch)
