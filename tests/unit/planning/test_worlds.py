"""Small worlds, exhaustively: the operator dies between any two writes, or sleeps over any of them and goes on.

Every write of every run is checked against `invariants.py`; every run ends where the undisturbed one ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hostplane.agent.state import Slot
from hostplane.planning.outcome import Plan
from hostplane.planning.standing import Stand

from . import build
from .hosts import KubeOSNode, NativeHost
from .passes import Operator
from .world import World

FINAL = (Stand.DONE, Stand.FAILED, Stand.BLOCKED)
PASSES = 400
STRIDE = 5


def native(count: int = 2, max_unavailable: int = 1, **rollout: Any) -> World:
    """Hosts with our agent, on v1, and a Rollout to v2."""
    world = World()
    for i in range(count):
        name = f"n{i}"
        labels = {"pool": "web", "hostplane.dev/agent": "native"}
        world.nodes[name] = build.node(name, labels=labels, boot=f"{name}/0")
        world.machines[name] = NativeHost(name)
    world.groups["web"] = build.group(max_unavailable=max_unavailable)
    world.rollouts["up"] = build.rollout(trial_seconds=600, failure_threshold=count + 1, **rollout)
    world.images["v2"] = build.image()
    return world


def kubeos(count: int = 2, **spec: Any) -> World:
    """KubeOS nodes on v1, and an OS object that wants v2."""
    world = World()
    for i in range(count):
        name = f"n{i}"
        world.nodes[name] = build.node(name, labels={build.POOL: "pool"}, boot=f"{name}/0")
        world.instances[name] = build.instance(name)
        world.machines[name] = KubeOSNode(name)
    world.oses["default/pool"] = build.os_object(**spec)
    return world


def is_quiet(world: World, decided: Plan) -> bool:
    stands = [s.stand for mine in decided.owners.values() for s in mine.standings]
    return not world.ledger.spec.holders and all(s in FINAL for s in stands) and not decided.actions


def settle(world: World, operator: Operator, passes: int = PASSES) -> dict[str, Any]:
    """Run until nothing is left to do; where everything ended."""
    decided = None
    for _ in range(passes):
        decided = operator.do_all()
        if is_quiet(world, decided):
            return end_of(world, decided)
        world.tick()
    assert decided is not None
    told = {name: str(why) for name, why in decided.reasons.items()}
    raise AssertionError(f"no end after {passes} passes: {told}, holders {world.ledger.spec.holders}")


def end_of(world: World, decided: Plan) -> dict[str, Any]:
    """What everybody became, without numbers and times."""
    stands = {s.node: s.stand for mine in decided.owners.values() for s in mine.standings}
    return {
        name: (stands.get(name), node.status.node_info.os_image, node.spec.unschedulable, node.metadata.labels)
        for name, node in world.nodes.items()
    }


def passes_of(world: World, operator: Operator) -> Iterator[tuple[World, Operator]]:
    """Copies of the world as it was before every pass of an undisturbed run."""
    for _ in range(PASSES):
        twin = world.copy()
        yield twin, operator.attach(twin)
        if is_quiet(world, operator.do_all()):
            return
        world.tick()


class Pause:
    """An undisturbed run stopped between two writes of the operator. Can be entered as often as one likes."""

    def __init__(self, before: World, operator: Operator, done: int) -> None:
        self._before, self._operator, self._done = before, operator, done

    def enter(self) -> tuple[World, Operator, Iterator[Callable[[], None]]]:
        """The world at that instant, the operator that sleeps, and the writes it still means to do."""
        world = self._before.copy()
        asleep = self._operator.attach(world)
        rest = asleep.writes(*asleep.look())
        for _ in range(self._done):
            next(rest)()
        return world, asleep, rest


def pauses(world: World) -> Iterator[Pause]:
    """Every instant between two writes of an undisturbed run."""
    for before, operator in passes_of(world, Operator(world)):
        twin = before.copy()
        mind = operator.attach(twin)
        yield Pause(before, operator, 0)
        for done, write in enumerate(mind.writes(*mind.look()), 1):
            write()
            yield Pause(before, operator, done)


WORLDS: dict[str, Callable[[], World]] = {
    "native, one at a time": lambda: native(2),
    "native, two at a time": lambda: native(3, max_unavailable=2),
    "native, one goes back": lambda: with_machine(native(2), "n0", sick=frozenset({"v2"})),
    "native, in steps": lambda: native(3, steps=[build.Step(nodes=1, soak_seconds=60)]),
    "native, rollback": lambda: both_slots(native(2, operation="rollback")),
    "native, settings": lambda: native(3, operation="configure", settings=build.settings("s1")),
    "native, settings refused": lambda: with_machine(
        native(2, operation="configure", settings=build.settings("s1")), "n0", settings_refused=True
    ),
    "KubeOS, one at a time": lambda: kubeos(2),
    "KubeOS, two at a time": lambda: kubeos(3, maxunavailable=2),
    "KubeOS, serial": lambda: kubeos(3, maxunavailable=2, executionmode="serial"),
    "KubeOS, one comes back wrong": lambda: with_machine(kubeos(3, maxunavailable=2), "n0", wrong=frozenset({"v2"})),
    "KubeOS, settings": lambda: kubeos(2, opstype="config", osversion="v1", sysconfigs=build.settings("s1")),
}


def both_slots(world: World) -> World:
    """Hosts that came from v0 and could go back to it."""
    for machine in world.machines.values():
        assert isinstance(machine, NativeHost)
        machine.state = machine.state.with_slot("B", Slot("Confirmed", build.digest("v0"), "v0", 10))
    return world


def with_machine(world: World, name: str, **fields: Any) -> World:
    for key, value in fields.items():
        setattr(world.machines[name], key, value)
    return world


@pytest.mark.parametrize("name", WORLDS)
def test_an_undisturbed_run_ends(name: str) -> None:
    world = WORLDS[name]()
    end = settle(world, Operator(world))
    assert {stand for stand, *_ in end.values()} <= {Stand.DONE, Stand.FAILED}
    assert Stand.DONE in {stand for stand, *_ in end.values()}


@pytest.mark.parametrize("down", [0, 8])
@pytest.mark.parametrize("name", WORLDS)
def test_a_death_between_any_two_writes_changes_nothing(name: str, down: int) -> None:
    """Nothing is left of the operator but what it wrote; the next one comes at once, or after `down` ticks."""
    world = WORLDS[name]()
    wanted = settle(world, Operator(world))
    for pause in pauses(WORLDS[name]()):
        world, _, _ = pause.enter()
        for _ in range(1 + down):
            world.tick()
        assert settle(world, Operator(world)) == wanted


@pytest.mark.parametrize("name", WORLDS)
def test_an_operator_that_slept_changes_nothing(name: str) -> None:
    """It stops between two writes, another one takes over, and at any later pass it finishes what it meant to do."""
    world = WORLDS[name]()
    wanted = settle(world, Operator(world))
    for number, pause in enumerate(pauses(WORLDS[name]())):
        world, _, rest = pause.enter()
        if next(rest, None) is None:
            continue
        successor = Operator(world)
        for passes in range(PASSES):
            world.tick()
            quiet = is_quiet(world, successor.do_all())
            if (number + passes) % STRIDE == 0 or quiet:
                _, asleep, rest = pause.enter()
                twin = asleep.world = world.copy()
                for write in rest:
                    write()
                assert settle(twin, successor.attach(twin)) == wanted
            if quiet:
                break


GONE: dict[str, tuple[str, Callable[[World], None]]] = {
    "the Rollout is deleted": ("native, one at a time", lambda world: world.rollouts.clear()),
    "the Rollout is paused": ("native, one at a time", lambda world: world.bump("rollouts", "up", paused=True)),
    "the Rollout wants v1": ("native, two at a time", lambda world: world.bump("rollouts", "up", image="v1")),
    "the group is deleted": ("native, one at a time", lambda world: world.groups.clear()),
    "the group is hidden": ("native, one at a time", lambda world: world.bump("groups", "web", mode="Hidden")),
    "the OS wants v1": ("KubeOS, two at a time", lambda world: world.bump("oses", "default/pool", osversion="v1")),
    "the OS is deleted": ("KubeOS, one at a time", lambda world: world.oses.clear()),
    "the OS is for others": (
        "KubeOS, one at a time",
        lambda world: world.bump("oses", "default/pool", nodeselector="x"),
    ),
    "settings are withdrawn": ("KubeOS, settings", lambda world: world.bump("oses", "default/pool", sysconfigs=None)),
}


@pytest.mark.parametrize("change", GONE)
def test_a_sleeper_wakes_after_the_wish_has_gone(change: str) -> None:
    """What it still means to begin must be refused: nobody counts it any more."""
    name, happen = GONE[change]
    for pause in pauses(WORLDS[name]()):
        world, _, rest = pause.enter()
        if next(rest, None) is None:
            continue
        world.images["v1"] = build.image("v1")
        happen(world)
        successor = Operator(world)
        for passes in range(PASSES):
            decided = successor.do_all()
            world.tick()
            if passes % (2 * STRIDE) == 0 or not world.ledger.spec.holders:
                _, asleep, rest = pause.enter()
                twin = asleep.world = world.copy()
                for write in rest:
                    write()
                rested(twin, successor.attach(twin))
            if not world.ledger.spec.holders and not decided.actions:
                break
        else:
            raise AssertionError(f"still held: {world.ledger.spec.holders}")


def rested(world: World, operator: Operator) -> None:
    """Run until nobody is held; nothing of ours is left on any node then."""
    for _ in range(PASSES):
        decided = operator.do_all()
        if not world.ledger.spec.holders and not decided.actions:
            break
        world.tick()
    assert not world.ledger.spec.holders
    for node in world.nodes.values():
        assert not node.metadata.annotations
        assert not node.spec.unschedulable
