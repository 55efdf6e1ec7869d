"""The host's own word on a trial: a table of what must hold, then the administrator's checks.

Each row has a deadline: it is asked again every second until it holds, and fails the trial when its time is up. What
failed already before the reboot is not the new image's fault, so every row is asked once before it too, and that note
is kept over the reboot. An API server or a registry that is down must not turn a fleet back: those rows only warn.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from hostplane.errors import HostError

from ..fetch import Cancelled
from ..hostroot import HostRoot
from . import network, services, systemd
from .userchecks import UserChecks

__all__ = ["ADVICE", "ALWAYS", "BUILT_IN", "LOST", "NEWS", "Check", "Checks", "Scene", "note"]

ALWAYS = "always"  # failing ends the trial
NEWS = "news"  # failing ends it, unless it failed already before the reboot
LOST = "lost"  # failing ends it only where it is known to have held before the reboot
ADVICE = "advice"  # as before, but it is only told

_POLL_SECONDS = 1.0
_MIB = 1 << 20
_PERSIST_BYTES, _PERSIST_FILES = 64 * _MIB, 1000
_CLOCK_SLACK_SECONDS = 300
_NO_EARLIER_SECONDS = 1735689600  # 2025-01-01: this program is younger than any earlier time


class Scene(NamedTuple):
    """What a check may look at: the host, the note from before the reboot ({}: none), where the image came from."""

    host: HostRoot
    before: Dict[str, Any] = {}
    ref: str = ""


class Check(NamedTuple):
    """One row. `probe` gives nothing when it holds, else the words for why not; it may take some seconds.

    `when` says what failing means: ALWAYS, NEWS, LOST or ADVICE.
    """

    name: str
    seconds: float
    probe: Callable[[Scene], str]
    when: str = NEWS


def _failed_now() -> List[str]:
    command = ("systemctl", "list-units", "--state=failed", "--no-legend", "--no-pager", "--plain")
    return systemd.failed_units(systemd.output(*command))


def _units(scene: Scene) -> str:
    known = list(scene.host.config.allowed_failed_units) + list(scene.before.get("failedUnits", ()))
    return ", ".join(systemd.unexpected(_failed_now(), known))


def _disk(scene: Scene) -> str:
    for name, path in (("PERSIST", "persist"), ("BOOTSTATE", "boot/hostplane")):
        try:
            room = os.statvfs(scene.host.path(path))
        except OSError as fault:
            return "%s: %s" % (name, fault.strerror)
        if room.f_flag & os.ST_RDONLY:
            return "%s is read-only" % name
        if name == "BOOTSTATE":  # its files are written in place and need no room
            continue
        if room.f_bavail * room.f_frsize < _PERSIST_BYTES:
            return "%s has only %d MiB left" % (name, room.f_bavail * room.f_frsize // _MIB)
        if room.f_files and room.f_favail < _PERSIST_FILES:
            return "%s has only %d inodes left" % (name, room.f_favail)
    return ""


def _time(scene: Scene) -> str:
    earliest = max(_NO_EARLIER_SECONDS, scene.before.get("at", 0) - _CLOCK_SLACK_SECONDS)
    if time.time() >= earliest:
        return ""
    now, then = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) for at in (time.time(), earliest))
    return "the clock says %s, but it is later than %s" % (now, then)


def _seal(scene: Scene) -> str:
    from ..payload.admission import broken_seal

    return broken_seal(scene.host)


BUILT_IN = (
    Check("seal", 1.0, _seal, ALWAYS),
    Check("boot", 900.0, lambda scene: systemd.unfinished(systemd.system_state()), ALWAYS),
    Check("disk", 10.0, _disk),
    Check("time", 300.0, _time),
    Check("gateway", 120.0, lambda scene: network.gateway(scene.host), LOST),
    Check("dns", 120.0, lambda scene: network.dns(scene.host), LOST),
    Check("runtime", 180.0, lambda scene: services.runtime(scene.host)),
    Check("kubelet", 300.0, lambda scene: services.kubelet(scene.host)),
    Check("units", 30.0, _units, ALWAYS),
    Check("registry", 0.0, lambda scene: network.tcp(network.registry_of(scene.ref)), ADVICE),
    Check("api", 0.0, lambda scene: network.tcp(network.api_server(scene.host)), ADVICE),
)
"""In the order they are asked. `checks` in agent.json changes a row's seconds; 0 switches it off."""


def _asked(check: Check, scene: Scene) -> str:
    try:
        return check.probe(scene)
    except Exception as fault:  # what cannot be found out does not hold, and must not stop the round
        return "%s: %s" % (type(fault).__name__, fault)


def note(scene: Scene, table: Sequence[Check]) -> Dict[str, Any]:
    """What holds now, before the reboot: one look at every row, a few seconds where nothing answers."""
    asked = [check for check in table if check.when != ALWAYS]
    with ThreadPoolExecutor(max_workers=len(asked) or 1) as pool:  # what does not answer costs its time only once
        answers = list(pool.map(lambda check: _asked(check, scene), asked))
    failing = {check.name: words[:200] for check, words in zip(asked, answers) if words}
    noted: Dict[str, Any] = {"at": int(time.time()), "failing": failing}
    if any(check.probe is _units for check in table):
        noted["failedUnits"] = _failed_now()[:100]
    return noted


class Checks(object):
    """One round; `cancel` may be called from any thread and ends it soon. `warn` is told what ADVICE rows say."""

    def __init__(
        self, scene: Scene, slot: str, table: Sequence[Check], warn: Optional[Callable[[str, str], None]] = None
    ) -> None:
        self._scene, self._table, self._warn = scene, table, warn
        self._user = UserChecks(scene.host, slot)
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End the round: `run` raises Cancelled."""
        self._cancelled.set()
        self._user.cancel()

    def run(self, remaining: Callable[[], float]) -> None:
        """Ask everything; `remaining` is the seconds until the trial's own deadline.

        Raises:
            HostError: CheckFailed or CheckTimedOut. Cancelled.
        """
        limits = self._scene.host.config.checks
        for check in self._table:
            seconds = limits.get(check.name, check.seconds)
            if check.name in limits and not seconds:
                continue
            self._one(check, max(0.1, min(seconds, remaining())))
        self._user.run(remaining)

    def _one(self, check: Check, seconds: float) -> None:
        noted = self._scene.before.get("failing")
        if check.name in (noted or ()) or (noted is None and check.when in (LOST, ADVICE)):
            return
        deadline = time.monotonic() + seconds
        while True:
            if self._cancelled.is_set():
                raise Cancelled()
            words = _asked(check, self._scene)
            if not words:
                return
            if check.when == ADVICE:
                if self._warn is not None:
                    self._warn(check.name, words)
                return
            if time.monotonic() >= deadline:
                raise HostError("CheckFailed", check=check.name, detail=words)
            self._cancelled.wait(_POLL_SECONDS)
