"""A lock is read as it was written, names no host, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.errors import RecipeError
from hostplane.image.backends import Lock, Locked
from hostplane.image.packages import lock

LOCK = Lock(
    distro="debian",
    release="12",
    arch="x86_64",
    backend="deb",
    epoch=1717200000,
    packages=(
        Locked(name="bash", version="1:5.2-1", arch="amd64", sha256="ab" * 32),
        Locked(name="kernel", version="6", arch="x86_64", location='Packages/k"1.rpm', repository="os"),
    ),
)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "recipe.lock"
    lock.write(LOCK, path)
    assert lock.read(path) == LOCK
    text = path.read_text()
    assert text.startswith("# Written by `hostplane image lock`")
    assert "schema = 1\n" in text
    assert sum(line.startswith("  { name = ") for line in text.splitlines()) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["recipe.lock"]


@pytest.mark.parametrize("text", ["not toml [", 'distro = "debian"\n', ""])
def test_a_broken_lock_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.lock"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"HP-8128.*recipe\.lock"):
        lock.read(path)
    with pytest.raises(RecipeError, match="HP-8128"):
        lock.read(tmp_path / "missing.lock")


def test_the_lock_lies_beside_its_recipe() -> None:
    assert lock.beside(Path("a/recipe.toml")) == Path("a/recipe.lock")


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "recipe.lock"
    assert lock.digest(None) == lock.digest(str(path)) == ""
    path.write_text("one")
    first = lock.digest(str(path))
    path.write_text("two")
    assert first != lock.digest(str(path)) != ""
