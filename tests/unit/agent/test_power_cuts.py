"""The agent killed, or the power cut, before and after every write it makes: enumerated, not sampled.

Each round is a whole upgrade on a directory host. The round's write number `n` never returns; what is on the disk then
is all that the next agent, or the next boot, gets. The host must end on a complete system, committed or back with a
reason, and must have been bootable all along, each slot with a whole /etc of its own.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.etc import driver
from hostplane.agent.etc.views import Images
from hostplane.agent.host import Host
from hostplane.errors import HostError

WRITES = ("pwrite", "replace", "ftruncate", "rename")
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


OLD = {"hosts": "127.0.0.1 localhost\n", "issue": "one\n", "motd": "old\n"}
LIVE = {**OLD, "hosts": "127.0.0.1 localhost\n10.0.0.9 mine\n", "local": "mine\n"}
NEW = {**OLD, "issue": "two\n", "fresh": "new\n"}
MERGED = {**NEW, "hosts": LIVE["hosts"], "local": "mine\n"}


class Trees:
    """What /etc is made of: the live tree of slot A on PERSIST, and below it the running image's and the new one's."""

    def __init__(self, host_dir: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._dir = host_dir
        images = Images(str(host_dir.root / "images/old"), str(host_dir.root / "images/new"))
        monkeypatch.setattr(driver, "see", lambda host, target, work: work(images))
        self.lay_out("images/old/etc", OLD)
        self.lay_out("images/new/etc", NEW)

    def lay_out(self, name: str, files: dict[str, str]) -> None:
        shutil.rmtree(self._dir.root / name, ignore_errors=True)
        for path, content in files.items():
            self._dir.write(f"{name}/{path}", content)

    def reset(self) -> None:
        shutil.rmtree(self._dir.root / "persist", ignore_errors=True)
        self.lay_out("persist/etc/A", LIVE)

    def check(self, slot: str) -> None:
        """The tree that the initramfs would mount for `slot` is whole."""
        tree: Path = self._dir.root / "persist/etc" / slot
        found = {path.name: path.read_text() for path in tree.iterdir()}
        assert found == (LIVE if slot == "A" else MERGED)


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


@pytest.mark.parametrize("revive", ["restart", "boot"])
def test_whatever_write_is_the_last_one_each_slot_boots_with_a_whole_etc(
    host: Any, monkeypatch: pytest.MonkeyPatch, revive: str
) -> None:
    trees = Trees(host, monkeypatch)
    power = Power(monkeypatch)
    boot = host.boot

    def checked_boot() -> str:
        slot: str = boot()
        trees.check(slot)
        return slot

    monkeypatch.setattr(host, "boot", checked_boot)
    cuts = merges = 0
    for cut_at in range(1, 200):
        trees.reset()
        host.write("dev/hostplane/ROOT-A", host.OLD)
        host.write("dev/hostplane/ROOT-B", b"")
        host.forget()
        status, was_cut = upgrade(host, power, "commit", cut_at, revive)
        trees.check("A")
        trees.check(status["activeSlot"])
        assert status["phase"] in ("Idle", "Returned")
        merges += status["activeSlot"] == "B"
        if not was_cut:
            break
        cuts += 1
    assert cuts > 25, "the enumeration did not reach the end of the upgrade"
    assert merges > 20


def test_silence_returns_without_a_verdict_and_keeps_the_image(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _ = upgrade(host, Power(monkeypatch), "silence", float("inf"), "boot")
    assert status["phase"] == "Returned"
    assert status["activeSlot"] == "A"
    assert status["lastError"]["name"] == "TrialDeadlinePassed"
    assert status["lastError"]["reasonClass"] == "NoVerdict"
    assert status["failedDigests"] == []
    assert status["slots"]["B"]["state"] == "Staged"
