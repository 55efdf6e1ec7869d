"""The agent of an image starts compiled, from the same file, with the same bytes each time, and under any Python."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hostplane.errors import ImageError
from hostplane.image.root import precompiled
from hostplane.image.root.agentapp import build_agent
from hostplane.image.stage import Work
from tests.unit.image.root.test_hostfiles import work_for

AGENT = "usr/lib/hostplane/agent.pyz"


def compiling(root: Path) -> Work:
    """Work whose Python is the one that runs this test, outside any root."""

    def run(argv: Sequence[str], *, chroot: bool, stdin: bytes) -> bytes:
        assert (argv[0], argv[-1], chroot) == ("python3", f"/{AGENT}", True)
        command = [sys.executable, *argv[1:-1], str(root / AGENT)]
        return subprocess.run(command, input=stdin, check=True, capture_output=True, timeout=60).stdout

    return msgspec.structs.replace(work_for(root), run=run)  # type: ignore[arg-type]  # what this one caller asks for


def _without(names: set[str], agent: Path) -> Path:
    """A copy of `agent` that lacks these members."""
    copy = agent.with_name("compiled.pyz")
    with zipfile.ZipFile(agent) as whole, zipfile.ZipFile(copy, "w") as less:
        for name in set(whole.namelist()) - names:
            less.writestr(name, whole.read(name))
    return copy


def test_modules_are_compiled_and_found(tmp_path: Path) -> None:
    agent = build_agent(tmp_path / AGENT)
    precompiled.compile_agent(compiling(tmp_path))
    names = zipfile.ZipFile(agent).namelist()
    sources = {name for name in names if name.startswith("hostplane/") and name.endswith(".py")}
    assert {name[:-1] for name in names if name.endswith(".pyc")} == sources
    command = [sys.executable, _without(sources, agent), "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith("hostplane-agent ")
    assert agent.stat().st_mode & 0o777 == 0o755


def test_the_same_agent_gives_the_same_bytes_and_twice_changes_nothing(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        build_agent(root / AGENT)
        precompiled.compile_agent(compiling(root))
    precompiled.compile_agent(compiling(two))
    assert (one / AGENT).read_bytes() == (two / AGENT).read_bytes()


def test_a_root_whose_python_does_not_run_here_keeps_its_agent_as_it_is(tmp_path: Path) -> None:
    agent = build_agent(tmp_path / AGENT)
    before = agent.read_bytes()

    def refuse(*_: object, **__: object) -> bytes:
        raise ImageError("ToolNotRun", tool="python3", error="Exec format error")

    said: list[str] = []
    precompiled.compile_agent(msgspec.structs.replace(work_for(tmp_path), run=refuse, log=said.append))
    assert agent.read_bytes() == before
    assert "uncompiled" in said[0]


def test_a_root_without_an_agent_is_left_alone(tmp_path: Path) -> None:
    precompiled.compile_agent(work_for(tmp_path))
    assert list(tmp_path.iterdir()) == []
