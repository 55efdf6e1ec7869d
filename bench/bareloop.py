"""The limit that the operator is compared with: the same writes for the next node whenever a slot is free, no deciding.

    python -m bench.bareloop --kubeconfig F --slots N --os NAMESPACE/NAME

It says `ready`, and on a line `go VERSION` takes every node in turn: one conditional update of the Ledger for all that
came and went in the last 100 ms, as the operator paces itself, then for each node its OSInstance and its label, through
the same client with the same number of connections. A slot is free when the node has made its last write, the idle
OSInstance, so it keeps the same budget as the operator. There is no Lease, no Event, no status and no check.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from hostplane.api.core import NODE
from hostplane.api.kubeos import OS, OSINSTANCE, UPGRADING, OSInstance
from hostplane.api.ledger import LEDGER, LEDGER_NAME
from hostplane.errors import NotFoundError
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.operator.config import OperatorConfig
from hostplane.planning.kubeos import OPERATION, Record

__all__ = ["main"]

_NAMESPACE = "default"
_GATHER_SECONDS = OperatorConfig().coalesce_seconds


class _Loop:
    def __init__(self, session: Session, slots: int, owner: str) -> None:
        self._session, self._slots = session, slots
        self._namespace, _, self._name = owner.partition("/")
        self._freed: list[str] = []
        self._busy: set[str] = set()
        self._wake = asyncio.Event()
        self._boots: dict[str, str] = {}
        self.instances = Informer(session, OSINSTANCE, namespace=_NAMESPACE, on_change=self._changed)

    def _changed(self, old: OSInstance | None, new: OSInstance | None) -> None:
        if new is None or old is None or new.spec.nodestatus != "idle":
            return
        if new.metadata.name in self._busy:
            self._busy.discard(new.metadata.name)
            self._freed.append(new.metadata.name)
            self._wake.set()

    async def all(self, say_ready: Callable[[], None]) -> None:
        """Every node once, after `go`."""
        ledger = await self._ledger()
        nodes = await self._session.list(NODE)
        self._boots = {node.metadata.name: node.status.node_info.boot_id for node in nodes.items}
        waiting = sorted(self._boots, reverse=True)
        say_ready()
        await asyncio.to_thread(sys.stdin.readline)
        uid = (await self._session.get(OS, self._name, self._namespace)).metadata.uid
        seq, version = ledger.spec.next_seq, ledger.metadata.resource_version
        async with asyncio.TaskGroup() as group:
            while True:
                begun = time.monotonic()
                self._wake.clear()
                gone, self._freed = self._freed, []
                taken = [waiting.pop() for _ in range(min(len(waiting), self._slots - len(self._busy)))]
                self._busy.update(taken)
                holders: dict[str, Any] = dict.fromkeys(gone)
                first = seq
                for name in taken:
                    holders[name] = {"seq": seq, "group": 0, "since": int(time.time())}
                    seq += 2
                body = {
                    "metadata": {"resourceVersion": version},
                    "spec": {
                        "schemaVersion": "1.0",
                        "nextSeq": seq,
                        "groups": [f"os/{self._namespace}/{self._name}"],
                        "holders": holders,
                    },
                }
                version = (await self._session.patch(LEDGER, LEDGER_NAME, body)).metadata.resource_version
                for index, name in enumerate(taken):
                    group.create_task(self._assign(name, first + 2 * index, uid))
                if not waiting and not self._busy and not self._freed:
                    return
                await self._wake.wait()
                await asyncio.sleep(max(0.0, begun + _GATHER_SECONDS - time.monotonic()))

    async def _ledger(self) -> Any:
        try:
            return await self._session.get(LEDGER, LEDGER_NAME)
        except NotFoundError:
            return await self._session.create(LEDGER, LEDGER.manifest(LEDGER_NAME, spec={"nextSeq": 1}))

    async def _assign(self, name: str, seq: int, uid: str) -> None:
        boot, now = self._boots[name], int(time.time())
        record = Record(os=uid, generation=1, seq=seq, boot=boot, at=now, schedulable=True)
        instance = self.instances.items()[f"{_NAMESPACE}/{name}"]
        body = {
            "metadata": {
                "resourceVersion": instance.metadata.resource_version,
                "annotations": {OPERATION: msgspec.json.encode(record).decode()},
            },
            "spec": {
                "nodestatus": "upgrade",
                "namespacedname": {"name": self._name, "namespace": self._namespace},
            },
        }
        await self._session.patch(OSINSTANCE, name, body, _NAMESPACE)
        await self._session.patch(NODE, name, {"metadata": {"labels": {UPGRADING: ""}}})


async def _main(options: argparse.Namespace) -> None:
    rate = OperatorConfig().rate
    async with await Session.open(
        options.kubeconfig, options.connections, "bench-bareloop", rate=rate, burst=int(rate * 2)
    ) as session:
        loop = _Loop(session, options.slots, options.os)
        watching = asyncio.create_task(loop.instances.run())
        await loop.instances.synced()
        await loop.all(lambda: print("ready", flush=True))
        watching.cancel()


def main() -> None:
    """Reads the command line, waits for `go`, ends when every node is done."""
    parser = argparse.ArgumentParser(prog="python -m bench.bareloop")
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--os", required=True, help="NAMESPACE/NAME of the OS object")
    parser.add_argument("--connections", type=int, default=OperatorConfig().connections)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
