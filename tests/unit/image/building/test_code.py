"""A stage's program is what it imports, found without importing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.image.building import code
from hostplane.image.building.code import code_version
from hostplane.image.recipe import StageName


@pytest.mark.parametrize("stage", list(StageName))
def test_every_stage_has_a_version(stage: StageName) -> None:
    assert len(code_version(f"hostplane.image.stages.{stage.value}")) == 64


def test_imports_inside_functions_and_over_several_lines_count() -> None:
    source = b"""
from hostplane.image.boot import (
    one,
    two,
)
def f():
    from hostplane.agent import gpt
    import hostplane.image.late
"""
    found = code._imports(source)
    assert {"hostplane.image.boot", "hostplane.image.boot.two", "hostplane.agent.gpt", "hostplane.image.late"} <= {
        *found
    }


def test_an_edit_of_an_imported_module_changes_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image/a.py").write_text("from hostplane.image import b, recipe\n")
    (tmp_path / "image/b.py").write_text("import hostplane.image.a\n")
    (tmp_path / "image/recipe.py").write_text("1\n")
    monkeypatch.setattr(code, "_TOP", tmp_path)
    seen = []
    for name, text in (("b", "import hostplane.image.a\n"), ("b", "x = 1\n"), ("recipe", "2\n")):
        (tmp_path / f"image/{name}.py").write_text(text)
        code_version.cache_clear()
        seen.append(code_version("hostplane.image.a"))
    code_version.cache_clear()
    assert seen[0] != seen[1]
    assert seen[1] == seen[2], "what all stages share decides no result"


def test_a_data_file_that_a_module_names_is_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image/data/grub").mkdir(parents=True)
    (tmp_path / "image/a.py").write_text('open("data/grub/grub.cfg")\n')
    monkeypatch.setattr(code, "_TOP", tmp_path)
    seen = set()
    for text in ("one", "two"):
        (tmp_path / "image/data/grub/grub.cfg").write_text(text)
        code_version.cache_clear()
        seen.add(code_version("hostplane.image.a"))
    code_version.cache_clear()
    assert len(seen) == 2
