"""The service that owns a trial: tries first, then the watchdog; it ends with a commit or with a reboot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.bootstate import BootState
from hostplane.agent.host import Host
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.trial import watchdog
from hostplane.agent.trial.guard import Guard
from hostplane.agent.trial.watchdog import SOFTWARE, Device, Dog, Pack, devices, open_pack
from hostplane.errors import HostError

TRIAL = BootState(7, "B", True, 0, False, 2)


class FakeDog(Dog):
    """A watchdog that only notes what is done to it."""

    def __init__(self, path: str, seconds: int, can_stop: bool = True) -> None:
        self.path, self.seconds, self.can_stop = path, seconds, can_stop
        self.fed = 0
        self.is_open = True

    def feed(self) -> None:
        self.fed += 1

    def close(self) -> bool:
        self.is_open = not self.can_stop
        return self.can_stop


class World:
    """A host whose slot B runs, an agent that answers what it is told, and a clock that only waiting moves."""

    def __init__(self, host: Any) -> None:
        self.host = host
        host.write_boot(TRIAL)
        host.write("dev/hostplane/ROOT-B", host.NEW)
        assert host.boot() == "B"
        self.now = 0.0
        self.answers: Iterator[Any] = iter(())
        self.asked = 0
        self.forced = 0
        self.dog = FakeDog("/dev/watchdog0", 120)
        self.opened: list[int] = []
        self.system = "starting"

    def ask(self, revision: int | None, seconds: float) -> dict[str, Any]:
        self.asked += 1
        self.pause(seconds)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return {"revision": self.asked, "phase": answer, "trialSecondsLeft": 100}

    def pause(self, seconds: float) -> None:
        assert self.now < 100000, "it goes on for ever"
        self.now += seconds

    def open(self, seconds: int) -> Pack:
        assert not self.host.boot_state().left("B"), "the tries go first"
        self.opened.append(seconds)
        return Pack([self.dog])

    def force(self) -> None:
        self.forced += 1
        if self.forced > 2:
            raise SystemExit  # the host is down

    def run(self, answers: Iterator[Any]) -> None:
        self.answers = answers
        root = HostRoot.lenient(str(self.host.root))
        Guard(root, self.ask, self.open, self.force, lambda: self.system, lambda: self.now, self.pause).run()


@pytest.fixture
def world(host: Any) -> World:
    return World(host)


def silent() -> HostError:
    return HostError("AgentUnreachable", socket="x", detail="y")


def crash() -> Iterator[Any]:
    """PID 1 does not come back from this."""
    yield silent()
    raise SystemExit


def for_ever(answer: Any) -> Iterator[Any]:
    while True:
        yield answer


def test_a_committed_trial_stops_the_watchdog(world: World) -> None:
    world.run(iter([silent(), "Trial", "Trial", "Idle"]))
    assert world.opened == [120]
    assert world.dog.fed >= 4
    assert not world.dog.is_open
    assert not (world.host.root / "run/hostplane/reboot").exists()


def test_a_slot_that_is_proven_is_no_trial(world: World) -> None:
    world.host.write_boot(TRIAL._replace(b_ok=True))
    world.run(iter(()))
    assert (world.asked, world.opened) == (0, [])
    world.host.write("proc/cmdline", "hostplane.slot=B hostplane.watchdog=300")
    world.host.write_boot(TRIAL._replace(b_ok=True, b_left=0))
    world.run(iter(()))
    assert world.opened == [0]
    assert not world.dog.is_open


def test_a_host_that_wants_no_watchdog_has_none(world: World) -> None:
    world.host.configure(watchdogSeconds=0)
    world.run(iter(["Trial", "Idle"]))
    assert (world.opened, world.dog.fed) == ([0], 0)
    assert not world.dog.is_open


def test_a_trial_that_only_the_agent_knows_of_is_one(world: World, tmp_path: Path) -> None:
    """Both copies of the boot state are lost: the loader takes every slot for proven."""
    host = world.host
    host.write_boot(BootState(1, "A", True, 0, False, 0))
    host.boot()
    agent = Host(str(host.root))
    agent._core.wake()
    staged = agent._core.state.with_slot("B", agent._core.state.slot("A")._replace(digest=host.image["digest"]))
    with agent._core.changed:
        agent._core.set(staged)
    agent.switch(1, "upgrade", host.image["digest"], 60)
    for name in ("env1", "env2"):
        host.write("boot/hostplane/" + name, b"")
    host.write("proc/cmdline", "hostplane.slot=B")
    world.run(iter(["Trial", "Idle"]))
    assert world.asked == 2


def test_a_watchdog_that_cannot_be_stopped_is_fed_on(world: World) -> None:
    world.dog.can_stop = False
    times = iter(range(50))

    def pause(seconds: float) -> None:
        if next(times, None) is None:
            raise SystemExit

    world.pause = pause  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        world.run(iter(["Idle"]))
    assert world.dog.fed >= 50


def test_an_agent_that_stays_silent_costs_the_trial_and_leaves_a_reason(world: World) -> None:
    with pytest.raises(SystemExit):
        world.run(for_ever(silent()))
    assert (world.host.root / "run/hostplane/reboot").exists()
    assert world.forced > 2
    assert 1000 < world.now < 3000


def test_an_agent_that_could_have_started_long_ago_is_given_less_time(world: World) -> None:
    world.system = "degraded"
    with pytest.raises(SystemExit):
        world.run(for_ever(silent()))
    assert world.now < 1000


@pytest.mark.parametrize("has_ever_run", [True, False])
@pytest.mark.parametrize(
    ("system", "reason"), [("running", "AgentSilent"), ("starting", "CheckFailed"), ("crashing", "TrialInterrupted")]
)
def test_the_reason_is_found_by_the_old_slots_agent(world: World, has_ever_run: bool, system: str, reason: str) -> None:
    """A boot that does not end is said to be that, and one that breaks off too: the agent could not answer yet."""
    world.system = system
    host = world.host
    host.write_boot(BootState(1, "A", True, 0, False, 0))
    host.boot()
    agent = Host(str(host.root))
    agent._core.wake()
    with agent._core.changed:
        agent._core.set(
            agent._core.state.with_slot("B", agent._core.state.slot("A")._replace(digest=host.image["digest"]))
        )
    agent.switch(1, "upgrade", host.image["digest"], 60)
    agent._core.write_switch()
    assert host.boot() == "B"
    if has_ever_run:
        Host(str(host.root))._core.wake()
    with pytest.raises(SystemExit):
        world.run(crash() if system == "crashing" else for_ever(silent()))
    assert host.boot() == "A"
    back = Host(str(host.root))
    back._core.wake()
    error = back.status()["lastError"]
    assert (error["name"], error["reasonClass"], error["digest"]) == (reason, "HostFault", host.image["digest"])
    assert reason != "CheckFailed" or "The check boot failed: the system is starting" in error["message"]
    assert not (host.root / "var/lib/hostplane/last-words.json").exists()


def test_an_agent_that_has_answered_is_given_less_time(world: World) -> None:
    def answers() -> Iterator[Any]:
        yield "Trial"
        yield from for_ever(silent())

    with pytest.raises(SystemExit):
        world.run(answers())
    assert world.now < 1000


def test_a_trial_that_nobody_ends_is_ended(world: World) -> None:
    with pytest.raises(SystemExit):
        world.run(for_ever("Trial"))
    assert (world.host.root / "run/hostplane/reboot").exists()
    assert world.now > 400


def test_a_host_that_does_not_go_down_is_forced_and_then_left_to_the_watchdog(world: World) -> None:
    fed: list[int] = []

    def force() -> None:
        fed.append(world.dog.fed)
        if len(fed) > 300:
            raise SystemExit

    world.force = force  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        world.run(for_ever("Rebooting"))
    assert world.asked == 1
    assert fed[-1] == fed[-2], "it is not fed any more"


# --- the device


class Kernel:
    """Answers a watchdog's ioctls on a plain file."""

    def __init__(self, longest: int = 1000, can_stop: bool = True) -> None:
        self.longest, self.can_stop = longest, can_stop
        self.calls: list[int] = []

    def __call__(self, descriptor: int, number: int, argument: Any, is_changed: bool) -> int:
        self.calls.append(number)
        if number == watchdog._SET_TIMEOUT and argument[0] > self.longest:
            raise OSError(22, "Invalid argument")
        if number == watchdog._SET_OPTIONS and not self.can_stop:
            raise OSError(16, "busy")
        return 0


