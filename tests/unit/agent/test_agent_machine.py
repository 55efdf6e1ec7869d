"""The phases as a table: no request, boot or crash leads off it, and no repeat of a request changes anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.agent import machine
from hostplane.agent.bootstate import DEFAULT, BootState, other, plan_boot, render
from hostplane.agent.state import Image, Operation, Slot, State, Trial
from hostplane.errors import HostError
from hostplane.rpc import messages

NOW = "2026-01-01T00:00:00Z"
DIGESTS = ("sha256:" + "1" * 64, "sha256:" + "2" * 64)


def test_every_phase_is_left_for_somewhere() -> None:
    assert set(machine.LEAVES) == set(messages.PHASES)
    for phase in messages.PHASES:
        assert machine.LEAVES[phase]


def test_a_step_the_table_does_not_have_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="Idle to Returned"):
        machine.move(State(), messages.RETURNED, "", NOW)


class World:
    """A host without a disk: what agent, loader and operator do, in whatever order, crashes included."""

    def __init__(self) -> None:
        self.boot_state = BootState(1, "A", True, 0, False, 0)
        self.active, self.boot_id = "A", 1
        self.state = State(slots={"A": Slot("Confirmed", DIGESTS[0], "v1", 1), "B": Slot()})
        self.complete = {"A"}
        self.seq = 0
        self.wake()

    def wake(self) -> None:
        """The agent starts."""
        state, wish = machine.booted(self.state, self.boot_state, self.active, str(self.boot_id), NOW, 0.0)
        if wish is not None:
            self.boot_state = wish
        self.state = state
        if state.phase not in (messages.REBOOTING, messages.TRIAL):
            self.boot_state = machine.settled_boot(self.boot_state, self.active)

    def power_cut(self, dies: int = 0) -> None:
        """The loader boots; the first `dies` boots never get as far as the agent, where the loader can do better."""
        for attempt in range(dies + 1):
            block = render(self.boot_state)
            slot, written = plan_boot(block, block)
            assert slot is not None, "no way to boot"
            assert slot in self.complete, "an incomplete slot was booted"
            self.boot_id += 1
            if written is not None:
                self.boot_state = machine.BootState(*_parsed(written))
            if attempt == dies or self.boot_state.is_ok(slot):
                self.active = slot
                self.wake()
                return

    def stage(self, digest: str, is_finished: bool) -> None:
        image = Image(digest=digest, size=1)
        self.state = machine.accept_stage(self.state, self.active, image, False, False, NOW)
        if self.state.phase == messages.STAGING:
            passive = other(self.active)
            self.state = machine.begin_writing(self.state, passive, image)
            if self.boot_state.is_ok(passive) or self.boot_state.left(passive):
                self.boot_state = self.boot_state.with_slot(passive, False, 0)
            self.complete.discard(passive)
            if is_finished:
                self.complete.add(passive)
                self.state = machine.staged(self.state, passive, image, 1, NOW)
            else:
                fault = machine.fault_of(HostError("SlotFull", slot=passive), "", digest, NOW)
                self.state = machine.staging_failed(self.state, passive, fault)

    def switch(self, digest: str, crash: str) -> None:
        self.seq += 1
        before = self.state
        self.state = machine.accept_switch(before, self.active, self.seq, "upgrade", digest, 60, "native", NOW)
        if crash == "after state":
            return self.power_cut()
        assert self.state.operation is not None
        self.boot_state = machine.switched_boot(self.boot_state, self.state.operation.target, 3)
        return self.power_cut(3 if crash == "never comes up" else 0)

    def confirm(self, crash: str) -> None:
        assert self.state.operation is not None
        assert self.state.trial is not None
        self.state = self.state._replace(trial=self.state.trial._replace(checked=True))
        if machine.accept_confirm(self.state, self.state.operation.seq):
            self.boot_state = self.boot_state.with_slot(self.active, True, 0)
            if crash:
                return self.power_cut()
            self.state = machine.committed(self.state, self.active, NOW)
        return None

    def go_back(self, reason_class: str) -> None:
        fault = machine.fault_of(HostError("TrialDeadlinePassed"), reason_class, self.state.operation.digest, NOW)  # type: ignore[union-attr]
        self.state = machine.going_back(self.state, fault)
        self.power_cut()

    def check(self) -> None:
        """What must hold whatever happened."""
        assert self.active in self.complete
        assert self.boot_state.is_ok(self.active) != (self.state.phase == messages.TRIAL)
        assert self.state.phase != messages.REBOOTING
        if self.state.phase == messages.TRIAL:
            assert self.boot_state.left(self.active) == 0, "a trial must not be booted again"
            assert self.boot_state.is_ok(other(self.active))
        else:
            assert self.boot_state.first == self.active
        if self.state.phase == messages.RETURNED:
            assert self.state.last_error is not None
            assert self.state.last_error.reason_class in ("HostFault", "NoVerdict")


def _parsed(block: bytes) -> Any:
    from hostplane.agent.bootstate import parse

    return parse(block)


steps = st.one_of(
    st.tuples(st.just("stage"), st.sampled_from(DIGESTS), st.booleans()),
    st.tuples(st.just("switch"), st.sampled_from(DIGESTS), st.sampled_from(["", "after state", "never comes up"])),
    st.tuples(st.just("confirm"), st.sampled_from(["", "crash"])),
    st.tuples(st.just("go_back"), st.sampled_from(["HostFault", "NoVerdict"])),
    st.tuples(st.just("power_cut"), st.integers(0, 3)),
    st.tuples(st.just("wake")),
    st.tuples(st.just("release")),
)


@settings(max_examples=400)
@given(st.lists(steps, max_size=25))
def test_no_history_leaves_a_host_that_cannot_boot_or_does_not_know_where_it_is(history: list[Any]) -> None:
    world = World()
    for name, *arguments in history:
        on_trial = world.state.phase == messages.TRIAL and world.state.operation is not None
        if name in ("confirm", "go_back") and not on_trial:
            continue
        try:
            if name == "release":
                world.seq += 1
                world.state = machine.accept_release(world.state, world.seq, NOW)
            else:
                getattr(world, name)(*arguments)
        except HostError:
            pass  # refused: nothing may have changed, which `check` sees
        world.check()


@given(st.lists(steps, max_size=12))
def test_waking_up_twice_in_one_boot_changes_nothing(history: list[Any]) -> None:
    world = World()
    for name, *arguments in history:
        on_trial = world.state.phase == messages.TRIAL and world.state.operation is not None
        if name == "release" or (name in ("confirm", "go_back") and not on_trial):
            continue
        try:
            getattr(world, name)(*arguments)
        except HostError:
            continue
        world.wake()
        once = (world.state, world.boot_state)
        world.wake()
        assert (world.state, world.boot_state) == once


@pytest.mark.parametrize("boot_id", ["1", "2"])
def test_a_trial_is_not_committed_by_a_boot_state_that_was_lost(boot_id: str) -> None:
    """The loader's default calls every slot proven; only a commit of ours does so under a number of its own."""
    operation = Operation(7, "upgrade", DIGESTS[1], "A", 60, "native")
    trial = Trial("1", 60.0)
    slots = {"A": Slot("Trial", DIGESTS[1], "v2", 1), "B": Slot("Confirmed", DIGESTS[0], "v1", 1)}
    state = State(phase=messages.TRIAL, boot_id="1", slots=slots, operation=operation, trial=trial)
    after, wish = machine.booted(state, DEFAULT, "A", boot_id, NOW, 0.0)
    assert after.phase == messages.TRIAL
    assert wish is not None
    assert (wish.is_ok("A"), wish.left("A"), wish.is_ok("B")) == (False, 0, True)
