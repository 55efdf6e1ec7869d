"""Units are enabled by the links their [Install] sections ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostplane.errors import ImageError
from hostplane.image.root.units import disable, enable, mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    library = tmp_path / "usr/lib/systemd/system"
    library.mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    for name, install in {
        "a.service": "WantedBy=multi-user.target rescue.target\nAlias=other.service\nAlso=a.socket\n",
        "a.socket": "WantedBy=sockets.target\n",
        "getty@.service": "WantedBy=getty.target\nDefaultInstance=tty1\n",
        "plain@.service": "RequiredBy=multi-user.target\n",
        "static.service": "",
    }.items():
        (library / name).write_text(f"[Unit]\nWantedBy=nonsense\n[Install]\n# WantedBy=x\n{install}")
    return tmp_path


def links(root: Path) -> dict[str, str]:
    own = root / "etc/systemd/system"
    return {str(path.relative_to(own)): os.readlink(path) for path in own.rglob("*") if path.is_symlink()}


def test_enabling_makes_every_link_that_is_asked_for(root: Path) -> None:
    enable(root, "a.service")
    goal = "/usr/lib/systemd/system/a.service"
    assert links(root) == {
        "multi-user.target.wants/a.service": goal,
        "rescue.target.wants/a.service": goal,
        "other.service": goal,
        "sockets.target.wants/a.socket": "/usr/lib/systemd/system/a.socket",
    }
    enable(root, "a.service")
    disable(root, "a.service")
    assert list(links(root)) == ["sockets.target.wants/a.socket"]


def test_a_template_is_enabled_as_an_instance(root: Path) -> None:
    enable(root, "getty@.service")
    enable(root, "getty@ttyS0.service")
    enable(root, "plain@x.service")
    goal = "/usr/lib/systemd/system/getty@.service"
    assert links(root) == {
        "getty.target.wants/getty@tty1.service": goal,
        "getty.target.wants/getty@ttyS0.service": goal,
        "multi-user.target.requires/plain@x.service": "/usr/lib/systemd/system/plain@.service",
    }
    with pytest.raises(ImageError) as caught:
        enable(root, "plain@.service")
    assert caught.value.name == "UnitInstallsNothing"


def test_a_unit_that_is_not_there_is_an_error(root: Path) -> None:
    for act in (enable, disable):
        with pytest.raises(ImageError) as caught:
            act(root, "missing.service")
        assert caught.value.name == "UnitMissing"
    with pytest.raises(ImageError) as caught:
        enable(root, "static.service")
    assert caught.value.name == "UnitInstallsNothing"


def test_masking_wins_over_what_is_there(root: Path) -> None:
    enable(root, "a.socket")
    mask(root, "a.socket")
    mask(root, "never-there.service")
    assert links(root)["a.socket"] == links(root)["never-there.service"] == "/dev/null"
