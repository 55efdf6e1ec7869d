"""From one version to the next and back, on real disks: what is new comes, what belongs to the host stays."""

from __future__ import annotations

import pytest

from hostplane.image.recipe import Firmware
from tests.vm.guest import TEST_SECONDS
from tests.vm.upgrade.host import powered_on
from tests.vm.upgrade.images import V2, Images
from tests.vm.upgrade.story import Story, switched_off

pytestmark = pytest.mark.long
XFS = ("disk.fs=xfs", "disk.persist_fs=xfs", "disk.root_mib=360", "disk.size_gib=2")


@pytest.mark.timeout(3 * TEST_SECONDS)
def test_a_host_is_upgraded_and_keeps_what_is_its_own(story: Story) -> None:
    assert story.staged["slots"]["B"]["state"] == "Staged"
    assert story.banner.startswith("on trial")
    report = story.committed
    assert (report["phase"], report["activeSlot"]) == ("Idle", "B")
    assert {slot["state"] for slot in report["slots"].values()} == {"Confirmed"}
    assert (report["operation"]["outcome"], report["seq"]) == ("Committed", 1)
    assert [step["phase"] for step in report["transitions"]] == ["Staging", "Staged", "Rebooting", "Trial", "Idle"]

    facts = story.facts
    assert "2.0.0" in facts["version v2"]
    assert facts["identity v2"] == facts["identity v1"]
    assert "security.capability" in facts["marked v1"]
    assert "user.mark" in facts["marked v1"]
    assert facts["marked v2"] == facts["marked v1"]
    assert facts["small v2"].split() == ["colour", "=", "blue", "size", "=", "7", "two", "mine"]
    accounts = facts["passwd v2"].split()
    assert {"local:1700", "two:1500", "root:0"} <= set(accounts)

    old, new = story.etc["v1"], story.etc["v2"]
    assert new["mine.conf"] == old["mine.conf"]
    assert new["mine.conf"].startswith("100640 0:0")
    assert "gai.conf" not in new, "what the host's administrator removed stays removed"
    assert "new-in-two.conf" in new


@pytest.mark.timeout(6 * TEST_SECONDS)
@pytest.mark.parametrize(
    ("firmware", "file_system", "third"),
    [
        pytest.param(Firmware.BIOS, (), ("disk.fs=erofs",), id="bios-ext4-then-erofs"),
        pytest.param(Firmware.UEFI, XFS, XFS[1:], id="uefi-xfs-then-ext4"),
    ],
)
def test_there_and_back_and_on_to_another_file_system(
    images: Images, firmware: Firmware, file_system: tuple[str, ...], third: tuple[str, ...]
) -> None:
    one, two = images.made(*file_system), images.made(*V2, *file_system)
    three = images.made("version=3.0.0", *third)
    assert one.disk is not None
    with powered_on(one.disk, {"two": two, "three": three}, firmware) as host:
        host.run("echo mine >/etc/mine.conf")
        before = host.tree("/etc")
        host.upgrade(1, two, "two", "B")
        host.run("echo theirs >/etc/theirs.conf")
        host.call("switch", seq=2, operation="rollback", digest="", trialSeconds=7200)
        host.arrive("A")
        report = host.confirm(2)
        assert (report["phase"], report["activeSlot"], report["slots"]["A"]["state"]) == ("Idle", "A", "Confirmed")
        assert host.tree("/etc") == before
        report = host.upgrade(3, three, "three", "B")
        assert report["slots"]["B"]["version"] == "3.0.0"
        kind = "erofs" if "disk.fs=erofs" in third else "ext4"
        assert host.run("findmnt -no FSTYPE /").strip() == kind
        assert host.run("cat /etc/mine.conf").strip() == "mine"
        switched_off(host)
