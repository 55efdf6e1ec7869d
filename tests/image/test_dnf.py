"""The dnf and rpms backends over real dnf, rpm, rpmbuild, gpg and createrepo_c, through real workers.

The packages are the small stand-in's (`rpm_distro.small_repository`): a root of a few files, signed for real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.distros import Profile, load
from hostplane.errors import HostplaneError, RecipeError
from hostplane.image.backends import Lock, dnf, rpms
from hostplane.image.building import engine
from hostplane.image.building.process import Runner
from hostplane.image.packages import lock as locks
from hostplane.image.packages import rpmdb
from hostplane.image.packages.dnf import DATABASE
from hostplane.image.recipe import Backend, Packages, Recipe, Repository, StageName
from hostplane.image.stage import Inputs
from tests.image.rpm_distro import EPOCH, RELEASE, RpmDistro, small_repository, write_distro_file

Build = Callable[[Recipe], Path]
WHOLE = ("hello", "capable")
SLIM: dict[str, Any] = {"defaults": False, "kernel": False}
"""For questions that need no whole host."""


@pytest.fixture(scope="module")
def distro() -> RpmDistro:
    return small_repository()


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return load("openEuler", RELEASE, "x86_64", extra=[write_distro_file(tmp_path_factory.mktemp("distros"))])


def _recipe(distro: RpmDistro, *, repository: dict[str, Any] | None = None, **packages: Any) -> Recipe:
    facts: dict[str, Any] = {"name": "stand-in", "url": str(distro.repository), "key": str(distro.key)}
    wanted: dict[str, Any] = {"repositories": (Repository(**(facts | (repository or {}))),), **packages}
    return Recipe(
        name="stand-in",
        version="1",
        distro="openEuler",
        release=RELEASE,
        source_date_epoch=EPOCH,
        packages=Packages(**wanted),
    )


def _build(recipe: Recipe, profile: Profile, store: Path) -> list[Path]:
    """The trees of the bootstrap and the packages stage."""
    wish = engine.Wish(until=StageName.PACKAGES)
    out = store.parent / "out"
    opened = engine.open_store(store)
    built = engine.build(recipe, profile, store=opened, out=out, wish=wish, show=lambda event: None)
    return [Path(row.layer) / "tree" for row in built.stages]


@pytest.fixture
def build(tmp_path: Path, profile: Profile) -> Build:
    """build(recipe) -> the tree of its packages stage, in a store of the test's own."""
    return lambda recipe: _build(recipe, profile, tmp_path / "store")[-1]


