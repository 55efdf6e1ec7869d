"""All orders of a small world: an operator that moves on or not, the agent's real state machine, luck and bad luck.

The proxy has no memory here: each of its calls follows from the Host and the agent's state alone, so every state that
the search reaches is also one in which it was killed and started anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from hostplane.agent import machine
from hostplane.agent.bootstate import BootState, plan_boot, render
from hostplane.agent.state import Image, Slot, State, encode, wire
from hostplane.api.host import Grant, HostSpec, ImageRef
from hostplane.errors import HostError
from hostplane.proxy.decide import AgentStatus, Call, next_call

V1, V2 = (f"sha256:{letter * 64}" for letter in "ab")
NOW = "2026-01-01T00:00:00Z"
LAST_SEQ = 5


class World(NamedTuple):
    """One instant: the Host's spec, and the host."""

    spec: HostSpec
    state: State
    boot: BootState
    active: str = "A"
    boots: int = 1

    @property
    def status(self) -> AgentStatus:
        state = self.state
        return msgspec.convert(
            {
                "schema": "1.0",
                "phase": state.phase,
                "activeSlot": self.active,
                "slots": {name: wire(slot) for name, slot in state.slots.items()},
                "seq": state.seq,
                "failedDigests": [wire(failed) for failed in state.failed],
                **({"operation": wire(state.operation)} if state.operation else {}),
            },
            AgentStatus,
        )

    @property
    def key(self) -> tuple[bytes, bytes, BootState, str]:
        """Equal for worlds in which the same things can happen."""
        state = self.state._replace(transitions=(), boot_id="", last_error=None, trial=self.state.trial)
        return msgspec.json.encode(self.spec), encode(state), self.boot._replace(seq=0), self.active

    @property
    def passive(self) -> str:
        return "B" if self.active == "A" else "A"


def start() -> World:
    slots = {"A": Slot("Confirmed", V1, "1", 1), "B": Slot()}
    return World(HostSpec(), State(slots=slots, boot_id="1"), BootState(1, "A", True, 0, False, 0))


def proxy(world: World) -> tuple[World, Call | None]:
    """The call it would make now, and what the agent makes of it."""
    call = next_call(world.spec, world.status)
    if call is None:
        return world, None
    state, boot, active, params = world.state, world.boot, world.active, call.params
    try:
        match call.method:
            case "stage":
                given = params["image"]
                image = Image("rootTar", given["ref"], given["digest"], 1, given["version"], given["attempt"])
                state = machine.accept_stage(state, active, image, False, False, NOW)
            case "switch":
                operation, digest = params["operation"], params["digest"]
                state = machine.accept_switch(state, active, params["seq"], operation, digest, 60, "native", NOW)
                if state.phase == "Rebooting":
                    assert state.operation is not None
                    boot = machine.switched_boot(boot, state.operation.target, 1)
            case "confirm":
                if machine.accept_confirm(state, params["seq"]):
                    boot = boot.with_slot(active, True, 0)
                    state = machine.committed(state, active, NOW)
            case "release":
                state = machine.accept_release(state, params["seq"], NOW)
    except HostError as refusal:
        if refusal.name != "ChecksRunning":  # it asks for nothing else that it cannot have
            raise AssertionError((call, str(refusal))) from refusal
    return world._replace(state=state, boot=boot), call


