"""The host's phases as pure decisions: a state and a request or a boot in, the next state out, or a refusal.

    Idle ─▶ Staging ─▶ Staged ─▶ Rebooting ─▶ Trial ─▶ Idle (committed)
                │                    ▲           │
                └─▶ Failed           └───────────┴─▶ Returned (the old slot; reason and class kept)

Nothing here reads a clock, a file or the network: times are parameters, and the boot state to be written is a value. So
every order of requests, boots and crashes can be tried in a test. What only looks like two rules is one: a request
that asks for what already is gives the state as it is, so that repeating a message never changes the outcome.
"""

from typing import Dict, FrozenSet, Optional, Tuple

from hostplane.errors import HostError, HostplaneError
from hostplane.rpc.messages import (
    CLASS_HOST_FAULT,
    FAILED,
    IDLE,
    REBOOTING,
    RESTING_PHASES,
    RETURNED,
    ROLLBACK,
    SLOT_BAD,
    SLOT_CONFIRMED,
    SLOT_EMPTY,
    SLOT_STAGED,
    SLOT_TRIAL,
    SLOT_WRITING,
    STAGED,
    STAGING,
    TRIAL,
)

from .bootstate import BootState, other
from .envblock import next_seq
from .state import Failed, Fault, Image, Operation, Slot, State, Transition, Trial

__all__ = [
    "COMMITTED",
    "INTERRUPTED",
    "LEAVES",
    "WENT_BACK",
    "accept_configure",
    "accept_confirm",
    "accept_release",
    "accept_return",
    "accept_stage",
    "accept_switch",
    "begin_writing",
    "booted",
    "committed",
    "fault_of",
    "going_back",
    "heard",
    "interrupted",
    "move",
    "settled_boot",
    "staged",
    "staging_failed",
    "switched_boot",
]

COMMITTED, WENT_BACK, INTERRUPTED = "Committed", "Returned", "Interrupted"
_KEPT_TRANSITIONS, _KEPT_FAILED = 20, 20
_DEFAULT_TRIAL_SECONDS = 7200

LEAVES: Dict[str, FrozenSet[str]] = {
    IDLE: frozenset((STAGING, STAGED, REBOOTING, TRIAL)),
    STAGING: frozenset((STAGING, STAGED, FAILED, TRIAL)),
    STAGED: frozenset((STAGING, IDLE, REBOOTING, TRIAL)),
    REBOOTING: frozenset((TRIAL, STAGED, IDLE, RETURNED)),
    TRIAL: frozenset((IDLE, REBOOTING, RETURNED, TRIAL)),
    FAILED: frozenset((STAGING, STAGED, IDLE, REBOOTING, TRIAL)),
    RETURNED: frozenset((STAGING, STAGED, IDLE, REBOOTING, TRIAL)),
}  # which phase may follow which; a boot into an unproven slot begins a trial whatever was before


def move(state: State, phase: str, reason: str, now: str) -> State:
    """The same in `phase`, with the change noted. A step the table does not have is a bug, not a fault."""
    if phase not in LEAVES[state.phase]:
        raise AssertionError("no way from %s to %s" % (state.phase, phase))
    noted = state.transitions + (Transition(phase, now, reason[:1000]),)
    return state._replace(phase=phase, transitions=noted[-_KEPT_TRANSITIONS:])


def fault_of(error: HostplaneError, reason_class: str, digest: str, now: str) -> Fault:
    """An error as the state keeps it."""
    return Fault(error.name, error.code, str(error)[:2000], reason_class, digest, now)


def _refuse_old(state: State, seq: int) -> None:
    if seq < state.seq:
        raise HostError("StaleGrant", seq=seq, seen=state.seq)


# --- staging


def accept_stage(state: State, active: str, image: Image, held: bool, retry: bool, now: str) -> State:
    """Begin to stage `image` into the passive slot; unchanged where it is there, or on its way, already."""
    if state.slot(active).digest == image.digest:
        return state
    passive = state.slot(other(active))
    if passive.digest == image.digest and passive.state == SLOT_STAGED and state.phase in RESTING_PHASES:
        return move(state, STAGED, "", now) if state.phase in (IDLE, FAILED) else state
    if state.phase == STAGING and state.image is not None and state.image.digest == image.digest:
        return state
    if state.phase == REBOOTING:
        raise HostError("OperationUnderWay", phase=state.phase)
    if state.phase == TRIAL or held:
        raise HostError("SlotHeld", slot=other(active))
    for failure in state.failed:
        if failure.digest == image.digest and image.attempt <= failure.attempt and not retry:
            raise HostError("DigestFailedBefore", digest=image.digest, reason=failure.name)
    return move(state, STAGING, image.version, now)._replace(image=image)


def begin_writing(state: State, slot: str, image: Image) -> State:
    """`slot` is about to be overwritten with `image`; another image's unfinished bytes are worth nothing then."""
    partial = state.partial
    keep = partial is not None and (partial.slot, partial.digest) == (slot, image.digest)
    writing = state.with_slot(slot, Slot(SLOT_WRITING, image.digest, image.version, image.size))
    return writing._replace(partial=partial if keep else None)


