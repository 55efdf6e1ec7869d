"""Steps of a Rollout: so many nodes over all its groups, a soak, then more. After the last step, all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from hostplane.api.rollout import Rollout

from .budget import parse_count
from .standing import Stand, Standing

__all__ = ["step_of"]


def step_of(rollout: Rollout, standings: Sequence[Standing], now: int) -> tuple[int, int, bool]:
    """(index of the step in force, how many more hosts may begin in it, whether its hosts are all through).

    A step is over when its hosts are through and its soak has passed since `status.stepDoneAt`, which the operator
    writes for the step named in `status.step`; a step whose end is not written yet is not over. `now` in seconds.

    Raises:
        ApiError: a step's count is out of bounds.
    """
    total = len(standings)
    through = sum(s.stand in (Stand.DONE, Stand.FAILED) for s in standings)
    begun = through + sum(s.stand is Stand.WORKING for s in standings)
    for index, step in enumerate(rollout.spec.steps):
        size = min(total, parse_count(step.nodes, total))
        if through < size:
            return index, size - begun, False
        if not step.soak_seconds or size >= total or rollout.status.step > index:
            continue
        if rollout.status.step != index or not rollout.status.step_done_at:
            return index, 0, True
        if now - int(datetime.fromisoformat(rollout.status.step_done_at).timestamp()) < step.soak_seconds:
            return index, 0, True
    return len(rollout.spec.steps), total - begun, False
