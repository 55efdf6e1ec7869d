"""What follows a change: which services are told, how their health is asked, which changes wait for a reboot.

All of it is data; `Services` only carries it out, through the service manager of a real host. A host that is a
directory has none: there the words are written into run/hostplane/services, and a service is unhealthy while
run/hostplane/unhealthy/NAME exists, which is what tests and demonstrations need.
"""

import glob
import os
import socket
import subprocess
import time
from typing import Dict, List, NamedTuple, Sequence, Tuple

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

from . import containerd, grubcmdline, kubelet
from .wish import Wish, refuse

__all__ = [
    "ARGUMENTS_MODEL",
    "CHECK_DIRECTORIES",
    "CHECK_MODEL",
    "CHECK_SECONDS",
    "EFFECTS",
    "Effect",
    "Services",
    "check_wished",
    "is_wanted",
]

ARGUMENTS_MODEL, CHECK_MODEL = "kernel.arguments", "check"
CHECK_DIRECTORIES = ("/usr/lib/hostplane/checks.d", "/etc/hostplane/checks.d")
CHECK_SECONDS = 45.0  # for all checks of a request, unless it says more
_COMMAND_SECONDS = 90.0
_POLL_SECONDS = 0.5


def check_wished(wish: Wish) -> float:
    """check: the key is the name of a program, or `seconds`; gives the seconds, 0 for a program.

    Raises:
        HostError: SettingRefused.
    """
    if wish.key == "seconds":
        value = wish.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 300:
            raise refuse(CHECK_MODEL, wish, "it must be a number of seconds from 1 to 300")
        return float(value)
    if not wish.key or "/" in wish.key or wish.key.startswith("."):
        places = " or ".join(CHECK_DIRECTORIES)
        raise refuse(CHECK_MODEL, wish, "the key is seconds, or the name of a program in %s" % places)
    return 0.0


def is_wanted(host: HostRoot, unit: str) -> bool:
    """Whether the image itself enables `unit`: `systemctl is-enabled` does not count such links."""
    for place in ("usr/lib/systemd/system/*.wants/", "usr/lib/systemd/system/*.requires/"):
        if glob.glob(host.path(place) + glob.escape(unit)):
            return True
    return False


class Effect(NamedTuple):
    """`tells`: `VERB UNIT` to the service manager; `checks`: what must be well afterwards, where it was running."""

    tells: Tuple[str, ...] = ()
    checks: Tuple[str, ...] = ()
    needs_reboot: bool = False


EFFECTS: Dict[str, Effect] = {
    kubelet.TYPED: Effect(("restart kubelet.service",), ("kubelet.service",)),
    containerd.TYPED: Effect(("restart containerd.service",), ("containerd.service", "kubelet.service")),
    ARGUMENTS_MODEL: Effect(needs_reboot=True),
    grubcmdline.CURRENT: Effect(needs_reboot=True),
}  # a model that is not here changes files and parameters and tells nobody, as KubeOS's do

_HEALTH_URLS = {"kubelet.service": "http://127.0.0.1:10248/healthz"}
_HEALTH_SOCKETS = {"containerd.service": "run/containerd/containerd.sock"}


class Services(object):
    """The services of one host."""

    def __init__(self, host: HostRoot) -> None:
        self._host = host
        self._is_real = host.root == "/"

    def running(self, units: Sequence[str]) -> List[str]:
        """Those of `units` that run now; only they are restarted and asked for their health."""
        return [unit for unit in units if not self._is_real or not self._ask("is-active", "--quiet", unit)[0]]

    def tell(self, words: Sequence[str], running: Sequence[str]) -> None:
        """Say `VERB UNIT` of each word: restart and reload where it runs; settle a unit as its links now are (started,
        or stopped); refresh one whose text changed.

        Raises:
            HostError: ServiceNotSettled.
        """
        if any(word.startswith(("settle ", "refresh ")) for word in words):
            self._run("daemon-reload")
        for word in words:
            verb, _, unit = word.partition(" ")
            if verb not in ("settle", "refresh"):
                if unit in running:
                    self._run({"restart": "try-restart", "reload": "reload-or-restart"}[verb], unit)
            elif not self._is_real:
                self._run(verb, unit)
            else:
                self._settle(verb, unit)

    def _settle(self, verb: str, unit: str) -> None:
        """After a daemon-reload: what the unit's state asks for."""
        state = self._ask("is-enabled", unit)[1].strip()
        if state == "disabled" and is_wanted(self._host, unit):
            state = "enabled"
        if verb == "settle" and state.startswith("enabled"):
            self._run("restart", unit)
        elif (verb == "settle" and state == "disabled") or state in ("masked", "not-found") or "o such file" in state:
            self._ask("stop", unit)  # of a unit that is gone there may be nothing left to stop
        elif not self._ask("is-active", "--quiet", unit)[0]:
            self._run("try-restart", unit)

    def _run(self, *words: str) -> None:
        if not self._is_real:
            path = self._host.path("run/hostplane/services")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "a") as log:
                log.write(" ".join(words) + "\n")
            return
        status, said = self._ask(*words)
        if status:
            detail = " ".join(said.split())[-300:] or "status %d" % status
            raise HostError("ServiceNotSettled", action=" ".join(words), detail=detail)

    def _ask(self, *words: str) -> Tuple[int, str]:
        try:
            done = subprocess.run(
                ("systemctl", "--no-ask-password") + words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as fault:
            return 1, str(fault)
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def check(self, units: Sequence[str], programs: Sequence[str], seconds: float) -> None:
        """Wait until every unit is well and every program (an absolute path on the host) has ended with status 0.

        Raises:
            HostError: SettingsCheckFailed, naming what is not well after `seconds`.
        """
        deadline = time.monotonic() + seconds
        for unit in units:
            while True:
                detail = self._ailment(unit)
                if not detail:
                    break
                if time.monotonic() >= deadline:
                    raise HostError("SettingsCheckFailed", check=unit, detail=detail)
                time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        for program in programs:
            self._program(program, max(1.0, deadline - time.monotonic()))

    def _ailment(self, unit: str) -> str:
        """What is wrong with `unit`; empty when it is well."""
        if not self._is_real:
            return "it is not healthy" if os.path.exists(self._host.path("run/hostplane/unhealthy/" + unit)) else ""
        if self._ask("is-active", "--quiet", unit)[0]:
            return "it is not active"
        try:
            if unit in _HEALTH_URLS:
                import urllib.request

                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                opener.open(_HEALTH_URLS[unit], timeout=3).close()
            if unit in _HEALTH_SOCKETS:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(3)
                    sock.connect(self._host.path(_HEALTH_SOCKETS[unit]))
        except (OSError, ValueError) as fault:
            return str(fault)[:200]
        return ""

    def _program(self, path: str, seconds: float) -> None:
        environment = dict(os.environ, HOSTPLANE_ROOT=self._host.root)
        try:
            done = subprocess.run(
                [self._host.path(path[1:])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                env=environment,
                check=False,
            )
            detail = done.stdout.decode("utf-8", "replace").strip()[-300:] or "status %d" % done.returncode
            is_well = done.returncode == 0
        except (OSError, subprocess.TimeoutExpired) as fault:
            detail, is_well = str(fault)[:300], False
        if not is_well:
            raise HostError("SettingsCheckFailed", check=path, detail=detail)
