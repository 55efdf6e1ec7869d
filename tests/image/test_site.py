"""Evidence from a mirror: what was asked, what is there, and which indexes said so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hostplane.distros import load
from hostplane.errors import ImageError, RecipeError
from hostplane.image.building.process import Runner
from hostplane.image.packages import site
from hostplane.image.recipe import Backend, Packages, Recipe, Repository
from tests.image.rpm_distro import RELEASE, RpmDistro, small_repository, write_distro_file

DATE = "2026-01-02T03:04:05Z"


@pytest.fixture(scope="module")
def distro() -> RpmDistro:
    return small_repository()


def _look(tmp_path: Path, packages: Packages) -> site.Evidence:
    recipe = Recipe(name="stand-in", version="1", distro="openEuler", release=RELEASE, packages=packages)
    profile = load("openEuler", RELEASE, "x86_64", extra=[write_distro_file(tmp_path / "distros")])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (tmp_path / "log").open("ab", buffering=0) as log:
        run = Runner(scratch, log, tmp_path / "log")
        return site.look(recipe, profile, cache=tmp_path / "cache", scratch=scratch, run=run, date=DATE)


def _repository(distro: RpmDistro, url: Path | None = None) -> Repository:
    return Repository(name="mirror", url=str(url or distro.repository), key=str(distro.key))


def test_a_good_mirror_has_everything_and_its_index_is_named_by_digest(distro: RpmDistro, tmp_path: Path) -> None:
    evidence = _look(tmp_path, Packages(repositories=(_repository(distro),), include=("hello",)))
    assert evidence.is_good
    assert evidence.date == DATE
    index = distro.repository / "repodata/repomd.xml"
    assert [each.sha256 for each in evidence.indexes] == [hashlib.sha256(index.read_bytes()).hexdigest()]
    assert ("hello", "1:2.0-1", "noarch") in {(each.name, each.version, each.arch) for each in evidence.resolved}
    assert {each.name for each in evidence.asked} >= {"hello", "kernel", "filesystem", "coreutils"}
    assert not list((tmp_path / "cache").rglob("*.rpm")), "nothing is downloaded but indexes"


def test_what_a_mirror_lacks_is_named_and_the_rest_is_still_asked_for(distro: RpmDistro, tmp_path: Path) -> None:
    evidence = _look(tmp_path, Packages(repositories=(_repository(distro),), include=("hello", "absent")))
    assert not evidence.is_good
    assert [each.name for each in evidence.asked if not each.found] == ["absent"]
    assert "hello" in {each.name for each in evidence.resolved}


def test_packages_that_do_not_fit_are_a_problem_and_not_an_error(distro: RpmDistro, tmp_path: Path) -> None:
    evidence = _look(tmp_path, Packages(repositories=(_repository(distro),), include=("needy",)))
    assert not evidence.is_good
    assert "nothing provides absent" in str(evidence.problem)


def test_a_mirror_that_does_not_answer_is_an_error(distro: RpmDistro, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        _look(tmp_path, Packages(repositories=(_repository(distro, tmp_path),)))
    assert caught.value.name == "RepositoryUnreachable"


def test_a_root_from_no_repository_has_nobody_to_ask(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        _look(tmp_path, Packages(backend=Backend.TREE, source=str(tmp_path)))
    assert caught.value.name == "SiteNothingToAsk"


def test_the_evidence_is_one_document(distro: RpmDistro, tmp_path: Path) -> None:
    evidence = _look(tmp_path, Packages(repositories=(_repository(distro),)))
    path = site.beside(tmp_path / "recipe.toml")
    site.write(evidence, path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "recipe.site.json"
    assert document["schema"] == 1
    assert (document["distro"], document["release"], document["backend"]) == ("openEuler", RELEASE, "dnf")


def test_debian_is_asked_through_apt_and_each_suite_is_named(tmp_path: Path) -> None:
    recipe = Recipe(name="stand-in", version="1", distro="debian", release="12", packages=Packages(include=("absent",)))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (tmp_path / "log").open("ab", buffering=0) as log:
        run = Runner(scratch, log, tmp_path / "log")
        profile = load("debian", "12", "x86_64")
        evidence = site.look(recipe, profile, cache=tmp_path / "cache", scratch=scratch, run=run, date=DATE)
    assert [each.name for each in evidence.asked if not each.found] == ["absent"]
    assert {"systemd", "containerd", "linux-image-amd64"} <= {each.name for each in evidence.resolved}
    assert "dists/bookworm/" in {each.file.rpartition("/")[0] + "/" for each in evidence.indexes}
    assert len({(each.url, each.file) for each in evidence.indexes}) == len(evidence.indexes)
