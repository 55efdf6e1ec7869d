"""`hostplane-agent trial`, the service that owns a trial from early boot until its commit or its return.

Its first act takes the loader's remaining tries away: from here on any reboot, whoever makes it, leads back. Then it
opens the watchdog, and keeps asking the agent over its socket, which starts the agent again where it has died. It
ends when the trial was committed. When the agent stays silent, does not end a trial whose time is up, or a return does
not get the host down, it reboots the host itself; and when this very process stops, the watchdog does.

It decides nothing else: no check is asked and nothing is committed here. Where nothing is on trial it ends at once.
"""

import logging
import os
import socket
import time
from typing import Any, Callable, Dict, Optional

from hostplane.errors import HostError, HostplaneError
from hostplane.rpc import messages
from hostplane.rpc.client import AgentClient

from .. import journal
from ..bootstate import BootFiles, BootState
from ..hostroot import HostRoot
from ..state import State, StateFile
from .checks import BUILT_IN
from .lastwords import LastWords
from .systemd import STARTING, system_state, unfinished
from .watchdog import Pack, open_pack

__all__ = ["Guard", "is_on_trial", "notify_ready", "take_tries"]

_ASK_SECONDS = 10.0  # for one answer
_PAUSE_SECONDS = 2.0
_SILENCE_SECONDS = 180.0  # of an agent that has answered before
_LATE_SECONDS = 300.0  # after the trial's own deadline
_DOWN_SECONDS = 300.0  # for an orderly shutdown
_SHARE = 8  # of the watchdog's time that one step of a question may take: a question has four
_ARMED = "hostplane.watchdog="

Ask = Callable[[Optional[int], float], Dict[str, Any]]


def is_on_trial(boot: BootState, state: Optional[State], active: str) -> bool:
    """Whether the running slot is not proven, by the boot state or by a switch that is not over."""
    if not boot.is_ok(active):
        return True
    operation = state.operation if state is not None else None
    return operation is not None and not operation.outcome and operation.target == active


def take_tries(boot: BootFiles, active: str) -> None:
    """No reboot tries this slot again. A boot state that cannot be written is the agent's to report."""
    before = boot.read()
    if before.is_ok(active) or not before.left(active):
        return
    try:
        boot.write(before.with_slot(active, False, 0))
        journal.record("TriesTaken", "slot %s is on trial: any reboot leads back" % active, SLOT=active)
    except HostError as fault:
        logging.getLogger("hostplane.agent").error("tries not taken: %s", fault)


