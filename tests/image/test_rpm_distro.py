"""A whole distribution of RPMs: its own rpm answers inside the image, whatever kind of database it reads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hostplane.distros import Profile, load
from hostplane.image.building import engine
from hostplane.image.building.store import Store
from hostplane.image.packages import rpmdb
from hostplane.image.packages.dnf import DATABASE
from hostplane.image.recipe import Kubernetes, Packages, Recipe, Repository, StageName
from tests.image.rpm_distro import EPOCH, RELEASE, rpm_distro, write_distro_file


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return load("openEuler", RELEASE, "x86_64", extra=[write_distro_file(tmp_path_factory.mktemp("distros"))])


def _layers(
    profile: Profile, store: Store, out: Path, *names: str, kernel: bool = False, until: StageName = StageName.PACKAGES
) -> list[Path]:
    distro = rpm_distro()
    mirror = Repository(name="mirror", url=str(distro.repository), key=str(distro.key))
    recipe = Recipe(
        name="rpm-distro",
        version="1",
        distro="openEuler",
        release=RELEASE,
        source_date_epoch=EPOCH,
        kubernetes=Kubernetes(runtime="none"),
        packages=Packages(repositories=(mirror,), kernel=kernel, include=names),
    )
    wish = engine.Wish(until=until)
    built = engine.build(recipe, profile, store=store, out=out, wish=wish, show=lambda event: None)
    return [Path(row.layer) / "tree" for row in built.stages]


def _inside(layers: list[Path], place: Path, *argv: str) -> str:
    """What `argv` says inside the root that the layers make together."""
    for name in ("root", "upper", "work"):
        (place / name).mkdir()
    lower = ":".join(str(layer) for layer in reversed(layers))
    options = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work"
    script = f'mount -t overlay overlay -o {options} {place}/root && exec chroot {place}/root "$@"'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", *argv], capture_output=True, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize("package", ["hello", "old-rpm"])
def test_the_images_own_rpm_finds_every_package(
    profile: Profile, shared_store: Store, tmp_path: Path, package: str
) -> None:
    """`old-rpm` makes the image's rpm blind to a database that it has not written itself."""
    layers = _layers(profile, shared_store, tmp_path, package)
    said = _inside(layers, tmp_path, "rpm", "-qa", "--qf", "%{NAME}\\n")
    assert sorted(said.split()) == [each.name for each in rpmdb.installed(layers[-1])]
    assert package in said
    assert sorted(path.name for path in (layers[-1] / DATABASE).iterdir()) == ["rpmdb.sqlite"]


@pytest.mark.long
def test_two_builds_seal_the_same_images(profile: Profile, shared_store: Store, tmp_path: Path) -> None:
    """The root with its package database, and the boot image with what dracut made."""
    seals = []
    for store in (shared_store, engine.open_store(tmp_path / "store")):
        layers = _layers(profile, store, tmp_path / "out", "hello", kernel=True, until=StageName.SEAL)
        seals.append((layers[-1].parent / "out/seal.json").read_bytes())
    assert seals[0] == seals[1]
