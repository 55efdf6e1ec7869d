"""At every instant of an upgrade by the agent on a real disk, power can fail, and a whole slot with its /etc boots.

    python -m pytest -s -m "long or not long" tests/vm/powercut/test_native.py

is the campaign of docs/reference/power-cuts.md; HOSTPLANE_POWER_CUT_SEED draws other samples.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vm.powercut.campaign import Counts, Recording, Wanted, judge, judge_all, steady, table
from tests.vm.powercut.native import NativeHost, is_possible
from tests.vm.powercut.replay import Sample
from tests.vm.powercut.writelog import Flag, WriteLog, render

pytestmark = [
    pytest.mark.skipif(not is_possible(), reason="makes a block device: needs root, /dev/fuse and loop devices"),
    pytest.mark.timeout(1200),
]
SEED = int(os.environ.get("HOSTPLANE_POWER_CUT_SEED", "1"))
IDENTITY = ("machine-id", "hostname")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return NativeHost(tmp_path_factory.mktemp("native")).recorded()


@pytest.fixture(scope="module")
def wanted(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Wanted:
    found = steady(recording, tmp_path_factory.mktemp("steady"), IDENTITY)
    assert found.rewritten == ()
    old, new = (found.trees[name] for name in ("v1", "v2"))
    assert len(old) > 150
    assert len(new) > 150
    assert new["mine.conf"] == old["mine.conf"], "what was made on the host went with it"
    assert new["passwd"] != old["passwd"], "what the image brings has come"
    assert "many/003.conf" not in new
    return found


def _campaign(recording: Recording, wanted: Wanted, scratch: Path, sample: Sample) -> Counts:
    counts = judge_all(recording, wanted, scratch, sample, os.cpu_count() or 1)
    print(f"\n{table(counts, wanted, sample)}")
    assert counts.wrong == ()
    assert counts.wrongs == 0
    assert sum(counts.states.values()) == counts.total
    assert set(counts.first) == {"A", "B"}
    return counts


def test_every_cut_leads_to_a_whole_slot_and_its_etc(recording: Recording, wanted: Wanted, tmp_path: Path) -> None:
    counts = _campaign(recording, wanted, tmp_path, Sample(SEED))
    assert counts.flushes > 50
    assert counts.total > 5000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SEED + 1, SEED + 5))
def test_more_torn_and_mixed_writes(recording: Recording, wanted: Wanted, tmp_path: Path, seed: int) -> None:
    _campaign(recording, wanted, tmp_path, Sample(seed, heads=10, scattered=10, mixed=20))


def test_without_its_flushes_the_same_upgrade_would_lose_hosts(
    recording: Recording, wanted: Wanted, tmp_path: Path
) -> None:
    """The campaign can fail: a disk that forgets to flush is found out."""
    with WriteLog(recording.log) as log:
        entries = [(entry.offset, log.data(entry), Flag(0)) for entry in log.entries() if entry.size]
    (tmp_path / "log").write_bytes(render(entries))
    broken = recording._replace(log=tmp_path / "log")
    counts = judge(broken, wanted, tmp_path, Sample(SEED, mixed=60), only=lambda cut: cut.kind == "mixed")
    assert counts.wrongs > 0
