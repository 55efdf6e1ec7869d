"""The one thread that acts, driven by level, not by events: it looks at the phase and does what the phase demands.

Staging is fetched and written, a trial is checked and watched until its deadline, a reboot is made. That is why a
killed agent needs no recovery code: it reads its state, learns from the boot state where it woke up, and this thread
goes on. It takes no decision that machine.py does not take for it.
"""

import logging
import threading
import time
from typing import Callable, Optional

from hostplane.errors import HostError
from hostplane.rpc import messages

from . import machine
from .core import Core, utc_now
from .fetch import Cancelled
from .stage import Progress, Stage
from .state import Fault, Image, Partial
from .trial import Checks

__all__ = ["Worker"]

_log = logging.getLogger("hostplane.agent")
_REPLY_SECONDS = 5.0
_RETRY_SECONDS = 5.0


class Worker(object):
    """Acts on the phase of `core`. `is_answering` tells whether an answer is still to be sent before a reboot."""

    def __init__(self, core: Core, is_answering: Callable[[], bool]) -> None:
        self._core, self._is_answering = core, is_answering
        self._on_reboot: Optional[Callable[[], None]] = None
        self._stage: Optional[Stage] = None
        self._checks: Optional[Checks] = None
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self, on_reboot: Callable[[], None]) -> None:
        """Begin; once. `on_reboot` is called when the host goes down."""
        self._on_reboot = on_reboot
        self._thread.start()

    def cancel(self) -> None:
        """End what is being done, because the phase, or what it is about, has changed."""
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
        acts = {messages.STAGING: self._do_stage, messages.TRIAL: self._do_trial, messages.REBOOTING: self._do_reboot}
        while True:
            with core.changed:
                while not core.is_closing and core.state.phase not in acts:
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
        size = 0
        try:
            size = stage.run(partial, held.size if is_there else 0)
        except HostError as error:
            fault = machine.fault_of(error, "", image.digest, utc_now())
        finally:
            with core.changed:
                self._stage, core.progress = None, None
        with core.changed:
            if core.state.phase != messages.STAGING or core.state.image != image:
                return  # another image was asked for meanwhile
            if fault is not None:
                core.set(machine.staging_failed(core.state, core.passive, fault))
            else:
                core.set(machine.staged(core.state, core.passive, image, size, utc_now()))

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

    # --- the trial

    def _do_trial(self) -> None:
        core = self._core
        with core.changed:
            trial = core.state.trial
            if trial is None or core.state.phase != messages.TRIAL or core.is_closing:
                return
            self._checks = None if trial.checked else Checks(core.host, core.active)
        if not self._are_checks_passed():
            return
        with core.changed:
            if core.state.phase != messages.TRIAL or core.state.trial is None or core.is_closing:
                return
            core.set(core.state._replace(trial=core.state.trial._replace(checked=True)))
            operation = core.state.operation
            if operation is not None and operation.driver == "kubeos":
                core.commit()  # KubeOS's operator never confirms: the host's own checks are the word
            while core.state.phase == messages.TRIAL and not core.is_closing:
                left = core.trial_left()
                if left <= 0:
                    core.give_up(HostError("TrialDeadlinePassed"), messages.CLASS_NO_VERDICT)
                    return
                core.changed.wait(left)

    def _are_checks_passed(self) -> bool:
        core, checks = self._core, self._checks
        if checks is None:
            return True
        try:
            checks.run(core.trial_left)
        except HostError as fault:
            with core.changed:
                if core.state.phase == messages.TRIAL:
                    core.give_up(fault, messages.CLASS_HOST_FAULT)
            return False
        finally:
            self._checks = None
        return True

    # --- the reboot

    def _do_reboot(self) -> None:
        core = self._core
        deadline = time.monotonic() + _REPLY_SECONDS
        with core.changed:
            while self._is_answering() and time.monotonic() < deadline and not core.is_closing:
                core.changed.wait(max(0.01, deadline - time.monotonic()))
            if core.state.phase != messages.REBOOTING or core.is_closing:
                return
            if core.state.returning is None:
                try:
                    core.write_switch()  # again, in case we were killed between the two writes
                except HostError as fault:
                    _log.error("switch given up: %s", fault)
                    return
            elif core.boot.read().left(core.active):
                core.write_boot(core.boot.read().with_slot(core.active, False, 0))
            core.host.reboot()
            core.is_closing = True
            core.changed.notify_all()
        if self._on_reboot is not None:
            self._on_reboot()
