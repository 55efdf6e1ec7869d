"""Where a benchmark runs: a throw-away control plane, and child processes, measured from outside, that always end.

A child is asked by its /proc entry: peak memory is VmHWM, CPU its own user and system time, children not counted.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hostplane.api import crds
from hostplane.local.controlplane import ControlPlane

__all__ = ["Child", "child", "control_plane", "memory_mib", "operator"]

_TICK = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """An empty directory with a short path (sockets lie in it), removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="hp-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """A real etcd and kube-apiserver with our kinds, gone afterwards."""
    with _scratch() as directory:
        plane = ControlPlane(directory / "cp")
        plane.start()
        try:
            plane.install_crds(text for _, text in sorted(crds.render().items()))
            yield plane
        finally:
            plane.stop()


class Child:
    """One running process; lines go to its standard input and come from its standard output."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self.pid, self.log = process, process.pid, log

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far."""
        return _cpu_seconds(self.pid)

    @property
    def peak_mib(self) -> float:
        """The most memory it ever held (VmHWM), MiB."""
        return memory_mib(self.pid, "VmHWM")

    @property
    def rss_mib(self) -> float:
        """The memory it holds now (VmRSS), MiB."""
        return memory_mib(self.pid, "VmRSS")

    def tell(self, line: str) -> None:
        """Writes a line to its standard input."""
        assert self._process.stdin is not None  # made so below
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self, seconds: float = 300.0) -> str:
        """The next line of its standard output; RuntimeError, with the end of its log, when none came."""
        assert self._process.stdout is not None  # made so below
        answered, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not answered:
            raise RuntimeError(f"{self._process.args!r} said nothing for {seconds} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended:\n{self.log.read_text('utf-8', 'replace')[-3000:]}")
        return line.strip()

    def end(self, seconds: float = 10.0) -> None:
        """SIGTERM, and SIGKILL when that was not enough."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.is_alive:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(seconds)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory_mib(pid: int, line: str) -> float:
    """A memory line (VmRSS, VmHWM) of a process's status, MiB."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith(f"{line}:"):
            return int(text.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no {line}")


@contextlib.contextmanager
def child(arguments: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[Child]:
    """This interpreter with `arguments`, ended when the context ends; what it says on standard error is in `log`."""
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, **(environment or {})},
        )
    running = Child(process, log)
    try:
        yield running
    finally:
        running.end()


@contextlib.contextmanager
def operator(plane: ControlPlane, kubeconfig: Path | None = None, profile: Path | None = None) -> Iterator[Child]:
    """A real `hostplane operator` that leads already.

    Args:
        kubeconfig: how it reaches the cluster, if not directly.
        profile: where cProfile's figures go when it ends.
    """
    log = plane.directory / "logs" / "operator.log"
    command = ["-m", "hostplane.cli", "operator", "--kubeconfig", str(kubeconfig or plane.kubeconfig)]
    if profile is not None:
        command = ["-m", "cProfile", "-o", str(profile), *command]
    identity = f"bench-{time.monotonic_ns()}"
    with child([*command, "--identity", identity, "--log-level", "warning"], log) as running:
        _await_leader(plane, running, identity)
        yield running


def _await_leader(plane: ControlPlane, running: Child, identity: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    path = "/apis/coordination.k8s.io/v1/leases?fieldSelector=metadata.name%3Dhostplane-operator"
    while running.is_alive and time.monotonic() < deadline:
        leases = plane.api.request("GET", path)["items"]
        if any(lease["spec"].get("holderIdentity") == identity for lease in leases):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the operator does not lead:\n{running.log.read_text('utf-8', 'replace')[-3000:]}")
