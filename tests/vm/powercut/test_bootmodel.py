"""The model finds what is wrong with a disk, and nothing where all is well."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostplane.agent.bootstate import BootState, render
from tests.vm.powercut.bootmodel import Model, way
from tests.vm.powercut.ext4 import Ext4
from tests.vm.powercut.replay import Image
from tests.vm.powercut.small_disk import SmallDisk

ON_TRIAL = BootState(7, "B", True, 0, False, 3)


@pytest.fixture
def small(tmp_path: Path) -> SmallDisk:
    return SmallDisk(tmp_path)


def _model(small: SmallDisk, tmp_path: Path) -> tuple[Image, Model]:
    disk = Image(small.path)
    model = Model(disk, small.known, tmp_path)
    tree = model.etc("A")
    assert tree is not None
    assert set(tree) == {"hostname", "ssh", "ssh/key", "short", "long"}
    assert tree["short"].endswith(" hostname")
    assert tree["long"].endswith("../hostname")
    model.wanted = {"v1": tree}
    return disk, model


def test_a_fresh_disk_has_no_problem_and_may_lose_its_boot_state(small: SmallDisk, tmp_path: Path) -> None:
    disk, model = _model(small, tmp_path)
    assert model.problems() == []
    disk.write(small.envs["env1"], bytes(1024))
    assert model.problems() == []
    disk.write(small.envs["env2"], bytes(1024))  # the loader then takes both slots for proven, A first
    assert model.problems() == []


def test_the_way_leads_over_a_slot_on_trial_to_the_proven_one() -> None:
    block = render(ON_TRIAL)
    assert way(block, block) == (["B", "A"], True)
    assert way(render(BootState(8, "B", False, 0, False, 2)), b"") == (["B"], False)


def test_a_slot_on_trial_must_be_whole(small: SmallDisk, tmp_path: Path) -> None:
    disk, model = _model(small, tmp_path)
    for place in small.envs.values():
        disk.write(place, render(ON_TRIAL))
    assert model.problems() == ["slot B may be booted and holds no whole image"]
    disk.write(small.at["BOOT-B"], small.known[1].boot.read_bytes())
    disk.write(small.at["ROOT-B"], small.known[0].root.read_bytes())
    assert model.problems() == ["slot B may be booted and holds no whole image"], "two halves are no whole"
    disk.write(small.at["ROOT-B"], small.known[1].root.read_bytes())
    assert model.problems() == ["slot B holds v2, whose /etc nobody made"]
    disk.write(small.at["ROOT-B"] + 5 * 4096 + 100, b"!")
    assert model.problems() == ["slot B may be booted and holds no whole image"]
    disk.write(small.at["ROOT-B"], small.known[1].root.read_bytes())
    model.wanted["v2"] = {"hostname": "another"}
    model._verdicts.clear()
    assert model.problems() == ["slot B may be booted and has no /etc"]


def test_etc_must_be_whole_and_the_memory_readable(small: SmallDisk, tmp_path: Path) -> None:
    (tmp_path / "less").write_bytes(b"")
    (tmp_path / "torn").write_bytes(b'{"schema": "1')
    old = small.path.read_bytes()
    small.debugfs("PERSIST", "cd /etc/A", "rm short", "cd ssh", "rm key", f"write {tmp_path / 'less'} key")
    new = small.path.read_bytes()
    small.debugfs("PERSIST", "cd /var/lib/hostplane", "rm state.json", f"write {tmp_path / 'torn'} state.json")
    newest = small.path.read_bytes()
    small.path.write_bytes(old)
    disk, model = _model(small, tmp_path)
    for content, wanted in ((new, ["whole: short, ssh/key"]), (newest, ["memory", "ssh/key"]), (old, [])):
        for at in range(0, len(content), 4096):
            disk.write(at, content[at : at + 4096])
        assert len(model.problems()) == len(wanted)
        assert all(word in said for word, said in zip(wanted, model.problems(), strict=True))
    assert model.repaired == 3
    assert model.distinct == 3


def test_what_belongs_to_nobody_must_not_change(small: SmallDisk, tmp_path: Path) -> None:
    disk, model = _model(small, tmp_path)
    disk.write(small.at["ESP"] + 8192, b"!")
    assert model.problems() == [f"block {small.at['ESP'] // 4096 + 2} of the disk belongs to nobody and changed"]
    disk.write(small.at["ESP"] + 8192, b"\0")
    assert model.problems() == []


def test_what_is_read_of_ext4_is_what_its_own_tools_wrote(small: SmallDisk) -> None:
    with small.path.open("rb") as disk:
        base = small.at["PERSIST"]
        fs = Ext4(lambda offset, size: os.pread(disk.fileno(), size, base + offset))
        assert fs.file("/etc/A/ssh/key") == b"k" * 5000
        assert fs.file("/etc/A/none") is None
        assert fs.file("/etc/A") is None
        assert not fs.needs_recovery
        base = small.at["BOOTSTATE"]
        assert fs.file("/env1") == render(BootState())
        assert fs.file("/grub/grub.cfg") == b"menu\n" * 900
