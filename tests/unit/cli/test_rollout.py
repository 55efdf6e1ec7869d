"""When watching a rollout ends, and how a line reads."""

from __future__ import annotations

import pytest

from hostplane.api.meta import ObjectMeta
from hostplane.api.rollout import Counts, Rollout, RolloutSpec, RolloutStatus
from hostplane.cli.rollout import duration, row, settled


def rollout(phase: str, observed: int = 1, **counts: int) -> Rollout:
    status = RolloutStatus(phase=phase, observed_generation=observed, counts=Counts(**counts))
    spec = RolloutSpec(operation="upgrade", groups=["g"], image="v2")
    return Rollout(metadata=ObjectMeta(name="r", generation=1), spec=spec, status=status)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rollout("Running", total=3, done=1, in_progress=1), False),
        (rollout("Complete", total=3, done=3), True),
        (rollout("Complete", observed=0, total=3, done=3), False),
        (rollout("Running", total=3, done=2, failed=1), True),
        (rollout("Running", total=3, done=1, failed=1, in_progress=1), False),
        (rollout("Running", total=3, done=1, failed=1, waiting=1), False),
    ],
)
def test_it_has_settled_when_nothing_more_will_happen(given: Rollout, expected: bool) -> None:
    assert settled(given) is expected


def test_a_line_shows_counts() -> None:
    assert row(rollout("Running", total=12, done=4, in_progress=2))[:6] == [
        "r",
        "upgrade",
        "v2",
        "Running",
        "4/12",
        "2",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "2h00m"), (11100, "3h05m")]
)
def test_durations_read_well(seconds: int | None, text: str) -> None:
    assert duration(seconds) == text
