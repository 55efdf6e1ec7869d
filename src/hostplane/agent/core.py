"""What requests and worker share: the state behind one lock, the boot state, the slots, and the writes that need both.

Every change of state is on the disk before anybody hears of it. Methods with a leading "lock held" in their docstring
are called with `changed` held; the order of the two writes (state, boot state) of a switch, a commit and a return is
decided here and nowhere else.
"""

import logging
import threading
import time
from typing import Any, Dict, Optional

from hostplane import __version__
from hostplane.errors import HostError, HostplaneError
from hostplane.rpc import messages

from . import machine
from .bootstate import SLOTS, BootFiles, BootState, other
from .hostroot import HostRoot
from .slots import SlotPort, open_slots
from .stage import Progress
from .state import Slot, State, StateFile, wire

__all__ = ["Core", "utc_now"]

_log = logging.getLogger("hostplane.agent")


def utc_now() -> str:
    """The time of day as the report shows it; nothing is ever decided by it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Core(object):
    """The state of one host and its writers."""

    def __init__(self, root: str, slots: Optional[SlotPort] = None) -> None:
        self.host = HostRoot(root)
        guard = self.host.refuse_if_vetoed
        self.boot = BootFiles(self.host.path("boot/hostplane"), guard)
        self.slots = slots or open_slots(self.host.path("dev/hostplane"), self.host.config.slot_bytes, guard)
        self.active = self.host.active_slot()
        self.boot_id = self.host.boot_id()
        self.passive = other(self.active)
        self.changed = threading.Condition()
        self.state = State()
        self.progress: Optional[Progress] = None
        self.is_closing = False
        # Counts changes; starts from the clock so that no number of an earlier process comes again.
        self.revision = int(time.time() * 1000)
        self._file = StateFile(self.host.path("var/lib/hostplane/state.json"))

    def wake(self) -> None:
        """Learn where we woke up and put on record what that means. Raises HostError StateTooNew."""
        state = self.state = self._load()
        boot = self.boot.read()
        seconds = self.host.boot_seconds()
        state, wish = machine.booted(state, boot, self.active, self.boot_id, utc_now(), seconds)
        if wish is not None:
            self.write_boot(wish)  # on trial: the tries go first, whatever else happens
        with self.changed:
            self.set(state)
        if state.phase not in (messages.REBOOTING, messages.TRIAL) and not self.host.is_vetoed:
            self.write_boot(machine.settled_boot(self.boot.read(), self.active))

    def _load(self) -> State:
        try:
            state = self._file.load()
        except HostError as fault:
            if fault.name != "StateUnreadable":
                raise
            _log.error("state set aside: %s", fault)
            self._file.set_aside()
            state = State(last_error=machine.fault_of(fault, "", "", utc_now()))
        if state is None or not state.slots:
            known = self.host.config.installed
            version = known.version or self.host.image().version or self.host.os_version()
            first = Slot(messages.SLOT_CONFIRMED, known.digest, version, known.size)
            state = (state or State())._replace(slots={self.active: first, self.passive: Slot()})
        return state

    def set(self, state: State) -> None:
        """Lock held: make `state` the state. Raises HostError StateWriteFailed; nothing has changed then."""
        if state == self.state:
            return
        self._file.save(state)
        if state.phase != self.state.phase:
            _log.info("phase %s -> %s", self.state.phase, state.phase)
        self.state = state
        self.bump()

    def bump(self) -> None:
        """Lock held: the report has changed."""
        self.revision += 1
        self.changed.notify_all()

    def write_boot(self, wish: BootState) -> None:
        """Write where failing must not stop us: a trial goes on, and whatever ends it will fail as loudly."""
        try:
            self.boot.write(wish)
        except HostError as fault:
            _log.error("boot state not written: %s", fault)

    def write_switch(self) -> None:
        """Lock held: put the target first in the boot order; where that fails the switch never took place."""
        assert self.state.operation is not None  # phase Rebooting, and no return
        try:
            tries = self.host.config.boot_tries
            self.boot.write(machine.switched_boot(self.boot.read(), self.state.operation.target, tries))
        except HostError as fault:
            self.set(machine.interrupted(self.state, str(fault), utc_now()))
            raise

    def commit(self) -> None:
        """Lock held: the running slot is proven. A crash in between is seen at the next start. Raises HostError."""
        self.boot.write(self.boot.read().with_slot(self.active, True, 0))
        self.set(machine.committed(self.state, self.active, utc_now()))

    def give_up(self, error: HostplaneError, reason_class: str) -> None:
        """Lock held: the trial is over; the worker reboots, and any other reboot leads back as well."""
        digest = self.state.operation.digest if self.state.operation is not None else ""
        self.set(machine.going_back(self.state, machine.fault_of(error, reason_class, digest, utc_now())))

    def trial_left(self) -> float:
        """Seconds until the trial's deadline; negative after it."""
        trial = self.state.trial
        return 0.0 if trial is None else trial.deadline - self.host.boot_seconds()

    def report(self) -> Dict[str, Any]:
        """Lock held: the Status, as docs/reference/agent-rpc.md describes it."""
        state = self.state
        report: Dict[str, Any] = {
            "schema": messages.SCHEMA,
            "revision": self.revision,
            "agentVersion": __version__,
            "protocol": messages.PROTOCOL,
            "phase": state.phase,
            "bootId": self.boot_id,
            "activeSlot": self.active,
            "slots": {name: wire(state.slot(name)) for name in SLOTS},
            "seq": state.seq,
            "failedDigests": [wire(failed) for failed in state.failed],
            "transitions": [wire(transition) for transition in state.transitions],
            "never": self.host.is_vetoed,
        }
        operation = state.operation
        if operation is not None:
            shown = ("seq", "operation", "digest", "outcome")
            report["operation"] = {name: getattr(operation, name) for name in shown}
        if state.phase == messages.STAGING and self.progress is not None:
            report["progress"] = wire(self.progress)
        if state.last_error is not None:
            report["lastError"] = wire(state.last_error)
        if state.settings_version or state.settings_error:
            report["settings"] = {"version": state.settings_version, "error": state.settings_error}
        if state.phase == messages.TRIAL:
            report["trialSecondsLeft"] = max(0, int(self.trial_left()))
        return report
