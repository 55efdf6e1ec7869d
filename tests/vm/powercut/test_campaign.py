"""A campaign finds the order of writes that would lose a host, and passes the order that does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from hostplane.agent.bootstate import BootState, render
from tests.vm.powercut.campaign import Recording, judge, judge_all, rebuilt, steady, table
from tests.vm.powercut.replay import Cut, Sample
from tests.vm.powercut.small_disk import SmallDisk
from tests.vm.powercut.writelog import Flag
from tests.vm.powercut.writelog import render as render_log

_BLOCK = 4096
_SWITCHED = (
    BootState(1, "B", True, 0, False, 3),
    BootState(2, "B", True, 0, False, 0),
    BootState(3, "B", True, 0, True, 0),
)


def _writes(old: bytes, new: bytes) -> list[tuple[int, bytes, Flag]]:
    return [
        (at, new[at : at + _BLOCK], Flag(0))
        for at in range(0, len(new), _BLOCK)
        if old[at : at + _BLOCK] != new[at : at + _BLOCK]
    ]


class _Story:
    """An upgrade on the small disk, step by step; `log` puts the steps into an order, a flush after those asked for."""

    def __init__(self, directory: Path) -> None:
        self.small = small = SmallDisk(directory)
        self.directory = directory
        (directory / "name").write_bytes(b"one, merged\n")
        small.debugfs("PERSIST", "cd etc", "mkdir new", "cd new", f"write {directory}/name hostname")
        self.base = small.path.read_bytes()
        self.steps: dict[str, list[tuple[int, bytes, Flag]]] = {}
        self._step("slot", lambda: small.install("B", small.known[1]))
        self._step("etc", lambda: small.debugfs("PERSIST", "ln etc/new etc/B"))  # one block, as a rename's
        for name, state in zip(("switch", "tries", "commit"), _SWITCHED, strict=True):
            for env in ("env2", "env1"):
                self._step(f"{name} {env}", partial(small.write, small.envs[env], render(state)))
        small.path.write_bytes(self.base)

    def _step(self, name: str, act: Callable[[], object]) -> None:
        before = self.small.path.read_bytes()
        act()
        self.steps[name] = _writes(before, self.small.path.read_bytes())
        assert self.steps[name], name

    def log(self, *flushed: Sequence[str]) -> Recording:
        entries: list[tuple[int, bytes, Flag]] = []
        for group in flushed:
            entries += [write for name in group for write in self.steps[name]]
            entries.append((0, b"", Flag.FLUSH))
        (self.directory / "log").write_bytes(render_log(entries))
        return Recording(self.small.path, self.directory / "log", (self.small.known[0], self.small.known[1]))


_SWITCH = (["switch env2"], ["switch env1"])
_END = (["tries env2"], ["tries env1"], ["commit env2"], ["commit env1"])


@pytest.fixture
def story(tmp_path: Path) -> _Story:
    return _Story(tmp_path)


def test_the_right_order_survives_every_cut(story: _Story, tmp_path: Path) -> None:
    recording = story.log(["slot"], ["etc"], *_SWITCH, *_END)
    wanted = steady(recording, tmp_path / "first")
    assert set(wanted.trees["v1"]) == {"hostname", "ssh", "ssh/key", "short", "long"}
    assert set(wanted.trees["v2"]) == {"hostname"}
    assert wanted.rewritten == ()
    counts = judge(recording, wanted, tmp_path / "second", Sample(1, 4, 4, 8))
    assert counts.wrong == ()
    assert counts.wrongs == 0
    assert counts.flushes == 8
    assert set(counts.first) == {"A", "B"}
    assert counts.states["none"] == 9
    assert counts.states["torn"] > 6 * 254, "every part of a block of the boot state"
    shared = judge_all(recording, wanted, tmp_path / "share", Sample(1, 4, 4, 8), 2)
    assert shared._replace(distinct=0, repaired=0) == counts._replace(distinct=0, repaired=0)
    said = table(shared, wanted, Sample(1))
    assert f"| {sum(counts.states.values())}: " in said
    assert "**0**" in said


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ((["slot", "etc", *_SWITCH[0], *_SWITCH[1]], *_END), "no whole image"),
        ((["slot"], ["etc", *_SWITCH[0], *_SWITCH[1]], *_END), "/etc"),
        ((_SWITCH[0], _SWITCH[1], ["slot"], ["etc"], *_END), "no whole image"),
        ((["slot"], *_SWITCH, ["etc"], *_END), "has no /etc"),
    ],
)
def test_a_wrong_order_is_found(story: _Story, tmp_path: Path, groups: tuple[Sequence[str], ...], said: str) -> None:
    wanted = steady(story.log(["slot"], ["etc"], *_SWITCH, *_END), tmp_path / "first")
    counts = judge(story.log(*groups), wanted, tmp_path / "second", Sample(1, 4, 4, 40))
    assert counts.wrongs > 0
    assert any(said in problem for _, problems in counts.wrong for problem in problems), counts.wrong


def test_a_state_comes_back_as_a_disk(story: _Story, tmp_path: Path) -> None:
    recording = story.log(["slot"], ["etc"], *_SWITCH)
    target, seen = tmp_path / "again", []
    for number, cut in rebuilt(recording, target, lambda number, cut: cut.kind == "none"):
        seen.append((number, cut, target.read_bytes()))
    assert [cut for _, cut, _ in seen] == [Cut(epoch, "none", -1) for epoch in range(5)]
    assert seen[0][2] == story.base
    for (_, _, old), (_, _, new), step in zip(*list(zip(*pairwise(seen), strict=True)), story.steps, strict=False):
        assert _writes(old, new) == story.steps[step]