def staged(state: State, slot: str, image: Image, size: int, now: str) -> State:
    """`image` is in `slot`, written, flushed and read back."""
    done = state.with_slot(slot, Slot(SLOT_STAGED, image.digest, image.version, size))
    return move(done, STAGED, "", now)._replace(partial=None, last_error=None)


def staging_failed(state: State, slot: str, fault: Fault) -> State:
    """Staging gave up; what `slot` holds is nothing anybody may boot."""
    emptied = state if state.slot(slot).state != SLOT_WRITING else state.with_slot(slot, Slot(SLOT_EMPTY))
    return move(emptied, FAILED, fault.message, fault.at)._replace(last_error=fault)


# --- switching


def accept_switch(
    state: State, active: str, seq: int, operation: str, digest: str, trial_seconds: int, driver: str, now: str
) -> State:
    """Begin the switch to the passive slot; unchanged where this very grant was acted on already."""
    _refuse_old(state, seq)
    last = state.operation
    if driver == "native" and last is not None and last.seq == seq and last.outcome != INTERRUPTED:
        return state
    if driver == "native" and seq <= state.released:
        raise HostError("StaleGrant", seq=seq, seen=state.seq)
    if state.phase not in RESTING_PHASES:
        raise HostError("OperationUnderWay", phase=state.phase)
    target = other(active)
    held = state.slot(target)
    # Without a name, an upgrade needs something prepared and a rollback something proven.
    usable = (SLOT_CONFIRMED,) if operation == ROLLBACK else (SLOT_STAGED,)
    if held.state not in ((SLOT_STAGED, SLOT_CONFIRMED) if digest else usable) or (digest and digest != held.digest):
        raise HostError("NotStaged", slot=target, held=held.digest or held.state, digest=digest or "any image")
    attempt = state.image.attempt if state.image is not None and state.image.digest == held.digest else 0
    begun = Operation(seq, operation, held.digest, target, trial_seconds, driver, attempt)
    return move(state, REBOOTING, "%s to slot %s" % (operation, target), now)._replace(
        seq=seq, operation=begun, trial=None, returning=None, last_error=None
    )


def switched_boot(boot: BootState, target: str, tries: int) -> BootState:
    """The boot state that tries `target` and falls back to the other slot; the same one if it says so already."""
    wish = boot.with_slot(target, False, tries)._replace(first=target)
    wish = wish.with_slot(other(target), True, 0)
    return boot if wish._replace(seq=boot.seq) == boot else wish._replace(seq=next_seq(boot.seq))


def interrupted(state: State, fault: Fault) -> State:
    """The switch never took place: the same grant may ask again."""
    assert state.operation is not None  # only a switch is interrupted
    phase = STAGED if state.slot(state.operation.target).state == SLOT_STAGED else IDLE
    return move(state, phase, fault.message, fault.at)._replace(
        operation=state.operation._replace(outcome=INTERRUPTED), last_error=fault, before={}
    )


# --- the trial and its two ends


def accept_confirm(state: State, seq: int) -> bool:
    """Whether the trial is to be committed now; False where it is already."""
    last = state.operation
    if last is not None and last.seq == seq and last.outcome == COMMITTED:
        return False
    if last is None or last.seq != seq or state.phase != TRIAL or last.outcome:
        if last is not None and seq < last.seq:
            raise HostError("StaleGrant", seq=seq, seen=state.seq)
        raise HostError("NotOnTrial", seq=seq, phase=state.phase)
    if state.trial is None or not state.trial.checked:
        raise HostError("ChecksRunning")
    return True


def committed(state: State, active: str, now: str) -> State:
    """The running slot is proven."""
    proven = state.with_slot(active, state.slot(active)._replace(state=SLOT_CONFIRMED))
    operation = proven.operation
    if operation is not None and operation.target == active and not operation.outcome:
        operation = operation._replace(outcome=COMMITTED)
    return move(proven, IDLE, "committed", now)._replace(
        operation=operation, trial=None, returning=None, last_error=None, before={}, etc={}
    )


def accept_return(state: State, seq: int) -> bool:
    """Whether the trial is to be given up now; False where it is already."""
    last = state.operation
    if last is not None and last.seq == seq and (last.outcome == WENT_BACK or state.returning is not None):
        return False
    if last is None or last.seq != seq or state.phase != TRIAL:
        raise HostError("NotOnTrial", seq=seq, phase=state.phase)
    return True


def going_back(state: State, fault: Fault) -> State:
    """The trial is over; the next boot is the old slot's."""
    return move(state, REBOOTING, fault.message, fault.at)._replace(returning=fault)


