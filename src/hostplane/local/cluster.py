"""One local cluster as a user sees it: control plane, CRDs, operator and simulated hosts, up, down and status."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import msgspec

from hostplane.api import crds
from hostplane.errors import LocalError
from hostplane.local import processes, state
from hostplane.local.apiserver import ApiServer
from hostplane.local.binaries import Say, tell
from hostplane.local.controlplane import ControlPlane

__all__ = ["ProcessStatus", "Status", "down", "status", "up"]

_HOSTS_SECONDS = 120.0
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 4.0


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the cluster."""

    name: str
    pid: int
    running: bool
    log: str


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What runs. `ready` is the API server's own word and that every process of the cluster runs."""

    directory: str
    kubeconfig: str
    url: str
    ready: bool
    hosts: int
    processes: list[ProcessStatus]


def up(
    directory: Path,
    *,
    port: int = 0,
    hosts: int = 0,
    operator: bool = True,
    controller_manager: bool = False,
    say: Say = tell,
) -> Status:
    """Starts everything and returns when it is ready: the API serves our kinds, and `hosts` nodes are Ready.

    Raises:
        LocalError: something did not start; what had been started is ended again.
    """
    plane = ControlPlane(directory, port, controller_manager=controller_manager, say=say)
    plane.start()
    try:
        plane.install_crds(text for _, text in sorted(crds.render().items()))
        state.save(plane.directory, msgspec.structs.replace(state.load(plane.directory), hosts=hosts))
        if hosts:
            _spawn(plane, "machines", ["local", "machines", "--dir", str(plane.directory), "--hosts", str(hosts)])
        if operator:
            _spawn(plane, "operator", ["operator", "--kubeconfig", str(plane.kubeconfig)])
        _await_hosts(plane, hosts)
    except BaseException:
        down(directory)
        raise
    return status(directory)


def down(directory: Path, *, delete: bool = False) -> list[str]:
    """Ends what `up` started, last first; the names of what was still running. Safe to repeat.

    Raises:
        LocalError: there is no local cluster in `directory`.
    """
    directory = directory.absolute()
    known = state.load(directory).processes
    ran = []
    for leader in reversed(known):
        ran += processes.end([leader], grace=_GRACE_SECONDS)
        processes.end_session(leader)  # agents and proxies, where their supervisor was killed
    state.forget(directory, {process.name for process in known})
    if delete:
        shutil.rmtree(directory)
    return [process.name for process in ran]


def status(directory: Path) -> Status:
    """What runs of the cluster in `directory`.

    Raises:
        LocalError: there is no local cluster.
    """
    directory = directory.absolute()
    known = state.load(directory)
    running = [ProcessStatus(name=p.name, pid=p.pid, running=processes.is_alive(p), log=p.log) for p in known.processes]
    plane = ControlPlane(directory)
    api = ApiServer(url=known.url, token=plane.token, ca=str(plane.ca)) if plane.token_file.exists() else None
    ready = bool(running) and all(process.running for process in running) and api is not None and api.is_ready()
    return Status(
        directory=str(directory),
        kubeconfig=str(plane.kubeconfig),
        url=known.url,
        ready=ready,
        hosts=known.hosts,
        processes=running,
    )


def _spawn(plane: ControlPlane, name: str, arguments: list[str]) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    log = plane.directory / "logs" / f"{name}.log"
    command = [sys.executable, "-m", "hostplane.cli", *arguments]
    state.remember(plane.directory, processes.spawn(name, command, log, environment))


def _await_hosts(plane: ControlPlane, hosts: int) -> None:
    deadline = time.monotonic() + _HOSTS_SECONDS
    while True:
        known = state.load(plane.directory).processes
        dead = processes.ended(known)
        if dead:
            raise LocalError("ProgramEnded", program=dead.name, tail=processes.last_lines(dead), log=dead.log)
        nodes = plane.api.request("GET", "/api/v1/nodes")["items"] if hosts else []
        if sum(_is_ready(node) for node in nodes) >= hosts:
            return
        if time.monotonic() > deadline:
            raise LocalError("HostsNotReady", hosts=hosts, seconds=_HOSTS_SECONDS, log=known[-1].log)
        processes.wait(known[-1], _POLL_SECONDS)


def _is_ready(node: dict[str, object]) -> bool:
    status = node.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
