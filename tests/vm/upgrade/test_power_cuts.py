"""At every instant of an upgrade, power can fail and the host boots a complete system: the old one or the new one.

python -m pytest tests/vm/upgrade/test_power_cuts.py -m long      the campaign of docs/reference/power-cuts.md
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from tests.vm.guest import TEST_SECONDS
from tests.vm.powercut.campaign import Recording, Wanted, judge, judge_all, rebuilt, steady, table
from tests.vm.powercut.replay import Sample
from tests.vm.upgrade.host import powered_on
from tests.vm.upgrade.story import Story

pytestmark = pytest.mark.long
SEED = int(os.environ.get("HOSTPLANE_POWER_CUT_SEED", "1"))
BOOTS = int(os.environ.get("HOSTPLANE_POWER_CUT_BOOTS", "20"))
IDENTITY = ("machine-id", "hostname")
REWRITTEN = {"ld.so.cache", "resolv.conf", "adjtime", ".updated", ".pwd.lock"}
"""What a running host may rewrite in its /etc by itself."""


@pytest.fixture(scope="session")
def recording(story: Story) -> Recording:
    return Recording(story.base, story.log, story.known)


@pytest.fixture(scope="session")
def wanted(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Wanted:
    found = steady(recording, tmp_path_factory.mktemp("steady"), IDENTITY)
    assert all(len(tree) > 100 for tree in found.trees.values())
    assert "mine.conf" in found.trees["v2"]
    assert set(found.rewritten) <= REWRITTEN, found.rewritten
    return found


@pytest.mark.timeout(3 * TEST_SECONDS)
def test_what_was_written_in_order_boots_wherever_it_ends(recording: Recording, wanted: Wanted, tmp_path: Path) -> None:
    counts = judge(recording, wanted, tmp_path, only=lambda cut: cut.kind == "none")
    assert counts.wrong == ()
    assert counts.flushes > 20
    assert min(counts.first["A"], counts.first["B"]) > 0


@pytest.mark.timeout(3600)
def test_every_cut_leads_to_a_whole_slot(recording: Recording, wanted: Wanted, tmp_path: Path) -> None:
    counts = judge_all(recording, wanted, tmp_path, Sample(SEED), os.cpu_count() or 1)
    print(f"\n{table(counts, wanted, Sample(SEED))}")
    assert counts.wrong == ()


@pytest.mark.timeout(3600)
def test_a_sample_of_cut_disks_boots(recording: Recording, wanted: Wanted, tmp_path: Path) -> None:
    sample = Sample(SEED)
    total = judge(recording, wanted, tmp_path / "count", sample, only=lambda cut: False).total
    chosen = set(Random(SEED).sample(range(total), BOOTS))
    disk = tmp_path / "disk.raw"
    for number, cut in rebuilt(recording, disk, lambda number, cut: number in chosen, sample):
        with powered_on(disk, {}, overlay=False) as host:
            report = host.call("status")
            assert report["activeSlot"] in ("A", "B"), (number, cut)
            version = host.run("grep version /usr/lib/hostplane/image.json")
            assert ("2.0.0" in version) is (report["activeSlot"] == "B"), (number, cut)
            assert host.run("cat /etc/mine.conf").strip() == "mine", (number, cut)
            host.machine.kill()
