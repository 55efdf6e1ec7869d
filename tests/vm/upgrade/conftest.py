"""One set of images for all tests of upgrades, made when first asked for."""

from __future__ import annotations

import pytest

from hostplane.image.building.store import Store, default_store
from tests.image.conftest import Build
from tests.vm.upgrade.images import V2, Images, Keys
from tests.vm.upgrade.story import Story, tell


@pytest.fixture(scope="session")
def images(build_shared: Build, shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """v1, v2 and the faulty ones."""
    return Images(build_shared, tmp_path_factory.mktemp("upgrade"), Keys(default_store().parent / "tests/upgrade-keys"))


@pytest.fixture(scope="session")
def story(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """An upgrade from v1 to v2 with every write recorded."""
    return tell(images.made(), images.made(*V2), tmp_path_factory.mktemp("story"))
