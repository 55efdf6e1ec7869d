"""What apt is told: signatures, digests, exclusions, locks, and how a site's repository is reached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostplane.distros import Profile, load
from hostplane.errors import HostplaneError, ImageError, RecipeError
from hostplane.image.backends import Lock, deb
from hostplane.image.building.process import Runner
from hostplane.image.packages.apt import Apt, Archive
from hostplane.image.packages.locking import locked_now
from hostplane.image.recipe import Packages, Recipe, Repository
from tests.image.deb_repository import EPOCH, DebRepository, certificates, served

NOTHING = Path("/dev/null")
MakeApt = Callable[..., Apt]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebRepository]:
    made = DebRepository(tmp_path_factory.mktemp("deb"))
    made.add("base", essential=True, etc__base="base\n")
    made.add("tool", "1:2.0", depends="lib", usr__bin__tool="#!/bin/sh\n")
    made.add("lib", "3.0")
    made.add("apt", "9", depends="lib")
    made.publish()
    yield made
    made.close()


@pytest.fixture
def profile() -> Profile:
    return load("debian", "12", "x86_64")


@pytest.fixture
def make_apt(tmp_path: Path, profile: Profile) -> Iterator[MakeApt]:
    with (tmp_path / "log").open("wb", 0) as log:
        runner = Runner(Path("/"), log, tmp_path / "log")

        def run(argv: list[str], **options: object) -> bytes:
            return runner(argv, **{**options, "network": True})  # type: ignore[arg-type]  # as locking's

        def make(recipe: Recipe, name: str = "one") -> Apt:
            scratch = tmp_path / name
            scratch.mkdir()
            return Apt(recipe, profile, cache=tmp_path / "cache", scratch=scratch, run=run, log=lambda text: None)

        yield make


def _recipe(repository: DebRepository, **changes: object) -> Recipe:
    wanted = {key: changes.pop(key) for key in ("include", "exclude", "lock") if key in changes}
    facts = {"name": "site", "url": str(repository.path), "key": str(repository.key), **changes}
    packages = Packages(repositories=(Repository(**facts),), defaults=False, kernel=False, **wanted)  # type: ignore[arg-type]
    return Recipe(name="t", version="1", distro="debian", release="12", packages=packages)


def _names(archives: list[Archive]) -> list[str]:
    return [f"{archive.name}={archive.version}" for archive in archives]


def test_a_folder_is_a_repository_and_its_files_are_fetched_by_digest(
    repository: DebRepository, make_apt: MakeApt, tmp_path: Path
) -> None:
    apt = make_apt(_recipe(repository))
    apt.update()
    archives = apt.solve("install", "tool", status=NOTHING)
    assert sorted(_names(archives)) == ["lib=3.0", "tool=1:2.0"]
    apt.fetch(archives, "install", "tool", status=NOTHING)
    for archive in archives:
        raw = (apt.farm / archive.file).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == archive.sha256
    assert apt.epoch() == EPOCH


def test_a_cached_package_that_was_tampered_with_is_fetched_again(
    repository: DebRepository, make_apt: MakeApt, tmp_path: Path
) -> None:
    first = make_apt(_recipe(repository))
    first.update()
    archives = first.solve("install", "lib", status=NOTHING)
    first.fetch(archives, "install", "lib", status=NOTHING)
    kept = tmp_path / "cache/deb/files" / f"{archives[0].sha256}.deb"
    kept.unlink()
    kept.write_bytes(b"x" * archives[0].size)
    second = make_apt(_recipe(repository), "two")
    second.update()
    second.fetch(archives, "install", "lib", status=NOTHING)
    raw = (second.farm / archives[0].file).read_bytes()
    assert hashlib.sha256(raw).hexdigest() == archives[0].sha256 == hashlib.sha256(kept.read_bytes()).hexdigest()


def test_an_excluded_package_is_never_taken(repository: DebRepository, make_apt: MakeApt) -> None:
    apt = make_apt(_recipe(repository, exclude=("lib",)))
    apt.update()
    with pytest.raises(ImageError, match="HP-8082"):
        apt.solve("install", "tool", status=NOTHING)


def test_an_unsigned_repository_is_refused_unless_the_recipe_says_so(make_apt: MakeApt, tmp_path: Path) -> None:
    unsigned = DebRepository(tmp_path / "unsigned")
    unsigned.add("lib", "3.0")
    unsigned.publish(signed=False)
    try:
        with pytest.raises(ImageError, match="HP-8082"):
            make_apt(_recipe(unsigned)).update()
        apt = make_apt(_recipe(unsigned, check_signatures=False), "two")
        apt.update()
        assert _names(apt.solve("install", "lib", status=NOTHING)) == ["lib=3.0"]
    finally:
        unsigned.close()


def test_another_key_is_refused(repository: DebRepository, make_apt: MakeApt, tmp_path: Path) -> None:
    other = DebRepository(tmp_path / "other")
    try:
        with pytest.raises(ImageError, match="HP-8082"):
            make_apt(_recipe(repository, key=str(other.key))).update()
    finally:
        other.close()


def test_a_password_comes_from_the_environment_and_reaches_no_log(
    repository: DebRepository, make_apt: MakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(repository.path, login="builder:s3cret-word") as (address, requests):
        recipe = _recipe(repository, url=address, username="builder", password_env="SITE_PASSWORD")
        with pytest.raises(RecipeError, match="SITE_PASSWORD"):
            make_apt(recipe)
        monkeypatch.setenv("SITE_PASSWORD", "s3cret-word")
        apt = make_apt(recipe, "two")
        apt.update()
        archives = apt.solve("install", "lib", status=NOTHING)
        apt.fetch(archives, "install", "lib", status=NOTHING)
        assert any(path.endswith(".deb") for path in requests)
    assert b"s3cret-word" not in (tmp_path / "log").read_bytes()
    assert not any("s3cret-word" in path.read_text("utf-8", "replace") for path in (tmp_path / "cache").rglob("*.pref"))


def test_a_private_authority_and_a_client_certificate_are_used(
    repository: DebRepository, make_apt: MakeApt, tmp_path: Path
) -> None:
    made = certificates(tmp_path / "tls")
    with served(repository.path, certificate=made) as (address, _):
        with pytest.raises(ImageError, match="HP-8082"):
            make_apt(_recipe(repository, url=address)).update()
        own = {"ca": "ca", "client_certificate": "client", "client_key": "client_key"}
        apt = make_apt(_recipe(repository, url=address, **{k: str(made[v]) for k, v in own.items()}), "two")
        apt.update()
        assert _names(apt.solve("install", "lib", status=NOTHING)) == ["lib=3.0"]


def test_a_proxy_is_asked(repository: DebRepository, make_apt: MakeApt) -> None:
    with served(repository.path) as (address, requests):
        apt = make_apt(_recipe(repository, url="http://nowhere.invalid/debian", proxy=address))
        with pytest.raises(ImageError, match="HP-8082"):
            apt.update()
        assert any("nowhere.invalid" in path for path in requests)


def test_indexes_are_fetched_once_an_hour(repository: DebRepository, make_apt: MakeApt) -> None:
    with served(repository.path) as (address, requests):
        make_apt(_recipe(repository, url=address)).update()
        before = len(requests)
        assert before > 0
        apt = make_apt(_recipe(repository, url=address), "two")
        apt.update()
        assert len(requests) == before
        assert apt.solve("install", "lib", status=NOTHING)
        apt.update(force=True)
        assert len(requests) > before


def test_a_key_that_is_not_there_is_named(repository: DebRepository, make_apt: MakeApt) -> None:
    with pytest.raises(RecipeError, match=r"HP-8123.*nowhere\.asc"):
        make_apt(_recipe(repository, key="/nowhere.asc"))


def _locked(repository: DebRepository, profile: Profile, tmp_path: Path) -> Lock:
    return locked_now(_recipe(repository, include=("tool",)), profile, tmp_path / "store")


def test_a_lock_names_every_package_with_digest_and_date(
    repository: DebRepository, profile: Profile, tmp_path: Path
) -> None:
    lock = _locked(repository, profile, tmp_path)
    assert [(p.name, p.version) for p in lock.packages] == [
        ("apt", "9"),
        ("base", "1.0"),
        ("lib", "3.0"),
        ("tool", "1:2.0"),
    ]
    assert all(len(package.sha256) == 64 for package in lock.packages)
    assert (lock.epoch, lock.backend, lock.arch) == (EPOCH, "deb", "x86_64")


def test_a_locked_version_is_taken_though_a_newer_one_is_there(
    profile: Profile, make_apt: MakeApt, tmp_path: Path
) -> None:
    moving = DebRepository(tmp_path / "moving")
    try:
        moving.add("base", essential=True)
        moving.add("apt", "9")
        moving.add("lib", "3.0")
        moving.publish()
        lock = locked_now(_recipe(moving, include=("lib",)), profile, tmp_path / "store")
        moving.add("lib", "3.1")
        moving.publish()
        assert _solved(make_apt(_recipe(moving), "free"), None) == ["lib=3.1"]
        assert _solved(make_apt(_recipe(moving), "locked"), lock) == ["lib=3.0"]
        moving.remove("lib", "3.0")
        moving.publish()
        with pytest.raises(ImageError, match=r"HP-8125.*lib 3\.0"):
            _solved(make_apt(_recipe(moving), "gone"), lock)
    finally:
        moving.close()


def _solved(apt: Apt, lock: Lock | None) -> list[str]:
    if lock:
        apt.prefer((), {package.name: package.version for package in lock.packages})
    apt.update(force=True)
    return _names(deb._solve(apt, lock, "install", "lib", status=NOTHING))


def test_the_same_version_with_other_bytes_is_refused(
    repository: DebRepository, profile: Profile, make_apt: MakeApt, tmp_path: Path
) -> None:
    lock = _locked(repository, profile, tmp_path)
    other = DebRepository(tmp_path / "rebuilt")
    try:
        other.add("lib", "3.0", etc__other="rebuilt\n")
        other.publish()
        with pytest.raises(HostplaneError, match=r"HP-8127.*lib"):
            _solved(make_apt(_recipe(other)), lock)
    finally:
        other.close()
