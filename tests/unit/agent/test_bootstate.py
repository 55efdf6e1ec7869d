"""The boot state: no cut at any byte of any write makes it say anything but the old or the new."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hostplane.agent import bootstate, envblock
from hostplane.agent.bootstate import BootFiles, BootState, choose, parse, plan_boot, render
from hostplane.agent.envblock import next_seq
from hostplane.errors import HostError

states = st.builds(
    BootState,
    st.integers(0, 10**15 - 1),
    st.sampled_from("AB"),
    st.booleans(),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 9),
)


@given(states)
def test_what_is_written_is_read_and_fits_one_sector(state: BootState) -> None:
    block = render(state)
    assert len(block) == 1024
    assert block[512:] == b"#" * 512
    assert parse(block) == state


@given(st.binary(max_size=1100))
def test_no_bytes_break_the_parser(block: bytes) -> None:
    parse(block)
    assert plan_boot(block, block)[0] in ("A", "B", None)


@settings(max_examples=40)
@given(states, states, st.booleans())
@example(BootState(10**15 - 1), BootState(), False)
def test_a_cut_at_any_byte_of_a_write_leaves_the_old_or_the_new(old: BootState, new: BootState, whole: bool) -> None:
    new = new._replace(seq=next_seq(old.seq))
    before, after = render(old), render(new)
    for cut in range(0, 513, 512 if whole else 1):
        torn_env2 = after[:cut] + before[cut:]
        assert choose(before, torn_env2) == old
        torn_env1 = after[:cut] + before[cut:]
        assert choose(torn_env1, after) in (old, new)


def test_an_unproven_slot_is_tried_three_times_and_then_the_other_for_ever() -> None:
    env = render(BootState(5, "B", True, 0, False, 3))
    booted = []
    for _ in range(5):
        slot, block = plan_boot(env, env)
        booted.append(slot)
        env = block or env
    assert booted == ["B", "B", "B", "A", "A"]


def test_a_proven_slot_is_booted_without_a_write() -> None:
    env = render(BootState(5, "B", True, 0, True, 0))
    assert plan_boot(env, env) == ("B", None)


def test_with_both_copies_lost_slot_a_is_booted() -> None:
    assert plan_boot(b"", b"\0" * 1024) == ("A", None)


def test_with_nothing_bootable_the_rescue_entry_is_left() -> None:
    env = render(BootState(5, "B", False, 0, False, 0))
    assert plan_boot(env, env) == (None, None)


def test_a_torn_first_copy_makes_the_second_count() -> None:
    second = BootState(6, "B", True, 0, False, 3)
    assert choose(render(second)[:100].ljust(1024, b"\0"), render(second)) == second


def test_files_are_written_in_place_and_only_when_they_differ(tmp_path: Path) -> None:
    asked = []
    files = BootFiles(str(tmp_path), lambda: asked.append(1))
    files.write(BootState(1, "B", True, 0, False, 3))
    inode = (tmp_path / "env1").stat().st_ino
    files.write(files.read())
    files.write(BootState(2, "B", True, 0, True, 0))
    assert len(asked) == 4
    assert (tmp_path / "env1").stat().st_ino == inode
    assert files.read() == BootState(2, "B", True, 0, True, 0)


def test_the_veto_comes_before_the_first_byte(tmp_path: Path) -> None:
    def veto() -> None:
        raise HostError("VetoedByHost")

    with pytest.raises(HostError, match="forbids"):
        BootFiles(str(tmp_path), veto).write(bootstate.DEFAULT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lost", ["env1", "env2"])
@pytest.mark.parametrize("cut", range(4))
def test_with_one_copy_lost_a_torn_write_still_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, cut: int
) -> None:
    old, new = BootState(6, "B", False, 0, True, 0), BootState(7, "B", False, 0, True, 0)._replace(first="A", a_left=3)
    for name in ("env1", "env2"):
        (tmp_path / name).write_bytes(b"torn" if name == lost else render(old))
    left, write = [cut], os.pwrite

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        left[0] -= 1
        if left[0] >= 0:
            return write(descriptor, content, offset)
        write(descriptor, b"?" * 100, offset)
        raise OSError(5, "the power is gone")

    monkeypatch.setattr(os, "pwrite", pwrite)
    with contextlib.suppress(HostError):
        BootFiles(str(tmp_path), lambda: None).write(new)
    assert BootFiles(str(tmp_path), lambda: None).read() in (old, new)


def test_a_copy_that_cannot_be_read_counts_as_torn_and_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = BootState(6, "B", True, 0, True, 0)
    files = BootFiles(str(tmp_path), lambda: None)
    files.write(state)
    (tmp_path / "env1").write_bytes(b"#" * 1024)
    load = envblock._content

    def content(path: str) -> bytes:
        if path.endswith("env1"):
            raise OSError(5, "Input/output error")
        return load(path)

    monkeypatch.setattr(envblock, "_content", content)
    assert files.read() == state
    files.write(state)
    monkeypatch.undo()
    assert (tmp_path / "env1").read_bytes() == render(state)


def test_what_could_not_be_flushed_is_not_taken_for_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, flushed = BootFiles(str(tmp_path), lambda: None), []
    files.write(BootState(1, "A", True, 0, True, 0))

    def fdatasync(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) == 1:
            raise OSError(5, "Input/output error")  # what was written is in memory all the same

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    wish = BootState(2, "A", True, 0, False, 0)
    with pytest.raises(HostError, match="Input/output error"):
        files.write(wish)
    files.write(wish)
    assert len(flushed) == 3
