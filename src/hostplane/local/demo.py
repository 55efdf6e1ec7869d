"""The demo: a local cluster, one Rollout over three groups, one host that goes back by itself, watched through the API.

It asks as any administrator would, by creating OSImages, NodeGroups and a Rollout, and then only watches. The one thing
it does behind the API's back is to break a host's hardware before it starts. Whatever it made is ended and removed at
the end, also after an error or an interrupt, unless it is to be kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from hostplane.api.core import NODE, Node
from hostplane.api.host import HOST, Host
from hostplane.api.nodegroup import NODEGROUP
from hostplane.api.osimage import OSIMAGE
from hostplane.api.rollout import ROLLOUT
from hostplane.errors import LocalError, Reason, reason
from hostplane.kube.session import Session
from hostplane.local import cluster, processes, state
from hostplane.local.audience import Audience
from hostplane.local.bootloader import set_fault
from hostplane.local.demo_story import Release, Summary, deviations, summarise
from hostplane.local.demo_view import Screen
from hostplane.local.supervisor import POOLS, ImageEntry, Machines, node_name, read_machines
from hostplane.planning.budget import parse_count

__all__ = ["MOST_HOSTS", "Outcome", "place", "play", "signals", "undisturbed", "watched"]

MOST_HOSTS = 100
ROLLOUT_NAME = "to-v2"
_BUDGETS: dict[str, int | str] = {"pool-a": 1, "pool-b": "25%", "pool-c": "50%"}
_FAULTY = 4
"""Index of the host with the hardware fault: neither among the first of its group nor among the last."""
_PATIENCE = 300.0
_PATIENCE_PER_HOST = 15.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended. `deviations` is empty when all went as told."""

    summary: Summary
    deviations: list[Reason]


