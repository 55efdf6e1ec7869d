"""What may be asked of a host, by whichever socket. Each request is checked, decided by machine.py, put on record and
answered; what takes long is the worker's. Nothing is done for a Host that is not ours, and nothing at all but reporting
where the administrator's veto lies.
"""

import time
from typing import Any, Callable, Dict, Optional, Sequence

from hostplane.errors import HostError
from hostplane.rpc import messages

from . import journal, machine, passage
from .core import Core, utc_now
from .settings.keeper import Keeper
from .settings.request import Request
from .slots import SlotPort
from .stage import check_image
from .state import Image
from .trial.checks import Check
from .worker import Worker

__all__ = ["Host"]


class Host(object):
    """The agent of one host. `start` once; every public method may be called from any thread.

    As a context it marks a request whose answer is still to be sent: no reboot and no idle exit before it was.
    """

    def __init__(self, root: str, slots: Optional[SlotPort] = None, checks: Optional[Sequence[Check]] = None) -> None:
        self._core = Core(root, slots)
        self._answers_due = 0
        self._waiting = 0
        self._worker = Worker(self._core, lambda: self._answers_due > 0, checks)
        self._keeper = Keeper(self._core)
        self.config = self._core.host.config

    def start(self, on_reboot: Callable[[], None]) -> None:
        """Go on with what was under way; `on_reboot` is called as the host goes down. Raises StateTooNew."""
        self._core.wake()
        self._keeper.start()
        self._worker.start(on_reboot)

    def close(self) -> None:
        """Stop; what was under way goes on at the next start. Safe to repeat."""
        with self._core.changed:
            self._core.is_closing = True
            self._core.changed.notify_all()
        self._worker.cancel()
        self._worker.join()

    def __enter__(self) -> "Host":
        with self._core.changed:
            self._answers_due += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._core.changed:
            self._answers_due -= 1
            self._core.changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nobody waits for an answer."""
        with self._core.changed:
            is_quiet = not self._answers_due and not self._waiting and not self._keeper.is_busy
            return is_quiet and self._core.state.phase in messages.RESTING_PHASES

    def authorize(self, host_uid: str) -> None:
        """Refuse the word of another Host than ours; a host at rest follows a new one, and old grants are void.

        Raises:
            HostError: WrongHost.
        """
        with self._core.changed:
            state, fixed = self._core.state, self.config.host_uid
            known = fixed or state.host_uid
            if host_uid == known:
                return
            if fixed or not host_uid or (known and state.phase not in messages.RESTING_PHASES):
                raise HostError("WrongHost", uid=host_uid or "no uid")
            self._core.set(state._replace(host_uid=host_uid))

    # --- reports

    def status(self) -> Dict[str, Any]:
        """The host's report, as docs/reference/agent-rpc.md describes it."""
        with self._core.changed:
            return self._core.report()

    def wait(self, revision: int, seconds: float) -> Dict[str, Any]:
        """The report as soon as its revision is another than `revision`, else after `seconds`."""
        deadline = time.monotonic() + seconds
        core = self._core
        with core.changed:
            self._waiting += 1
            try:
                while core.revision == revision and not core.is_closing and time.monotonic() < deadline:
                    core.changed.wait(max(0.001, deadline - time.monotonic()))
                return core.report()
            finally:
                self._waiting -= 1

    # --- staging and the grant

    def stage(self, image: Image, held: bool = False, retry: bool = False) -> Dict[str, Any]:
        """Begin to stage `image`, or go on with it; gives the report at once. Raises HostError."""
        core = self._core
        core.host.refuse_if_vetoed()
        check_image(core.host, image)
        core.slots.check_writable()
        with core.changed:
            before = core.state
            core.set(machine.accept_stage(before, core.active, image, held, retry, utc_now()))
            is_replaced = before.phase == messages.STAGING and core.state.image != before.image
            report = core.report()
        if is_replaced:
            self._worker.cancel()
        return report

    def await_staged(self, digest: str) -> None:
        """Wait until `digest` is staged. Raises HostError StagingFailed with the reason if it will not be."""
        core = self._core
        with core.changed:
            while core.state.phase == messages.STAGING and not core.is_closing:
                if core.state.image is None or core.state.image.digest != digest:
                    break
                core.changed.wait()
            slot, error = core.state.slot(core.passive), core.state.last_error
            is_staged = slot.state == messages.SLOT_STAGED and slot.digest == digest
            if not is_staged and core.state.slot(core.active).digest != digest:
                raise HostError("StagingFailed", detail=error.message if error is not None else "it was stopped")

    def switch(self, seq: int, operation: str, digest: str, trial_seconds: int) -> Dict[str, Any]:
        """Switch to the passive slot under the grant `seq`, and reboot once the answer is out. Raises HostError."""
        with self._core.changed:
            return self._switch(seq, operation, digest, trial_seconds, "native")

    def switch_local(self, operation: str, trial_seconds: int) -> Dict[str, Any]:
        """The same without a grant (KubeOS's way): to whatever the passive slot holds. Raises HostError."""
        with self._core.changed:
            return self._switch(self._core.state.seq, operation, "", trial_seconds, "kubeos")

    def roll_back(self, trial_seconds: int = 7200) -> Dict[str, Any]:
        """Go to the other slot without a grant, at the console's word; a trial is given up. Raises HostError."""
        core = self._core
        core.host.refuse_if_vetoed()
        with core.changed:
            journal.record("RollbackAsked", "rollback asked for at the console", PHASE=core.state.phase)
            is_trial = core.state.phase == messages.TRIAL
            if is_trial:
                core.give_up(HostError("ReturnRequested", detail="at the console"), messages.CLASS_HOST_FAULT)
                report = core.report()
            else:
                report = self._switch(core.state.seq, messages.ROLLBACK, "", trial_seconds, "console")
        if is_trial:
            self._worker.cancel()
        return report

    def _switch(self, seq: int, operation: str, digest: str, trial_seconds: int, driver: str) -> Dict[str, Any]:
        core = self._core
        core.host.refuse_if_vetoed()
        before = core.state
        state = machine.accept_switch(before, core.active, seq, operation, digest, trial_seconds, driver, utc_now())
        if state is not before:
            passage.refuse_unbootable(core.host, core.passive, before.slot(core.passive).digest)
            core.set(state)
        return core.report()

    def confirm(self, seq: int) -> Dict[str, Any]:
        """Commit the trial of `seq`. Raises HostError."""
        core = self._core
        core.host.refuse_if_vetoed()
        with core.changed:
            is_news = machine.accept_confirm(core.state, seq)
            if is_news:
                core.commit()
            report = core.report()
        if is_news:
            self._worker.cancel()
        return report

    def go_back(self, seq: int, words: str) -> Dict[str, Any]:
        """Give up the trial of `seq`: back to the old slot by a reboot. Raises HostError."""
        core = self._core
        core.host.refuse_if_vetoed()
        with core.changed:
            is_news = machine.accept_return(core.state, seq)
            if is_news:
                core.give_up(HostError("ReturnRequested", detail=words[:500]), messages.CLASS_HOST_FAULT)
            report = core.report()
        if is_news:
            self._worker.cancel()
        return report

    def release(self, seq: int) -> Dict[str, Any]:
        """Take note that `seq` is no leave (any more). Raises HostError."""
        with self._core.changed:
            self._core.set(machine.accept_release(self._core.state, seq, utc_now()))
            return self._core.report()

    # --- settings

    def configure(self, seq: int, request: Request) -> Dict[str, Any]:
        """Apply settings; a setting that cannot be applied is in the report, not an error. Raises HostError."""
        return self._keeper.configure(seq, request)

    def preview(self, request: Request) -> Dict[str, Any]:
        """What settings would change here, by name; writes nothing. Raises HostError with what would refuse them."""
        return self._keeper.preview(request)

    def configure_local(self, configs: Any) -> None:
        """Apply settings that carry no version (KubeOS's way). Raises HostError with the first that cannot be."""
        self._keeper.configure_local(configs)

    def settings(self, action: str) -> Dict[str, Any]:
        """`look` for drift (and put it right where that is wished), or `undo` at the console. Raises HostError."""
        return self._keeper.undo() if action == "undo" else self._keeper.look()
