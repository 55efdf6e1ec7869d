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

    `batch` is who carries the serial label. A batch is filled up once, and dissolved when nobody of it wants work;
    `is_held`: nobody may begin for another reason, so nothing is prepared either.
    """
    ready = [s for s in standings if s.stand is Stand.READY]
    dissolve = [LabelNode(node=name, labels={SERIAL: None}) for name in batch]
    if any(s.stand is Stand.WORKING for s in standings):
        return [], []
    if not ready:
        return [], dissolve
    if is_held:
        return [], []
    inside = set(batch)
    wanting = [s for s in ready if s.node in inside]
    if wanting:
        fresh = [s for s in ready if s.node not in inside][: max(0, limit - len(batch))]
        dissolve = []
    else:
        fresh = ready[:limit]
        joining = {s.node for s in fresh}
        dissolve = [label for label in dissolve if label.node not in joining]
    labels = [*dissolve, *(LabelNode(node=s.node, labels={SERIAL: ""}) for s in fresh)]
    return (wanting or fresh)[:1], labels
