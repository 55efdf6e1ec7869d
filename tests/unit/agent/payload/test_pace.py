"""A staging's rate, its progress and its end."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time

import pytest

from hostplane.agent.fetch import Cancelled
from hostplane.agent.payload.pace import IdleDisk, Pace, Progress


def test_a_rate_is_held() -> None:
    pace = Pace(20_000_000)
    began = time.monotonic()
    for _ in range(12):
        pace.step(1_000_000)
    assert time.monotonic() - began >= 12 / 20 - 0.25 - 0.02  # a quarter of a second's worth may come at once


def test_a_wait_ends_when_nobody_wants_the_rest() -> None:
    cancelled = threading.Event()
    pace = Pace(1, cancelled)
    threading.Timer(0.05, cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        pace.step(1000)
    assert time.monotonic() - began < 10


def test_progress_never_says_more_than_the_whole_and_ends_with_nothing_left() -> None:
    told: list[Progress] = []
    pace = Pace(0, None, told.append)
    pace.expect(100)
    pace.step(250)
    assert (told[0].bytes, told[0].total) == (100, 100)
    assert told[0].eta_seconds <= 1


@pytest.mark.skipif(shutil.which("ionice") is None, reason="needs ionice")
@pytest.mark.parametrize("is_wanted", [True, False])
def test_the_disk_is_left_to_others_for_as_long_as_it_takes(is_wanted: bool) -> None:
    def told() -> str:
        return subprocess.run(
            ["ionice", "-p", str(threading.get_native_id())], check=True, capture_output=True, text=True
        ).stdout

    with IdleDisk(is_wanted):
        assert ("idle" in told()) is is_wanted
    assert "idle" not in told()
