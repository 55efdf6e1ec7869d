"""The agent killed, or the power cut, before and after every write it makes: enumerated, not sampled.

Each round is a whole upgrade on a directory host. The round's write number `n` never returns; what is on the disk then
is all that the next agent, or the next boot, gets. The host must end on a complete system, committed or back with a
reason, and must have been bootable all along.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hostplane.agent.host import Host
from hostplane.errors import HostError

WRITES = ("pwrite", "replace", "ftruncate")
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the dying worker


class Dead(SystemExit):
    """The process is no more; a thread ends silently by it."""


class Power:
    """Lets a number of writes happen and then nothing more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: float = float("inf")
        self.died = threading.Event()
        for name in WRITES:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))
        for name in ("fsync", "fdatasync"):  # nothing here is lost by a real cut, so nothing need wait for a real disk
            monkeypatch.setattr(os, name, self._wrapped(lambda descriptor: None))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any) -> Any:
            if self.died.is_set() or self.left <= 0:
                self.died.set()
                raise Dead
            self.left -= 1
            result = real(*arguments)
            if self.left <= 0:
                self.died.set()
                raise Dead
            return result

        return write


class Run:
    """One agent process in this one, driven by level as a proxy drives it."""

    def __init__(self, host_dir: Any, power: Power, want: str) -> None:
        self._dir, self._power, self._want = host_dir, power, want
        self.reboots = threading.Event()
        self.host = Host(str(host_dir.root))

    def serve(self) -> str:
        """dead, reboot, or the phase the host has come to rest in."""
        try:
            self.host.start(self.reboots.set)
            return self._drive()
        except Dead:
            return "dead"
        finally:
            self.host.close()

    def _drive(self) -> str:
        for _ in range(1000):
            if self._power.died.is_set():
                return "dead"
            if self.reboots.is_set():
                return "reboot"
            status = self.host.status()
            phase, operation = status["phase"], status.get("operation", {})
            try:
                if phase == "Returned" or operation.get("outcome") == "Committed":
                    return str(phase)
                if phase in ("Idle", "Failed"):
                    self.host.stage(self._dir.as_image())
                elif phase == "Staged":
                    self.host.switch(7, "upgrade", self._dir.image["digest"], 1 if self._want == "silence" else 60)
                elif phase == "Trial" and self._want == "commit":
                    self.host.confirm(7)
            except HostError as fault:
                if fault.name != "ChecksRunning":
                    raise
            self.host.wait(status["revision"], 0.05)
        raise AssertionError(f"it never came to rest: {status}")


def upgrade(host_dir: Any, power: Power, want: str, cut_at: float, revive: str) -> tuple[dict[str, Any], bool]:
    """(the last status, whether the cut happened) of one upgrade that loses its power at a write."""
    power.left = cut_at
    power.died.clear()
    was_cut = False
    for _ in range(20):
        run = Run(host_dir, power, want)
        end = run.serve()
        if end == "dead":
            was_cut = True
            power.left = float("inf")
            power.died.clear()
            if revive == "boot":
                host_dir.boot()
        elif end == "reboot":
            host_dir.boot()
        else:
            return run.host.status(), was_cut
    raise AssertionError("it reboots for ever")


@pytest.mark.parametrize("revive", ["restart", "boot"])
@pytest.mark.parametrize("want", ["commit", "check fails"])
def test_whatever_write_is_the_last_one_the_host_ends_committed_or_back(
    host: Any, monkeypatch: pytest.MonkeyPatch, want: str, revive: str
) -> None:
    power = Power(monkeypatch)
    if want == "check fails":
        host.check('test "$HOSTPLANE_SLOT" = A')
    cuts = 0
    for cut_at in range(1, 200):
        host.write("dev/hostplane/ROOT-A", host.OLD)
        host.write("dev/hostplane/ROOT-B", b"")
        host.forget()
        status, was_cut = upgrade(host, power, want, cut_at, revive)
        if not was_cut:
            break
        cuts += 1
        active = status["activeSlot"]
        assert status["slots"][active]["state"] == "Confirmed"
        assert host.boot_state().is_ok(active)
        assert host.boot_state().first == active
        if status["phase"] == "Idle":
            assert want == "commit"
            assert host.slot("B").startswith(host.NEW)
        else:
            assert status["phase"] == "Returned"
            assert active == "A"
            assert status["lastError"]["reasonClass"] == "HostFault"
            assert status["lastError"]["name"] in ("CheckFailed", "TrialInterrupted", "BootFellBack")
            assert not host.boot_state().is_ok("B")
    assert cuts > 20, "the enumeration did not reach the end of the upgrade"


def test_silence_returns_without_a_verdict_and_keeps_the_image(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _ = upgrade(host, Power(monkeypatch), "silence", float("inf"), "boot")
    assert status["phase"] == "Returned"
    assert status["activeSlot"] == "A"
    assert status["lastError"]["name"] == "TrialDeadlinePassed"
    assert status["lastError"]["reasonClass"] == "NoVerdict"
    assert status["failedDigests"] == []
    assert status["slots"]["B"]["state"] == "Staged"
