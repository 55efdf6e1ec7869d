"""How near the operator comes to the limit of the machine upgrading thousands of KubeOS nodes, and what it costs.

Wall time runs from the change of an OS object's version until the last simulated node is through; the limit is the bare
loop's time for the same nodes (bench/bareloop.py). Both run three times, in turns; the medians are compared. Memory and
CPU are the operator process's own. The last figure lets some nodes come back with a wrong version until the failures
reach the threshold, and times how long grants still appear after that was visible in the API.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench.cluster import Child, child, control_plane, operator
from bench.figures import Figure, save
from hostplane.api.core import NODE, Node
from hostplane.api.kubeos import OS, OSINSTANCE, OSInstance
from hostplane.api.ledger import LEDGER, LEDGER_NAME
from hostplane.errors import NotFoundError
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane

__all__ = ["Size", "run", "simulator", "start"]

_OS = "bench"
_NAMESPACE = "default"
_OWNER = f"{_NAMESPACE}/{_OS}"


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How many nodes, how many at once, and how long a reboot takes, seconds."""

    nodes: int
    slots: int
    reboot: float

    def __str__(self) -> str:
        return f"{self.nodes}/{self.slots}/{self.reboot:g}s"


SIZES = (Size(nodes=1000, slots=200, reboot=2), Size(nodes=3000, slots=300, reboot=5))
QUICK = (Size(nodes=300, slots=60, reboot=1),)
_RSS = 84.0
"""MiB; KubeOS's operator at 3,000 nodes."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout over all nodes."""

    wall: float
    cpu: float
    peak_mib: float


def wish(version: str, slots: int) -> dict[str, Any]:
    """An OS object that upgrades every node to `version`."""
    spec = {
        "osversion": version,
        "opstype": "upgrade",
        "imagetype": "disk",
        "imageurl": "http://images.invalid/root.tar",
        "checksum": "0" * 64,
        "flagSafe": True,
        "maxunavailable": slots,
    }
    return {**OS.manifest(_OS, spec=spec), "metadata": {"name": _OS, "namespace": _NAMESPACE}}


async def start(plane: ControlPlane, version: str, slots: int) -> float:
    """Changes, or makes, the OS object; the moment just before."""
    async with await Session.open(str(plane.kubeconfig), 1) as session:
        body = wish(version, slots)
        try:
            await session.get(OS, _OS, _NAMESPACE)
        except NotFoundError:
            begun = time.monotonic()
            await session.create(OS, body, _NAMESPACE)
        else:
            begun = time.monotonic()
            await session.patch(OS, _OS, {"spec": body["spec"]}, _NAMESPACE)
    return begun


async def _ledger_is_empty(plane: ControlPlane, seconds: float = 10.0) -> None:
    """Until the last node has left the Ledger, so that the next turn begins from nothing."""
    async with await Session.open(str(plane.kubeconfig), 1) as session, asyncio.timeout(seconds):
        while (await session.get(LEDGER, LEDGER_NAME)).spec.holders:  # noqa: ASYNC110  # a poll: another process changes it
            await asyncio.sleep(0.05)


def operator_turn(plane: ControlPlane, nodes: Child, size: Size, version: str, profile: Path | None = None) -> Turn:
    """One rollout by the real operator."""
    with operator(plane, profile=profile) as running:
        cpu = running.cpu_seconds
        nodes.tell(f"await {version}")
        begun = asyncio.run(start(plane, version, size.slots))
        wall = float(nodes.hear().removeprefix("done ")) - begun
        turn = Turn(wall=wall, cpu=running.cpu_seconds - cpu, peak_mib=running.peak_mib)
        asyncio.run(_ledger_is_empty(plane))
    return turn


def bare_turn(plane: ControlPlane, nodes: Child, size: Size, version: str) -> Turn:
    """One rollout by the bare loop."""
    command = ["-m", "bench.bareloop", "--kubeconfig", str(plane.kubeconfig), "--slots", str(size.slots)]
    with child([*command, "--os", _OWNER], plane.directory / "logs" / "bareloop.log") as running:
        running.hear()
        cpu = running.cpu_seconds
        nodes.tell(f"await {version}")
        begun = asyncio.run(start(plane, version, size.slots))
        running.tell(f"go {version}")
        wall = float(nodes.hear().removeprefix("done ")) - begun
        turn = Turn(wall=wall, cpu=running.cpu_seconds - cpu, peak_mib=running.peak_mib)
        asyncio.run(_ledger_is_empty(plane))
    return turn


def simulator(plane: ControlPlane, size: Size, *more: str) -> tuple[list[str], Path]:
    """The command of the simulated nodes, and where they write their log."""
    command = ["-m", "bench.simulator", "--kubeconfig", str(plane.kubeconfig), "--nodes", str(size.nodes)]
    return [*command, "--reboot", str(size.reboot), *more], plane.directory / "logs" / "simulator.log"


