"""`hostplane demo` as a user runs it: its summary agrees with the API server, and nothing of it is left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from hostplane.local import processes, state
from hostplane.local.bootloader import set_fault
from hostplane.local.controlplane import ControlPlane

KEYS = {"hosts", "upgraded", "returned", "max_unavailable_seen", "budget", "wall_s"}
OLD, NEW = "Demo OS v1", "Demo OS v2"


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path, for unix sockets below it, that does not exist yet."""
    return tmp_path_factory.mktemp("demo") / "d"


def a_command(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hostplane.cli", "demo", "--json", "--dir", str(directory), *arguments]


def running_in(directory: Path) -> list[str]:
    """Command lines of processes that mention the directory."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(str(directory) in word for word in command):
            found.append(" ".join(command))
    return found


def assert_nothing_is_left(directory: Path) -> None:
    assert not directory.exists()
    assert running_in(directory) == []


def hostplane(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOSTPLANE_LANG": "en"}
    command = [sys.executable, "-m", "hostplane.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=environment)


def read(plane: ControlPlane, kind: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(plane.kubectl("get", kind, "--output=json"))["items"]
    return items


@pytest.mark.timeout(600)
def test_the_summary_agrees_with_the_objects_in_the_api_server(directory: Path) -> None:
    try:
        done = hostplane("demo", "--json", "--keep", "--dir", str(directory), seconds=550)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout.splitlines()[-1])
        assert summary.keys() >= KEYS
        assert (summary["hosts"], summary["upgraded"], summary["returned"]) == (12, 11, 1)
        assert 0 < summary["max_unavailable_seen"] <= summary["budget"] == 4
        assert 0 < summary["rollout_s"] < summary["wall_s"]

        plane = ControlPlane(directory)
        nodes = {node["metadata"]["name"]: node for node in read(plane, "nodes")}
        systems = [node["status"]["nodeInfo"]["osImage"] for node in nodes.values()]
        assert (systems.count(NEW), systems.count(OLD)) == (summary["upgraded"], summary["returned"])
        assert not any(node["spec"].get("unschedulable") for node in nodes.values())
        hosts = read(plane, "hosts.hostplane.dev")
        active = [host["status"]["slots"][host["status"]["activeSlot"]]["version"] for host in hosts]
        assert (active.count("v2"), active.count("v1")) == (summary["upgraded"], summary["returned"])
        failed = [host for host in hosts if host["status"].get("failedDigests")]
        assert [host["metadata"]["name"] for host in failed] == [host["node"] for host in summary["returned_hosts"]]
        assert failed[0]["status"]["lastError"]["name"] == summary["returned_hosts"][0]["name"]
        groups = read(plane, "nodegroups.hostplane.dev")
        assert sum(group["status"]["budget"] for group in groups) == summary["budget"]
        (rollout,) = read(plane, "rollouts.hostplane.dev")
        counts = rollout["status"]["counts"]
        assert (counts["total"], counts["done"], counts["failed"]) == (12, summary["upgraded"], summary["returned"])
    finally:
        ended = hostplane("local", "down", "--dir", str(directory), "--delete", seconds=60)
    assert ended.returncode == 0, ended.stderr
    assert_nothing_is_left(directory)


@contextmanager
def demo_at(word: bytes, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A small demo, at the moment when its progress says `word` for the first time."""
    environment = {**os.environ, "HOSTPLANE_LANG": "en"}
    with subprocess.Popen(
        a_command(directory, "--hosts", "3"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as demo:
        try:
            _await_output(demo, word, time.monotonic() + 120)
            yield demo
        finally:
            if demo.poll() is None:
                demo.terminate()


def _await_output(demo: subprocess.Popen[bytes], word: bytes, deadline: float) -> None:
    assert demo.stderr is not None
    seen = b""
    while word not in seen:
        ready, _, _ = select.select([demo.stderr], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, seen.decode()
        piece = os.read(demo.stderr.fileno(), 65536)
        assert piece, seen.decode()
        seen += piece


def test_a_demo_that_ends_leaves_nothing(directory: Path) -> None:
    done = hostplane(*a_command(directory, "--hosts", "3")[3:], seconds=280)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["hosts"], summary["upgraded"], summary["returned"]) == (3, 2, 1)
    assert_nothing_is_left(directory)


def test_an_interrupt_leaves_nothing_even_when_it_is_repeated(directory: Path) -> None:
    with demo_at(b"Rebooting", directory) as demo:
        demo.send_signal(signal.SIGINT)
        _await_output(demo, b"Ending", time.monotonic() + 30)
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert output == b"\n" or not output
    assert_nothing_is_left(directory)


def test_what_does_not_go_as_told_is_said_and_ends_with_1(directory: Path) -> None:
    with demo_at(b"pool-a", directory) as demo:
        set_fault(directory / "hosts" / "host-01", "B", "no-boot")
        output, said = demo.communicate(timeout=240)
    assert demo.returncode == 1, said.decode()
    summary = json.loads(output.splitlines()[-1])
    assert summary["returned"] == 2
    assert [host["node"] for host in summary["returned_hosts"]] == ["host-01", "host-03"]
    assert b"HP-7074" in said
    assert_nothing_is_left(directory)


def test_a_part_that_dies_ends_the_demo_with_its_name(directory: Path) -> None:
    with demo_at(b"Rebooting", directory) as demo:
        operator = [process for process in state.load(directory).processes if process.name == "operator"]
        processes.end(operator, signal_number=signal.SIGKILL)
        _, said = demo.communicate(timeout=60)
    assert demo.returncode == 3
    assert b"HP-7071: operator ended" in said
    assert_nothing_is_left(directory)
