"""Outputs appear whole, a change of them is seen, and nothing of the user's own is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hostplane.image.building.delivery import deliver, files_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    (out / "bundle/blobs").mkdir(parents=True)
    (out / "bundle/index.json").write_text("{}")
    (out / "bundle/blobs/a").write_text("blob")
    with (out / "disk.raw").open("wb") as disk:
        disk.truncate(64 << 20)
        disk.seek(10 << 20)
        disk.write(b"data" * 1024)
        disk.seek(60 << 20)
        disk.write(b"tail")
    return out


def test_outputs_share_their_blocks_with_the_store(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "build"
    rows = {Path(row.path).name: row for row in deliver(source, target, "k")}
    assert os.path.samefile(target / "disk.raw", source / "disk.raw")
    assert os.path.samefile(target / "bundle/blobs/a", source / "bundle/blobs/a")
    assert rows["disk.raw"].size == 64 << 20
    assert rows["disk.raw"].on_disk < 1 << 20
    assert rows["bundle"].size == 6


def test_where_blocks_cannot_be_shared_a_disk_stays_sparse(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "build"
    rows = {Path(row.path).name: row for row in deliver(source, target, "k")}
    assert (target / "disk.raw").read_bytes() == (source / "disk.raw").read_bytes()
    assert not os.path.samefile(target / "disk.raw", source / "disk.raw")
    assert rows["disk.raw"].on_disk < 1 << 20


def test_what_is_there_already_is_not_touched(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "build"
    deliver(source, target, "k")
    (source / "bundle/index.json").unlink()  # would be missed, were anything delivered again
    deliver(source, target, "k")
    assert (target / "bundle/index.json").exists()


def test_a_changed_output_is_seen_on_both_sides(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "build"
    made = files_of(source)
    deliver(source, target, "k")
    assert files_of(source) == made
    with (target / "disk.raw").open("r+b") as disk:
        disk.write(b"booted")
    assert files_of(source) != made


def test_outputs_of_an_earlier_build_go_and_files_of_others_stay(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "build"
    deliver(source, target, "k")
    (target / "notes.txt").write_text("mine")
    (target / "bundle/mine").write_text("mine")
    (source / "bundle/blobs/a").rename(source / "bundle/blobs/b")
    (source / "disk.raw").unlink()
    deliver(source, target, "l")
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert found == {"notes.txt", "bundle/mine", "bundle/index.json", "bundle/blobs/b", ".hostplane-build.json"}


def test_a_directory_in_the_way_is_refused(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "build"
    (target / "disk.raw").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        deliver(source, target, "k")


def test_what_a_killed_delivery_left_half_done_goes(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "build"
    target.mkdir()
    (target / ".disk.raw-0badcafe").write_text("half")
    deliver(source, target, "k")
    assert sorted(path.name for path in target.iterdir()) == [".hostplane-build.json", "bundle", "disk.raw"]
