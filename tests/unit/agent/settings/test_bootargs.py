"""The extra kernel arguments: framed as the loader reads them, two copies, never both bad at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostplane.agent.envblock import BLOCK_SIZE
from hostplane.agent.settings.bootargs import ArgsFiles, BootArgs, choose, parse, render
from hostplane.errors import HostError


def files(directory: Path) -> ArgsFiles:
    return ArgsFiles(str(directory), lambda: None)


def test_a_copy_has_the_form_that_the_builder_writes_and_grub_reads() -> None:
    block = render(BootArgs(0, "", ""))
    assert block == b"# GRUB Environment Block\nseq=0\nA_args=\nB_args=\nend=0\n".ljust(1024, b"#")
    assert parse(render(BootArgs(7, "a=b c", "d"))) == BootArgs(7, "a=b c", "d")
    assert BootArgs(7, "a=b c", "d").of("A") == "a=b\nc\n"


@pytest.mark.parametrize(
    "block",
    [
        b"",
        bytes(BLOCK_SIZE),
        render(BootArgs(3, "a", ""))[:-1],
        render(BootArgs(3, "a", "")).replace(b"end=3", b"end=2"),
        render(BootArgs(3, "a", "")).replace(b"seq=3", b"seq=x"),
        render(BootArgs(3, "a", "")).replace(b"# GRUB", b"# grub"),
    ],
)
def test_a_damaged_copy_gives_way_to_the_other(block: bytes) -> None:
    assert parse(block) is None
    assert choose(block, render(BootArgs(2, "b", ""))) == BootArgs(2, "b", "")
    assert choose(block, block) == BootArgs()


def test_the_first_copy_counts_before_the_second() -> None:
    assert choose(render(BootArgs(1, "old", "")), render(BootArgs(2, "new", ""))).a == "old"


def test_what_one_slot_gets_leaves_the_other_and_nothing_is_written_twice(tmp_path: Path) -> None:
    made = files(tmp_path)
    made.set("A", "x=1\ny\n")
    made.set("B", "z\n")
    assert made.read()[1:] == ("x=1 y", "z")
    before = [(tmp_path / name).stat().st_mtime_ns for name in ("args1", "args2")]
    made.set("B", "z\n")
    assert [(tmp_path / name).stat().st_mtime_ns for name in ("args1", "args2")] == before


def test_a_copy_that_is_damaged_is_written_anew(tmp_path: Path) -> None:
    made = files(tmp_path)
    made.set("A", "x\n")
    for name in ("args1", "args2"):
        good = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(bytes(BLOCK_SIZE))
        made.set("A", "x\n")
        assert parse((tmp_path / name).read_bytes()) is not None, name
        assert made.read().a == "x"
        assert len(good) == BLOCK_SIZE


def test_a_cut_between_the_copies_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path).set("A", "old\n")
    real, left = os.pwrite, [1]

    def pwrite(*arguments: int) -> int:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)  # type: ignore[arg-type]  # what was given

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(KeyboardInterrupt):
        files(tmp_path).set("A", "new\n")
    assert files(tmp_path).read().a == "old"  # args2 is first, and args1 counts
    left[0] = 2
    files(tmp_path).set("A", "new\n")
    assert {parse((tmp_path / name).read_bytes()).a for name in ("args1", "args2")} == {"new"}  # type: ignore[union-attr]


def test_what_does_not_fit_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="HP-6427"):
        files(tmp_path).set("A", "x" * 1000)
    assert not list(tmp_path.iterdir())