@contextlib.contextmanager
def place(directory: Path | None, screen: Screen, *, keep: bool = False) -> Iterator[Path]:
    """The directory of the demo's cluster, a temporary one for None; on leaving all that runs in it ends, and it goes.

    SIGTERM and a closed terminal interrupt as Ctrl-C does; the ending itself cannot be interrupted. Main thread only.

    Raises:
        LocalError: `directory` is not empty; nothing in it is touched.
    """
    if directory is not None and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise LocalError("DemoDirectoryInUse", directory=directory)
    with signals(_interrupt, signal.SIGTERM, signal.SIGHUP):
        chosen = directory.absolute() if directory else Path(tempfile.mkdtemp(prefix="hostplane-demo-"))
        try:
            yield chosen
        finally:
            with undisturbed():
                if keep:
                    screen.tell("DemoKept", directory=chosen, kubeconfig=chosen / "kubeconfig")
                else:
                    with screen.busy("DemoEnding"):
                        _remove(chosen)
                    screen.tell("DemoRemoved", directory=chosen)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Nothing that a user or a terminal sends ends what is done in here."""
    with signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextlib.contextmanager
def signals(handler: Any, *numbers: int) -> Iterator[None]:
    """Handles these signals so while the context is open; what our caller chose to ignore stays ignored."""
    before = {n: signal.signal(n, handler) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _remove(directory: Path) -> None:
    try:
        cluster.down(directory, delete=True)
    except LocalError as error:
        if error.name != "NoLocalCluster":
            raise
        shutil.rmtree(directory, ignore_errors=True)  # it failed before there was one


def play(directory: Path, hosts: int, screen: Screen) -> Outcome:
    """Starts `hosts` (3 to MOST_HOSTS) hosts in `directory` and upgrades them before the reader's eyes.

    Raises:
        LocalError: something did not start, or ended on its way.
        ClusterError: the API server refused what every cluster accepts, or cannot be reached any more.
    """
    started = time.monotonic()
    faulty = node_name(min(_FAULTY, hosts - 1))
    screen.tell("DemoStory", hosts=hosts, faulty=faulty)
    screen.tell("DemoReal")
    screen.tell("DemoSimulated")
    with screen.busy("DemoStarting", hosts=hosts):
        cluster.up(directory, hosts=hosts, say=screen.say)
    machines = read_machines(directory)
    set_fault(next(Path(entry.root) for entry in machines.hosts if entry.node == faulty), "B", "no-boot")
    return asyncio.run(_run(directory, machines, screen, faulty, started))


async def _run(directory: Path, machines: Machines, screen: Screen, faulty: str, started: float) -> Outcome:
    names = [entry.node for entry in machines.hosts]
    groups = {name: f"pool-{POOLS[index % len(POOLS)]}" for index, name in enumerate(names)}
    sizes = {group: list(groups.values()).count(group) for group in _BUDGETS}
    budgets = {group: parse_count(_BUDGETS[group], size) for group, size in sizes.items()}
    old, new = (_release(machines.images[version]) for version in ("v1", "v2"))
    patience = _PATIENCE + _PATIENCE_PER_HOST * len(names)
    async with await Session.open(str(directory / "kubeconfig"), connections=2, user_agent="hostplane-demo") as session:
        audience = Audience(session, groups, budgets, started)
        async with watched(directory, audience):
            await audience.synced()
            rollout_started = await _ask(session, machines)
            with screen.view() as view:
                is_done = await audience.watch(view, ROLLOUT_NAME, new, patience)
            seconds = (time.monotonic() - started, time.monotonic() - rollout_started)
            hosts, nodes = await _read(session)
    summary = summarise(groups, hosts, nodes, (old, new), audience.away, seconds)
    found = deviations(summary, faulty)
    if not is_done:
        found.insert(0, reason("DemoStuck", seconds=round(patience), progress=audience.progress(ROLLOUT_NAME)))
    return Outcome(summary=summary, deviations=found)


@contextlib.asynccontextmanager
async def watched(directory: Path, audience: Audience) -> AsyncIterator[None]:
    """Runs the audience's watches while the context is open; a part of the cluster that ends is the end of it all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(informer.run()) for informer in audience.informers]
        tasks += [group.create_task(_outlive(process)) for process in state.load(directory).processes]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _outlive(process: processes.Process) -> None:
    """Returns never; a part of the cluster that ends is the end of the demo."""
    await processes.exited(process)
    raise LocalError("DemoProgramEnded", program=process.name, tail=processes.last_lines(process))


async def _ask(session: Session, machines: Machines) -> float:
    """What an administrator would apply with kubectl; the time at which the Rollout was wished for."""
    for version in ("v1", "v2"):
        image = machines.images[version]
        variant = {"architecture": "amd64", "format": "rootTar", "ref": image.ref, "digest": image.digest}
        spec = {
            "distro": "demo",
            "version": version,
            "prettyName": image.pretty_name,
            "variants": [{**variant, "size": image.size}],
        }
        await session.create(OSIMAGE, OSIMAGE.manifest(f"demo-os-{version}", spec=spec))
    for group, budget in _BUDGETS.items():
        selector = {"matchLabels": {"pool": group.removeprefix("pool-")}}
        await session.create(
            NODEGROUP, NODEGROUP.manifest(group, spec={"selector": selector, "maxUnavailable": budget})
        )
    started = time.monotonic()
    wish = {
        "operation": "upgrade",
        "image": "demo-os-v2",
        "groups": list(_BUDGETS),
        "failureThreshold": 2,  # one host may fail, a second one would stop the rest
        "trialSeconds": 300,
    }
    await session.create(ROLLOUT, ROLLOUT.manifest(ROLLOUT_NAME, spec=wish))
    return started


async def _read(session: Session) -> tuple[dict[str, Host], dict[str, Node]]:
    """The end, from objects read anew."""
    hosts = {host.metadata.name: host for host in (await session.list(HOST)).items}
    return hosts, {node.metadata.name: node for node in (await session.list(NODE)).items}


def _release(image: ImageEntry) -> Release:
    return Release(version=image.version, digest=image.digest, pretty_name=image.pretty_name)
