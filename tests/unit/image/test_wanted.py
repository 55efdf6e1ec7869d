"""Which packages deb and dnf are asked for."""

from __future__ import annotations

import pytest
from msgspec import convert

from hostplane import distros
from hostplane.image.backends import wanted
from hostplane.image.recipe import Recipe


def _recipe(distro: str, release: str, **more: object) -> Recipe:
    return convert({"name": "node", "version": "1", "distro": distro, "release": release, **more}, Recipe)


@pytest.mark.parametrize(("distro", "release"), [("debian", "12"), ("centos", "7"), ("openEuler", "24.03-LTS")])
def test_a_sealed_root_gets_the_program_that_opens_it(distro: str, release: str) -> None:
    profile = distros.load(distro, release, "x86_64")
    plain = wanted(_recipe(distro, release), profile)
    sealed = wanted(_recipe(distro, release, disk={"verity": True, "fs": "erofs"}), profile)
    assert profile.verity_packages
    assert set(sealed) - set(plain) == set(profile.verity_packages)


@pytest.mark.parametrize(("distro", "release"), [("debian", "12"), ("centos", "7"), ("openEuler", "24.03-LTS")])
def test_an_xfs_persist_gets_the_program_that_grows_it(distro: str, release: str) -> None:
    profile = distros.load(distro, release, "x86_64")
    bare: dict[str, object] = {"packages": {"defaults": False}}
    plain = wanted(_recipe(distro, release, **bare), profile)
    grown = wanted(_recipe(distro, release, disk={"persist_fs": "xfs"}, **bare), profile)
    assert profile.xfs_packages
    assert set(grown) - set(plain) == set(profile.xfs_packages)


def test_what_is_excluded_is_not_asked_for_whoever_wants_it() -> None:
    profile = distros.load("debian", "12", "x86_64")
    recipe = _recipe("debian", "12", packages={"include": ["tmux"], "exclude": ["tmux", "openssh-server"]})
    assert not {"tmux", "openssh-server"} & set(wanted(recipe, profile))


def test_without_defaults_and_kernel_only_what_is_named_is_asked_for() -> None:
    profile = distros.load("debian", "12", "x86_64")
    recipe = _recipe("debian", "12", packages={"include": ["tmux"], "defaults": False, "kernel": False})
    assert wanted(recipe, profile) == ["tmux"]
