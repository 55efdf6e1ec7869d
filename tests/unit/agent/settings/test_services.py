"""What the service manager is told, and what services are asked afterwards; systemctl is a script that takes notes."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.hostroot import HostRoot
from hostplane.agent.settings import reactions
from hostplane.agent.settings.reactions import Services
from hostplane.errors import HostError

SYSTEMCTL = """#!/bin/sh
# Answers from files beside it: DIR/VERB.UNIT holds the words and the status of the answer.
shift  # --no-ask-password
echo "$*" >>"$0.log"
for unit; do :; done
if [ -e "$0.$1.$unit" ]; then . "$0.$1.$unit"; exit "$status"; fi
"""


class Manager:
    """A host whose service manager is the script."""

    def __init__(self, directory: Path) -> None:
        self.script = directory / "systemctl"
        self.script.write_text(SYSTEMCTL)
        self.script.chmod(0o755)
        self.root = directory / "host"
        self.root.mkdir()
        self.services = Services(HostRoot(str(self.root)))
        self.services._is_real = True

    def answers(self, verb: str, unit: str, words: str = "", status: int = 0) -> None:
        Path(f"{self.script}.{verb}.{unit}").write_text(f"echo '{words}'\nstatus={status}\n")

    @property
    def told(self) -> list[str]:
        """All that changes something."""
        log = Path(f"{self.script}.log")
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if not line.startswith("is-")]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manager:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Manager(tmp_path)


def test_only_what_runs_is_restarted_or_reloaded(manager: Manager) -> None:
    manager.answers("is-active", "b.service", status=3)
    running = manager.services.running(["a.service", "b.service", "c.service"])
    assert running == ["a.service", "c.service"]
    manager.services.tell(["restart a.service", "restart b.service", "reload c.service"], running)
    assert manager.told == ["try-restart a.service", "reload-or-restart c.service"]


@pytest.mark.parametrize(
    ("verb", "state", "active", "told"),
    [
        ("settle", "enabled", True, ["restart my.service"]),
        ("settle", "enabled-runtime", False, ["restart my.service"]),
        ("settle", "disabled", True, ["stop my.service"]),
        ("settle", "masked", True, ["stop my.service"]),
        (
            "settle",
            "Failed to get unit file state for my.service: No such file or directory",
            True,
            ["stop my.service"],
        ),
        ("settle", "static", True, ["try-restart my.service"]),
        ("settle", "static", False, []),
        ("refresh", "disabled", True, ["try-restart my.service"]),
        ("refresh", "enabled", False, []),
        (
            "refresh",
            "Failed to get unit file state for my.service: No such file or directory",
            True,
            ["stop my.service"],
        ),
    ],
)
def test_a_unit_becomes_what_its_links_say(
    manager: Manager, verb: str, state: str, active: bool, told: list[str]
) -> None:
    manager.answers("is-enabled", "my.service", state, 0 if state.startswith("enabled") else 1)
    manager.answers("is-active", "my.service", status=0 if active else 3)
    manager.services.tell([f"{verb} my.service"], [])
    assert manager.told == ["daemon-reload", *told]


def test_a_unit_that_the_image_wants_is_started_again(manager: Manager) -> None:
    wants = manager.root / "usr/lib/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "my.service").symlink_to("../my.service")
    manager.answers("is-enabled", "my.service", "disabled", 1)
    manager.services.tell(["settle my.service"], [])
    assert manager.told == ["daemon-reload", "restart my.service"]


def test_a_service_that_cannot_be_restarted_is_said(manager: Manager) -> None:
    manager.answers("try-restart", "a.service", "Job for a.service failed.", 1)
    with pytest.raises(HostError, match=r"HP-6424.*try-restart a.service.*Job for a.service failed"):
        manager.services.tell(["restart a.service"], ["a.service"])


@pytest.fixture
def healthz(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The answers the kubelet gives, one after the other; the last one for ever."""
    answers = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setitem(reactions._HEALTH_URLS, "kubelet.service", f"http://127.0.0.1:{server.server_port}/healthz")
    monkeypatch.setattr(reactions, "_POLL_SECONDS", 0.01)
    yield answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_kubelet_is_waited_for(manager: Manager, healthz: list[int]) -> None:
    healthz[:] = [500, 503, 200]
    manager.services.check(["kubelet.service"], [], 20)
    assert healthz == [200]


def test_a_kubelet_that_stays_unwell_or_dies_is_a_failed_check(manager: Manager, healthz: list[int]) -> None:
    healthz[:] = [500]
    with pytest.raises(HostError, match=r"HP-6423.*kubelet.service.*500"):
        manager.services.check(["kubelet.service"], [], 0.1)
    manager.answers("is-active", "kubelet.service", status=3)
    with pytest.raises(HostError, match="it is not active"):
        manager.services.check(["kubelet.service"], [], 0.1)


def test_containerd_is_asked_at_its_socket(manager: Manager) -> None:
    with pytest.raises(HostError, match=r"HP-6423.*containerd.service"):
        manager.services.check(["containerd.service"], [], 0.1)
    (manager.root / "run/containerd").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(manager.root / "run/containerd/containerd.sock"))
        listener.listen()
        manager.services.check(["containerd.service"], [], 5)
