"""What three real hosts and their operator cost: memory through a whole rollout, and requests once it is over.

Operator, proxies and agents are the real processes on simulated hardware; the operator and the proxies reach the API
server through a relay that notes their requests. After the rollout is Complete and the agents have gone to sleep, it
listens for a minute: only watches and Leases may be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import msgspec

from bench.cluster import control_plane, memory_mib, operator
from bench.figures import Figure, save
from bench.relay import Relay, Seen, relay
from hostplane.api.nodegroup import NODEGROUP
from hostplane.api.osimage import OSIMAGE
from hostplane.api.rollout import ROLLOUT, Rollout
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane
from hostplane.local.supervisor import Fleet, fleet

__all__ = ["run"]

_HOSTS = 3
_IMAGE_BYTES = 32 * 1024 * 1024
_LOOK_SECONDS = 0.02
_SETTLE_SECONDS = 5.0
_OURS = ("hostplane-operator", "hostplane-proxy")


class _Peaks:
    """The most memory any agent and any proxy ever held, MiB."""

    def __init__(self, running: Fleet) -> None:
        self._machines = running.machines.values()
        self.of = {"agent": 0.0, "proxy": 0.0}

    async def watch(self) -> None:
        """Look often enough to meet every process before it ends; VmHWM remembers what was between two looks."""
        while True:
            for machine in self._machines:
                for name in self.of:
                    process = machine.process(name)
                    if process is not None:
                        with contextlib.suppress(OSError, RuntimeError):  # it ended just now
                            self.of[name] = max(self.of[name], memory_mib(process.pid, "VmHWM"))
            await asyncio.sleep(_LOOK_SECONDS)


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen while nothing was to be done."""

    seconds: float
    agents: int
    proxy_mib: list[float]
    operator_mib: float
    requests: dict[str, int]
    """By who, method and path without its query."""
    extra: list[Seen]
    """Requests of ours that are neither a watch nor a Lease."""


async def _upgrade(session: Session, running: Fleet) -> None:
    image = running.images["v2"]
    payload = {"format": "rootTar", "ref": image.ref, "digest": image.digest, "size": image.size}
    release = {
        "distro": "demo",
        "version": "v2",
        "prettyName": image.pretty_name,
        "variants": [payload | {"architecture": "amd64"}],
    }
    await session.create(OSIMAGE, OSIMAGE.manifest("v2", spec=release))
    group = {"selector": {"matchLabels": {"hostplane.dev/agent": "native"}}, "maxUnavailable": 1}
    await session.create(NODEGROUP, NODEGROUP.manifest("all", spec=group))
    complete = asyncio.Event()

    def look(old: Rollout | None, new: Rollout | None) -> None:
        if new is not None and new.status.phase == "Complete":
            complete.set()

    informer = Informer(session, ROLLOUT, on_change=look)
    watching = asyncio.create_task(informer.run())
    wish = {"operation": "upgrade", "groups": ["all"], "image": "v2"}
    await session.create(ROLLOUT, ROLLOUT.manifest("v2", spec=wish))
    async with asyncio.timeout(300):
        await complete.wait()
    watching.cancel()


async def _listen(running: Fleet, door: Relay, operator_pid: int, seconds: float) -> Quiet:
    for machine in running.machines.values():
        await machine.until(lambda m: m.process("agent") is None, seconds=60)
    await asyncio.sleep(_SETTLE_SECONDS)
    before = len(door.seen)
    await asyncio.sleep(seconds)
    seen = [each for each in door.seen[before:] if each.who in _OURS]
    counts = Counter(f"{each.who} {each.method} {each.path.partition('?')[0]}" for each in seen)
    proxies = [machine.process("proxy") for machine in running.machines.values()]
    return Quiet(
        seconds=seconds,
        agents=sum(machine.process("agent") is not None for machine in running.machines.values()),
        proxy_mib=[memory_mib(process.pid, "VmRSS") for process in proxies if process is not None],
        operator_mib=memory_mib(operator_pid, "VmRSS"),
        requests=dict(counts),
        extra=[each for each in seen if not each.is_watch and not each.is_lease],
    )


async def _scene(plane: ControlPlane, door: Relay, operator_pid: int, seconds: float) -> tuple[_Peaks, Quiet]:
    directory = plane.directory.parent / "fleet"
    async with (
        await Session.open(str(plane.kubeconfig), 2) as session,
        fleet(directory, door.kubeconfig, _HOSTS, filler_bytes=_IMAGE_BYTES) as running,
    ):
        peaks = _Peaks(running)
        looking = asyncio.create_task(peaks.watch())
        for machine in running.machines.values():
            await machine.until(lambda m: m.state == "running")
        await _upgrade(session, running)
        quiet = await _listen(running, door, operator_pid, seconds)
        looking.cancel()
    return peaks, quiet


async def _run(plane: ControlPlane, seconds: float) -> tuple[_Peaks, Quiet]:
    async with relay(plane, plane.directory / "relay.kubeconfig") as door:
        with contextlib.ExitStack() as stack:
            running = await asyncio.to_thread(lambda: stack.enter_context(operator(plane, kubeconfig=door.kubeconfig)))
            return await _scene(plane, door, running.pid, seconds)


def run(quick: bool) -> list[Figure]:
    """About two minutes, or one when `quick`."""
    with control_plane() as plane:
        peaks, quiet = asyncio.run(_run(plane, 15.0 if quick else 60.0))
    leases = sum(count for what, count in quiet.requests.items() if "/leases" in what)
    figures = [
        Figure(
            name="requests at rest but watches and Leases",
            measured=len(quiet.extra),
            target=0,
            note=f"{_HOSTS} hosts, {quiet.seconds:g} s; {leases} of Leases",
        ),
        Figure(name="agents running at rest", measured=quiet.agents, target=0, note=f"of {_HOSTS}"),
        Figure(
            name="agent peak RSS",
            measured=peaks.of["agent"],
            target=30,
            unit="MiB",
            note="staging 32 MiB, and all else",
        ),
        Figure(
            name="proxy peak RSS",
            measured=peaks.of["proxy"],
            target=40,
            unit="MiB",
            note=f"{max(quiet.proxy_mib, default=0.0):.1f} MiB at rest",
        ),
    ]
    detail: dict[str, Any] = {"peaks": peaks.of, "quiet": quiet}
    save("rest", figures, detail)
    return figures
