"""Virtual machines' tests build each image once, in the store that the image tests use too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.conftest import Build, build_shared, shared_store

__all__ = ["build_shared", "shared_store"]

RECIPE = Path(__file__).parent / "debian.toml"


@pytest.fixture(scope="session")
def debian_disk(build_shared: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """debian_disk("disk.fs=xfs", ...) -> the disk of tests/vm/debian.toml with these overrides; never to be written."""
    made: dict[tuple[str, ...], Path] = {}

    def disk(*overrides: str) -> Path:
        if overrides not in made:
            out = tmp_path_factory.mktemp("debian") / "out"
            build_shared(RECIPE, out=out, overrides=overrides)
            made[overrides] = out / "disk.raw"
        return made[overrides]

    return disk