def agent(world: World, *, lucky: bool = False) -> Iterator[World]:
    """What can happen on the host next; the first is the good way."""
    state, passive = world.state, world.passive
    match state.phase:
        case "Staging":
            assert state.image is not None
            if state.slot(passive).state != "Writing":
                yield world._replace(state=machine.begin_writing(state, passive, state.image))
                return
            yield world._replace(state=machine.staged(state, passive, state.image, 1, NOW))
            if not lucky:
                fault = machine.fault_of(HostError("StagingFailed", detail=""), "", state.image.digest, NOW)
                yield world._replace(state=machine.staging_failed(state, passive, fault))
        case "Rebooting":
            yield booted(world, comes_up=True)
            if not lucky:
                yield booted(world, comes_up=False)
        case "Trial":
            assert state.trial is not None
            if not state.trial.checked:
                yield world._replace(state=state._replace(trial=state.trial._replace(checked=True)))
            if not lucky:
                for kind in ("HostFault", "NoVerdict"):
                    digest = state.slot(world.active).digest
                    fault = machine.fault_of(HostError("TrialDeadlinePassed"), kind, digest, NOW)
                    yield world._replace(state=machine.going_back(state, fault))
                yield booted(world, comes_up=True)  # a power cut


def booted(world: World, comes_up: bool) -> World:
    boot, active = world.boot, None
    while active is None:
        block = render(boot)
        slot, written = plan_boot(block, block)
        assert slot is not None, "nothing to boot"
        if written is not None:
            boot = boot.with_slot(slot, False, boot.left(slot) - 1)
        if comes_up or boot.is_ok(slot):
            active = slot
    boots = world.boots + 1
    state, wish = machine.booted(world.state, boot, active, str(boots), NOW, 0.0)
    boot = wish or boot
    if state.phase not in ("Rebooting", "Trial"):
        boot = machine.settled_boot(boot, active)
    return world._replace(state=state, boot=boot, active=active, boots=boots)


def operator(world: World) -> Iterator[World]:
    """Every next step an operator may take, wise or not, with numbers that only grow."""
    spec, status = world.spec, world.status
    grant = spec.grant
    for attempt in (0, 1):
        if spec.image is None or spec.image.attempt < attempt:
            wanted = ImageRef(format="rootTar", ref="r", digest=V2, size=1, version="2", attempt=attempt)
            yield world._replace(spec=msgspec.structs.replace(spec, image=wanted))
    if grant is None or grant.stage == "Release":
        seq = max(status.seq, grant.seq if grant else 0) + 1
        if seq < LAST_SEQ:
            for operation, digest in (("upgrade", V2), ("rollback", status.passive.digest)):
                given = Grant(seq=seq, operation=operation, digest=digest, stage="Reserved", trial_seconds=60)
                yield world._replace(spec=msgspec.structs.replace(spec, grant=given))
        return
    follows = {"Reserved": "Switch", "Switch": "Confirm"}.get(grant.stage)
    if follows is not None:
        yield world._replace(spec=msgspec.structs.replace(spec, grant=msgspec.structs.replace(grant, stage=follows)))
    freed = msgspec.structs.replace(grant, stage="Release", seq=grant.seq + 1)
    yield world._replace(spec=msgspec.structs.replace(spec, grant=freed))


def assert_settles(world: World) -> None:
    """With luck, and no further wish, proxy and agent come to rest: nothing is asked for that is not granted."""
    for _ in range(40):
        after, call = proxy(world)
        if call is not None and after.key != world.key:
            world = after
            continue
        on = next(agent(world, lucky=True), None)
        if on is None:
            assert call is None, (call, world)
            return
        world = on
    raise AssertionError(f"no rest: {world}")


def test_every_order_of_events_settles_and_moves_only_as_granted() -> None:
    first = start()
    seen, edge = {first.key}, [first]
    calls = set()
    while edge:
        world = edge.pop()
        assert_settles(world)
        after, call = proxy(world)
        if call is not None:
            calls.add(call.method)
            stage = world.spec.grant.stage if world.spec.grant else ""
            phases = (world.state.phase, after.state.phase)
            if phases[1] == "Rebooting":
                assert (call.method, stage) == ("switch", "Switch")
            if phases == ("Trial", "Idle"):
                assert (call.method, stage) == ("confirm", "Confirm")
        for following in (after, *agent(world), *operator(world)):
            if following.key not in seen:
                seen.add(following.key)
                edge.append(following)
    assert calls == {"stage", "switch", "confirm", "release"}
    assert len(seen) > 1000
