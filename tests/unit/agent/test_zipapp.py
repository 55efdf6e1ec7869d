"""The agent as it is shipped, under the oldest and the newest interpreter there is here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hostplane import __version__
from hostplane.image.root.agentapp import build_agent


def interpreters() -> list[str]:
    """Python 3.6 and the newest, from PATH and from the version manager's directory where there is one."""
    found = {f"3.{sys.version_info.minor}": sys.executable}
    for minor in range(6, 20):
        path = shutil.which(f"python3.{minor}")
        home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        installed = sorted(home.glob(f"3.{minor}.*/bin/python"))
        if installed:
            found[f"3.{minor}"] = str(installed[-1])
        elif path is not None and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found[f"3.{minor}"] = path
    order = sorted(found, key=lambda name: int(name[2:]))
    return [found[name] for name in dict.fromkeys((order[0], order[-1]))]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_agent(tmp_path_factory.mktemp("app") / "hostplane-agent.pyz")


def test_the_same_sources_give_the_same_bytes(app: Path, tmp_path: Path) -> None:
    assert build_agent(tmp_path / "again.pyz").read_bytes() == app.read_bytes()


@pytest.mark.parametrize("python", interpreters())
def test_it_says_its_version(app: Path, python: str) -> None:
    done = subprocess.run([python, "-I", app, "--version"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"hostplane-agent {__version__}\n"


@pytest.mark.parametrize("python", interpreters())
def test_it_upgrades_a_host_and_edits_its_settings(host: Any, web: Any, app: Path, python: str, tmp_path: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\nexec {python} -I {app} "$@"\n')
    launcher.chmod(0o755)
    kubelet = host.write("var/lib/kubelet/config.yaml", "# kept\na: 1\n")
    containerd = host.write("etc/containerd/config.toml", "# kept\nversion = 2\n")
    configs = [
        {"model": "kubernetes.kubelet", "contents": [{"key": "a", "value": 2}]},
        {"model": "container.containerd", "contents": [{"key": "debug.level", "value": "info"}]},
    ]
    web.serve(host.NEW)
    process = host.start(python=str(launcher))
    with host.client() as client:
        assert host.staged(client, host.image_of(host.NEW, web.url))["phase"] == "Staged"
        status = client.call("configure", seq=1, settings={"version": "s1", "configs": configs})
        assert status["settings"] == {"version": "s1", "error": ""}
        client.call("switch", seq=2, operation="upgrade", digest=host.image["digest"], trialSeconds=60)
    assert kubelet.read_text() == "# kept\na: 2\n"
    assert containerd.read_text() == '# kept\nversion = 2\n\n[debug]\nlevel = "info"\n'
    assert host.restarted(process) == "B"
    process = host.start(python=str(launcher))
    with host.client() as client:
        host.until(client, lambda status: status["phase"] == "Trial")
        digest = host.image["digest"]
        assert client.call("status")["slots"]["B"]["digest"] == digest
    process.terminate()
    assert process.wait(host.DEADLINE) == 0