def measure(size: Size, turns: int = 3, profile: Path | None = None) -> tuple[list[Figure], dict[str, Any]]:
    """The figures of one size, and every turn they come from."""
    bare: list[Turn] = []
    ours: list[Turn] = []
    with control_plane() as plane, child(*simulator(plane, size)) as nodes:
        nodes.hear()
        for turn in range(turns):
            ours.append(operator_turn(plane, nodes, size, f"v{2 * turn + 2}", profile))
            bare.append(bare_turn(plane, nodes, size, f"v{2 * turn + 3}"))
    wall, limit = median(t.wall for t in ours), median(t.wall for t in bare)
    ideal = size.nodes / size.slots * size.reboot
    note = f"{wall:.1f} s; bare loop {limit:.1f} s; ideal {ideal:g} s"
    peak = max(t.peak_mib for t in ours)
    cpu = max(t.cpu for t in ours) / size.nodes * 1000
    figures = [
        Figure(name=f"wall / bare loop, {size}", measured=wall / limit, target=1.15, unit="x", note=note),
        Figure(name=f"operator peak RSS, {size}", measured=peak, target=_RSS, unit="MiB"),
        Figure(name=f"operator CPU a node, {size}", measured=cpu, target=6, unit="ms", note="worst of the turns"),
    ]
    return figures, {"size": size, "ideal": ideal, "operator": ours, "bare": bare}


class _Watch:
    """When each wrong version and each grant was seen, by the monotonic clock."""

    def __init__(self, session: Session, version: str) -> None:
        self._version = version
        self.failures: list[float] = []
        self.grants: list[float] = []
        self.nodes = Informer(session, NODE, on_change=self._node)
        self.instances = Informer(session, OSINSTANCE, namespace=_NAMESPACE, on_change=self._instance)

    def _node(self, old: Node | None, new: Node | None) -> None:
        if old is not None and new is not None:
            image = new.status.node_info.os_image
            if image != old.status.node_info.os_image and image != self._version:
                self.failures.append(time.monotonic())

    def _instance(self, old: OSInstance | None, new: OSInstance | None) -> None:
        if old is None or new is None or old.spec.nodestatus == "upgrade":
            return
        if new.spec.nodestatus == "upgrade":
            self.grants.append(time.monotonic())

    def is_quiet(self, threshold: int, seconds: float) -> bool:
        """Whether the threshold was reached and nothing happened since for so long."""
        if len(self.failures) < threshold:
            return False
        return time.monotonic() > max(self.failures[-1], self.grants[-1]) + seconds


async def _watch_failures(plane: ControlPlane, size: Size, quiet: float) -> _Watch:
    """From the wish until nothing was granted for `quiet` seconds after the threshold."""
    async with await Session.open(str(plane.kubeconfig), 2) as session:
        seen = _Watch(session, "v2")
        tasks = [asyncio.create_task(seen.nodes.run()), asyncio.create_task(seen.instances.run())]
        await seen.nodes.synced()
        await seen.instances.synced()
        await session.create(OS, wish("v2", size.slots), _NAMESPACE)
        async with asyncio.timeout(60 + size.nodes / size.slots * size.reboot * 2):
            while not seen.is_quiet(size.slots, quiet):  # noqa: ASYNC110  # silence has no event
                await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return seen


def failures(size: Size) -> tuple[Figure, dict[str, Any]]:
    """From the failure that reaches the threshold (as many as maxunavailable) to the last grant after it."""
    with control_plane() as plane, child(*simulator(plane, size, "--wrong-every", "3")) as nodes:
        nodes.hear()
        with operator(plane):
            seen = asyncio.run(_watch_failures(plane, size, quiet=size.reboot + 3))
    visible = sorted(seen.failures)[size.slots - 1]
    late = [grant - visible for grant in seen.grants if grant > visible]
    note = f"{len(late)} grants after the {size.slots}th failure; {len(seen.grants)} of {size.nodes} in all"
    figure = Figure(
        name="failure visible to no new grant", measured=max(late, default=0.0), target=1, unit="s", note=note
    )
    return figure, {"size": size, "failures": len(seen.failures), "grants": len(seen.grants), "late": late}


def run(quick: bool) -> list[Figure]:
    """All of it; about ten minutes, or one when `quick`."""
    figures: list[Figure] = []
    detail = []
    for size in QUICK if quick else SIZES:
        found, made_of = measure(size, turns=1 if quick else 3)
        figures += found
        detail.append(made_of)
    figure, made_of = failures(Size(nodes=300, slots=20, reboot=0.5))
    figures.append(figure)
    save("rollout", figures, {"sizes": detail, "failures": made_of})
    return figures
