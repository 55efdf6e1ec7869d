"""`hostplane demo --vm`: virtual machines that are real Nodes take a new version, and come back from a broken one.

    build v1, v2, v3 ─▶ start the cluster ─▶ boot the machines from v1 ─▶ roll v2 out ─▶ roll v3 out: the first
    host's kubelet does not work, it returns to v2 by itself, and the operator stops

Boot loader, kernel, systemd, containerd, kubelet, agent and proxy are those of a real host; the processor and the disks
are emulated, so it takes minutes. The story is told by the API server's objects alone. Machines live in this process:
they, the bundle server and the cluster end with it, also after an error or an interrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import msgspec

from hostplane.api.host import HOST
from hostplane.api.nodegroup import NODEGROUP
from hostplane.api.osimage import OSIMAGE
from hostplane.api.rollout import ROLLOUT
from hostplane.errors import Reason, reason
from hostplane.image.bundle.release import osimage
from hostplane.kube.session import Session
from hostplane.local import cluster, state
from hostplane.local.audience import Audience
from hostplane.local.bundleserver import BundleServer
from hostplane.local.controlplane import GUESTS_GATEWAY
from hostplane.local.demo import undisturbed, watched
from hostplane.local.demo_story import Release, Returned, is_away
from hostplane.local.demo_view import Screen, View
from hostplane.local.vmimages import VmImage, build_images
from hostplane.local.vmnodes import Guests, node_name
from hostplane.local.vmstory import VmOutcome, VmSummary, deviations, returned_from, runs

__all__ = ["MOST_MACHINES", "played"]

MOST_MACHINES = 8
GROUP = "machines"
_BOOT_SECONDS = 900.0
"""For one machine to become a Node that its Host reports of; 60 to 120 where nothing else runs."""
_ROLLOUT_SECONDS = 1200.0
"""For each machine in turn: fetch, write, reboot, trial."""
_TRIAL_SECONDS = 1800
_NOTHING_NEW = Release(version="", digest="-", pretty_name="")  # of the first boot nobody says that it upgraded


@contextlib.contextmanager
def played(directory: Path, machines: int, screen: Screen) -> Iterator[VmOutcome]:
    """Tells the whole story with so many machines (1 to MOST_MACHINES) in `directory`; they run until the context ends.

    Main thread only: the machines end with the thread that started them.

    Raises:
        LocalError: something is missing, did not start, or ended on its way.
        ImageError, RecipeError: an image was not built.
        ClusterError: the API server refused what every cluster accepts, or cannot be reached any more.
    """
    started = time.monotonic()
    names = [node_name(index) for index in range(machines)]
    screen.tell("VmDemoStory", machines=machines)
    screen.tell("VmDemoReal")
    state.prepare_directory(directory)
    with screen.busy("VmDemoBuilding"):
        images = build_images(directory / "images", screen.say)
    built = time.monotonic()
    with screen.busy("VmDemoStarting"):
        cluster.up(directory, controller_manager=True, guests=names, say=screen.say)
    guests = Guests(directory / "machines", names)
    with BundleServer({name: image.bundle for name, image in images.items()}) as server:
        try:
            story = _Story(directory, images, server, guests, screen, started)
            outcome = asyncio.run(story.tell())
            summary = msgspec.structs.replace(outcome.summary, images_s=round(built - started, 1))
            yield msgspec.structs.replace(outcome, summary=summary)
        finally:
            with undisturbed():
                guests.stop()


class _Story:
    """One telling; each part returns when it is over, or late."""

    def __init__(
        self,
        directory: Path,
        images: Mapping[str, VmImage],
        server: BundleServer,
        guests: Guests,
        screen: Screen,
        started: float,
    ) -> None:
        self._directory, self._images, self._server = directory, images, server
        self._guests, self._screen, self._started = guests, screen, started
        self._releases = {name: _release(image) for name, image in images.items()}
        self._seconds: dict[str, float] = {}
        self._sent: dict[str, int] = {}
        self._stuck: list[Reason] = []
        self._processors = os.cpu_count() or 1

    async def tell(self) -> VmOutcome:
        """From the first boot to the end."""
        kubeconfig = str(self._directory / "kubeconfig")
        groups = dict.fromkeys(self._guests.names, GROUP)
        async with await Session.open(kubeconfig, connections=2, user_agent="hostplane-demo") as session:
            await self._guests.prepare(session, self._directory, self._images["v1"].disk)
            audience = Audience(session, groups, {GROUP: 1}, self._started)
            async with watched(self._directory, audience):
                await audience.synced()
                await self._ask(session)  # a node in no group is never touched, not even given a Host
                with self._screen.view() as view:
                    async with self._timed("boot"):
                        await self._boot(audience, view)
                    audience.count_from_now()
                    for name in ("v2", "v3"):
                        if not self._stuck:
                            async with self._timed(name):
                                await self._roll_out(session, audience, view, name)
                summary = await self._count(session, audience)
        return VmOutcome(summary=summary, deviations=[*self._stuck, *deviations(summary)])

    @contextlib.asynccontextmanager
    async def _timed(self, name: str) -> AsyncIterator[None]:
        began, sent = time.monotonic(), self._server.sent
        yield
        self._seconds[name] = round(time.monotonic() - began, 1)
        self._sent[name] = self._server.sent - sent

    async def _boot(self, audience: Audience, view: View) -> None:
        """As many at once as there are processors: more would only make each of them slower."""
        names = self._guests.names

        def have_joined() -> bool:
            self._guests.check()
            hosts, nodes = audience.hosts(), {node.metadata.name: node for node in audience.nodes()}
            joined = {n for n in names if n in hosts and hosts[n].status.phase and not is_away(nodes.get(n))}
            for name in names:
                if name not in self._guests.started and len(self._guests.started - joined) < self._processors:
                    self._guests.start(name)
            return len(joined) == len(names)

        if not await audience.until(have_joined, view, "", _NOTHING_NEW, _BOOT_SECONDS * len(names)):
            late = ", ".join(node.metadata.name for node in audience.nodes() if is_away(node)) or "-"
            self._stuck.append(reason("VmNotJoined", node=late, seconds=round(_BOOT_SECONDS * len(names))))

    async def _ask(self, session: Session) -> None:
        """What an administrator would apply once."""
        for name, image in self._images.items():
            found = [(image.inspection, self._server.address(name, GUESTS_GATEWAY))]
            await session.create(OSIMAGE, osimage(found, f"vm-node-{name}"))
        selector = {"matchLabels": {"hostplane.dev/agent": "native"}}
        await session.create(NODEGROUP, NODEGROUP.manifest(GROUP, spec={"selector": selector, "maxUnavailable": 1}))

    async def _roll_out(self, session: Session, audience: Audience, view: View, name: str) -> None:
        wish = {
            "operation": "upgrade",
            "image": f"vm-node-{name}",
            "groups": [GROUP],
            "failureThreshold": 1,  # the first host that fails stops the rest
            "trialSeconds": _TRIAL_SECONDS,
        }
        rollout, seconds = f"to-{name}", _ROLLOUT_SECONDS * len(self._guests.names)
        await session.create(ROLLOUT, ROLLOUT.manifest(rollout, spec=wish))

        async def power() -> None:
            while True:  # a machine that ends is the end of the story, whatever the objects still say
                self._guests.check()
                await asyncio.sleep(1.0)

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(power())
            is_done = await audience.watch(view, rollout, self._releases[name], seconds)
            watching.cancel()
        if not is_done:
            self._stuck.append(reason("DemoStuck", seconds=round(seconds), progress=audience.progress(rollout)))

    async def _count(self, session: Session, audience: Audience) -> VmSummary:
        """The end, from objects read anew."""
        hosts = [host for host in (await session.list(HOST)).items if host.metadata.name in self._guests.names]
        returned: list[Returned] = [one for host in hosts if (one := returned_from(host, self._releases["v3"]))]
        (group,) = audience.away.groups()
        return VmSummary(
            hosts=len(self._guests.names),
            upgraded=sum(runs(host, self._releases["v2"]) for host in hosts),
            returned=len(returned),
            returned_hosts=returned,
            budget=group.budget,
            max_unavailable_seen=group.most_away,
            wall_s=round(time.monotonic() - self._started, 1),
            boot_s=self._seconds.get("boot", 0.0),
            rollout_s={name: self._seconds[name] for name in ("v2", "v3") if name in self._seconds},
            bundle_bytes={name: image.inspection.size for name, image in self._images.items()},
            sent_bytes={name: self._sent[name] for name in ("v2", "v3") if name in self._sent},
        )


def _release(image: VmImage) -> Release:
    said = image.inspection
    return Release(version=said.metadata["version"], digest=said.digest, pretty_name=image.pretty_name)
