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

from . import firmware, journal, machine, passage
from .bootstate import SLOTS, BootFiles, BootState, other
from .hostroot import HostRoot
from .payload import installed
from .slots import SlotPort, open_slots
from .stage import Progress
from .state import Slot, State, StateFile, wire
from .trial.lastwords import LastWords

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
        self._words = LastWords(self.host)

    def wake(self) -> None:
        """Learn where we woke up and put on record what that means. Raises HostError StateTooNew."""
        state = self.state = self._load()
        boot = self.boot.read()
        seconds = self.host.boot_seconds()
        heard = machine.heard(state, self._words.read(self.boot_id), self.active)
        state, wish = machine.booted(heard, boot, self.active, self.boot_id, utc_now(), seconds)
        if wish is not None:
            self.write_boot(wish)  # on trial: the tries go first, whatever else happens
        with self.changed:
            self.set(state)
        if state.phase != messages.TRIAL:
            self._words.forget()
        if state.phase not in (messages.REBOOTING, messages.TRIAL) and not self.host.is_vetoed:
            self.write_boot(machine.settled_boot(self.boot.read(), self.active))
            self._settle()  # again: a commit may have been cut before it; and for a disk's first image

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
            known = known if known.digest else installed.read(self.host)
            version = known.version or self.host.image().version or self.host.os_version()
            first = Slot(messages.SLOT_CONFIRMED, known.digest, version, known.size)
            state = (state or State())._replace(slots={self.active: first, self.passive: Slot()})
        return state

    def set(self, state: State) -> None:
        """Lock held: make `state` the state. Raises HostError StateWriteFailed; nothing has changed then."""
        if state == self.state:
            return
        self._file.save(state)
        before, self.state = self.state, state
        self.bump()
        journal.tell(before, state)

    def bump(self) -> None:
        """Lock held: the report has changed."""
        self.revision += 1
        self.changed.notify_all()

    def write_boot(self, wish: BootState) -> None:
        """Write where failing must not stop us: a trial goes on, and whatever ends it will fail as loudly."""
        try:
            self._write_boot(wish)
        except HostError as fault:
            _log.error("boot state not written: %s", fault)

    def _write_boot(self, wish: BootState) -> None:
        before = self.boot.read()
        self.boot.write(wish)
        if wish != before:
            slots = ", ".join("%s %s" % (name, "proven" if wish.is_ok(name) else wish.left(name)) for name in SLOTS)
            journal.record("BootStateWritten", "boot state: %s first; %s" % (wish.first, slots), SLOT=wish.first)

    def write_switch(self) -> None:
        """Lock held: put the target first in the boot order. Raises HostError; then the switch never took place."""
        assert self.state.operation is not None  # phase Rebooting, and no return
        tries = self.host.config.boot_tries
        self._write_boot(machine.switched_boot(self.boot.read(), self.state.operation.target, tries))

    def interrupt(self, error: HostplaneError) -> None:
        """Lock held: the accepted switch does not take place, for a reason that asking again does not change.

        An agent that was killed before the reboot may have written the boot state already: that is taken back first.
        """
        self.write_boot(machine.settled_boot(self.boot.read(), self.active))
        digest = self.state.operation.digest if self.state.operation is not None else ""
        fault = machine.fault_of(error, messages.CLASS_NO_VERDICT, digest, utc_now())
        self.set(machine.interrupted(self.state, fault))

    def commit(self) -> None:
        """Lock held: the running slot is proven. A crash in between is seen at the next start. Raises HostError."""
        self._write_boot(self.boot.read().with_slot(self.active, True, 0))
        self._words.forget()
        self._settle()
        self.set(machine.committed(self.state, self.active, utc_now()))

    def _settle(self) -> None:
        """What a commit settles beside the boot: it stands, whatever becomes of this."""
        try:
            passage.settle(self.host, self.active)
        except HostError as fault:
            _log.error("committed, but not all of it is on record: %s", fault)

    def give_up(self, error: HostplaneError, reason_class: str) -> None:
        """Lock held: the trial is over; the worker reboots, and any other reboot leads back as well.

        Also where there is no room to put that on record: the boot after it finds a trial that was not committed.
        """
        digest = self.state.operation.digest if self.state.operation is not None else ""
        over = machine.going_back(self.state, machine.fault_of(error, reason_class, digest, utc_now()))
        try:
            self.set(over)
        except HostError as fault:
            _log.error("the trial's end is not on record: %s", fault)
            self._words.write(self.boot_id, error, utc_now())
            before, self.state = self.state, over
            self.bump()
            journal.tell(before, over)

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
        versions = firmware.read(self.host)
        if versions:
            report["firmware"] = versions
        operation = state.operation
        if operation is not None:
            shown = ("seq", "operation", "digest", "outcome")
            report["operation"] = {name: getattr(operation, name) for name in shown}
        if state.phase == messages.STAGING and self.progress is not None:
            report["progress"] = wire(self.progress._replace(plan=None))
            del report["progress"]["plan"]
            if self.progress.plan is not None:
                report["plan"] = wire(self.progress.plan)
        if state.last_error is not None:
            report["lastError"] = wire(state.last_error)
        if state.etc and state.phase in (messages.STAGED, messages.REBOOTING):
            report["etc"] = state.etc
        if state.settings_version or state.settings_error:
            settings: Dict[str, Any] = {"version": state.settings_version, "error": state.settings_error}
            if state.settings_drift:
                settings["drift"] = state.settings_drift.split("\n")
            if state.settings_reboot == self.boot_id:
                settings["rebootNeeded"] = True
            report["settings"] = settings
        if state.phase == messages.TRIAL:
            report["trialSecondsLeft"] = max(0, int(self.trial_left()))
        return report
