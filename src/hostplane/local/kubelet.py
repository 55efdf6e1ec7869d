"""The kubelet of a simulated host: the Node as the API server sees it, with real writes and nothing invented.

Level-triggered: the machine says what is (`running`, `down`), one loop brings the Node there and keeps its Lease
alive while the host runs. A Node that was deleted comes back with the next boot, as with a real kubelet. It writes
status only; spec (and with it every cordon) belongs to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hostplane.api.core import NODE, Bare
from hostplane.api.meta import Resource
from hostplane.errors import ClusterError, ConflictError, NotFoundError
from hostplane.kube.pace import Backoff
from hostplane.kube.session import Session
from hostplane.local.bootloader import Boot

__all__ = ["Kubelet", "now"]

LEASE = Resource(Bare, "coordination.k8s.io", "v1", "Lease", "leases", namespaced=True)
_LEASES = "kube-node-lease"
_MANAGER = "simulated-kubelet"


def now(timespec: str = "seconds") -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


class Kubelet:
    """One node's kubelet; `run` it as a task."""

    def __init__(
        self, session: Session, node: str, labels: Mapping[str, str] | None = None, heartbeat_seconds: float = 10.0
    ) -> None:
        self._session, self.node, self._heartbeat = session, node, heartbeat_seconds
        basics = {"kubernetes.io/hostname": node, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        self._labels = {**basics, **(labels or {})}
        self._boot: Boot | None = None
        self._reported: Boot | None = None
        self._changed = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether the host runs and its kubelet is well."""
        return self._boot is not None and self._boot.fault != "not-ready"

    def running(self, boot: Boot) -> None:
        """The host runs this system now."""
        self._boot = boot
        self._changed.set()

    def down(self) -> None:
        """The host does not run."""
        self._boot = None
        self._changed.set()

    async def run(self) -> None:
        """Keeps the Node true until cancelled; an API server that is away is asked again."""
        backoff = Backoff(first=0.1, most=2.0)
        while True:
            self._changed.clear()
            wanted = self._boot
            try:
                if wanted is not self._reported:
                    await self._report(wanted)
                    self._reported = wanted
                if wanted is not None:
                    await self._beat()
                backoff.reset()
                wait = self._heartbeat if wanted is not None else None
            except ClusterError:
                wait = backoff.wait()
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _report(self, boot: Boot | None) -> None:
        body = {"status": self._status(boot)}
        try:
            await self._session.patch(NODE, self.node, body, subresource="status", field_manager=_MANAGER)
        except NotFoundError:
            if boot is None:
                return
            await self._session.create(NODE, {**NODE.manifest(self.node), **self._metadata()})
            await self._session.patch(NODE, self.node, body, subresource="status", field_manager=_MANAGER)

    def _metadata(self) -> dict[str, Any]:
        return {"metadata": {"name": self.node, "labels": self._labels}}

    def _status(self, boot: Boot | None) -> dict[str, Any]:
        is_ready = boot is not None and boot.fault != "not-ready"
        ready = {
            "type": "Ready",
            "status": "True" if is_ready else "False",
            "reason": "KubeletReady" if is_ready else "KubeletNotReady",
            "message": "simulated host",
            "lastHeartbeatTime": now(),
            "lastTransitionTime": now(),
        }
        status: dict[str, Any] = {"conditions": [ready]}
        if boot is not None:
            amounts = {"cpu": "4", "memory": "8Gi", "pods": "110"}
            status |= {"nodeInfo": self._node_info(boot), "capacity": amounts, "allocatable": amounts}
        return status

    def _node_info(self, boot: Boot) -> dict[str, str]:
        return {
            "machineID": self.node,
            "systemUUID": self.node,
            "bootID": boot.boot_id,
            "kernelVersion": f"6.1.0-{boot.release.version_id}",
            "osImage": boot.release.pretty_name,
            "operatingSystem": "linux",
            "architecture": "amd64",
            "containerRuntimeVersion": "containerd://1.7.0",
            "kubeletVersion": "v1.34.2",
            "kubeProxyVersion": "",
        }

    async def _beat(self) -> None:
        spec = {"holderIdentity": self.node, "leaseDurationSeconds": 40, "renewTime": now("microseconds")}
        try:
            await self._session.patch(LEASE, self.node, {"spec": spec}, namespace=_LEASES, field_manager=_MANAGER)
        except NotFoundError:
            try:
                body = {**LEASE.manifest(self.node, _LEASES), "spec": spec}
                await self._session.create(LEASE, body, namespace=_LEASES)
            except ConflictError:
                return
