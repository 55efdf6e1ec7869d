"""How much memory the operator needs in a large cluster: every node known, one rollout begun."""

from __future__ import annotations

import asyncio
import time

from bench.cluster import child, control_plane, operator
from bench.figures import Figure, save
from bench.rollout import Size, simulator, start
from hostplane.api.ledger import LEDGER, LEDGER_NAME
from hostplane.errors import NotFoundError
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane

__all__ = ["run"]

_STEADY_SECONDS = 15.0


async def _await_holders(plane: ControlPlane, count: int, seconds: float = 120.0) -> None:
    """Until the Ledger holds so many nodes: the rollout has begun."""
    async with await Session.open(str(plane.kubeconfig), 1) as session, asyncio.timeout(seconds):
        while True:
            try:
                if len((await session.get(LEDGER, LEDGER_NAME)).spec.holders) >= count:
                    return
            except NotFoundError:
                pass
            await asyncio.sleep(0.2)


def run(quick: bool) -> list[Figure]:
    """About three minutes, most of it for making the nodes."""
    size = Size(nodes=2000 if quick else 10_000, slots=300, reboot=5)
    with control_plane() as plane, child(*simulator(plane, size)) as nodes:
        nodes.hear(900)
        with operator(plane) as running:
            idle = running.rss_mib
            asyncio.run(start(plane, "v2", size.slots))
            asyncio.run(_await_holders(plane, size.slots))
            deadline = time.monotonic() + _STEADY_SECONDS
            while running.is_alive and time.monotonic() < deadline:
                time.sleep(0.5)
            now, peak = running.rss_mib, running.peak_mib
    figure = Figure(
        name=f"operator peak RSS, {size.nodes} nodes",
        measured=peak,
        target=200,
        unit="MiB",
        note=f"{idle:.0f} MiB before, {now:.0f} MiB in the rollout",
    )
    save("memory", [figure], {"nodes": size.nodes, "idle": idle, "now": now, "peak": peak})
    return [figure]
