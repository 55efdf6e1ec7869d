"""All simulated hosts of one local cluster in one process, with the images they can be upgraded to.

Only agents and proxies are processes of their own; the hardware, the kubelets and the image server share this one, so
that a laptop can hold many hosts. `D/machines.json` says what there is. A SIGTERM is a power failure for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from hostplane.image.root.agentapp import build_agent
from hostplane.kube.session import Session
from hostplane.local import credentials
from hostplane.local.disk import SOCKET, install, slot_path
from hostplane.local.image import Image, ImageServer, write_image
from hostplane.local.kubelet import Kubelet
from hostplane.local.machine import Machine, Timings
from hostplane.local.pods import Pods

__all__ = ["POOLS", "Fleet", "HostEntry", "ImageEntry", "Machines", "fleet", "node_name", "read_machines", "run"]

POOLS = ("a", "b", "c")
"""Values of the node label `pool`, in turn: three groups for whoever wants some."""

_LABELS = {"hostplane.dev/agent": "native"}


class ImageEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An image and where it is served: what OSImage needs to know."""

    version: str
    pretty_name: str
    digest: str
    size: int
    ref: str


class HostEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A host: its node's name and its root directory."""

    node: str
    root: str


class Machines(msgspec.Struct, frozen=True, kw_only=True):
    """The content of D/machines.json. `images`: v1 (installed), v2, and `broken`, which no loader can start."""

    images: dict[str, ImageEntry]
    hosts: list[HostEntry]


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """Running machines by node name, and the images they can fetch."""

    machines: dict[str, Machine]
    images: dict[str, ImageEntry]


def node_name(index: int) -> str:
    """The name of the host with this index, from 0."""
    return f"host-{index + 1:02d}"


def read_machines(directory: Path) -> Machines:
    """What the supervisor of the cluster in `directory` runs."""
    return msgspec.json.decode((directory / "machines.json").read_bytes(), type=Machines)


async def run(directory: Path, hosts: int, filler_bytes: int = 1024 * 1024) -> None:
    """Runs `hosts` machines below `directory`/hosts until SIGTERM or SIGINT; ends every process it started."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with fleet(directory, directory / "kubeconfig", hosts, filler_bytes=filler_bytes, own_credentials=True):
        await stop.wait()


@contextlib.asynccontextmanager
async def fleet(
    directory: Path,
    kubeconfig: Path,
    hosts: int,
    *,
    timings: Timings | None = None,
    with_proxy: bool = True,
    own_credentials: bool = False,
    filler_bytes: int = 256 * 1024,
    **agent_settings: object,
) -> AsyncIterator[Fleet]:
    """`hosts` machines below `directory`/hosts, running while the context is open. Disks that exist are kept.

    Args:
        own_credentials: each proxy gets a token bound to its pod and node (deploy/rbac and deploy/admission must be
            applied), else it uses `kubeconfig` as it is.
        agent_settings: keys of each new host's etc/hostplane/agent.json.
    """
    images = _images(directory / "images", filler_bytes)
    agent = _agent_command(directory)
    async with await Session.open(str(kubeconfig), user_agent="simulated-hosts") as session:
        machines: dict[str, Machine] = {}
        owner = await credentials.proxy_daemon_set(session) if own_credentials else ""
        pods = Pods(session, lambda node: machines[node].kubelet.is_up if node in machines else None)
        for index in range(hosts):
            node = node_name(index)
            root = directory / "hosts" / node
            if not slot_path(root, "A").exists():
                install(root, images["v1"], **agent_settings)
            labels = {
                **_LABELS,
                "pool": POOLS[index % len(POOLS)],
                "topology.kubernetes.io/zone": f"zone-{index % 2 + 1}",
            }
            socket = str(root / SOCKET)
            own = kubeconfig
            if own_credentials:
                own = directory / "hosts" / f"{node}.kubeconfig"
                await credentials.node_kubeconfig(session, node, owner, directory / "pki" / "apiserver.crt", own)
            proxy = [sys.executable, "-m", "hostplane.cli", "proxy", "--node", node, "--socket", socket]
            machines[node] = Machine(
                root,
                Kubelet(session, node, labels),
                [*agent, "serve", "--root", str(root), "--socket", socket],
                [*proxy, "--kubeconfig", str(own)] if with_proxy else None,
                timings=timings,
                on_change=pods.host_changed,
            )
        with ImageServer(directory / "images") as server:
            entries = {name: _entry(image, server.address(image)) for name, image in images.items()}
            known = [HostEntry(node=node, root=str(machine.root)) for node, machine in machines.items()]
            _write(directory / "machines.json", Machines(images=entries, hosts=known))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(pods.run())]
                tasks += [group.create_task(machine.run()) for machine in machines.values()]
                try:
                    yield Fleet(machines=machines, images=entries)
                finally:
                    for task in tasks:
                        task.cancel()


def _images(directory: Path, filler_bytes: int) -> dict[str, Image]:
    return {
        "v1": write_image(directory, "v1", filler_bytes=filler_bytes),
        "v2": write_image(directory, "v2", filler_bytes=filler_bytes),
        "broken": write_image(directory, "broken", filler_bytes=filler_bytes, boots=False),
    }


def _entry(image: Image, ref: str) -> ImageEntry:
    return ImageEntry(
        version=image.version, pretty_name=image.pretty_name, digest=image.digest, size=image.size, ref=ref
    )


def _write(path: Path, machines: Machines) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(machines), indent=2))
    os.replace(temporary, path)


def _agent_command(directory: Path) -> list[str]:
    """The agent as it is shipped: one zipapp, built once for this cluster, run by this interpreter."""
    return [sys.executable, str(build_agent(directory / "hostplane-agent.pyz"))]
