"""The cluster's word on a host on trial: the DaemonSet pods that were ready before its drain are ready again.

They are noted on the Host before the first eviction, in an annotation that carries the grant's number, so that any
leader can ask later. A pod is known by its DaemonSet, because its own name changes with the reboot.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hostplane.api.core import POD, Pod
from hostplane.api.host import HOST, Host
from hostplane.errors import reason
from hostplane.kube.session import Session
from hostplane.planning.snapshot import Word

__all__ = ["NOTE", "ask", "note", "ready_daemons"]

NOTE = "hostplane.dev/ready-before"
_MOST = 200


class Note(msgspec.Struct, frozen=True):
    """Which DaemonSets (namespace/name) had a ready pod on the node when the grant `seq` was given."""

    seq: int
    daemons: list[str]


def ready_daemons(pods: Iterable[Pod]) -> list[str]:
    """namespace/name of every DaemonSet with a ready pod among `pods`, sorted."""
    found = set()
    for pod in pods:
        owner = pod.controller
        if owner is not None and owner.kind == "DaemonSet" and pod.ready and pod.metadata.deletion_timestamp is None:
            found.add(f"{pod.metadata.namespace}/{owner.name}")
    return sorted(found)[:_MOST]


def _noted(host: Host) -> Note:
    try:
        return msgspec.json.decode(host.metadata.annotations.get(NOTE, ""), type=Note)
    except msgspec.DecodeError:
        return Note(0, [])


async def note(session: Session, host: Host, seq: int) -> Host:
    """Write down what is ready on the node now; a note of the same grant stays as it is.

    Raises:
        ClusterError: nothing was written, or it may have been.
    """
    if _noted(host).seq == seq:
        return host
    pods = await session.list(POD, field_selector=f"spec.nodeName={host.metadata.name}")
    text = msgspec.json.encode(Note(seq, ready_daemons(pods.items))).decode()
    return await session.patch(HOST, host.metadata.name, {"metadata": {"annotations": {NOTE: text}}})


async def ask(session: Session, host: Host, seq: int) -> Word:
    """Whether all that was ready before is ready now. Nothing noted: nothing to wait for.

    Raises:
        ClusterError: the pods could not be read.
    """
    noted = _noted(host)
    if noted.seq != seq or not noted.daemons:
        return Word(seq=seq, ok=True)
    pods = await session.list(POD, field_selector=f"spec.nodeName={host.metadata.name}")
    missing = sorted(set(noted.daemons) - set(ready_daemons(pods.items)))
    if not missing:
        return Word(seq=seq, ok=True)
    why = reason("AwaitingPods", node=host.metadata.name, pods=", ".join(missing[:5]))
    return Word(seq=seq, ok=False, reason=why)
