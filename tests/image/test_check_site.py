"""`hostplane image check --site` asks real repositories, and writes down what they said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostplane.cli.main import ExitCode, main
from tests.image.rpm_distro import RELEASE, RpmDistro, small_repository, write_distro_file

RECIPE = """
name = "asked"
version = "1"
distro = "openEuler"
release = "{release}"
[packages]
include = {include}
[[packages.repositories]]
name = "mirror"
url = "{url}"
key = "{key}"
"""


@pytest.fixture(scope="module")
def distro() -> RpmDistro:
    return small_repository()


def _recipe(tmp_path: Path, distro: RpmDistro, include: list[str]) -> Path:
    write_distro_file(tmp_path / "distros")
    path = tmp_path / "recipe.toml"
    words = {"release": RELEASE, "include": json.dumps(include), "url": distro.repository, "key": distro.key}
    path.write_text(RECIPE.format(**words), "utf-8")
    return path


def test_what_is_there_is_written_down_beside_the_recipe(
    distro: RpmDistro, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _recipe(tmp_path, distro, ["hello"])
    assert main(["image", "check", str(path), "--site", "--json", "--store", str(tmp_path / "store")]) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert document["valid"]
    assert document["site"] == {"file": str(tmp_path / "recipe.site.json"), "good": True}
    evidence = json.loads((tmp_path / "recipe.site.json").read_text("utf-8"))
    assert "hello" in {each["name"] for each in evidence["resolved"]}


def test_what_is_lacking_is_named_and_fails(
    distro: RpmDistro, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTPLANE_LANG", "en")
    path = _recipe(tmp_path, distro, ["hello", "absent"])
    assert main(["image", "check", str(path), "--site", "--store", str(tmp_path / "store")]) == ExitCode.FAILED
    assert "lack what the recipe asks for: absent." in capsys.readouterr().err
    assert (tmp_path / "recipe.site.json").is_file()
