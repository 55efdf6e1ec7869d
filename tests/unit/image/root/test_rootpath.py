"""A root's links lead inside the root."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.errors import ImageError
from hostplane.image.root.rootpath import within


def test_links_are_followed_inside(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "run/up").symlink_to("../../../../etc")
    (tmp_path / "last").symlink_to("/var/run/x")
    assert within(tmp_path, "/var/run/lock") == tmp_path / "run/lock"
    assert within(tmp_path, "/run/up/passwd") == tmp_path / "etc/passwd"
    assert within(tmp_path, "../../etc/passwd") == tmp_path / "etc/passwd"
    assert within(tmp_path, "/last") == tmp_path / "run/x"
    assert within(tmp_path, "/last", follow=False) == tmp_path / "last"
    assert within(tmp_path, "/not/there/./yet/..//at-all") == tmp_path / "not/there/at-all"
    assert within(tmp_path, "/") == tmp_path


def test_a_circle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ImageError) as caught:
        within(tmp_path, "/a/c")
    assert caught.value.name == "RootPathLoops"
