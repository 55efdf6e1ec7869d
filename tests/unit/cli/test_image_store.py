"""`hostplane image build` and `store`: what they refuse before anything is done, and how the store is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostplane.cli.main import main
from hostplane.image.building.keys import Made
from hostplane.image.building.store import Done, Store
from hostplane.image.recipe import StageName


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with one result."""
    store = Store(tmp_path / "store")
    made = Made(stage=StageName.SEAL, code="c", inputs={}, before={})
    where, held = store.begin("0123456789abcdef")
    done = Done(
        key="0123456789abcdef", recipe="r", made=made, at=1.0, seconds=1.0, size=5 << 20, boot=store.boot, initramfs=""
    )
    with held:
        store.finish(where, done)
    return store.path


@pytest.mark.parametrize(
    "words",
    [
        ["prune"],
        ["prune", "--size", "20"],
        ["prune", "--size", "20Q"],
        ["prune", "--age", "soon"],
    ],
)
def test_prune_wants_to_be_told_how_much(path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "store", *words, "--store", str(path)]) == 2
    assert "--" in capsys.readouterr().err
    assert (path / "layers/0123456789abcdef").exists()


def test_what_is_kept_is_listed_and_pruned(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "store", "list", "--store", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["0123456789ab", "r", "seal", "5", "MiB", "just", "now", "-"]
    assert said[-1] == "1 results, 5 MiB"
    assert main(["image", "store", "list", "--json", "--store", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["stage"] == "seal"
    assert main(["image", "store", "prune", "--size", "1G", "--age", "1w", "--store", str(path)]) == 0
    assert capsys.readouterr().out == "removed 0 results, 0 B\n"
    assert main(["image", "store", "prune", "--size", "1M", "--store", str(path)]) == 0
    assert capsys.readouterr().out == "removed 1 results, 5 MiB\n"


def test_a_build_cannot_begin_after_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "build", str(tmp_path / "r.toml"), "--from", "seal", "--until", "files"]) == 2
    assert "--from seal comes after --until files" in capsys.readouterr().err
