"""The containers of all simulated hosts: pods become ready on a host that runs, stop with it, and leave when asked to.

Without a kubelet a deleted pod would stay Terminating for ever and no drain could end. One informer serves every
machine of a process; no container runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hostplane.api.core import POD, Pod
from hostplane.errors import ClusterError, NotFoundError
from hostplane.kube.informer import Informer
from hostplane.kube.pace import Backoff
from hostplane.kube.session import Session
from hostplane.local.kubelet import now

__all__ = ["Pods"]


class Pods:
    """The pods on the nodes for which `is_up` gives an answer; None means: not a node of ours."""

    def __init__(self, session: Session, is_up: Callable[[str], bool | None]) -> None:
        self._session, self._is_up = session, is_up
        self._pending: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._pods = Informer(
            session, POD, indexes={"node": lambda pod: [pod.spec.node_name]}, on_change=self._on_change
        )

    def host_changed(self, node: str) -> None:
        """The host came up or went down: look at its pods again."""
        for pod in self._pods.by("node", node):
            self._note(pod)

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run())
            group.create_task(self._work())

    def _on_change(self, old: Pod | None, new: Pod | None) -> None:
        if new is not None:
            self._note(new)

    def _note(self, pod: Pod) -> None:
        if pod.spec.node_name:
            self._pending[f"{pod.metadata.namespace}/{pod.metadata.name}"] = None
            self._wake.set()

    async def _work(self) -> None:
        backoff = Backoff(first=0.1, most=2.0)
        while True:
            await self._wake.wait()
            self._wake.clear()
            failed: dict[str, None] = {}
            while self._pending:
                key = next(iter(self._pending))
                del self._pending[key]
                pod = self._pods.get(key)
                try:
                    if pod is not None:
                        await self._settle(pod)
                except NotFoundError:
                    continue
                except ClusterError:
                    failed[key] = None
            if failed:
                self._pending |= failed
                self._wake.set()
                await asyncio.sleep(backoff.wait())
            else:
                backoff.reset()

    async def _settle(self, pod: Pod) -> None:
        is_up = self._is_up(pod.spec.node_name)
        metadata = pod.metadata
        if is_up is None or pod.status.phase in ("Succeeded", "Failed"):
            return
        if metadata.deletion_timestamp and is_up:
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata.uid}}
            await self._session.request("DELETE", POD.path(metadata.namespace, metadata.name), options)
        elif is_up is not pod.ready:
            body = {"status": {"phase": "Running", "conditions": [_ready(is_up)]}}
            await self._session.patch(POD, metadata.name, body, namespace=metadata.namespace, subresource="status")


def _ready(is_ready: bool) -> dict[str, Any]:
    return {"type": "Ready", "status": "True" if is_ready else "False", "lastTransitionTime": now()}
