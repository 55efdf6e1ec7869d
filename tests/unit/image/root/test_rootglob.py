"""Globs and deletions stay inside the root, whatever its links say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostplane.image.root.rootglob import matches, remove


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in (
        "usr/share/doc/a/x.txt",
        "usr/share/doc/b/y.txt",
        "var/log/one.log",
        "var/log/deep/two.log",
        "run/keep",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("12345")
    (root / "lib").symlink_to("usr/share")
    (root / "var/run").symlink_to("/run")
    (root / "out").symlink_to("../../..")
    return root


def _names(root: Path, pattern: str) -> list[str]:
    return [str(path.relative_to(root)) for path in matches(root, pattern)]


def test_patterns_match_as_in_a_shell(root: Path) -> None:
    assert _names(root, "/usr/share/doc/*/*.txt") == ["usr/share/doc/a/x.txt", "usr/share/doc/b/y.txt"]
    assert _names(root, "/var/log/**/*.log") == ["var/log/deep/two.log", "var/log/one.log"]
    assert _names(root, "var/log/on[ea].log") == ["var/log/one.log"]
    assert _names(root, "/nothing/*") == _names(root, "/var/log/one.log/x") == []


def test_the_root_itself_is_never_a_match(root: Path) -> None:
    assert _names(root, "/") == _names(root, "") == _names(root, "/..") == []


def test_links_on_the_way_are_followed_inside_the_root_only(root: Path, tmp_path: Path) -> None:
    (tmp_path / "root-outside").write_text("outside")
    assert _names(root, "/lib/doc/a/*") == ["usr/share/doc/a/x.txt"]
    assert _names(root, "/var/run/keep") == ["run/keep"]
    for path in matches(root, "/out/*"):
        assert path.is_relative_to(root)


def test_a_link_at_the_end_is_itself_the_match(root: Path) -> None:
    assert _names(root, "/var/run") == ["var/run"]
    assert remove(root / "var/run") == 4
    assert (root / "run/keep").exists()


def test_removing_tells_what_it_freed(root: Path) -> None:
    os.link(root / "usr/share/doc/a/x.txt", root / "other")
    assert remove(root / "usr/share/doc") == 5, "a file with another name is not freed"
    assert not (root / "usr/share/doc").exists()
    assert remove(root / "usr/share/doc") == 0
