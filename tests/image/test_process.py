"""Programs are called with a list, a clean environment and a limit to everything."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hostplane.errors import ImageError
from hostplane.image.building.process import Redactor, Runner
from tests.image.tiny import until


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def run(tmp_path: Path, log: Path) -> Iterator[Runner]:
    with log.open("wb", buffering=0) as stream:
        yield Runner(tmp_path, stream, log, environment={"ALWAYS": "1"}, redact=Redactor(["s3cret", "multi\nlines"]))


def test_output_is_given_back_as_it_is_and_logged_without_secrets(run: Runner, log: Path) -> None:
    said = run(["sh", "-c", "echo s3cret; echo https://me:pass@host/x >&2; echo lines"], network=True)
    assert said == b"s3cret\nlines\n"
    text = log.read_text()
    assert "s3cret" not in text
    assert "https://***@host/x" in text
    assert text.splitlines()[0].startswith("$ sh -c 'echo ***")


def test_nothing_of_the_callers_environment_is_passed_on(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "x")
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    names = {line.split("=")[0] for line in run(["env"], network=True, env={"YOURS": "y"}).decode().splitlines()}
    assert names == {"PATH", "LC_ALL", "ALWAYS", "YOURS", "https_proxy"}


def test_input_is_fed_while_output_is_read(run: Runner) -> None:
    assert len(run(["cat"], stdin=b"x" * 5_000_000, network=True)) == 5_000_000
    assert run(["true"], stdin=b"x" * 5_000_000, network=True) == b""


def test_a_failure_carries_the_last_lines(run: Runner, log: Path) -> None:
    with pytest.raises(ImageError) as caught:
        run(["sh", "-c", "seq 100; echo at last >&2; exit 4"], network=True)
    params = caught.value.reason.params
    assert (caught.value.name, params["status"], params["log"]) == ("ToolFailed", "exit code 4", log)
    assert isinstance(params["tail"], list)
    assert len(params["tail"]) == 12
    assert "at last" in params["tail"]


def test_a_program_that_is_not_there_is_named_with_the_line_that_installs_it(run: Runner) -> None:
    with pytest.raises(ImageError, match="newuidmap-not-here") as caught:
        run(["newuidmap-not-here"], network=True)
    assert caught.value.name == "ToolMissing"
    assert "install" in caught.value.remedy


def test_time_is_limited_also_for_a_program_that_never_stops_talking(run: Runner) -> None:
    for script in ("sleep 60", "while :; do echo x >&2; sleep 0.01; done", "trap '' TERM; sleep 60"):
        began = time.monotonic()
        with pytest.raises(ImageError) as caught:
            run(["sh", "-c", script], timeout=0.3, network=True)
        assert caught.value.name == "ToolTimeout"
        assert time.monotonic() - began < 5


def _is_gone(pid: int) -> bool:
    """A killed process is there until it has been scheduled once more."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def test_what_a_program_leaves_running_does_not_hold_the_build_and_is_ended(run: Runner) -> None:
    began = time.monotonic()
    pid = int(run(["sh", "-c", "sleep 60 & echo $!"], network=True))
    assert time.monotonic() - began < 5
    until(lambda: _is_gone(pid), "what the program left is still there")


def test_output_without_an_end_is_refused_and_memory_stays_bounded(run: Runner) -> None:
    with pytest.raises(ImageError) as caught:
        run(["sh", "-c", "exec head -c 70000000 /dev/zero"], network=True)
    assert caught.value.name == "ToolTooTalkative"


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of one's own wants a right that builds have")
def test_there_is_no_network_unless_asked_for(run: Runner) -> None:
    lines = run(["cat", "/proc/self/net/dev"]).decode().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
