"""The limit that the operator is compared with: the same writes for the next node whenever a slot is free, no deciding.

    python -m bench.bareloop --kubeconfig F --slots N --os NAMESPACE/NAME

It says `ready`, and on a line `go VERSION` takes every node in turn: one conditional update of the Ledger for all that
came and went in the last 100 ms, as the operator paces itself, then for each node its OSInstance and its label, through
the same client with the same number of connections. A slot is free when the node lost its label. There is no Lease, no
Event and no status, and nothing is ever checked.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from hostplane.api.core import NODE, Node
from hostplane.api.kubeos import OS, OSINSTANCE, UPGRADING
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
        self.nodes = Informer(session, NODE, on_change=self._changed)

    def _changed(self, old: Node | None, new: Node | None) -> None:
        if new is None or old is None or UPGRADING not in old.metadata.labels or UPGRADING in new.metadata.labels:
            return
        if new.metadata.name in self._busy:
            self._busy.discard(new.metadata.name)
            self._freed.append(new.metadata.name)
            self._wake.set()

    async def all(self, say_ready: Callable[[], None]) -> None:
        """Every node once, after `go`."""
        ledger = await self._ledger()
        instances = await self._session.list(OSINSTANCE, _NAMESPACE)
        versions = {i.metadata.name: i.metadata.resource_version for i in instances.items}
        waiting = sorted(self.nodes.items(), reverse=True)
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
                    group.create_task(self._assign(name, versions[name], first + 2 * index, uid))
                if not waiting and not self._busy and not self._freed:
                    return
                await self._wake.wait()
                await asyncio.sleep(max(0.0, begun + _GATHER_SECONDS - time.monotonic()))

    async def _ledger(self) -> Any:
        try:
            return await self._session.get(LEDGER, LEDGER_NAME)
        except NotFoundError:
            return await self._session.create(LEDGER, LEDGER.manifest(LEDGER_NAME, spec={"nextSeq": 1}))

    async def _assign(self, name: str, version: str, seq: int, uid: str) -> None:
        node = self.nodes.items()[name]
        record = Record(
            os=uid, generation=1, seq=seq, boot=node.status.node_info.boot_id, at=int(time.time()), schedulable=True
        )
        body = {
            "metadata": {
                "resourceVersion": version,
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
        watching = asyncio.create_task(loop.nodes.run())
        await loop.nodes.synced()
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
