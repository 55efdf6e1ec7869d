"""Every example passes the check; the two that need a user's own material pass once it is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from hostplane.image.reading.check import check

EXAMPLES = Path(__file__).parents[3] / "examples"
RECIPES = sorted(path.parent.name for path in EXAMPLES.glob("*/recipe.toml"))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl you@example"


def test_every_distribution_of_the_issue_has_an_example() -> None:
    wanted = {"debian-12", "openeuler-24.03", "openeuler-22.03", "centos-stream-9", "centos-7", "kylin-v10", "bclinux"}
    wanted |= {"rocky-9", "alma-9", "anolis-8", "ubuntu-24.04", "ubuntu-22.04", "tree", "rpms"}
    assert wanted <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_an_example_passes_the_check(name: str, tmp_path: Path) -> None:
    here = tmp_path / name
    shutil.copytree(EXAMPLES / name, here)
    if name == "tree":
        (here / "node-image").mkdir()
    if name == "rpms":
        (here / "packages-24.03").mkdir()
        (here / "packages-24.03/bash-5.2-1.x86_64.rpm").touch()
        (here / "packages-24.03/RPM-GPG-KEY-openEuler").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "utf-8")
    checked = check(here / "recipe.toml", [f"user.0.ssh_keys+={KEY}"])
    assert {each.reason.name for each in checked.warnings} <= {"RecipeUnsigned"}


@pytest.mark.parametrize("name", RECIPES)
def test_an_example_holds_no_secret(name: str) -> None:
    text = (EXAMPLES / name / "recipe.toml").read_text("utf-8")
    assert not re.search(r"^\s*password_hash|PRIVATE KEY|\$6\$", text, re.MULTILINE)


def test_the_commented_repositories_of_an_example_can_be_taken_into_use() -> None:
    for name in RECIPES:
        text = (EXAMPLES / name / "recipe.toml").read_text("utf-8")
        after = text[text.find("# [[packages.repositories]]") :] if "# [[packages.repositories]]" in text else ""
        assert not re.search(r"^(include|exclude|lock) = ", after.partition("\n[disk]")[0], re.MULTILINE), name
