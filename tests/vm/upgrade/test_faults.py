"""Whatever is wrong with the new version, the host comes back to the old one, with its old /etc and the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from hostplane.local.bundleserver import BundleServer
from tests.vm.guest import BOOT_SECONDS, TEST_SECONDS
from tests.vm.upgrade.host import UpgradeHost, powered_on
from tests.vm.upgrade.images import FAULTS, Images

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * TEST_SECONDS)]

REASONS = {
    "no-kernel": ("BootFellBack", ""),
    "failed-unit": ("CheckFailed", "required.service"),
    "panic": ("BootFellBack", ""),
    "no-root-driver": ("BootFellBack", ""),
    "init-crash": ("TrialInterrupted", ""),
    "hang": ("CheckFailed", "hang.service"),
    "kubelet": ("CheckFailed", "10248/healthz"),
    "no-network": ("CheckFailed", "gateway"),
    "agent": ("AgentSilent", ""),
    "all-of-the-agent": ("BootFellBack", ""),
}
"""The reason that an operator finds, and what its message must hold."""


def test_every_fault_has_its_reason() -> None:
    assert set(REASONS) == set(FAULTS)


@pytest.fixture(scope="module")
def powered(images: Images) -> Iterator[Callable[[], UpgradeHost]]:
    """The host that all of them are tried on, one after the other; a new one after a test that failed."""
    disk = images.made().disk
    assert disk is not None
    with ExitStack() as stack:
        host: UpgradeHost | None = None

        def rested() -> UpgradeHost:
            nonlocal host
            if host is None or not host.is_at_rest:
                stack.close()
                host = stack.enter_context(powered_on(disk, {}))
                host.run("sed -i s/1/7/ /etc/small.conf; echo mine >/etc/mine.conf")
            host.is_at_rest = False
            return host

        yield rested


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_version_ends_on_the_old_one(images: Images, powered: Callable[[], UpgradeHost], fault: str) -> None:
    bad, host = images.faulty(fault), powered()
    with BundleServer({fault: bad.bundle}) as host.server:
        seq = host.call("status")["seq"] + 1
        before = host.tree("/etc")
        host.stage(bad, fault)
        host.switch(seq, bad)
        host.machine.wait_for("Hostplane: slot B", BOOT_SECONDS)
        report = host.returns()
        assert (report["phase"], report["activeSlot"]) == ("Returned", "A")
        assert report["slots"]["A"]["state"] == "Confirmed"
        assert report["slots"]["B"]["state"] == "Bad"
        assert report["operation"]["outcome"] == "Returned"
        why = report["lastError"]
        assert (why["name"], why["reasonClass"], why["digest"]) == (*REASONS[fault][:1], "HostFault", bad.digest), why
        assert REASONS[fault][1] in why["message"], why
        assert report["failedDigests"][-1]["digest"] == bad.digest
        assert host.tree("/etc") == before
        said = host.refused("stage", image=host.image(bad, fault))
        assert why["name"] in said, json.dumps(said)
        host.call("release", seq=seq + 1)
        assert host.call("status")["phase"] == "Idle"
        print(f"\n{fault}: {why['name']}: {why['message']}")
        host.is_at_rest = True
