"""Only what we started is ended, and it is ended for sure."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hostplane.errors import LocalError
from hostplane.local import processes


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[processes.Process]:
    process = processes.spawn("sleeper", [sys.executable, "-c", "import signal; signal.pause()"], tmp_path / "log")
    yield process
    processes.end([process], grace=0)


def test_a_spawned_process_lives_in_a_session_of_its_own(sleeper: processes.Process) -> None:
    assert processes.is_alive(sleeper)
    assert os.getsid(sleeper.pid) == sleeper.pid != os.getsid(0)


def test_end_reports_what_ran_and_is_safe_to_repeat(sleeper: processes.Process) -> None:
    assert processes.end([sleeper]) == [sleeper]
    assert not processes.is_alive(sleeper)
    assert processes.end([sleeper]) == []


def test_a_process_id_that_is_somebody_elses_is_left_alone(sleeper: processes.Process) -> None:
    stranger = msgspec.structs.replace(sleeper, started=sleeper.started - 1)
    assert not processes.is_alive(stranger)
    assert processes.end([stranger]) == []
    rebooted = msgspec.structs.replace(sleeper, boot="another boot")
    assert processes.end([rebooted]) == []
    assert processes.is_alive(sleeper)


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"import signal; signal.signal(15, signal.SIG_IGN); open({str(ready)!r}, 'w'); signal.pause()"
    stubborn = processes.spawn("stubborn", [sys.executable, "-c", script], tmp_path / "log")
    deadline = time.monotonic() + 10
    while not ready.exists() and time.monotonic() < deadline:
        processes.wait(stubborn, 0.05)
    assert processes.end([stubborn], grace=0.2) == [stubborn]
    assert not processes.is_alive(stubborn)


def test_wait_returns_as_soon_as_it_has_ended(sleeper: processes.Process) -> None:
    assert not processes.wait(sleeper, 0.01)
    os.kill(sleeper.pid, signal.SIGKILL)
    assert processes.wait(sleeper, 10)


def test_output_goes_to_a_private_log_and_its_errors_are_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "print('fine'); print('Error: no such flag'); print('usage follows')"
    process = processes.spawn("chatty", [sys.executable, "-c", script], log)
    assert processes.wait(process, 10)
    assert log.stat().st_mode & 0o777 == 0o600
    assert processes.last_lines(process) == "Error: no such flag"


def test_a_program_that_cannot_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        processes.spawn("ghost", [str(tmp_path / "ghost")], tmp_path / "log")
    assert caught.value.name == "ProgramNotStarted"


def test_what_a_killed_leader_leaves_in_its_session_is_ended(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, signal\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    leader = processes.spawn("leader", [sys.executable, "-c", script], tmp_path / "log")
    deadline = time.monotonic() + 20
    while not (tmp_path / "log").read_text().endswith("\n") and time.monotonic() < deadline:
        processes.wait(leader, 0.05)
    orphan = int((tmp_path / "log").read_text())
    os.kill(leader.pid, signal.SIGKILL)
    assert processes.wait(leader, 10)
    fd = os.pidfd_open(orphan)
    try:
        processes.end_session(leader)
        assert select.select([fd], [], [], 10)[0] == [fd]  # a pidfd is readable once its process has ended
    finally:
        os.close(fd)


def test_a_stranger_with_the_leaders_id_protects_its_session(sleeper: processes.Process) -> None:
    processes.end_session(msgspec.structs.replace(sleeper, started=sleeper.started - 1))
    assert processes.is_alive(sleeper)


def test_a_socket_is_handed_over_as_systemd_does(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    script = (
        "import os, socket\n"
        "assert os.environ['LISTEN_PID'] == str(os.getpid()) and os.environ['LISTEN_FDS'] == '1'\n"
        "connection, _ = socket.socket(fileno=3).accept()\n"
        "connection.sendall(b'here')\n"
    )
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        command = [sys.executable, "-c", script]
        child = processes.spawn("child", command, tmp_path / "log", listen=listener.fileno(), own_session=False)
        try:
            assert os.getsid(child.pid) == os.getsid(0)
            client.settimeout(20)
            client.connect(path)
            assert client.recv(10) == b"here"
            asyncio.run(asyncio.wait_for(processes.exited(child), 20))
            assert not processes.is_alive(child)
        finally:
            processes.end([child], grace=0)
