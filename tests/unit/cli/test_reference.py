"""The committed reference page is what the help says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hostplane.cli.main import VERBS
from hostplane.cli.reference import render

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def test_the_page_is_fresh() -> None:
    """In a process of its own: Click keeps what a command that another test called alone shows of itself."""
    made = subprocess.run([sys.executable, "-m", "hostplane.cli.reference"], capture_output=True, check=True, text=True)
    assert PAGE.read_text("utf-8") == made.stdout, "run: python -m hostplane.cli.reference --write"


def test_the_page_does_not_depend_on_who_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first = render()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("KUBECONFIG", "/somewhere")
    monkeypatch.setenv("HOSTPLANE_LANG", "zh_CN")
    assert render() == first


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_on_it(verb: str) -> None:
    assert f"## `hostplane {verb}`" in render()
