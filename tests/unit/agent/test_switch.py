"""A switch and its trial as the host sees them: what is ready before the boot state, whose word commits, who asks."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hostplane.agent import passage, worker
from hostplane.agent.host import Host
from hostplane.agent.hostroot import Config, HostRoot
from hostplane.agent.main import main
from hostplane.agent.native import Session
from hostplane.agent.stage import Stage
from hostplane.agent.state import StateFile
from hostplane.agent.trial import checks
from hostplane.agent.trial.checks import ALWAYS, LOST, Check, Scene
from hostplane.errors import HostError

Report = dict[str, Any]


class Agent:
    """One agent in this process, with built-in checks of the test's own."""

    def __init__(self, host_dir: Any, *table: Check) -> None:
        self.dir = host_dir
        self.down = threading.Event()
        self.host = Host(str(host_dir.root), checks=table)

    def __enter__(self) -> Agent:
        self.host.start(self.down.set)
        return self

    def __exit__(self, *_: object) -> None:
        self.host.close()

    def until(self, holds: Callable[[Report], bool]) -> Report:
        deadline = time.monotonic() + self.dir.DEADLINE
        report = self.host.status()
        while not holds(report):
            assert time.monotonic() < deadline, report
            report = self.host.wait(report["revision"], 1.0)
        return report

    def in_phase(self, phase: str) -> Report:
        return self.until(lambda report: report["phase"] == phase)

    def staged(self) -> Report:
        self.host.stage(self.dir.as_image())
        return self.in_phase("Staged")

    def switch(self, seq: int = 7) -> Report:
        return self.host.switch(seq, "upgrade", self.dir.image["digest"], 60)

    def end_soon(self) -> None:
        """The trial's deadline is a second away."""
        core = self.host._core
        with core.changed:
            assert core.state.trial is not None
            soon = core.host.boot_seconds() + 1.0
            core.set(core.state._replace(trial=core.state.trial._replace(deadline=soon)))

    def rebooted(self) -> str:
        assert self.down.wait(self.dir.DEADLINE)
        self.host.close()
        return str(self.dir.boot())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_POLL_SECONDS", 0.01)


@pytest.fixture
def on_trial(host: Any) -> Iterator[Callable[..., Agent]]:
    """A host on trial in slot B, with these checks and these settings."""
    agents: list[Agent] = []

    def tried(*table: Check, **settings: Any) -> Agent:
        host.configure(**settings)
        with Agent(host, *table) as agent:
            agent.staged()
            agent.switch()
            assert agent.rebooted() == "B"
        agents.append(Agent(host, *table).__enter__())
        return agents[-1]

    yield tried
    for agent in agents:
        agent.host.close()


