"""The demo's recipes are recipes that anybody's build takes, and only the last version has the flaw."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.image.bundle import trust
from hostplane.image.reading.check import check
from hostplane.image.recipe import Output, Recipe
from hostplane.local.vmimages import BROKEN, RELEASES, demo_keys, recipe_text


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def recipe(name: str, directory: Path, previous: Path | None = None) -> Recipe:
    kubelet = directory / "kubelet"
    kubelet.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00" + bytes(40))
    proxy = directory / "a proxy"
    proxy.mkdir(exist_ok=True)
    path = directory / f"{name}.toml"
    key, trusted = demo_keys()
    text = recipe_text(name, kubelet=kubelet, proxy=proxy, key=key, trusted=trusted, previous=previous)
    path.write_text(text)
    return check(path).recipe


@pytest.mark.parametrize("name", RELEASES)
def test_each_version_is_a_recipe_without_errors(name: str, tmp_path: Path) -> None:
    made = recipe(name, tmp_path)
    assert (made.name, made.version, made.distro) == ("vm-node", RELEASES[name], "debian")
    assert (made.signing.key, made.signing.trusted_keys) == tuple(map(str, demo_keys()))
    assert any(file.source == str(tmp_path / "a proxy") for file in made.file)
    says = next(file.content for file in made.file if file.path == "/usr/lib/os-release")
    assert f'IMAGE_VERSION="{RELEASES[name]}"' in (says or "")


def test_only_the_first_has_a_disk_and_only_later_ones_a_bundle_before_them(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    first, later = recipe("v1", tmp_path), recipe("v2", tmp_path, tmp_path)
    assert (first.image.outputs, first.image.previous) == ((Output.RAW, Output.BUNDLE), None)
    assert (later.image.outputs, later.image.previous) == ((Output.BUNDLE,), str(tmp_path))


@pytest.mark.parametrize("name", RELEASES)
def test_only_the_broken_one_has_a_kubelet_that_cannot_start(name: str, tmp_path: Path) -> None:
    has_flaw = any("does-not-know" in (file.content or "") for file in recipe(name, tmp_path).file)
    assert has_flaw is (name == BROKEN)


def test_no_secret_is_in_a_recipe(tmp_path: Path) -> None:
    made = recipe("v1", tmp_path)
    assert not any(user.password_hash or user.ssh_keys for user in made.user)
    assert not any(file.path.startswith("/etc/kubernetes") for file in made.file)


def test_keys_are_made_once_and_trust_themselves(tmp_path: Path) -> None:
    key, trusted = demo_keys()
    before = key.read_bytes(), trusted.read_bytes()
    assert [key.id for key in trust.trusted(trusted).keys.values()] == ["demo"]
    assert demo_keys() == (key, trusted)
    assert (key.read_bytes(), trusted.read_bytes()) == before
    assert key.stat().st_mode & 0o77 == 0


def test_keys_whose_making_was_cut_short_are_made_again(tmp_path: Path) -> None:
    key, trusted = demo_keys()
    before = key.read_bytes()
    trusted.unlink()
    assert demo_keys()[0].read_bytes() != before