def dog(tmp_path: Path, kernel: Kernel, seconds: int = 120) -> tuple[Dog, Path]:
    device = tmp_path / "watchdog0"
    device.touch()
    return Dog(str(device), seconds, kernel), device


def test_a_watchdog_is_stopped_by_the_agreed_letter(tmp_path: Path) -> None:
    made, device = dog(tmp_path, Kernel())
    made.feed()
    assert made.seconds == 120
    assert made.close()
    assert device.read_bytes() == b"V"


def test_a_watchdog_that_may_never_stop_says_so_and_stays_open(tmp_path: Path) -> None:
    made, device = dog(tmp_path, Kernel(can_stop=False))
    assert not made.close()
    assert device.read_bytes() == b""
    made.feed()


def test_a_watchdog_of_short_patience_is_taken_as_it_is(tmp_path: Path) -> None:
    assert dog(tmp_path, Kernel(longest=40))[0].seconds == 30
    assert dog(tmp_path, Kernel(longest=1))[0].seconds == 10


def listed(tmp_path: Path, **found: tuple[str, str, str]) -> list[Device]:
    for name, (identity, nowayout, state) in found.items():
        for attribute, content in (("identity", identity), ("nowayout", nowayout), ("state", state)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / attribute).write_text(content + "\n")
    return devices(str(tmp_path), "/dev")


