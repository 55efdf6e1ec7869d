"""`hostplane demo --vm` as a user runs it: real Nodes take v2, the first to try v3 returns, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.vm.guest import TEST_SECONDS

MACHINES = 2
SECONDS = 3 * TEST_SECONDS
COMMAND = [sys.executable, "-m", "hostplane.cli", "demo", "--json", "--vm", str(MACHINES)]


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path, for unix sockets below it, that does not exist yet."""
    return tmp_path_factory.mktemp("vmdemo") / "d"


def assert_nothing_is_left(directory: Path) -> None:
    assert not directory.exists()
    left = [
        p.info["cmdline"]
        for p in psutil.process_iter(["cmdline"])
        if str(directory) in " ".join(p.info["cmdline"] or [])
    ]
    assert left == []


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 60)
def test_all_take_v2_and_the_first_to_try_v3_returns(directory: Path) -> None:
    environment = {**os.environ, "HOSTPLANE_LANG": "en"}
    command = [*COMMAND, "--dir", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["hosts"], summary["upgraded"], summary["returned"]) == (MACHINES, MACHINES, 1)
    assert summary["max_unavailable_seen"] == summary["budget"] == 1
    (returned,) = summary["returned_hosts"]
    assert returned["name"] == "CheckFailed"
    assert "kubelet" in returned["message"]
    assert 0 < summary["sent_bytes"]["v2"] < MACHINES * summary["bundle_bytes"]["v2"] / 4
    assert_nothing_is_left(directory)


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 60)
def test_an_interrupt_leaves_nothing(directory: Path) -> None:
    command = [*COMMAND, "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        said = next((line for line in demo.stderr if " vm-1 " in line), "")  # the test's own time-out bounds it
        assert said
        assert (directory / "machines" / "vm-1.console.log").exists()
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert_nothing_is_left(directory)