@pytest.fixture(scope="module")
def whole(distro: RpmDistro, profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both trees of a whole host, made once."""
    return _build(
        _recipe(distro, include=WHOLE, exclude=("openssh-server",)), profile, tmp_path_factory.mktemp("whole") / "store"
    )


def _names(tree: Path) -> set[str]:
    return {package.name for package in rpmdb.installed(tree)}


def test_a_root_has_the_packages_asked_for_and_its_database_answers_as_rpm_does(
    whole: list[Path], tmp_path: Path
) -> None:
    tree = whole[-1]
    names = _names(tree)
    assert {"filesystem", "setup", "openEuler-release", "basesystem", "kernel", "shim", "hello", "capable"} <= names
    assert "weak" not in names, "a weak dependency is not asked for"
    assert "dnf" not in names, "package managers stay out"
    assert "openssh-server" not in names, "excluded by the recipe"
    hello = next(package for package in rpmdb.installed(tree) if package.name == "hello")
    assert (hello.version, hello.arch, hello.licence, hello.supplier) == ("1:2.0-1", "noarch", "MIT", "Hostplane tests")
    assert (hello.source, hello.source_version) == ("hello", "2.0-1")
    argv = ["rpm", "--define", f"_rpmlock_path {tmp_path}/lock", "--dbpath", str(tree / DATABASE), "-qa"]
    plain = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(plain) == sorted(f"{p.name}-{p.version.rpartition(':')[2]}.{p.arch}" for p in rpmdb.installed(tree))
    assert not any("gpg-pubkey" in line for line in plain)


def test_nothing_of_the_build_stays_in_the_root(whole: list[Path]) -> None:
    for tree in whole:
        left = {str(path.relative_to(tree)) for path in tree.rglob("*")}
        assert not {path for path in left if "dnf" in path or path.startswith(("var/log/", "run/", "dev/", "root/"))}
        assert "boot/initramfs-stand-in.img" not in left, "the boot stage makes the initramfs, once"
        assert {path for path in left if path.startswith(f"{DATABASE}/")} == {f"{DATABASE}/rpmdb.sqlite"}
    assert (whole[-1] / "usr/lib/modules/5.10.0-stand-in/vmlinuz").exists()


def test_the_database_is_found_where_every_rpm_looks_and_is_not_in_var(whole: list[Path]) -> None:
    assert os.readlink(whole[0] / "var/lib/rpm") == "../../usr/lib/sysimage/rpm"


def test_the_database_answers_where_nothing_can_be_written(whole: list[Path], tmp_path: Path) -> None:
    """As on a booted host, whose root is mounted read-only."""
    place = tmp_path / "place"
    place.mkdir()
    script = f"mount --bind -o ro {whole[-1] / DATABASE} {place} && exec rpm --dbpath {place} -q hello"
    said = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert said.stdout.split() == ["hello-2.0-1.noarch"], said.stderr


def test_two_builds_write_the_same_database(distro: RpmDistro, build: Build, whole: list[Path]) -> None:
    again = build(_recipe(distro, include=WHOLE, exclude=("openssh-server",)))
    database = f"{DATABASE}/rpmdb.sqlite"
    assert (whole[-1] / database).read_bytes() == (again / database).read_bytes()


def test_a_file_capability_is_there(whole: list[Path]) -> None:
    assert os.getxattr(whole[-1] / "usr/share/hello/two", "security.capability")


@pytest.mark.parametrize(
    ("packages", "repository", "error"),
    [
        ({"include": ("nowhere-to-be-found",)}, {}, "PackagesUnknown"),
        ({}, {"key": "other"}, "PackageSignatureWrong"),
        ({}, {"url": "missing"}, "RepositoryUnreachable"),
        ({}, {"key": None}, "RpmKeyUnset"),
        ({"include": ("needy",)}, {}, "PackagesConflict"),
        ({"include": ("impatient",)}, {}, "PackageScriptFailed"),
    ],
)
def test_what_cannot_be_installed_is_one_sentence(
    distro: RpmDistro, build: Build, tmp_path: Path, packages: Any, repository: Any, error: str
) -> None:
    if repository.get("key") == "other":
        repository = {"key": str(distro.other_key)}
    if "url" in repository:
        repository = {"url": str(tmp_path)}
    with pytest.raises(HostplaneError) as caught:
        build(_recipe(distro, repository=repository, **packages))
    assert caught.value.name == error, str(caught.value)


@pytest.mark.parametrize(("package", "error"), [("unsigned", "PackageUnsigned"), ("foreign", "PackageSignatureWrong")])
def test_a_package_without_a_good_signature_is_refused_unless_the_check_is_off(
    distro: RpmDistro, build: Build, package: str, error: str
) -> None:
    def recipe(*, check: bool) -> Recipe:
        good = Repository(name="good", url=str(distro.repository), key=str(distro.key))
        key = str(distro.key) if check else None
        bad = Repository(name="bad", url=str(distro.broken), key=key, check_signatures=check)
        return _recipe(distro, repositories=(good, bad), include=(package,), **SLIM)

    with pytest.raises(HostplaneError) as caught:
        build(recipe(check=True))
    assert caught.value.name == error
    assert package in str(caught.value)
    assert package in _names(build(recipe(check=False)))


def test_a_manager_is_kept_where_the_recipe_says_so(distro: RpmDistro, build: Build) -> None:
    assert "dnf" in _names(build(_recipe(distro, include=("dnf",), keep_manager=True, **SLIM)))


def test_a_folder_of_rpms_needs_no_repository_and_its_key_is_named(
    distro: RpmDistro, build: Build, tmp_path: Path, profile: Profile
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(distro.repository, folder, ignore=shutil.ignore_patterns("repodata"))
    place = {"url": str(folder)}
    tree = build(
        _recipe(distro, repository=place, backend=Backend.RPMS, directory=str(folder), include=("hello",), **SLIM)
    )
    assert {"hello", "filesystem"} <= _names(tree)
    with pytest.raises(RecipeError) as caught:
        rpms.inputs_bootstrap(_recipe(distro, backend=Backend.RPMS, directory=str(folder)), profile)
    assert caught.value.name == "RpmsFolderUnchecked"


def test_a_changed_file_of_the_folder_changes_the_key_and_its_place_does_not(
    distro: RpmDistro, profile: Profile, tmp_path: Path
) -> None:
    def inputs(folder: Path) -> Inputs:
        place = {"url": str(folder)}
        return rpms.inputs_bootstrap(
            _recipe(distro, repository=place, backend=Backend.RPMS, directory=str(folder)), profile
        )

    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        shutil.copytree(distro.repository, folder, ignore=shutil.ignore_patterns("repodata"))
    before = inputs(one)
    assert inputs(two) == before
    (two / "weak-1.0-1.noarch.rpm").unlink()
    assert inputs(two) != before


def _lock(recipe: Recipe, profile: Profile, tmp_path: Path) -> Lock:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (tmp_path / "log").open("ab", buffering=0) as log:
        run = Runner(scratch, log, tmp_path / "log")
        return dnf.lock(recipe, profile, cache=tmp_path / "cache", scratch=scratch, run=run)


def test_a_lock_names_every_package_and_holds_a_build_to_it(
    distro: RpmDistro, build: Build, profile: Profile, tmp_path: Path
) -> None:
    locked = _lock(_recipe(distro, include=("hello",)), profile, tmp_path)
    path = tmp_path / "recipe.lock"
    locks.write(locked, path)
    tree = build(_recipe(distro, include=("hello",), lock=str(path)))
    assert [(p.name, p.version, p.arch) for p in rpmdb.installed(tree)] == [
        (p.name, p.version, p.arch) for p in locked.packages
    ]
    assert locked.epoch == EPOCH
    with pytest.raises(HostplaneError) as caught:
        build(_recipe(distro, include=("hello", "capable"), lock=str(path)))
    assert caught.value.name == "PackagesUnknown"
    path.write_text(path.read_text(encoding="utf-8").replace(locked.packages[0].sha256, "0" * 64), encoding="utf-8")
    with pytest.raises(HostplaneError) as caught:
        build(_recipe(distro, include=("hello",), lock=str(path)))
    assert caught.value.name == "LockedHashWrong"
