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
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from hostplane.api.core import NODE, Node
from hostplane.api.host import HOST
from hostplane.api.ledger import LEDGER, LEDGER_NAME
from hostplane.api.nodegroup import NODEGROUP
from hostplane.api.osimage import OSIMAGE
from hostplane.api.rollout import ROLLOUT
from hostplane.errors import LocalError, Reason, reason
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.local import cluster, processes, state
from hostplane.local.bootloader import set_fault
from hostplane.local.demo_story import (
    Away,
    Picture,
    Release,
    Summary,
    deviations,
    host_line,
    is_away,
    is_over,
    summarise,
)
from hostplane.local.demo_view import Screen, View
from hostplane.local.supervisor import POOLS, ImageEntry, Machines, node_name, read_machines
from hostplane.planning.budget import parse_count

__all__ = ["MOST_HOSTS", "Outcome", "place", "play"]

MOST_HOSTS = 100
ROLLOUT_NAME = "to-v2"
_BUDGETS: dict[str, int | str] = {"pool-a": 1, "pool-b": "25%", "pool-c": "50%"}
_FAULTY = 4
"""Index of the host with the hardware fault: neither among the first of its group nor among the last."""
_PATIENCE = 300.0
_PATIENCE_PER_HOST = 15.0
_TICK = 1.0


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
    with _signals(_interrupt, signal.SIGTERM, signal.SIGHUP):
        chosen = directory.absolute() if directory else Path(tempfile.mkdtemp(prefix="hostplane-demo-"))
        try:
            yield chosen
        finally:
            with _signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if keep:
                    screen.tell("DemoKept", directory=chosen, kubeconfig=chosen / "kubeconfig")
                else:
                    with screen.busy("DemoEnding"):
                        _remove(chosen)
                    screen.tell("DemoRemoved", directory=chosen)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _signals(handler: Any, *numbers: int) -> Iterator[None]:
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
    kubeconfig = str(directory / "kubeconfig")
    async with await Session.open(kubeconfig, connections=2, user_agent="hostplane-demo") as session:
        audience = _Audience(session, machines, started)
        known = state.load(directory).processes
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(informer.run()) for informer in audience.informers]
            tasks += [group.create_task(_outlive(process)) for process in known]
            try:
                with screen.view() as view:
                    is_done = await audience.watch(view)
                summary = await audience.count()
            finally:
                for task in tasks:
                    task.cancel()
    found = deviations(summary, faulty)
    if not is_done:
        found.insert(0, reason("DemoStuck", seconds=round(audience.patience), progress=audience.progress))
    return Outcome(summary=summary, deviations=found)


async def _outlive(process: processes.Process) -> None:
    """Returns never; a part of the cluster that ends is the end of the demo."""
    await processes.exited(process)
    raise LocalError("DemoProgramEnded", program=process.name, tail=processes.last_lines(process))


class _Audience:
    """Asks for the upgrade and watches it: four watches, no other request until the end."""

    def __init__(self, session: Session, machines: Machines, started: float) -> None:
        self._session, self._started = session, started
        self._images = {version: machines.images[version] for version in ("v1", "v2")}
        self._old, self._new = (_release(self._images[version]) for version in ("v1", "v2"))
        names = [entry.node for entry in machines.hosts]
        self._groups = {name: f"pool-{POOLS[index % len(POOLS)]}" for index, name in enumerate(names)}
        self._order = sorted(names, key=lambda name: (self._groups[name], names.index(name)))
        sizes = {group: list(self._groups.values()).count(group) for group in _BUDGETS}
        self._away = Away({group: parse_count(_BUDGETS[group], size) for group, size in sizes.items()})
        self._changed = asyncio.Event()
        self._nodes = Informer(session, NODE, on_change=self._see)
        self._hosts = Informer(session, HOST, on_change=self._wake)
        self._rollouts = Informer(session, ROLLOUT, on_change=self._wake)
        self._ledgers = Informer(session, LEDGER, on_change=self._wake)
        self._rollout_started = self._rollout_ended = started
        self.informers: tuple[Informer[Any], ...] = (self._nodes, self._hosts, self._rollouts, self._ledgers)
        self.patience = _PATIENCE + _PATIENCE_PER_HOST * len(names)

    @property
    def progress(self) -> str:
        """How far the rollout is, in the operator's words."""
        rollout = self._rollouts.get(ROLLOUT_NAME)
        return rollout.status.summary if rollout and rollout.status.summary else "-"

    def _wake(self, old: object, new: object) -> None:
        self._changed.set()

    def _see(self, old: Node | None, new: Node | None) -> None:
        node = new or old
        if node is not None and node.metadata.name in self._groups:
            self._away.see(self._groups[node.metadata.name], node.metadata.name, is_away(new))
        self._changed.set()

    async def watch(self, view: View) -> bool:
        """Creates the objects and shows what comes of them; False when it did not come to an end in time."""
        try:
            async with asyncio.timeout(self.patience):
                for informer in self.informers:
                    await informer.synced()
                await self._ask()
                while True:
                    self._changed.clear()
                    over = is_over(self._rollouts.get(ROLLOUT_NAME), self._ledgers.get(LEDGER_NAME), self._members())
                    self._rollout_ended = time.monotonic()
                    view.show(self._picture())
                    if over:
                        return True
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_TICK):
                            await self._changed.wait()
        except TimeoutError:
            return False

    async def _ask(self) -> None:
        """What an administrator would apply with kubectl."""
        for version, image in self._images.items():
            variant = {"architecture": "amd64", "format": "rootTar", "ref": image.ref, "digest": image.digest}
            spec = {
                "distro": "demo",
                "version": version,
                "prettyName": image.pretty_name,
                "variants": [{**variant, "size": image.size}],
            }
            await self._session.create(OSIMAGE, OSIMAGE.manifest(f"demo-os-{version}", spec=spec))
        for group, budget in _BUDGETS.items():
            selector = {"matchLabels": {"pool": group.removeprefix("pool-")}}
            body = NODEGROUP.manifest(group, spec={"selector": selector, "maxUnavailable": budget})
            await self._session.create(NODEGROUP, body)
        self._rollout_started = time.monotonic()
        wish = {
            "operation": "upgrade",
            "image": "demo-os-v2",
            "groups": list(_BUDGETS),
            "failureThreshold": 2,  # one host may fail, a second one would stop the rest
            "trialSeconds": 300,
        }
        await self._session.create(ROLLOUT, ROLLOUT.manifest(ROLLOUT_NAME, spec=wish))

    def _members(self) -> list[Node]:
        nodes = self._nodes.items()
        return [nodes[name] for name in self._order if name in nodes]

    def _picture(self) -> Picture:
        rollout = self._rollouts.get(ROLLOUT_NAME)
        return Picture(
            rollout=ROLLOUT_NAME,
            phase=rollout.status.phase if rollout else "",
            seconds=time.monotonic() - self._started,
            hosts=[
                host_line(name, self._groups[name], self._hosts.get(name), self._nodes.get(name), self._new)
                for name in self._order
            ],
            groups=self._away.groups(),
            most_away=self._away.most,
        )

    async def count(self) -> Summary:
        """The end, from objects read anew."""
        hosts = {host.metadata.name: host for host in (await self._session.list(HOST)).items}
        nodes = {node.metadata.name: node for node in (await self._session.list(NODE)).items}
        seconds = (time.monotonic() - self._started, self._rollout_ended - self._rollout_started)
        return summarise(self._groups, hosts, nodes, (self._old, self._new), self._away, seconds)


def _release(image: ImageEntry) -> Release:
    return Release(version=image.version, digest=image.digest, pretty_name=image.pretty_name)
