"""Writes a cordon and lifts it, as planning/cordon.py decides: on a fresh read whenever somebody wrote in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hostplane.api.core import NODE, Node
from hostplane.errors import ConflictError, NotFoundError
from hostplane.kube.session import Session
from hostplane.planning.cordon import cordon_patch, restore_patch

__all__ = ["cordon", "restore"]

_ATTEMPTS = 8  # a kubelet writes its Node every few seconds, so two conflicts in a row are rare


def _unfenced() -> None:
    return None


async def cordon(session: Session, node: Node, seq: int, *, fence: Callable[[], None] = _unfenced) -> Node:
    """Cordons the node for the grant `seq` and marks it; returns it as it now is. Safe to repeat and to abandon.

    `node` may be stale: what is decided on it is written only if it still holds, else decided again on a fresh read.
    `fence` is asked right after each read, so that nobody who lost the leadership meanwhile decides on a fresh one.

    Raises:
        NotFoundError: the node is gone.
        ConflictError: others wrote in between every time.
        ClusterError: any other leaf; it may have happened.
    """
    return await _write(session, node, lambda fresh: cordon_patch(fresh, seq), fence)


async def restore(
    session: Session, node: Node, seq: int | None = None, *, fence: Callable[[], None] = _unfenced
) -> Node | None:
    """Takes our cordon and its mark away (see restore_patch); None if the node is gone. Safe to repeat and to abandon.

    Nothing is read where `node` carries no mark, so a caller that may be stale asks again when the node changes.

    Raises:
        ConflictError: others wrote in between every time.
        ClusterError: any other leaf; it may have happened.
    """
    try:
        return await _write(session, node, lambda fresh: restore_patch(fresh, seq), fence)
    except NotFoundError:
        return None


async def _write(
    session: Session, node: Node, decide: Callable[[Node], dict[str, Any] | None], fence: Callable[[], None]
) -> Node:
    name, uid = node.metadata.name, node.metadata.uid
    attempts = _ATTEMPTS
    while (patch := decide(node)) is not None:
        try:
            return await session.patch(NODE, name, patch)
        except ConflictError:
            attempts -= 1
            if attempts == 0:
                raise
        node = await session.get(NODE, name)
        fence()
        if node.metadata.uid != uid:
            raise NotFoundError("CordonNodeReplaced", node=name)
    return node
