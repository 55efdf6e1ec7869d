"""KubeOS's serial mode: a labelled batch of at most maxunavailable nodes, worked on one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from hostplane.api.kubeos import SERIAL

from .actions import LabelNode
from .standing import Stand, Standing

__all__ = ["serial"]


def serial(
    standings: Sequence[Standing], batch: Sequence[str], limit: int, is_held: bool
) -> tuple[list[Standing], list[LabelNode]]:
    """(who may begin now: one or nobody, the labels to change).

    `batch` is who carries the serial label; only they may begin, so a new batch begins with the pass after its labels.
    It is filled up to `limit`, and dissolved before the next one when nobody of it wants work. `is_held`: nobody may
    begin for another reason, so nothing is prepared either.
    """
    ready = [s for s in standings if s.stand is Stand.READY]
    if any(s.stand is Stand.WORKING for s in standings) or (ready and is_held):
        return [], []
    inside = set(batch)
    wanting = [s for s in ready if s.node in inside]
    if batch and not wanting:
        return [], [LabelNode(node=name, labels={SERIAL: None}) for name in batch]
    fresh = [s for s in ready if s.node not in inside][: max(0, limit - len(batch))]
    return wanting[:1], [LabelNode(node=s.node, labels={SERIAL: ""}) for s in fresh]
