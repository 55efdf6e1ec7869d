"""An ordinary user builds the same, without a right on the machine, and can remove what was built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.image.ordinary import ROOT, ordinary_user
from tests.image.tiny import Tiny

OWNERS = """
[[file]]
path = "/etc/owned"
content = "x"
owner = "77"
group = "88"
mode = "4750"
[[script]]
name = "inside"
content = "id -u > /etc/me; chown 5:6 /etc/me; rm /etc/gone"
[[script]]
name = "gone"
stage = "packages"
content = "echo x > /etc/gone"
"""
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="makes the user it runs as; as a user all other tests are this"
)


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    with ordinary_user() as name:
        yield name


@pytest.fixture
def tiny(user: str) -> Iterator[Tiny]:
    """As the one beside, where the user may enter."""
    here = Path(mkdtemp(prefix="hostplane-rootless-", dir="/var/tmp"))
    here.chmod(0o755)
    yield Tiny(here)
    shutil.rmtree(here)


def run(tiny: Tiny, user: str, *words: str) -> str:
    """A subcommand of `image`, as the user."""
    subprocess.run(["chown", "-R", f"{user}:", str(tiny.here)], check=True)
    become = [sys.executable, "-m", "tests.image.ordinary", user]
    command = [*become, sys.executable, "-P", "-m", "hostplane.cli", "image", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_owners_and_modes_are_those_of_the_recipe_and_the_store_can_be_emptied(tiny: Tiny, user: str) -> None:
    tiny.write(OWNERS)
    build = tiny.command()[4:]
    last = json.loads(run(tiny, user, *build).splitlines()[-1])
    assert [row["how"] for row in last["stages"]] == ["made"] * 8
    tar = next(output["path"] for output in last["outputs"] if output["path"].endswith(".tar"))
    listed = subprocess.run(["tar", "--numeric-owner", "-tvf", tar], capture_output=True, text=True, check=True).stdout
    rows = {line.split()[-1].lstrip("./"): line.split()[:2] for line in listed.splitlines()}
    assert rows["etc/owned"] == ["-rwsr-x---", "77/88"]
    assert rows["etc/me"] == ["-rw-r--r--", "5/6"]
    assert "etc/gone" not in rows
    last = json.loads(run(tiny, user, *build).splitlines()[-1])
    assert {row["how"] for row in last["stages"]} == {"cached"}
    run(tiny, user, "store", "prune", "--all", "--store", str(tiny.store))
    assert list((tiny.store / "layers").iterdir()) == []
    assert list((tiny.store / "tmp").iterdir()) == []


def test_the_same_recipe_gives_root_and_user_the_same_bytes(tiny: Tiny, user: str) -> None:
    tiny.write(OWNERS)
    run(tiny, user, *tiny.command()[4:])
    mine = Tiny(tiny.here / "as-root")
    mine.write(OWNERS)
    mine.build()
    files = sorted(path.relative_to(mine.out) for path in mine.out.rglob("*.tar"))
    assert files
    for name in files:
        assert (tiny.out / name).read_bytes() == (mine.out / name).read_bytes(), name


def test_a_user_without_subordinate_ids_is_told_how_to_get_some(tiny: Tiny) -> None:
    with pytest.raises(AssertionError, match=r"HP-8090.*no range of 65536 subordinate ids"):
        run(tiny, "nobody", *tiny.command()[4:])


def test_another_ones_store_is_refused(tiny: Tiny, user: str) -> None:
    tiny.store.mkdir()
    subprocess.run(["chmod", "0777", str(tiny.here)], check=True)
    (tiny.store / "layers").mkdir()
    subprocess.run(["chown", "-R", f"{user}:", str(tiny.here)], check=True)
    done = subprocess.run(tiny.command(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "HP-8092" in done.stderr
