"""Whatever is wrong with the new version, the host comes back to the old one, with its old /etc and the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.vm.guest import BOOT_SECONDS, TEST_SECONDS
from tests.vm.upgrade.host import powered_on
from tests.vm.upgrade.images import FAULTS, Images

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * TEST_SECONDS)]

REASONS = {
    "no-kernel": "BootFellBack",
    "panic": "BootFellBack",
    "no-root-driver": "BootFellBack",
    "init-crash": "BootFellBack",
    "hang": "CheckFailed",
    "failed-unit": "CheckFailed",
    "kubelet": "CheckFailed",
    "no-network": "CheckFailed",
    "agent": "AgentSilent",
    "all-of-the-agent": "BootFellBack",
}


def test_every_fault_has_its_reason() -> None:
    assert set(REASONS) == set(FAULTS)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_faulty_version_ends_on_the_old_one(images: Images, tmp_path: Path, fault: str) -> None:
    one, bad = images.made(), images.faulty(fault)
    assert one.disk is not None
    with powered_on(one.disk, {"bad": bad}) as host:
        host.run("sed -i s/1/7/ /etc/small.conf; echo mine >/etc/mine.conf")
        before = host.tree("/etc")
        host.stage(bad, "bad")
        host.switch(1, bad)
        host.machine.wait_for("Hostplane: slot B", BOOT_SECONDS)
        report = host.returns()
        assert (report["phase"], report["activeSlot"]) == ("Returned", "A")
        assert report["slots"]["A"]["state"] == "Confirmed"
        assert report["slots"]["B"]["state"] == "Bad"
        assert report["operation"]["outcome"] == "Returned"
        why = report["lastError"]
        assert (why["name"], why["reasonClass"], why["digest"]) == (REASONS[fault], "HostFault", bad.digest), why
        assert [entry["digest"] for entry in report["failedDigests"]] == [bad.digest]
        assert host.tree("/etc") == before
        said = host.refused("stage", image=host.image(bad, "bad"))
        assert why["name"] in said, json.dumps(said)
        host.call("release", seq=2)
        assert host.call("status")["phase"] == "Idle"
