"""The simulated nodes of a bench, in a process of their own: KubeOS's protocol, answered at once.

    python -m bench.simulator --kubeconfig F --nodes N --reboot SECONDS [--version V] [--wrong-every K]

It makes the nodes, says `ready`, and for each line `await VERSION` on its standard input says `done CLOCK` as soon as
every node runs that version, un-labelled, with an idle OSInstance; CLOCK is the monotonic one, which all processes of a
machine share. With --wrong-every, every K-th node always comes back with a version that nobody wished for.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from hostplane.api.kubeos import CONFIGURING, UPGRADING
from hostplane.kube.session import Session
from hostplane.local.kubeos_node import WRONG_VERSION, KubeOSNodes

__all__ = ["names"]

_CONNECTIONS = 16
_LOOK_SECONDS = 0.02
_UNLIMITED = 1_000_000


def names(count: int) -> list[str]:
    """The names of `count` nodes."""
    return [f"bench-{index:05d}" for index in range(count)]


def _are_done(nodes: KubeOSNodes, version: str) -> bool:
    for node in nodes.nodes.items().values():
        labels = node.metadata.labels
        if node.status.node_info.os_image != version or UPGRADING in labels or CONFIGURING in labels:
            return False
    return all(instance.spec.nodestatus == "idle" for instance in nodes.instances.items().values())


async def _await(nodes: KubeOSNodes, version: str, reboots: int) -> float:
    """The moment everybody is done; asks everybody only once enough of them rebooted, because asking costs."""
    while sum(nodes.reboots.values()) < reboots or not _are_done(nodes, version):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)
    return time.monotonic()


async def _main(options: argparse.Namespace) -> None:
    mine = names(options.nodes)
    faults = dict.fromkeys(mine[:: options.wrong_every], WRONG_VERSION) if options.wrong_every else {}
    async with await Session.open(
        options.kubeconfig, _CONNECTIONS, "bench-nodes", rate=_UNLIMITED, burst=_UNLIMITED
    ) as session:
        nodes = KubeOSNodes(session, mine, reboot_seconds=options.reboot, faults=faults)
        await nodes.create(options.version)
        running = asyncio.create_task(nodes.run())
        for informer in (nodes.nodes, nodes.instances, nodes.oses):
            await informer.synced()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            version = line.removeprefix("await ").strip()
            finished = asyncio.create_task(_await(nodes, version, sum(nodes.reboots.values()) + len(mine)))
            await asyncio.wait({finished, running}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            print(f"done {finished.result()}", flush=True)


def main() -> None:
    """Reads the command line and behaves until its standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulator")
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--reboot", type=float, required=True, help="seconds")
    parser.add_argument("--version", default="v1", help="what the nodes run at first")
    parser.add_argument("--wrong-every", type=int, default=0)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