def test_the_boot_state_is_written_last(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, done = threading.Event(), threading.Event()

    def etc_for(*_: object) -> dict[str, Any]:
        ready.set()
        assert done.wait(20)
        return {"merged": 1, "kept": 2, "conflicts": []}

    monkeypatch.setattr(passage, "etc_for", etc_for)
    with Agent(host) as agent:
        agent.staged()
        assert agent.switch()["phase"] == "Rebooting"
        assert ready.wait(20)
        assert host.boot_state().first == "A", "the other slot must not boot before its /etc is there"
        assert agent.switch()["phase"] == "Rebooting"
        done.set()
        assert agent.rebooted() == "B"


def test_a_refusal_before_the_reboot_leaves_the_host_staged_with_the_reason(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def etc_for(*_: object) -> dict[str, Any]:
        raise HostError("EtcConflicts", count=1, paths="fstab")

    with Agent(host) as agent:
        agent.staged()
        monkeypatch.setattr(passage, "etc_for", etc_for)
        agent.switch()
        report = agent.in_phase("Staged")
        assert report["operation"]["outcome"] == "Interrupted"
        assert (report["lastError"]["name"], report["lastError"]["reasonClass"]) == ("EtcConflicts", "NoVerdict")
        assert report["lastError"]["digest"] == host.image["digest"]
        assert report["failedDigests"] == []
        assert host.boot_state().first == "A"
        assert not agent.down.is_set()
        monkeypatch.undo()
        agent.switch()  # the same grant may ask again
        assert agent.rebooted() == "B"


def test_what_an_upgrade_does_to_etc_is_shown_before_it(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"merged": 3, "kept": 1, "conflicts": [{"path": "fstab", "kind": "fstab", "action": "kept"}]}
    monkeypatch.setattr(passage, "preview_etc", lambda *_: found)
    with Agent(host) as agent:
        assert agent.staged()["etc"] == found
    monkeypatch.setattr(passage, "preview_etc", lambda *_: dict(found, merged=4))
    with Agent(host) as agent:
        agent.until(lambda report: report["etc"]["merged"] == 4)


def test_an_image_that_may_not_boot_is_not_switched_to(host: Any) -> None:
    with Agent(host) as agent:
        agent.staged()
        host.write("etc/hostplane/blocked", host.image["digest"] + "\n")
        with pytest.raises(HostError) as caught:
            agent.switch()
        assert caught.value.name == "DigestBlocked"
        assert agent.host.status()["phase"] == "Staged"


# --- the trial


def test_without_a_word_the_trial_goes_on_while_the_checks_hold_and_no_longer(
    on_trial: Callable[..., Agent],
) -> None:
    rounds: list[int] = []
    is_lost = threading.Event()

    def probe(scene: Scene) -> str:
        rounds.append(1)
        return "no answer from 10.0.2.2" if is_lost.is_set() else ""

    agent = on_trial(Check("gateway", 0.0, probe, LOST), recheckSeconds=0.1)
    agent.until(lambda report: len(rounds) > 4)
    assert agent.host.status()["phase"] == "Trial"
    is_lost.set()
    assert agent.rebooted() == "A"
    with Agent(agent.dir) as back:
        error = back.host.status()["lastError"]
    assert (error["name"], error["reasonClass"]) == ("CheckFailed", "HostFault")
    assert "gateway" in error["message"]


def test_what_did_not_hold_before_is_not_asked_of_the_new_image(on_trial: Callable[..., Agent]) -> None:
    agent = on_trial(Check("dns", 0.0, lambda scene: "no name server is configured"), confirm="local")
    assert agent.in_phase("Idle")["activeSlot"] == "B"


def test_a_host_that_trusts_its_own_checks_needs_no_cluster(on_trial: Callable[..., Agent]) -> None:
    agent = on_trial(Check("boot", 0.0, lambda scene: "", ALWAYS), confirm="local")
    report = agent.in_phase("Idle")
    assert report["operation"]["outcome"] == "Committed"
    assert agent.dir.boot_state().is_ok("B")


def test_a_commit_ends_a_check_that_is_still_running(on_trial: Callable[..., Agent]) -> None:
    agent = on_trial(recheckSeconds=0.1)
    marker = agent.dir.root / "running"
    agent.until(lambda report: agent.host._core.state.trial.checked)  # type: ignore[union-attr]
    agent.dir.check(f"touch {marker}; exec sleep 1000")
    agent.until(lambda report: marker.exists())
    assert agent.host.confirm(7)["phase"] == "Idle"
    began = time.monotonic()
    agent.host.close()
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("given", [{"confirm": "nobody"}, {"etcPolicy": "guess"}, {"watchdogSeconds": 7200}])
def test_a_typo_in_the_configuration_is_no_default(host: Any, given: Report) -> None:
    host.configure(**given)
    with pytest.raises(HostError, match=next(iter(given))):
        Host(str(host.root))


# --- the console


def proven_pair(host: Any) -> None:
    """Both slots are proven; A runs."""
    with Agent(host) as agent:
        agent.staged()
        state = agent.host._core.state
        with agent.host._core.changed:
            agent.host._core.set(
                state.with_slot("B", state.slot("B")._replace(state="Confirmed"))._replace(phase="Idle")
            )


def test_a_rollback_at_the_console_needs_no_cluster(host: Any) -> None:
    host.check('test "$HOSTPLANE_SLOT" = B')
    proven_pair(host)
    with Agent(host) as agent:
        assert agent.host.roll_back()["phase"] == "Rebooting"
        assert agent.rebooted() == "B"
    with Agent(host) as agent:
        report = agent.in_phase("Idle")
        assert (report["activeSlot"], report["operation"]["operation"]) == ("B", "rollback")
    assert host.boot_state().is_ok("B")


def test_a_rollback_to_what_is_not_proven_is_refused(host: Any) -> None:
    with Agent(host) as agent:
        for stage in (lambda: None, agent.staged):
            stage()
            with pytest.raises(HostError) as caught:
                agent.host.roll_back()
            assert caught.value.name == "NotStaged"
        agent.switch()
        with pytest.raises(HostError) as caught:
            agent.host.roll_back()
        assert caught.value.name == "OperationUnderWay"


def test_a_rollback_gives_a_trial_up(on_trial: Callable[..., Agent]) -> None:
    agent = on_trial()
    agent.in_phase("Trial")
    assert agent.host.roll_back()["phase"] == "Rebooting"
    assert agent.rebooted() == "A"


def test_a_rollback_is_vetoed_like_any_change(host: Any) -> None:
    proven_pair(host)
    host.write("etc/hostplane/never", "")
    with Agent(host) as agent, pytest.raises(HostError, match="never"):
        agent.host.roll_back()


def test_only_the_hosts_own_root_rolls_back_without_a_grant(host: Any) -> None:
    with Agent(host) as agent:
        session = Session(agent.host, 65534)
        session.call("hello", {"protocols": [1]})
        with pytest.raises(HostError) as caught:
            session.call("rollback", {})
        assert caught.value.name == "RollbackNotAtConsole"


def test_a_rollback_works_where_no_agent_can_be_reached(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    proven_pair(host)
    assert main(["rollback", "--root", str(host.root)]) == 0
    assert "going to slot B" in capsys.readouterr().out
    assert (host.root / "run/hostplane/reboot").exists()
    assert host.boot() == "B"


def test_any_call_can_be_made_from_the_command_line(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    host.start()
    with host.client(host_uid="uid-1") as client:
        client.call("release", seq=3)
    at = ["--root", str(host.root)]
    assert main(["call", "status", *at]) == 0
    assert json.loads(capsys.readouterr().out)["seq"] == 3
    assert main(["call", "release", '{"seq": 4}', *at]) == 0  # for the Host that it knows
    assert main(["call", "release", '{"seq": 5}', "--host-uid", "", *at]) == 1
    assert "HP-6028" in capsys.readouterr().err
    for wrong in ("{", "[]"):
        assert main(["call", "release", wrong, *at]) == 1
        assert "HP-6362" in capsys.readouterr().err
    assert main(["rollback", *at]) == 1
    assert "HP-6025" in capsys.readouterr().err


def test_a_commit_that_cannot_be_written_is_given_up_at_the_deadline(on_trial: Callable[..., Agent]) -> None:
    def veto(scene: Scene) -> str:
        if "slot=B" in scene.host.kernel_line():
            with open(scene.host.path("etc/hostplane/never"), "w"):
                pass
        return ""

    agent = on_trial(Check("it", 0.0, veto), confirm="local", recheckSeconds=0.1)
    agent.until(lambda report: agent.host._core.state.trial.checked)  # type: ignore[union-attr]
    agent.end_soon()
    assert agent.rebooted() == "A"
    with Agent(agent.dir) as back:
        assert back.host.status()["lastError"]["name"] == "TrialDeadlinePassed"


def test_a_fault_of_ours_before_the_reboot_interrupts_the_switch(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def etc_for(*_: object) -> dict[str, Any]:
        raise ZeroDivisionError

    with Agent(host) as agent:
        agent.staged()
        monkeypatch.setattr(passage, "etc_for", etc_for)
        agent.switch()
        assert agent.in_phase("Staged")["lastError"]["name"] == "AgentFault"


def test_a_check_that_the_deadline_cuts_short_is_no_verdict(on_trial: Callable[..., Agent]) -> None:
    agent = on_trial(recheckSeconds=0.1)
    agent.until(lambda report: agent.host._core.state.trial.checked)  # type: ignore[union-attr]
    marker = agent.dir.root / "running"
    agent.dir.check(f"touch {marker}; exec sleep 1000")
    agent.end_soon()
    assert agent.rebooted() == "A"
    with Agent(agent.dir) as back:
        assert back.host.status()["lastError"]["name"] == "TrialDeadlinePassed"


def test_a_fault_of_ours_while_an_image_is_staged_fails_it_with_a_reason(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> int:
        raise RecursionError("too deep")

    with Agent(host) as agent:
        monkeypatch.setattr(Stage, "run", run)
        agent.host.stage(host.as_image())
        report = agent.in_phase("Failed")
        assert report["lastError"]["name"] == "AgentFault"
        monkeypatch.undo()
        agent.staged()


def test_a_preview_that_fails_costs_no_staging(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def preview_etc(*_: object) -> dict[str, Any]:
        raise RecursionError("too deep")

    monkeypatch.setattr(passage, "preview_etc", preview_etc)
    with Agent(host) as agent:
        assert "etc" not in agent.staged()


def test_a_switch_that_is_interrupted_after_the_boot_state_was_written_takes_it_back(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent was killed between the boot state and the reboot, and what it prepares again is refused now."""

    def etc_for(*_: object) -> dict[str, Any]:
        raise HostError("EtcConflicts", count=1, paths="fstab")

    with Agent(host) as agent:
        agent.staged()
        monkeypatch.setattr(HostRoot, "reboot", fail)
        monkeypatch.setattr(worker, "_RETRY_SECONDS", 3600.0)
        agent.switch()
        deadline = time.monotonic() + host.DEADLINE
        while host.boot_state().first != "B":
            assert time.monotonic() < deadline
            time.sleep(0.01)
    monkeypatch.setattr(passage, "etc_for", etc_for)
    with Agent(host) as agent:
        agent.in_phase("Staged")
        assert host.boot_state().first == "A"
        assert not host.boot_state().left("B"), "any reboot would try what nobody asks for any more"


def fail(*_: object) -> None:
    raise OSError("no")


def full(*_: object) -> None:
    raise HostError("StateWriteFailed", path="state.json", detail="No space left on device")


def test_a_trial_is_given_up_also_where_its_end_cannot_be_put_on_record(
    on_trial: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()

    def probe(scene: Scene) -> str:
        return "PERSIST has only 0 MiB left" if broken.is_set() else ""

    agent = on_trial(Check("disk", 0.0, probe), recheckSeconds=0.1)
    agent.until(lambda report: agent.host._core.state.trial.checked)  # type: ignore[union-attr]
    monkeypatch.setattr(StateFile, "save", full)
    broken.set()
    assert agent.rebooted() == "A"
    monkeypatch.undo()
    with Agent(agent.dir) as back:
        assert back.host.status()["phase"] == "Returned"


def test_a_commit_of_which_only_the_boot_state_was_written_can_still_be_given_up(
    on_trial: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = on_trial(recheckSeconds=3600)
    agent.until(lambda report: agent.host._core.state.trial.checked)  # type: ignore[union-attr]
    monkeypatch.setattr(StateFile, "save", full)
    with pytest.raises(HostError, match="No space left"):
        agent.host.confirm(7)
    assert agent.dir.boot_state().is_ok("B")
    monkeypatch.undo()
    agent.host.go_back(7, "no")
    assert agent.rebooted() == "A"


def test_no_lock_of_anybodys_keeps_a_real_host_from_going_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later service managers let a blocking lock (of a package manager) stop root's reboot too."""
    said: list[list[str]] = []
    monkeypatch.setattr(subprocess, "check_call", lambda words, timeout: said.append(words))
    HostRoot("/", Config()).reboot()
    assert said == [["systemctl", "-i", "reboot"]]
