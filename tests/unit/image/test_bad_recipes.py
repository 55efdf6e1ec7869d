"""Every rule has a recipe that breaks it: one file each, whose first lines name the line and the sentence expected.

`bad/` is refused with exit code 2, `warned/` passes with a warning; nothing is ever written.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from msgspec import Struct

from hostplane import distros
from hostplane.cli.main import ExitCode, main
from hostplane.errors import RecipeError, catalogue
from hostplane.image.reading import rules
from hostplane.image.reading.read import read_recipe
from hostplane.image.reading.rules import RULES, Case

HERE = Path(__file__).parent
BAD = sorted((HERE / "bad").glob("*.toml"))
WARNED = sorted((HERE / "warned").glob("*.toml"))


class Expected(Struct, frozen=True):
    """What the head of a recipe says about it."""

    line: int
    rule: str
    says: str = ""


def expected(path: Path) -> Expected:
    """The head's `# line:`, `# rule:` and `# says:`."""
    head = [line[2:].split(": ", 1) for line in path.read_text("utf-8").splitlines() if line.startswith("# ")]
    words = dict(head)
    return Expected(int(words["line"]), words["rule"], words.get("says", ""))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory to work in, English, and an environment with just the secrets that recipes name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOSTPLANE_LANG", "en")
    monkeypatch.setenv("HOSTPLANE_TEST_SECRET", "x")
    monkeypatch.setenv("HOSTPLANE_TEST_KEY", str(HERE / "assets" / "p256.pem"))
    monkeypatch.delenv("HOSTPLANE_TEST_UNSET", raising=False)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_recipe_is_refused_with_its_line_and_sentence(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    want = expected(path)
    before = sorted(HERE.rglob("*.toml"))
    assert main(["image", "check", str(path)]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    code = str(catalogue()[want.rule]["code"])
    [line] = [line for line in err.splitlines() if code in line]
    assert f"{path}:{want.line}: " in line
    assert want.says in line
    others = [other for other in err.splitlines() if other.startswith(str(path)) and other != line]
    assert all(": warning: " in other for other in others), others
    assert "hunter2" not in err, "a secret was repeated"
    assert out == ""
    assert list(tmp_path.iterdir()) == []
    assert sorted(HERE.rglob("*.toml")) == before


@pytest.mark.parametrize("path", BAD[::12], ids=lambda path: path.stem)
def test_a_build_of_a_bad_recipe_writes_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOSTPLANE_IMAGE_STORE", str(tmp_path / "store"))
    assert main(["image", "build", str(path), "-o", str(tmp_path / "out")]) == ExitCode.USAGE
    assert f"{path}:{expected(path).line}: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", WARNED, ids=lambda path: path.stem)
def test_an_odd_recipe_passes_with_a_warning(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    want = expected(path)
    assert main(["image", "check", str(path)]) == ExitCode.OK
    _, err = capsys.readouterr()
    [line] = [line for line in err.splitlines() if str(catalogue()[want.rule]["code"]) in line]
    assert line.startswith(f"{path}:{want.line}: warning: ")


@pytest.mark.parametrize("path", [*BAD[::10], *WARNED[::4]], ids=lambda path: path.stem)
def test_json_says_the_same(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    want = expected(path)
    status = main(["image", "check", "--json", str(path)])
    out, _ = capsys.readouterr()
    if not out:  # what could not be read has no findings, only its sentence
        assert want.rule in ("RecipeNotToml", "ProfileUnknown", "IncludeMissing")
        return
    document = json.loads(out)
    assert document["valid"] is (status == ExitCode.OK)
    [finding] = [finding for finding in document["findings"] if finding["name"] == want.rule]
    assert finding["line"] == want.line
    assert finding["level"] == ("error" if path in BAD else "warning")


def test_every_rule_is_broken_by_a_recipe() -> None:
    unbroken = set(RULES)
    for path in (*BAD, *WARNED):
        try:
            loaded = read_recipe(path)
            profile = distros.load(loaded.recipe.distro, loaded.recipe.release, loaded.recipe.arch)
        except RecipeError:
            continue
        case = Case(recipe=loaded.recipe, profile=profile, said=loaded.where.__contains__, environment={})
        unbroken -= {rule for rule in unbroken if any(True for _ in rule(case))}
    assert {rule.__name__ for rule in unbroken} == {"codec_is_installed"}, "the codec is tested in test_check.py"


def test_every_rule_that_is_written_is_in_force() -> None:
    room = Path(rules.__file__).parent
    written = {
        node.name
        for file in room.glob("*.py")
        if file.stem not in ("case", "__init__")
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and ast.unparse(node.args) == "case: Case"
        and not node.name.startswith("_")
    }
    assert {rule.__name__ for rule in RULES} == written - {"backend_of"}
    assert len(RULES) == len(set(RULES)) > 80


def test_there_is_a_recipe_for_each_sentence() -> None:
    covered = {expected(path).rule for path in (*BAD, *WARNED)}
    assert len({expected(path).rule for path in BAD}) >= 40
    room = Path(rules.__file__).parent
    said = {
        node.args[0].value
        for file in room.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reason"
        if isinstance(node.args[0], ast.Constant)
    }
    assert said - covered == {"CodecUnavailable"}
