"""A build that is killed, anywhere and by anything, goes on after its last complete stage and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from hostplane.image.recipe import StageName
from tests.image.tiny import Tiny, gone, traces, until, workers_of

STAGES = [stage.value for stage in StageName]
POINTS = [(when, stage) for stage in STAGES for when in ("before", "after")]


def kill_builder(process: subprocess.Popen[bytes]) -> None:
    process.kill()


def kill_worker(process: subprocess.Popen[bytes]) -> None:
    gone(workers_of(process)[0])


def kill_first_of_namespace(process: subprocess.Popen[bytes]) -> None:
    gone(workers_of(process)[1])


def interrupt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()


ENDS: dict[Callable[[subprocess.Popen[bytes]], None], int] = {
    kill_builder: -signal.SIGKILL,
    kill_worker: 1,
    kill_first_of_namespace: 1,
    interrupt: 130,
    terminate: 130,
}


def _end(tiny: Tiny, process: subprocess.Popen[bytes], end: Callable[[subprocess.Popen[bytes]], None]) -> None:
    """End a held build so; nothing of it may be left."""
    below = workers_of(process)
    end(process)
    assert process.wait(30) == ENDS[end]
    until(lambda: not any(p.is_running() and p.status() != "zombie" for p in below), "a process stayed")
    until(lambda: not any(traces(tiny.here).values()), "a mount, a loop device or a process stayed")


def _stages(tiny: Tiny, kind: str) -> list[str]:
    """Of which stages the build that was held last told an event of this kind."""
    return [event["stage"] for event in tiny.told() if event["event"] == kind]


def test_a_build_killed_at_every_boundary_goes_on_there_each_time(tiny: Tiny) -> None:
    tiny.write(tiny.holds(*POINTS))
    for when, stage in POINTS:
        with tiny.held(when, stage) as process:
            _end(tiny, process, kill_builder)
        done = STAGES[: STAGES.index(stage)]
        begun = [stage] if when == "after" or stage == STAGES[0] else [STAGES[STAGES.index(stage) - 1], stage]
        assert _stages(tiny, "started") == begun, when
        assert _stages(tiny, "cached") == [name for name in done if name not in begun], when
    assert tiny.how() == {name: "cached" if name != STAGES[-1] else "made" for name in STAGES}
    assert list((tiny.store / "tmp").iterdir()) == [], "what the killed builds left is gone"


@pytest.mark.parametrize("end", [end for end in ENDS if end is not kill_builder])
def test_however_it_ends_nothing_is_left(tiny: Tiny, end: Callable[[subprocess.Popen[bytes]], None]) -> None:
    tiny.write(tiny.holds(("after", "files")))
    with tiny.held("after", "files", "--until", "files") as process:
        _end(tiny, process, end)
    if end in (interrupt, terminate):
        assert list((tiny.store / "tmp").iterdir()) == [], "a build that can still act tidies up by itself"
    assert tiny.how("--until", "files") == {"bootstrap": "cached", "packages": "cached", "files": "made"}
    assert list((tiny.store / "tmp").iterdir()) == []


def test_what_a_killed_script_had_started_and_mounted_is_gone_as_well(tiny: Tiny) -> None:
    tiny.write(
        f"""
[[script]]
name = "busy"
place = "host"
environment = {{ HERE = "{tiny.here}" }}
content = '''
if [ -e "$HERE/hold-after-scripts" ]; then
  mount -t tmpfs tmpfs "$ROOT/tmp"
  setsid sh -c "exec sleep 4848 {tiny.here}" 2>/dev/null || true &
  setsid tail -f "$HERE/recipe.toml" >/dev/null &
  touch "$HERE/held-after-scripts"
  exec sleep 3737
fi
'''
"""
    )
    with tiny.held("after", "scripts", "--until", "scripts") as process:
        _end(tiny, process, kill_builder)


def test_a_builder_that_is_stopped_and_killed_does_not_keep_its_worker(tiny: Tiny) -> None:
    tiny.write(tiny.holds(("before", "scripts")))
    with tiny.held("before", "scripts", "--until", "scripts") as process:
        below = workers_of(process)
        os.kill(process.pid, signal.SIGSTOP)
        process.kill()
        until(lambda: not any(p.is_running() and p.status() != "zombie" for p in below), "a process stayed")


@pytest.mark.parametrize("end", [kill_builder, interrupt])
def test_of_two_stages_at_once_the_one_that_was_done_stays_done(
    tiny: Tiny, end: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    tiny.write(tiny.holds(("before", "slim")))
    with tiny.held("before", "slim", "--until", "slim") as process:
        until(lambda: {"event": "made", "stage": "boot"}.items() <= last_of(tiny, "boot").items(), "boot was not made")
        _end(tiny, process, end)
    how = tiny.how("--until", "slim")
    assert (how["boot"], how["slim"]) == ("cached", "made")


def test_when_one_of_two_stages_fails_the_other_is_ended(tiny: Tiny) -> None:
    tiny.write('[[script]]\nname = "fails"\nstage = "slim"\nwhen = "before"\ncontent = "exit 9"\n')
    assert "fails ended with exit code 9" in tiny.build(expect=1).stderr
    assert not any(traces(tiny.here).values())
    assert list((tiny.store / "tmp").iterdir()) == []


def last_of(tiny: Tiny, stage: str) -> dict[str, Any]:
    """The last event that was told of a stage."""
    return next((event for event in reversed(tiny.told()) if event.get("stage") == stage), {})