def notify_ready() -> None:
    """Tell the service manager, where there is one, that the first act is done."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)


def _ask(path: str) -> Ask:
    """Asks the agent for its report, waiting a little for another revision than the one given."""

    def ask(revision: Optional[int], seconds: float) -> Dict[str, Any]:
        with AgentClient(path, timeout=seconds, name="hostplane-trial") as agent:
            if revision is None:
                return agent.call(messages.STATUS)
            return agent.call(messages.WAIT, revision=revision, timeoutSeconds=seconds)

    return ask


class Guard(object):
    """One trial. Everything that reaches outside can be given: how to ask, reboot, force, wait, and what time it is."""

    def __init__(
        self,
        host: HostRoot,
        ask: Optional[Ask] = None,
        pack: Callable[[int], Pack] = open_pack,
        force: Optional[Callable[[], None]] = None,
        system: Callable[[], str] = system_state,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._host, self._open_pack, self._clock, self._pause = host, pack, clock, pause
        self._ask = ask or _ask(host.path("run/hostplane/agent.sock"))
        self._force = force or self._sysrq
        self._system, self._is_up = system, False
        self._active = host.active_slot()
        boot_seconds = host.config.checks.get("boot", 0) or next(row.seconds for row in BUILT_IN if row.name == "boot")
        self._limit = boot_seconds + _SILENCE_SECONDS  # the agent's socket comes late in the boot
        self._heard = self._clock()
        self._deadline: Optional[float] = None
        self._down_since: Optional[float] = None
        self._revision: Optional[int] = None

    def run(self) -> None:
        """Until the trial is over, or the host goes down. Raises HostError ActiveSlotUnknown."""
        boot = BootFiles(self._host.path("boot/hostplane"), self._host.refuse_if_vetoed)
        try:
            state = StateFile(self._host.path("var/lib/hostplane/state.json")).load()
        except (HostError, OSError):
            state = None  # the agent sets it aside and says so; what runs unproven is on trial all the same
        if not is_on_trial(boot.read(), state, self._active):
            if _ARMED in self._host.kernel_line():  # by the initramfs, for nothing
                self._open_pack(0).close()
            notify_ready()
            return
        take_tries(boot, self._active)
        self._leave(HostError("TrialInterrupted", slot=self._active))  # true of what ends this boot without a word
        seconds = self._host.config.watchdog_seconds
        pack = self._open_pack(seconds)
        if not seconds:
            pack.close()
        notify_ready()
        self._watch(pack)

    def _watch(self, pack: Pack) -> None:
        is_over = False
        while not is_over or not pack.close():
            if not self._is_lost():
                pack.feed()
            if is_over or self._down_since is not None:
                self._wait(pack)
            else:
                is_over = self._is_over(pack)
            if self._down_since is not None and self._clock() - self._down_since > _DOWN_SECONDS:
                journal.record("RebootForced", "the host does not go down; rebooting at once", logging.ERROR)
                self._force()

    def _wait(self, pack: Pack) -> None:
        self._pause(min(_PAUSE_SECONDS, (pack.seconds or 60) / _SHARE))

    def _is_lost(self) -> bool:
        """Whether even forcing has not helped: then only the watchdog is left."""
        return self._down_since is not None and self._clock() - self._down_since > 2 * _DOWN_SECONDS

    def _is_over(self, pack: Pack) -> bool:
        """Ask once; act on what the answer means."""
        try:
            report = self._ask(self._revision, min(_ASK_SECONDS, (pack.seconds or 60) / _SHARE))
            self._revision = int(report["revision"])
            phase = report["phase"]
        except (HostplaneError, KeyError, TypeError, ValueError):
            self._revision = None
            system = "" if self._is_up else self._system()
            if system and system not in STARTING:  # from now on it could be there
                self._is_up, self._heard, self._limit = True, self._clock(), _SILENCE_SECONDS
            if self._clock() - self._heard <= self._limit:
                self._wait(pack)
            elif self._is_up:
                self._return(HostError("AgentSilent", seconds=int(self._limit)))
            else:  # not the agent's fault: its socket comes after what hangs
                self._return(HostError("CheckFailed", check="boot", detail=unfinished(system)))
            return False
        self._is_up, self._heard, self._limit = True, self._clock(), _SILENCE_SECONDS
        if phase == messages.REBOOTING:
            self._down_since = self._clock()
            return False
        if phase != messages.TRIAL:
            return True
        if self._deadline is None:
            self._deadline = self._clock() + float(report.get("trialSecondsLeft", 0)) + _LATE_SECONDS
        if self._clock() > self._deadline:
            self._return(HostError("TrialOverdue"))
        return False

    def _return(self, error: HostError) -> None:
        """Reboot without the agent; the old slot's agent finds the reason."""
        journal.record("AgentSilent", str(error), logging.ERROR)
        self._down_since = self._clock()
        try:
            self._leave(error)
            self._host.reboot()
        except Exception as fault:  # whatever it is, the host must go down
            logging.getLogger("hostplane.agent").error("no orderly reboot: %s", fault)

    def _leave(self, error: HostError) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        LastWords(self._host).write(self._host.boot_id(), error, now)

    def _sysrq(self) -> None:
        for letter in ("s", "u", "b"):  # sync, read-only, boot
            try:
                with open(self._host.path("proc/sysrq-trigger"), "w") as trigger:
                    trigger.write(letter)
            except OSError:
                return
            self._pause(_PAUSE_SECONDS)
