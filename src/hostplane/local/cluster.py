"""One local cluster as a user sees it: control plane, CRDs, operator and simulated hosts, up, down and status."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from hostplane.api import crds
from hostplane.errors import LocalError
from hostplane.kube.session import Session
from hostplane.local import credentials, processes, state
from hostplane.local.apiserver import ApiServer
from hostplane.local.binaries import Say, tell
from hostplane.local.controlplane import ControlPlane, free_port

__all__ = ["ProcessStatus", "Status", "down", "manifests", "status", "up"]

_READY_SECONDS = 120.0
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
    guests: Sequence[str] = (),
    say: Say = tell,
) -> Status:
    """Starts everything and returns when it is ready: the API serves our kinds, and `hosts` nodes are Ready.

    `guests` names the Nodes of virtual machines that the caller starts itself.

    Raises:
        LocalError: something did not start; what had been started is ended again.
    """
    plane = ControlPlane(directory, port, controller_manager=controller_manager, guests=guests, say=say)
    plane.start()
    try:
        plane.apply(text for _, text in sorted(crds.render().items()))
        plane.apply(manifests("rbac") + manifests("admission"))
        state.save(plane.directory, msgspec.structs.replace(state.load(plane.directory), hosts=hosts))
        if hosts:
            _spawn(plane, "machines", ["local", "machines", "--dir", str(plane.directory), "--hosts", str(hosts)])
        if operator:
            _spawn_operator(plane)
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


def manifests(folder: str) -> list[str]:
    """The manifests of deploy/`folder`, from the installed package or else from the checkout; namespaces first."""
    for root in (Path(__file__).parents[1] / "deploy", Path(__file__).parents[3] / "deploy"):
        if (root / folder).is_dir():
            files = sorted((root / folder).glob("*.yaml"), key=lambda file: (file.stem != "namespace", file.name))
            return [file.read_text("utf-8") for file in files]
    raise LocalError("ManifestsMissing", folder=folder)


def _spawn(plane: ControlPlane, name: str, arguments: list[str]) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    log = plane.directory / "logs" / f"{name}.log"
    command = [sys.executable, "-m", "hostplane.cli", *arguments]
    state.remember(plane.directory, processes.spawn(name, command, log, environment))


def _spawn_operator(plane: ControlPlane) -> None:
    """Starts the operator under its own account, and waits until it is ready to decide."""
    own = plane.directory / "operator.kubeconfig"
    asyncio.run(_write_operator_kubeconfig(plane, own))
    port = free_port()
    _spawn(plane, "operator", ["operator", "--kubeconfig", str(own), "--health-port", str(port)])
    _await(plane, lambda: _answers(f"http://127.0.0.1:{port}/readyz"), "OperatorNotReady")


async def _write_operator_kubeconfig(plane: ControlPlane, path: Path) -> None:
    async with await Session.open(str(plane.kubeconfig), connections=1, user_agent="hostplane-local") as session:
        await credentials.operator_kubeconfig(session, plane.ca, path)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _await_hosts(plane: ControlPlane, hosts: int) -> None:
    def are_ready() -> bool:
        return sum(_is_ready(node) for node in plane.api.request("GET", "/api/v1/nodes")["items"]) >= hosts

    if hosts:
        _await(plane, are_ready, "HostsNotReady", hosts=hosts)


def _await(plane: ControlPlane, holds: Callable[[], bool], error: str, **params: object) -> None:
    """Waits until `holds()`; a process that ends meanwhile is an error at once."""
    deadline = time.monotonic() + _READY_SECONDS
    known = state.load(plane.directory).processes
    while not holds():
        dead = processes.ended(known)
        if dead:
            raise LocalError("ProgramEnded", program=dead.name, tail=processes.last_lines(dead), log=dead.log)
        if time.monotonic() > deadline:
            raise LocalError(error, seconds=_READY_SECONDS, log=known[-1].log, **params)
        processes.wait(known[-1], _POLL_SECONDS)


def _is_ready(node: dict[str, object]) -> bool:
    status = node.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
