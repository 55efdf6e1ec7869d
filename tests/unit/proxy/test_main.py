"""The proxy's process: how it starts, what it refuses to start without, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: x
contexts: [{name: x, context: {cluster: x, user: x}}]
clusters: [{name: x, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: x, user: {token: t}}]
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    return str(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly_even_without_an_api_server(kubeconfig: str, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "hostplane.cli", "proxy", "--node", "n1", "--kubeconfig", kubeconfig]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "watch_failed" in line:
                    break
            process.send_signal(number)
            rest = process.stderr.read()
            assert process.wait(10) == 0, rest
            assert "proxy_stopped" in rest
            assert "Traceback" not in rest
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [([], 2, "--node"), (["--node", "n1", "--kubeconfig", "/nowhere/config"], 3, "HP-3004")],
    ids=["no node", "no kubeconfig"],
)
def test_what_it_cannot_start_without_is_said_and_not_waited_for(arguments: list[str], code: int, told: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("NODE_NAME", "KUBECONFIG")}
    command = [sys.executable, "-m", "hostplane.cli", "proxy", *arguments]
    ended = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=20)
    assert (ended.returncode, told in ended.stderr) == (code, True), ended.stderr
