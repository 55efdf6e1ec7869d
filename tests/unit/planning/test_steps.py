"""Steps: so many first, a soak, then more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from hostplane.api.rollout import Rollout, RolloutStatus, Step
from hostplane.errors import ApiError
from hostplane.planning.standing import Stand, Standing
from hostplane.planning.steps import step_of

from . import build

NOW = 1_800_000_000
DONE_AT = datetime.fromtimestamp(NOW - 100, UTC).isoformat().replace("+00:00", "Z")


def rollout(*steps: tuple[int | str, int], **status: Any) -> Rollout:
    made = build.rollout(steps=[Step(nodes=nodes, soak_seconds=soak) for nodes, soak in steps])
    return msgspec.structs.replace(made, status=RolloutStatus(**status))


def hosts(done: int = 0, working: int = 0, ready: int = 0, failed: int = 0, blocked: int = 0) -> list[Standing]:
    counts = {
        Stand.DONE: done,
        Stand.WORKING: working,
        Stand.READY: ready,
        Stand.FAILED: failed,
        Stand.BLOCKED: blocked,
    }
    return [Standing(f"{stand.value}{i}", stand) for stand, count in counts.items() for i in range(count)]


CAREFUL = [(1, 300), ("50%", 0)]


@pytest.mark.parametrize(
    ("steps", "status", "standings", "wanted"),
    [
        ([], {}, hosts(ready=10), (0, 10, False)),
        ([], {}, hosts(done=4, working=2, ready=4), (0, 4, False)),
        (CAREFUL, {}, hosts(ready=10), (0, 1, False)),
        (CAREFUL, {}, hosts(working=1, ready=9), (0, 0, False)),
        (CAREFUL, {}, hosts(done=1, ready=9), (0, 0, True)),
        (CAREFUL, {}, hosts(failed=1, ready=9), (0, 0, True)),
        (CAREFUL, {"step": 0, "step_done_at": DONE_AT}, hosts(done=1, ready=9), (0, 0, True)),
        ([(1, 100), ("50%", 0)], {"step": 0, "step_done_at": DONE_AT}, hosts(done=1, ready=9), (1, 4, False)),
        (CAREFUL, {"step": 1}, hosts(done=1, working=2, ready=7), (1, 2, False)),
        (CAREFUL, {"step": 1}, hosts(done=5, ready=5), (2, 5, False)),
        ([(1, 0), (3, 0)], {}, hosts(done=1, ready=9), (1, 2, False)),
        ([(20, 300)], {}, hosts(done=9, ready=1), (0, 1, False)),
        ([(20, 300)], {}, hosts(done=10), (1, 0, False)),  # nobody is left to wait for: no soak
        ([(1, 300)], {"step": 1}, hosts(ready=10), (0, 1, False)),  # the first one was reinstalled
        ([("100%", 0)], {}, hosts(ready=4, blocked=6), (0, 10, False)),
        ([(2, 60)], {}, [], (1, 0, False)),
    ],
)
def test_steps(
    steps: list[tuple[int | str, int]],
    status: dict[str, Any],
    standings: list[Standing],
    wanted: tuple[int, int, bool],
) -> None:
    assert step_of(rollout(*steps, **status), standings, NOW) == wanted


@pytest.mark.parametrize("nodes", [0, "0%", "many"])
def test_a_step_of_nobody_is_refused(nodes: int | str) -> None:
    with pytest.raises(ApiError):
        step_of(rollout((nodes, 0)), hosts(ready=3), NOW)
