"""The house rules, as tests: one command is the whole gate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_FILE_LINES = 500


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    _run(str(BIN / "ruff"), "check", "--quiet", ".")


def test_code_is_formatted() -> None:
    _run(str(BIN / "ruff"), "format", "--check", "--quiet", ".")


def test_types_hold() -> None:
    _run(str(BIN / "mypy"))


def test_rooms_keep_their_layers() -> None:
    _run(str(BIN / "lint-imports"))


def test_host_rooms_need_no_newer_python_than_3_6() -> None:
    host = ["src/hostplane/agent", "src/hostplane/rpc", "src/hostplane/errors.py", "src/hostplane/__init__.py"]
    _run(str(BIN / "vermin"), "--no-tips", "--eval-annotations", "-t=3.6-", "--violations", *host)


@pytest.mark.parametrize("room", ["src", "tests", "bench"])
def test_no_file_is_too_long_for_one_sitting(room: str) -> None:
    long = {str(p.relative_to(ROOT)): n for p in (ROOT / room).rglob("*.py") if (n := _lines(p)) > _FILE_LINES}
    assert not long


def _lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def test_no_registry_host_and_no_machine_path_is_in_the_tree() -> None:
    """Names of package registries and paths of one machine do not belong into a public tree."""
    words = ["py" + "pi.org", "python" + "hosted.org", "proxy.golang" + ".org", "deb.deb" + "ian.org", "/work" + "/"]
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=30, check=True)
    for name in filter(None, tracked.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file():
            text = path.read_text("utf-8", "replace")
            assert not [word for word in words if word in text], name
