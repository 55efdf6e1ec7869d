"""A host that is upgraded: its machine, the server its bundles come from, the agent asked over the serial console."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostplane.image.recipe import Firmware
from hostplane.local.bundleserver import BundleServer
from tests.vm.guest import BOOT_SECONDS, PATIENCE, Guest
from tests.vm.restarting import Restarting, rebooting
from tests.vm.upgrade.images import Made

__all__ = ["STEP_SECONDS", "UpgradeHost", "powered_on"]

STEP_SECONDS = 300.0 * PATIENCE
"""For a staging, a return, a round of checks."""
_HERE = "10.0.2.2"
_UID = "11111111-2222-3333-4444-555555555555"


class UpgradeHost(Guest):
    """What a proxy would say to the agent, and what it would hear."""

    def __init__(self, machine: Restarting, server: BundleServer) -> None:
        super().__init__(machine)
        self.machine, self.server = machine, server
        self.is_at_rest = False  # a test that leaves it so says it

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """The agent's answer.

        Raises:
            AssertionError: it refuses; with what it says.
        """
        said = self.run(f"hostplane-agent call {method} '{json.dumps(params)}' --host-uid {_UID}")
        answer: dict[str, Any] = json.loads(said[said.index("{") :])
        return answer

    def asked(self, method: str, **params: object) -> str:
        """What the agent says, whatever it is."""
        return self.run(f"hostplane-agent call {method} '{json.dumps(params)}' --host-uid {_UID} || true")

    def refused(self, method: str, **params: object) -> str:
        """What the agent says when it refuses."""
        return self.run(f"hostplane-agent call {method} '{json.dumps(params)}' --host-uid {_UID}", fails=True)

    def image(self, made: Made, name: str, **more: object) -> dict[str, object]:
        """`made` as Host.spec.image has it; the server knows its bundle as `name`."""
        ref = self.server.address(name, _HERE)
        digest, version = made.digest, made.version
        return {"format": "bundle", "ref": ref, "digest": digest, "size": made.size, "version": version, **more}

    def stage(self, made: Made, name: str, *, until: Sequence[str] = ("Staged",), **more: object) -> dict[str, Any]:
        """The report once the passive slot holds it (or as `until` says)."""
        self.call("stage", image=self.image(made, name, **more))
        return self.wait(lambda report: report["phase"] in until, unless=("Failed",))

    def wait(self, is_so: Callable[[dict[str, Any]], bool], unless: Sequence[str] = ()) -> dict[str, Any]:
        """The first report of which `is_so` holds."""
        deadline, report = time.monotonic() + STEP_SECONDS, self.call("status")
        while not is_so(report):
            assert report["phase"] not in unless, report.get("lastError")
            assert time.monotonic() < deadline, report
            report = self.call("wait", revision=report["revision"], timeoutSeconds=20)
        return report

    def switch(self, seq: int, made: Made, operation: str = "upgrade", trial: int = 7200) -> None:
        """Ask for the reboot into the other slot."""
        report = self.call("switch", seq=seq, operation=operation, digest=made.digest, trialSeconds=trial)
        assert report["phase"] == "Rebooting"

    def arrive(self, slot: str) -> str:
        """The rest of the banner, once the host is up in `slot` and root is logged in."""
        found, words = self.banner()
        assert found == slot, words
        self.log_in()
        return words

    def confirm(self, seq: int) -> dict[str, Any]:
        """The report after the cluster's word, which is given as soon as the checks allow it."""
        deadline = time.monotonic() + STEP_SECONDS
        while True:
            said = self.asked("confirm", seq=seq)
            if "HP-6027" not in said:  # ChecksRunning
                assert "{" in said, said
                answer: dict[str, Any] = json.loads(said[said.index("{") :])
                return answer
            assert time.monotonic() < deadline, said
            self.run("sleep 2")

    def upgrade(self, seq: int, made: Made, name: str, slot: str) -> dict[str, Any]:
        """Stage, switch, trial, commit."""
        self.stage(made, name)
        self.switch(seq, made)
        words = self.arrive(slot)
        assert words.startswith("on trial"), words
        report = self.confirm(seq)
        assert (report["phase"], report["activeSlot"], report["slots"][slot]["state"]) == ("Idle", slot, "Confirmed")
        return report

    def returns(self, slot: str = "A") -> dict[str, Any]:
        """The report of a host that has come back to `slot` by itself, and root logged in."""
        self.machine.wait_for(rf"Hostplane: slot {slot}, ", BOOT_SECONDS + 3 * STEP_SECONDS)
        self.arrive(slot)
        return self.wait(lambda report: report["phase"] in ("Returned", "Idle"))

    def tree(self, directory: str) -> dict[str, str]:
        """Kind, mode, owner and content of everything below `directory`."""
        rows = (line.strip().partition("|") for line in self.run(f"told {directory}").splitlines())
        return {path: fact for path, bar, fact in rows if bar}


@contextmanager
def powered_on(
    disk: Path, bundles: dict[str, Made], firmware: Firmware = Firmware.BIOS, *, overlay: bool = True, **more: Any
) -> Iterator[UpgradeHost]:
    """A host on `disk`, up and logged in, and `bundles` within its reach. `overlay`: `disk` itself stays as it is."""
    served = {name: made.bundle for name, made in bundles.items()}
    options: dict[str, Any] = {"memory_mib": 768, "network": True, "arguments": ("-device", "i6300esb"), **more}
    with BundleServer(served) as server, rebooting(disk, firmware, overlay=overlay, **options) as machine:
        host = UpgradeHost(machine, server)
        host.banner()
        host.log_in()
        yield host
