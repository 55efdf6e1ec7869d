"""From a log of a few writes come exactly the disks that a cut could leave."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from tests.vm.powercut.replay import SECTOR, Image, Replay, Sample
from tests.vm.powercut.writelog import Flag, WriteLog, render

_SECTORS = 16


def _play(
    directory: Path, entries: list[tuple[int, bytes, Flag]], *, thorough: bool = False, discarded: int = 0
) -> list[tuple[int, str, int, str]]:
    """Each state: (epoch, kind, entry, one letter a sector); two kinds of it at once are an error."""
    (directory / "disk").write_bytes(b"." * SECTOR * _SECTORS)
    (directory / "log").write_bytes(render(entries, discarded=discarded))
    shown, durable = Image(directory / "disk"), Image(directory / "disk")
    seen = []
    with WriteLog(directory / "log") as log:
        replay = Replay(shown, durable, log, sample=Sample(7), thorough=lambda offset, size: thorough)
        for cut in replay.states():
            raw = shown.read(0, shown.size)
            letters = [raw[at : at + SECTOR] for at in range(0, len(raw), SECTOR)]
            assert all(len(set(each)) == 1 for each in letters), "half a sector"
            seen.append((*cut, "".join(chr(each[0]) for each in letters)))
    assert (directory / "disk").read_bytes() == b"." * SECTOR * _SECTORS
    return seen


def _write(sector: int, text: str) -> tuple[int, bytes, Flag]:
    return sector * SECTOR, b"".join(letter.encode() * SECTOR for letter in text), Flag(0)


_FLUSH = (0, b"", Flag.FLUSH)


def _of(seen: list[tuple[int, str, int, str]], kind: str, epoch: int) -> list[str]:
    return [text.rstrip(".") for at, what, _, text in seen if (at, what) == (epoch, kind)]


def test_what_was_flushed_is_there_and_the_rest_may_be_missing(tmp_path: Path) -> None:
    seen = _play(tmp_path, [_write(0, "a"), _FLUSH, _write(1, "b"), _write(2, "c"), _write(3, "d"), _FLUSH])
    assert _of(seen, "none", 0) == [""]
    assert _of(seen, "prefix", 0) == ["a"]
    assert _of(seen, "none", 1) == ["a"]
    assert _of(seen, "prefix", 1) == ["ab", "abc", "abcd"]
    assert _of(seen, "alone", 1) == ["ab", "a.c", "a..d"]
    assert sorted(_of(seen, "dropped", 1)) == ["a.cd", "ab.d"]
    assert _of(seen, "none", 2) == ["abcd"]
    assert len(_of(seen, "mixed", 1)) == 2


def test_of_writes_that_overlap_the_later_one_is_on_top(tmp_path: Path) -> None:
    seen = _play(tmp_path, [_write(0, "abc"), _write(2, "de"), _write(1, "f"), _FLUSH])
    assert _of(seen, "prefix", 0) == ["abc", "abde", "afde"]
    assert _of(seen, "alone", 0) == ["abc", "..de", ".f"]
    assert sorted(_of(seen, "dropped", 0)) == [".fde", "afc"]
    assert _of(seen, "none", 1) == ["afde"]


def test_a_torn_write_has_any_of_its_sectors(tmp_path: Path) -> None:
    seen = _play(tmp_path, [_write(4, "z"), _write(0, "abcd"), _FLUSH], thorough=True)
    wanted = {
        "".join("abcd"[at] if at in kept else "." for at in range(4)) + "z"
        for count in (1, 2, 3)
        for kept in combinations(range(4), count)
    }
    torn = _of(seen, "torn", 0)
    assert set(torn) == wanted
    assert len(torn) == len(wanted)


def test_a_long_write_is_torn_in_some_places_and_the_same_ones_again(tmp_path: Path) -> None:
    entries = [_write(1, "abcdefghijkl"), _FLUSH]
    first, second = (_of(_play(tmp_path, entries, thorough=True), "torn", 0) for _ in range(2))
    assert first == second
    assert len(first) == 2
    assert all("abcdefghijkl".startswith(part.lstrip(".")) for part in first[:1])


def test_a_discard_leaves_zeros(tmp_path: Path) -> None:
    seen = _play(tmp_path, [_write(0, "ab"), _FLUSH, (0, b"", Flag.DISCARD), _FLUSH], discarded=SECTOR)
    assert _of(seen, "none", 2) == ["\0b"]


def test_a_log_of_another_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        _play(tmp_path, [_write(_SECTORS, "a"), _FLUSH])