def test_the_machines_own_watchdog_comes_first(tmp_path: Path) -> None:
    found = listed(tmp_path, watchdog0=(SOFTWARE, "0", "active"), watchdog1=("iTCO_wdt", "0", "inactive"))
    assert found == [
        Device("/dev/watchdog1", "iTCO_wdt", True, False),
        Device("/dev/watchdog0", SOFTWARE, True, True),
    ]
    assert devices(str(tmp_path / "nothing")) == []


IDLE, BUSY = Device("/dev/watchdog0", "iTCO_wdt", True, False), Device("/dev/watchdog0", "iTCO_wdt", True, True)
ENDLESS = Device("/dev/watchdog0", "iTCO_wdt", False, False)
SOFT, ARMED = Device("/dev/watchdog1", SOFTWARE, True, False), Device("/dev/watchdog1", SOFTWARE, True, True)


@pytest.mark.parametrize(
    ("seconds", "there", "loaded", "opened"),
    [
        (120, [IDLE], [], ["/dev/watchdog0"]),
        (120, [IDLE, ARMED], [], ["/dev/watchdog0", "/dev/watchdog1"]),
        (120, [], [SOFT], ["/dev/watchdog1"]),
        (120, [ENDLESS], [SOFT], ["/dev/watchdog1"]),
        (120, [BUSY], [SOFT], ["/dev/watchdog1"]),
        (120, [], [], []),
        (0, [IDLE, SOFT], [], []),
        (0, [IDLE, ARMED], [], ["/dev/watchdog1"]),
    ],
)
def test_which_watchdogs_are_taken(seconds: int, there: list[Device], loaded: list[Device], opened: list[str]) -> None:
    here = list(there)
    taken: list[str] = []

    def start(path: str, given: int) -> Dog:
        if any(device.path == path and device.is_running and device.identity != SOFTWARE for device in here):
            raise OSError(16, "Device or resource busy")
        taken.append(path)
        return FakeDog(path, given)

    open_pack(seconds, lambda: here, lambda: here.extend(each for each in loaded if each not in here), start)
    assert taken == opened


@pytest.mark.parametrize("content", ["{not json", '{"bootTries": 99}', '{"watchdogSeconds": "soon"}'])
def test_a_configuration_that_makes_no_sense_does_not_leave_a_trial_unwatched(world: World, content: str) -> None:
    world.host.write("etc/hostplane/agent.json", content)
    world.system = "running"
    with pytest.raises(SystemExit):
        world.run(for_ever(silent()))
    assert world.opened == [120]
    assert not world.host.boot_state().left("B")


def test_a_state_that_cannot_be_read_does_not_keep_the_tries(world: World) -> None:
    (world.host.root / "var/lib/hostplane/state.json").mkdir()
    world.run(iter(["Trial", "Idle"]))
    assert world.opened == [120]
