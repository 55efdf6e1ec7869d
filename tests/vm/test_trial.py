"""A switch on a real disk: the other slot is tried, proven or given up, and any end but a commit is the old slot.

Slot B is a copy of slot A here, and the agent is told that it was staged: what is tried is the way there and back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hostplane.local.qemu import Machine
from tests.vm.guest import BOOT_SECONDS, TEST_SECONDS, Bench, Guest
from tests.vm.restarting import Restarting, rebooting

pytestmark = pytest.mark.timeout(2 * TEST_SECONDS)
DIGEST = "sha256:" + "b" * 64
STAGED = (
    "systemctl stop hostplane-agent.socket hostplane-agent.service; python3 -c '"
    'import json; p = "/var/lib/hostplane/state.json"; s = json.load(open(p)); '
    f's["slots"]["B"] = dict(state="Staged", digest="{DIGEST}", version="2.0.0", size=1); json.dump(s, open(p, "w"))'
    "'; systemctl start hostplane-agent.socket"
)
SWITCH = {"seq": 1, "operation": "upgrade", "digest": DIGEST, "trialSeconds": 3600}


class Trial:
    """A host that runs slot A and has the other one staged."""

    def __init__(self, machine: Machine | Restarting) -> None:
        self.machine, self.guest = machine, Guest(machine)
        assert self.guest.banner() == ("A", "healthy")
        self.guest.log_in()
        self.guest.run(STAGED)

    def configure(self, **settings: Any) -> None:
        content = json.dumps({"bootTries": 3, **settings})
        self.guest.run(f"echo '{content}' >/etc/hostplane/agent.json")

    def check(self, script: str) -> None:
        path = "/etc/hostplane/checks.d/10-test"
        self.guest.run(f"printf '#!/bin/sh\\n{script}\\n' >{path} && chmod 755 {path}")

    def switch(self) -> None:
        """To slot B, up to the login there."""
        assert self.call("switch", **SWITCH)["phase"] == "Rebooting"
        self.machine.wait_for(r"hostplane\.slot=B", BOOT_SECONDS)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.guest.run(f"hostplane-agent call {method} '{json.dumps(params)}'"))
        return answer

    def returned(self) -> dict[str, Any]:
        """The report once slot A runs again."""
        self.machine.wait_for(r"hostplane\.slot=A", 2 * BOOT_SECONDS)
        slot, words = self.guest.banner()
        assert slot == "A"
        assert words.startswith("went back: ")
        self.guest.log_in()
        report = self.guest.status()
        assert (report["phase"], report["activeSlot"], report["slots"]["B"]["state"]) == ("Returned", "A", "Bad")
        assert report["failedDigests"][0]["digest"] == DIGEST
        return report


@pytest.fixture
def start(debian_disk: Callable[..., Path], tmp_path: Path) -> Callable[[], Any]:
    @contextmanager
    def started() -> Iterator[Trial]:
        bench = Bench(debian_disk(), tmp_path)
        bench.copy_slot()
        with rebooting(bench.path) as machine:
            yield Trial(machine)

    return started


def test_a_slot_is_tried_committed_and_left_again_at_the_console(start: Callable[[], Any]) -> None:
    with start() as trial:
        guest = trial.guest
        guest.run("echo mine >/etc/mine")
        trial.check('echo "$HOSTPLANE_SLOT" >>/run/checked')
        trial.switch()
        slot, words = guest.banner()
        assert slot == "B"
        assert words.startswith("on trial for ")
        guest.log_in()
        assert "B_left=0" in guest.run("cat /boot/hostplane/env1")
        guest.run("while [ ! -s /run/checked ]; do sleep 1; done")
        guest.run(
            "while journalctl -b -q MESSAGE_ID=8d0cf4045749430a905657a9446c43a5 | wc -l | grep -q ^0; do sleep 1; done"
        )
        assert guest.run("cat /sys/class/watchdog/watchdog0/state").strip() == "active"
        assert guest.run("cat /etc/mine").strip() == "mine"
        assert trial.call("confirm", seq=1)["phase"] == "Idle"
        guest.run("while systemctl is-active hostplane-trial.service; do sleep 1; done")
        assert guest.run("cat /sys/class/watchdog/watchdog0/state").strip() == "inactive"
        assert "B_ok=1" in guest.run("cat /boot/hostplane/env1")
        guest.run("hostplane-agent rollback")
        trial.machine.wait_for(r"hostplane\.slot=A", BOOT_SECONDS)
        assert guest.banner()[0] == "A"
        guest.log_in()
        guest.run("until hostplane-agent status | grep -q '^phase    Idle'; do sleep 1; done")
        report = guest.status()
        assert (report["activeSlot"], report["operation"]["outcome"]) == ("A", "Committed")


@pytest.mark.long
def test_a_failed_check_leads_back_with_its_words(start: Callable[[], Any]) -> None:
    with start() as trial:
        trial.check('[ "$HOSTPLANE_SLOT" = A ] || { echo worn out; exit 1; }')
        trial.switch()
        error = trial.returned()["lastError"]
        assert (error["name"], error["reasonClass"]) == ("CheckFailed", "HostFault")
        assert "worn out" in error["message"]
        assert trial.guest.run("ls /etc/hostplane/checks.d").strip() == "10-test"


@pytest.mark.long
def test_a_guard_that_stops_lets_the_watchdog_lead_back(start: Callable[[], Any]) -> None:
    with start() as trial:
        trial.configure(watchdogSeconds=20)
        trial.switch()
        assert trial.guest.banner()[0] == "B"
        trial.guest.log_in()
        trial.machine.send("kill -STOP $(systemctl show -p MainPID hostplane-trial.service | cut -d= -f2)")
        assert trial.returned()["lastError"]["name"] == "TrialInterrupted"


@pytest.mark.long
def test_an_agent_that_cannot_be_kept_alive_leads_back(start: Callable[[], Any]) -> None:
    with start() as trial:
        trial.configure(checks={"boot": 60})
        directory = "/etc/systemd/system/hostplane-agent.service.d"
        only_a = r"[Service]\nExecStartPre=/bin/grep -q hostplane.slot=A /proc/cmdline\n"
        trial.guest.run(f"mkdir -p {directory} && printf '{only_a}' >{directory}/50-test.conf")
        trial.switch()
        assert trial.returned()["lastError"]["name"] == "AgentSilent"


@pytest.mark.long
def test_a_trial_that_nobody_can_own_leads_back(start: Callable[[], Any]) -> None:
    with start() as trial:
        trial.configure(bootTries=1)
        directory = "/etc/systemd/system/hostplane-trial.service.d"
        only_a = r"[Service]\nExecStartPre=/bin/grep -q hostplane.slot=A /proc/cmdline\n"
        trial.guest.run(f"mkdir -p {directory} && printf '{only_a}' >{directory}/50-test.conf")
        trial.switch()
        assert trial.returned()["lastError"]["name"] == "TrialInterrupted"
