"""The one thread that acts, driven by level, not by events: it looks at the phase and does what the phase demands.

Staging is fetched and written, a switch is prepared and made, a trial is checked again and again until it ends. That is
why a killed agent needs no recovery code: it reads its state, learns from the boot state where it woke up, and this
thread goes on. It takes no decision that machine.py does not take for it.

A switch, once its answer is out: what holds now is noted, /etc of the other slot is made (each may be cut and done
again), the note is put on record, then the boot state: from that write on, and not before, the other slot boots.
"""

import logging
import threading
import time
from typing import Any, Callable, Dict, Optional, Sequence, Set

from hostplane.errors import HostError
from hostplane.rpc import messages

from . import journal, machine, passage
from .core import Core, utc_now
from .fetch import Cancelled
from .stage import Progress, Stage
from .state import Fault, Image, Operation, Partial
from .trial.checks import BUILT_IN, Check, Checks, Scene, note

__all__ = ["Worker"]

_log = logging.getLogger("hostplane.agent")
_REPLY_SECONDS = 5.0
_RETRY_SECONDS = 5.0


class Worker(object):
    """Acts on the phase of `core`. `is_answering` tells whether an answer is still to be sent before a reboot.

    `table` has the built-in checks; None: all of them on a real host, and none on one that is a directory.
    """

    def __init__(self, core: Core, is_answering: Callable[[], bool], table: Optional[Sequence[Check]] = None) -> None:
        self._core, self._is_answering = core, is_answering
        self._table: Sequence[Check] = table if table is not None else BUILT_IN if core.host.root == "/" else ()
        self._on_reboot: Optional[Callable[[], None]] = None
        self._stage: Optional[Stage] = None
        self._checks: Optional[Checks] = None
        self._previewed: Optional[str] = None
        self._warned: Set[str] = set()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self, on_reboot: Callable[[], None]) -> None:
        """Begin; once. `on_reboot` is called when the host goes down."""
        self._on_reboot = on_reboot
        self._thread.start()

    def cancel(self) -> None:
        """End what is being done, because the phase, or what it is about, has changed. Checks end with their trial."""
        stage, checks = self._stage, self._checks
        if stage is not None:
            stage.cancel()
        if checks is not None:
            checks.cancel()

    def join(self) -> None:
        """Wait for the end after `core.is_closing`, for a few seconds at most."""
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(_REPLY_SECONDS)

    def _run(self) -> None:
        core = self._core
        acts = {
            messages.STAGING: self._do_stage,
            messages.STAGED: self._do_preview,
            messages.TRIAL: self._do_trial,
            messages.REBOOTING: self._do_reboot,
        }
        while True:
            with core.changed:
                while not core.is_closing and (core.state.phase not in acts or self._is_previewed()):
                    core.changed.wait()
                if core.is_closing:
                    return
                act = acts[core.state.phase]
            try:
                act()
            except Cancelled:
                continue
            except Exception:
                _log.exception("worker failed; it tries again in %g s", _RETRY_SECONDS)
                with core.changed:
                    if not core.is_closing:
                        core.changed.wait(_RETRY_SECONDS)

    # --- staging

    def _do_stage(self) -> None:
        core = self._core
        with core.changed:
            image, partial = core.state.image, core.state.partial
            if image is None or core.state.phase != messages.STAGING or core.is_closing:
                return
            held = core.state.slot(core.passive)
            is_there = held.digest == image.digest and held.state in (messages.SLOT_STAGED, messages.SLOT_CONFIRMED)
            stage = Stage(core.host, core.slots, core.boot, core.passive, image, self._begin, self._note, self._show)
            self._stage = stage
        fault: Optional[Fault] = None
        size, etc = 0, {}
        try:
            size = stage.run(partial, held.size if is_there else 0)
            etc = self._preview()
        except Cancelled:
            raise
        except HostError as error:
            fault = machine.fault_of(error, "", image.digest, utc_now())
        except Exception:  # a fault of ours, or input that found one, must not be fetched again for ever
            _log.exception("staging failed")
            fault = machine.fault_of(HostError("AgentFault"), "", image.digest, utc_now())
        finally:
            with core.changed:
                self._stage, core.progress = None, None
        with core.changed:
            if core.state.phase != messages.STAGING or core.state.image != image:
                return  # another image was asked for meanwhile
            if fault is not None:
                core.set(machine.staging_failed(core.state, core.passive, fault))
            else:
                self._previewed = image.digest
                core.set(machine.staged(core.state, core.passive, image, size, utc_now())._replace(etc=etc))

    def _begin(self, image: Image) -> None:
        core = self._core
        with core.changed:
            if core.state.image != image:
                raise Cancelled()
            core.set(machine.begin_writing(core.state, core.passive, image))

    def _note(self, partial: Optional[Partial]) -> None:
        with self._core.changed:
            self._core.set(self._core.state._replace(partial=partial))

    def _show(self, progress: Progress) -> None:
        with self._core.changed:
            self._core.progress = progress
            self._core.bump()

    def _is_previewed(self) -> bool:
        """Whether all is done that phase Staged asks for."""
        state = self._core.state
        return state.phase == messages.STAGED and self._previewed == state.slot(self._core.passive).digest

    def _preview(self) -> Dict[str, Any]:
        core = self._core
        try:
            return passage.preview_etc(core.host, core.active, core.passive)
        except HostError as fault:
            _log.warning("no preview of /etc: %s", fault)
        except Exception:  # it is only to be looked at
            _log.exception("no preview of /etc")
        return {}

    def _do_preview(self) -> None:
        """What the next upgrade would do to /etc, once in each life of the agent: somebody may have edited it."""
        core = self._core
        digest = core.state.slot(core.passive).digest
        etc = self._preview()
        with core.changed:
            self._previewed = digest
            if core.state.phase == messages.STAGED and core.state.slot(core.passive).digest == digest:
                core.set(core.state._replace(etc=etc))

    # --- the trial

    def _do_trial(self) -> None:
        core = self._core
        while True:
            with core.changed:
                trial, operation = core.state.trial, core.state.operation
                if trial is None or core.state.phase != messages.TRIAL or core.is_closing:
                    return
                before = core.state.before
                if operation is None or before.get("seq") != operation.seq:
                    before = {}
                ref = core.state.image.ref if core.state.image is not None else ""
                checks = Checks(Scene(core.host, before, ref), core.active, self._table, self._warn)
                self._checks = checks
            if not self._are_passed(checks):
                return
            with core.changed:
                if core.state.phase != messages.TRIAL or core.state.trial is None or core.is_closing:
                    return
                if not core.state.trial.checked:
                    core.set(core.state._replace(trial=core.state.trial._replace(checked=True)))
                    journal.record("ChecksPassed", "the host's own checks have passed", SLOT=core.active)
                # KubeOS's operator and a console never confirm: the host's own checks are the word.
                if core.host.config.confirm == "local" or (operation is not None and operation.driver != "native"):
                    self._commit()
                if not self._is_due_again():
                    return

    def _commit(self) -> None:
        try:
            self._core.commit()
        except HostError as fault:  # asked for again after the next round, until the deadline
            _log.error("not committed: %s", fault)

    def _is_due_again(self) -> bool:
        """Lock held: wait for the next round of checks; False when the trial is over before."""
        core = self._core
        due = time.monotonic() + core.host.config.recheck_seconds
        while core.state.phase == messages.TRIAL and not core.is_closing:
            left = core.trial_left()
            if left <= 0:
                core.give_up(HostError("TrialDeadlinePassed"), messages.CLASS_NO_VERDICT)
                return False
            if time.monotonic() >= due:
                return True
            core.changed.wait(max(0.01, min(left, due - time.monotonic())))
        return False

    def _warn(self, name: str, words: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            journal.record("ReachLost", "not reached any more: %s: %s" % (name, words), logging.WARNING, CHECK=name)

    def _are_passed(self, checks: Checks) -> bool:
        core = self._core
        try:
            checks.run(core.trial_left)
        except HostError as fault:
            with core.changed:
                trial = core.state.trial
                if (
                    core.state.phase == messages.TRIAL
                    and trial is not None
                    and trial.checked
                    and core.trial_left() <= 0
                ):
                    core.give_up(HostError("TrialDeadlinePassed"), messages.CLASS_NO_VERDICT)  # it had no time
                elif core.state.phase == messages.TRIAL:
                    core.give_up(fault, messages.CLASS_HOST_FAULT)
            return False
        finally:
            self._checks = None
        return True

    # --- the reboot

    def _do_reboot(self) -> None:
        core = self._core
        with core.changed:
            self._let_answers_go()
            operation, is_return = core.state.operation, core.state.returning is not None
            if core.state.phase != messages.REBOOTING or core.is_closing:
                return
        if not is_return and operation is not None and not self._is_switched(operation):
            return
        with core.changed:
            self._let_answers_go()
            if core.state.phase != messages.REBOOTING or core.is_closing:
                return
            boot = core.boot.read()
            if is_return and (boot.left(core.active) or boot.is_ok(core.active)):  # proven by half a commit
                core.write_boot(boot.with_slot(core.active, False, 0))
            journal.record("RebootAsked", "going down for slot %s" % core.passive, SLOT=core.passive)
            core.host.reboot()
            core.is_closing = True
            core.changed.notify_all()
        if self._on_reboot is not None:
            self._on_reboot()

    def _let_answers_go(self) -> None:
        """Lock held: no answer that is due is lost by a reboot, unless nobody takes it."""
        core, deadline = self._core, time.monotonic() + _REPLY_SECONDS
        while self._is_answering() and time.monotonic() < deadline and not core.is_closing:
            core.changed.wait(max(0.01, deadline - time.monotonic()))

    def _is_switched(self, operation: Operation) -> bool:
        """Everything a switch needs, its boot state last; False where it is interrupted."""
        core = self._core
        refusal: Optional[HostError] = None
        before, etc = {}, {}
        try:
            ref = core.state.image.ref if core.state.image is not None else ""
            before = dict(note(Scene(core.host, ref=ref), self._table), seq=operation.seq)
            etc = passage.etc_for(core.host, core.active, operation)
            journal.record("EtcPrepared", "/etc of slot %s is ready" % operation.target, SLOT=operation.target)
        except HostError as fault:
            refusal = fault
        except Exception:  # a fault of ours must not leave a drained node waiting
            _log.exception("the switch could not be prepared")
            refusal = HostError("AgentFault")
        with core.changed:
            if core.state.phase != messages.REBOOTING or core.state.operation != operation or core.is_closing:
                return False
            try:
                if refusal is not None:
                    raise refusal
                core.set(core.state._replace(before=before, etc=etc))
                core.write_switch()
            except HostError as fault:
                core.interrupt(fault)
                return False
        return True
