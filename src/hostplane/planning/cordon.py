"""A cordon with an owner mark, and what lifting it leaves behind: exactly the cordon state that was found.

The mark is the annotation `hostplane.dev/cordon: {"seq": N, "was": false}`; it is written in the same patch as the
cordon, so at every instant the node itself says whose cordon it is and what was there before. Every patch carries the
resourceVersion it was decided on: who wrote in between is read again, never overwritten.

It refuses to lift a cordon without a mark, one that was there before, or one of a later grant. What it cannot see: an
administrator who cordons a node that we have cordoned already (kubectl then writes nothing), or who uncordons and
cordons it again meanwhile; the mark says that cordon is ours, and it is lifted.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hostplane.api.core import Node

__all__ = ["MARK", "Mark", "cordon_patch", "mark_of", "restore_patch"]

MARK = "hostplane.dev/cordon"


class Mark(msgspec.Struct, frozen=True):
    """Whose cordon this is, by the grant's seq, and whether the node was cordoned before."""

    seq: int
    was: bool


def mark_of(node: Node) -> Mark | None:
    """The owner mark of a node, or None. A mark that cannot be read claims nothing: seq 0, cordoned before."""
    raw = node.metadata.annotations.get(MARK)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=Mark)
    except (msgspec.MsgspecError, RecursionError):
        return Mark(0, True)


def cordon_patch(node: Node, seq: int) -> dict[str, Any] | None:
    """The merge patch that cordons `node` for the grant `seq`, or None if that is what it is.

    A mark left by an earlier grant is taken over with what it remembers, unless the node was uncordoned since. An
    uncordon during the grant is answered by cordoning again: the host is about to reboot.
    """
    mark, cordoned = mark_of(node), node.spec.unschedulable
    was = cordoned and (mark is None or mark.was)
    if cordoned and mark == Mark(seq, was):
        return None
    return _patch(node, msgspec.json.encode(Mark(seq, was)).decode(), True)


def restore_patch(node: Node, seq: int | None = None) -> dict[str, Any] | None:
    """The merge patch that takes our mark away, and our cordon with it if it is still ours; None without a mark.

    With `seq`, a mark of a later grant is left alone: whoever was paused must not undo its successor's work.
    """
    mark = mark_of(node)
    if mark is None or (seq is not None and mark.seq > seq):
        return None
    return _patch(node, None, False if node.spec.unschedulable and not mark.was else None)


def _patch(node: Node, mark: str | None, unschedulable: bool | None) -> dict[str, Any]:
    patch: dict[str, Any] = {
        "metadata": {"resourceVersion": node.metadata.resource_version, "annotations": {MARK: mark}}
    }
    if unschedulable is not None:
        patch["spec"] = {"unschedulable": unschedulable}
    return patch
