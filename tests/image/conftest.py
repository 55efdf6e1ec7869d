"""What tests with real tools share: one store for all of them, and a recipe so small that a build takes a second.

The store lives outside the checkout and is found by what was built, so a root that one test has paid for costs the next
one, the virtual machines' tests and the next run nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hostplane.image.building.engine import Built, Wish, build, open_store
from hostplane.image.building.progress import Event
from hostplane.image.building.store import Store, default_store
from hostplane.image.reading.check import check
from hostplane.image.recipe import StageName
from tests.image.tiny import Tiny

Build = Callable[..., Built]


@pytest.fixture(scope="session")
def shared_store() -> Store:
    """The user's store (HOSTPLANE_IMAGE_STORE)."""
    return open_store(default_store())


@pytest.fixture(scope="session")
def build_shared(shared_store: Store) -> Build:
    """build(recipe path, out=directory, overrides=[], until="pack") -> Built, in the shared store."""

    def run(recipe: Path, *, out: Path, overrides: Sequence[str] = (), until: str = "pack") -> Built:
        checked = check(recipe, overrides)
        wish = Wish(until=StageName(until))
        return build(checked.recipe, checked.profile, store=shared_store, out=out, wish=wish, show=_ignore)

    return run


def _ignore(_event: Event) -> None:
    return


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A recipe of one program, with a store of its own."""
    return Tiny(tmp_path)