def accept_release(state: State, seq: int, now: str) -> State:
    """No switch may use `seq` or a lower one any more; a host that went back or failed is at rest again."""
    _refuse_old(state, seq)
    if state.phase in (REBOOTING, TRIAL):
        raise HostError("OperationUnderWay", phase=state.phase)
    released = state._replace(seq=seq, released=max(seq, state.released))
    if state.phase == RETURNED and state.operation is not None and seq > state.operation.seq:
        return move(released, IDLE, "released", now)
    return released


def accept_configure(state: State, seq: int) -> State:
    """Settings may be applied under `seq`."""
    _refuse_old(state, seq)
    if state.phase == REBOOTING:
        raise HostError("OperationUnderWay", phase=state.phase)
    return state._replace(seq=seq)


# --- a boot, or a new start within one


def heard(state: State, words: Optional[Fault], active: str) -> State:
    """The same with the trial service's last words as the reason of the return that they explain."""
    operation = state.operation
    is_back = operation is not None and not operation.outcome and operation.target != active
    if words is None or operation is None or not is_back or state.returning is not None:
        return state
    return state._replace(returning=words._replace(digest=operation.digest))


def booted(
    state: State, boot: BootState, active: str, boot_id: str, now: str, boot_seconds: float
) -> Tuple[State, Optional[BootState]]:
    """What the state must be, given where we woke up; and the boot state to write *before* it, None to leave it.

    Safe to repeat: an agent started again in the same boot finds the phase it left.
    """
    is_same_boot = state.boot_id == boot_id
    state = state._replace(boot_id=boot_id)
    if not boot.is_ok(active):
        wish = boot.with_slot(active, False, 0) if boot.left(active) else None
        return _trial_boot(state, active, is_same_boot, now, boot_seconds), wish
    operation = state.operation
    running = operation is not None and not operation.outcome
    if operation is not None and running and operation.target == active:
        if state.phase == TRIAL and boot.seq:  # no commit of ours leaves the number that the default has
            return committed(state, active, now), None
        # Both copies were lost and the loader took its default: this boot is unproven whatever the default says.
        wish = boot.with_slot(active, False, 0)._replace(first=active)
        return _trial_boot(state, active, is_same_boot, now, boot_seconds), wish
    if operation is not None and running and not (is_same_boot and state.phase == REBOOTING):
        if boot.first == operation.target or state.returning is not None or state.phase == TRIAL:
            return _went_back(state, active, now), None
        return interrupted(state, fault_of(HostError("SwitchInterrupted"), "", operation.digest, now)), None
    if state.phase in (TRIAL, REBOOTING) and not running:  # a trial that no operation of ours began has ended
        return _went_back(state, active, now), None
    if state.slot(active).state != SLOT_CONFIRMED:
        state = state.with_slot(active, state.slot(active)._replace(state=SLOT_CONFIRMED))
    return state, None


def _trial_boot(state: State, active: str, is_same_boot: bool, now: str, boot_seconds: float) -> State:
    if state.returning is not None or (is_same_boot and state.phase == TRIAL):
        return state
    operation = state.operation
    is_ours = operation is not None and operation.target == active and not operation.outcome
    seconds = operation.trial_seconds if operation is not None and is_ours else _DEFAULT_TRIAL_SECONDS
    begun = state.with_slot(active, state.slot(active)._replace(state=SLOT_TRIAL))
    begun = move(begun, TRIAL, "slot %s runs" % active, now)
    return begun._replace(trial=Trial(state.boot_id, boot_seconds + seconds), operation=operation if is_ours else None)


def _went_back(state: State, active: str, now: str) -> State:
    operation, fault = state.operation, state.returning
    target = other(active)
    digest = operation.digest if operation is not None else state.slot(target).digest
    if fault is None:
        error = HostError("TrialInterrupted" if state.phase == TRIAL else "BootFellBack", slot=target)
        fault = fault_of(error, CLASS_HOST_FAULT, digest, now)
    is_fault = fault.reason_class == CLASS_HOST_FAULT
    was = SLOT_CONFIRMED if operation is not None and operation.operation == ROLLBACK else SLOT_STAGED
    held = state.slot(target)._replace(state=SLOT_BAD if is_fault else was)
    failed = state.failed
    if is_fault and digest:
        attempt = operation.attempt if operation is not None else 0
        failed = tuple(item for item in failed if item.digest != digest) + (Failed(digest, fault.name, attempt),)
    back = state.with_slot(target, held).with_slot(active, state.slot(active)._replace(state=SLOT_CONFIRMED))
    return move(back, RETURNED, fault.message, now)._replace(
        operation=None if operation is None else operation._replace(outcome=WENT_BACK),
        trial=None,
        returning=None,
        last_error=fault,
        failed=failed[-_KEPT_FAILED:],
        before={},
    )


def settled_boot(boot: BootState, active: str) -> BootState:
    """The boot order once a return is on record: the proven slot first. A proven first slot is somebody's choice."""
    if boot.first == active or not boot.is_ok(active) or boot.is_ok(boot.first):
        return boot
    return boot.with_slot(boot.first, False, 0)._replace(first=active)
