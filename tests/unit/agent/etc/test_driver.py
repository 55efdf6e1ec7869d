"""prepare and preview on a host: what is on PERSIST after them, after a cut at every write, and after a refusal."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from hostplane.agent import etc
from hostplane.agent.etc import build
from hostplane.agent.etc.node import read_tree
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError
from tests.unit.agent.etc.conftest import PASSWD, Rig, print_of


class Cut(BaseException):
    """The power fails: nothing runs any more, no clean-up either."""


def edit(rig: Rig) -> None:
    rig.live("sysctl.conf", "a=1\nb=2\n")
    rig.live("mine/file", "me\n")
    rig.live("machine-id", "0123\n")
    rig.image("sysctl.conf", "a=9\nb=1\n")
    rig.image("motd", "new\n")
    rig.image("machine-id", "")


def test_a_switch_brings_both_sides_together(rig: Rig) -> None:
    edit(rig)
    report = etc.prepare(rig.host, "A", "B", etc.KEEP)
    assert rig.merged("sysctl.conf") == "a=9\nb=2\n"
    assert rig.merged("motd") == "new\n"
    assert rig.merged("mine/file") == "me\n"
    assert rig.merged("machine-id") == "0123\n"
    assert (report.merged, report.kept, report.followed, report.conflicts) == (1, 1, 1, ())
    assert sorted(path.name for path in (rig.persist / "etc").iterdir()) == ["A", "B"]


def test_a_preview_says_the_same_and_changes_nothing(rig: Rig) -> None:
    edit(rig)
    rig.live("motd", "me\n")
    before = print_of(rig.root)
    report = etc.preview(rig.host, "A", "B")
    assert print_of(rig.root) == before
    assert report == etc.prepare(rig.host, "A", "B", etc.KEEP)
    assert [conflict[0] for conflict in report.conflicts] == ["motd"]


def test_a_hosts_own_slot_is_never_touched_so_going_back_restores_it_exactly(rig: Rig) -> None:
    edit(rig)
    before = print_of(rig.persist / "etc/A"), print_of(rig.root / "etc"), print_of(rig.new)
    etc.prepare(rig.host, "A", "B", etc.KEEP)
    (rig.persist / "etc/B/sysctl.conf").write_text("a=trial\n")
    (rig.persist / "etc/B/mine/file").write_text("trial\n")
    shutil.rmtree(rig.persist / "etc/B/mine")
    assert (print_of(rig.persist / "etc/A"), print_of(rig.root / "etc"), print_of(rig.new)) == before


def test_the_policy_stop_stops_before_anything_is_written(rig: Rig) -> None:
    edit(rig)
    rig.live("motd", "me\n")
    before = print_of(rig.persist)
    with pytest.raises(HostError, match="motd") as caught:
        etc.prepare(rig.host, "A", "B", etc.STOP)
    assert caught.value.name == "EtcConflicts"
    assert print_of(rig.persist) == before
    rig.live("motd", "hello\n")
    assert etc.prepare(rig.host, "A", "B", etc.STOP).conflicts == ()


def test_an_unknown_policy_and_a_veto_are_refused(rig: Rig) -> None:
    with pytest.raises(HostError, match="guess") as caught:
        etc.prepare(rig.host, "A", "B", "guess")
    assert caught.value.name == "EtcPolicyUnknown"
    rig.write(rig.root, "etc/hostplane/never", "")
    with pytest.raises(HostError) as caught:
        etc.prepare(rig.host, "A", "B", etc.KEEP)
    assert caught.value.name == "VetoedByHost"
    assert not (rig.persist / "etc/B").exists()


def test_a_host_without_a_tree_per_slot_is_left_alone(tmp_path: Path) -> None:
    host = HostRoot(str(tmp_path))
    assert etc.prepare(host, "A", "B", etc.KEEP) == etc.preview(host, "A", "B") == etc.EtcReport()
    (tmp_path / "persist/etc").mkdir(parents=True)  # as the upper layer of an overlay
    assert etc.prepare(host, "A", "B", etc.KEEP) == etc.EtcReport()
    assert list((tmp_path / "persist/etc").iterdir()) == []


def test_a_slot_that_holds_nothing_to_read_is_named(rig: Rig) -> None:
    shutil.rmtree(rig.new / "etc")
    with pytest.raises(HostError, match="no directory /etc") as caught:
        etc.prepare(rig.host, "A", "B", etc.KEEP)
    assert caught.value.name == "EtcImageUnreadable"


def steps(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> Callable[[int], bool]:
    """Runs `act` with the power failing before its write number N; False once there is no such write."""
    real = HostRoot.refuse_if_vetoed

    def run(number: int) -> bool:
        left = [number]

        def guard(host: HostRoot) -> None:
            if not left[0]:
                raise Cut
            left[0] -= 1

        monkeypatch.setattr(HostRoot, "refuse_if_vetoed", guard)
        try:
            act()
        except Cut:
            return True
        finally:
            monkeypatch.setattr(HostRoot, "refuse_if_vetoed", real)
        return False

    return run


@pytest.mark.parametrize("has_former", [False, True])
def test_power_may_fail_before_every_write(rig: Rig, monkeypatch: pytest.MonkeyPatch, has_former: bool) -> None:
    edit(rig)
    former, live = "", print_of(rig.persist / "etc/A")
    etc.prepare(rig.host, "A", "B", etc.KEEP)
    whole = tree_of(rig.persist / "etc/B")
    cut = steps(monkeypatch, lambda: etc.prepare(rig.host, "A", "B", etc.KEEP) and None)
    number = 0
    seen = set()
    while True:
        shutil.rmtree(rig.persist / "etc/B")
        if has_former:
            rig.write(rig.persist, "etc/B/former", "old")
            former = print_of(rig.persist / "etc/B")
        was_cut = cut(number)
        number += 1
        assert print_of(rig.persist / "etc/A") == live
        if not (rig.persist / "etc/B").exists():
            seen.add("missing")  # the initramfs would make it from the image, if it booted that slot at all
        elif has_former and (rig.persist / "etc/B/former").exists():
            assert print_of(rig.persist / "etc/B") == former
            seen.add("former")
        else:
            assert tree_of(rig.persist / "etc/B") == whole
            seen.add("whole")
        etc.prepare(rig.host, "A", "B", etc.KEEP)
        assert tree_of(rig.persist / "etc/B") == whole
        assert sorted(path.name for path in (rig.persist / "etc").iterdir()) == ["A", "B"]
        if not was_cut:
            break
    assert number > 20
    assert seen == {"missing", "whole"} | ({"former"} if has_former else set())


def tree_of(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_a_failing_disk_leaves_the_former_tree(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.write(rig.persist, "etc/B/former", "old")

    def fail(path: str) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(build, "sync", fail)
    with pytest.raises(HostError, match="No space left") as caught:
        etc.prepare(rig.host, "A", "B", etc.KEEP)
    assert caught.value.name == "EtcWriteFailed"
    assert sorted(path.name for path in (rig.persist / "etc").iterdir()) == ["A", "B"]
    assert rig.merged("former") == "old"


def test_a_file_that_goes_away_meanwhile_costs_an_attempt_and_no_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.live("busy", "1")
    path = rig.persist / "etc/A/busy"
    real, calls = build.put, []

    def put(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            path.unlink()
        real(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(build, "put", put)
    etc.prepare(rig.host, "A", "B", etc.KEEP)
    assert len(calls) == 2
    assert not (rig.persist / "etc/B/busy").exists()


def test_differences_are_listed(rig: Rig) -> None:
    edit(rig)
    (rig.persist / "etc/A/motd").unlink()
    (rig.persist / "etc/A/group").chmod(0o600)
    assert etc.differences(rig.host, "A") == [
        ("M", "group"),
        ("A", "machine-id"),
        ("A", "mine"),
        ("D", "motd"),
        ("M", "sysctl.conf"),
    ]


def test_a_merge_writes_what_it_planned(rig: Rig) -> None:
    rig.live("passwd", PASSWD + "ops:x:1000:1000::/home/ops:/bin/sh\n")
    rig.live("link", "")
    (rig.persist / "etc/A/link").unlink()
    (rig.persist / "etc/A/link").symlink_to("../no/where")
    (rig.persist / "etc/A/caf\udce9").write_text("x")
    (rig.persist / "etc/A/motd").chmod(0o640)
    etc.prepare(rig.host, "A", "B", etc.KEEP)
    live, made = read_tree(str(rig.persist / "etc/A")), read_tree(str(rig.persist / "etc/B"))
    assert live is not None
    assert made is not None
    for name, node in live.children.items():
        assert made.children[name].meta == node.meta
        assert made.children[name].is_same(node)
    assert made.children["link"].mtime == live.children["link"].mtime


def test_nothing_outside_the_new_tree_is_written_whatever_links_say(rig: Rig) -> None:
    outside = rig.write(rig.root, "outside/file", "precious").parent
    (rig.persist / "etc/A/d").symlink_to(outside)
    rig.image("d/file", "image")
    rig.image("d/new", "image")
    (rig.new / "etc/motd").unlink()
    (rig.new / "etc/motd").symlink_to(outside / "file")
    (rig.persist / "etc/B.new").symlink_to(outside)
    (rig.persist / "etc/B.old").symlink_to(outside)
    before = print_of(outside), print_of(rig.new), print_of(rig.persist / "etc/A")
    etc.prepare(rig.host, "A", "B", etc.KEEP)
    assert (print_of(outside), print_of(rig.new), print_of(rig.persist / "etc/A")) == before
    assert (rig.persist / "etc/B/d").is_symlink()
    assert (rig.persist / "etc/B/d.new/file").read_text() == "image"
    assert (rig.persist / "etc/B/motd").is_symlink()


def test_a_huge_file_of_the_hosts_own_is_copied_in_pieces(rig: Rig) -> None:
    with (rig.persist / "etc/A/huge").open("wb") as handle:
        handle.truncate(40 << 20)
        handle.seek(20 << 20)
        handle.write(b"middle")
    peak = peak_of(lambda: etc.prepare(rig.host, "A", "B", etc.KEEP))
    assert peak < 8 << 20
    made = rig.persist / "etc/B/huge"
    assert made.stat().st_size == 40 << 20
    with made.open("rb") as handle:
        handle.seek(20 << 20)
        assert handle.read(6) == b"middle"


def peak_of(act: Callable[[], object]) -> int:
    """Bytes that Python held at most while `act` ran."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
