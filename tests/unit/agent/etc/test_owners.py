"""Owners of files on PERSIST when a user has another number in another image: there, back, and cut anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.agent import etc
from hostplane.agent.etc import owners, renumber
from hostplane.agent.etc.users import Moved
from hostplane.agent.etc.views import Images
from hostplane.errors import HostError
from tests.unit.agent.etc.conftest import GROUP, PASSWD, Rig

NUMBERS = st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 6), max_size=7)


@given(have=NUMBERS, want=NUMBERS)
def test_a_step_gives_every_name_its_number_and_nobody_somebody_elses(
    have: dict[str, int], want: dict[str, int]
) -> None:
    moves, after = owners.next_step(have, want)
    assert {name: after[name] for name in want} == want
    for name, number in have.items():
        if list(have.values()).count(number) == 1:
            assert moves.get(number, number) == after[name]
        if name not in want:
            assert after[name] not in want.values()


@given(have=NUMBERS, want=NUMBERS)
def test_going_there_and_back_restores_every_number(have: dict[str, int], want: dict[str, int]) -> None:
    have = {name: number for name, number in have.items() if list(have.values()).count(number) == 1}
    want = {name: number for name, number in want.items() if name in have}
    want = {name: number for name, number in want.items() if list(want.values()).count(number) == 1}
    there, after = owners.next_step(have, want)
    back, _ = owners.next_step(after, have)
    for number in have.values():
        moved = there.get(number, number)
        assert back.get(moved, moved) == number


SWAPPED = "root:x:0:0:root:/root:/bin/sh\nmsg:x:105:106::/:\nchrony:x:106:105::/var/lib/chrony:/bin/false\n"
PLAIN = SWAPPED.replace("105:106", "106:105", 1).replace("chrony:x:106:105", "chrony:x:105:106")


class Disk(Rig):
    """PERSIST with files of two users whose numbers change places; owners are kept in a dict, so no root is needed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(root)
        self.owners: dict[str, tuple[int, int]] = {}
        self.before_write: Callable[[], None] = lambda: None
        for image, passwd in ((self.root, PLAIN), (self.new, SWAPPED)):
            self.write(image, "etc/passwd", passwd)
            self.write(image, "etc/group", "root:x:0:\n")
            self.write(image, "var/lib/cool/x", "")
        self.write(self.persist, "etc/A/passwd", PLAIN)
        self.write(self.persist, "etc/A/group", "root:x:0:\n")
        for name, owner in (
            ("lib/chrony/drift", 105),
            ("log/msg.log", 106),
            ("log/pods/x", 105),
            ("lib/containerd/x", 105),
            ("lib/data/mine", 105),
            ("log/root", 0),
        ):
            self.own(self.write(self.persist, "var/" + name, name), owner)
        monkeypatch.setattr(renumber, "_change", self.change)

    def own(self, path: Path, owner: int) -> None:
        self.owners[str(path)] = (owner, 0)

    def change(self, path: str, uids: dict[int, int], gids: dict[int, int]) -> int:
        uid, gid = self.owners.get(path, (0, 0))
        after = uids.get(uid, uid), gids.get(gid, gid)
        if after == (uid, gid):
            return 0
        self.before_write()
        self.owners[path] = after
        return 1

    def seen(self) -> dict[str, int]:
        return {os.path.relpath(path, self.persist / "var"): owner for path, (owner, _) in self.owners.items()}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


AT_A = {
    "lib/chrony/drift": 105,
    "log/msg.log": 106,
    "log/pods/x": 105,
    "lib/containerd/x": 105,
    "lib/data/mine": 105,
    "log/root": 0,
}
AT_B = dict(AT_A, **{"lib/chrony/drift": 106, "log/msg.log": 105})


def test_numbers_that_change_places_go_there_and_back(disk: Disk) -> None:
    report = etc.prepare(disk.host, "A", "B", etc.KEEP)
    assert sorted(report.moved) == [Moved("uid", "chrony", 105, 106), Moved("uid", "msg", 106, 105)]
    assert disk.seen() == AT_A, "nothing is changed while the old slot runs"
    assert owners.settle(disk.host, "A") == 0
    assert owners.settle(disk.host, "B") == 2
    assert disk.seen() == AT_B
    assert owners.settle(disk.host, "B") == 0
    owners.settle(disk.host, "A")
    assert disk.seen() == AT_A


def test_a_host_whose_numbers_agree_has_no_record(rig: Rig) -> None:
    etc.prepare(rig.host, "A", "B", etc.KEEP)
    assert not (rig.persist / "owners.json").exists()
    assert owners.settle(rig.host, "B") == 0


def test_power_may_fail_before_every_change_and_either_slot_may_start_next(disk: Disk) -> None:
    etc.prepare(disk.host, "A", "B", etc.KEEP)

    class Cut(BaseException):
        pass

    def run(slot: str, writes: int) -> bool:
        left = [writes]

        def before() -> None:
            if not left[0]:
                raise Cut
            left[0] -= 1

        disk.before_write = before
        try:
            owners.settle(disk.host, slot)
        except Cut:
            return True
        finally:
            disk.before_write = lambda: None
        return False

    number = 0
    while run("B", number):
        owners.settle(disk.host, "AB"[number % 2])
        assert disk.seen() == (AT_A, AT_B)[number % 2]
        owners.settle(disk.host, "A")
        assert disk.seen() == AT_A
        number += 1
    assert number == 4


def test_nothing_is_merged_while_the_owners_are_another_slots(disk: Disk) -> None:
    etc.prepare(disk.host, "A", "B", etc.KEEP)
    owners.settle(disk.host, "B")
    with pytest.raises(HostError) as caught:
        etc.prepare(disk.host, "A", "B", etc.KEEP)
    assert caught.value.name == "OwnersUnsettled"
    owners.settle(disk.host, "A")
    etc.prepare(disk.host, "A", "B", etc.KEEP)


@pytest.mark.parametrize("content", ["", "[]", '{"slot": "C"}', '{"slot":"A","places":[1],"uids":{},"gids":{}}', "\0"])
def test_a_broken_record_is_a_sentence(disk: Disk, content: str) -> None:
    disk.write(disk.persist, "owners.json", content)
    with pytest.raises(HostError) as caught:
        owners.settle(disk.host, "A")
    assert caught.value.name == "OwnersFailed"


def test_a_broken_step_is_a_sentence(disk: Disk) -> None:
    etc.prepare(disk.host, "A", "B", etc.KEEP)
    said = json.loads((disk.persist / "owners.json").read_text())
    disk.write(disk.persist, "owners.json", json.dumps(dict(said, step={"half": 1})))
    with pytest.raises(HostError) as caught:
        owners.settle(disk.host, "B")
    assert caught.value.name == "OwnersFailed"


def test_places_are_homes_and_what_an_image_says_and_never_those_of_containers(rig: Rig) -> None:
    rig.write(rig.new, "var/lib/kubelet/x", "")
    moved = [Moved("uid", "chrony", 105, 107), Moved("uid", "mine", 1000, 1001), Moved("gid", "docker", 5, 6)]
    homes = {"chrony": "/var/lib/chrony", "mine": "/srv/mine", "docker": "/var/lib/docker"}
    places = owners.places_of(moved, homes, Images(str(rig.root), str(rig.new)))
    assert {"var/lib/chrony", "var/log", "srv", "home", "usr-local"} <= places
    assert not {"var", "var/lib", "root", "var/lib/docker", "var/lib/kubelet"} & places
    assert PASSWD
    assert GROUP


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_links_are_not_followed_and_set_id_bits_stay(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    os.chown(outside / "file", 105, 105)
    place = tmp_path / "persist/var/log"
    place.mkdir(parents=True)
    (place / "link").symlink_to(outside / "file")
    os.chown(place / "link", 105, 105, follow_symlinks=False)
    (place / "program").write_text("x")
    os.chown(place / "program", 105, 105)
    (place / "program").chmod(0o4755)
    (tmp_path / "persist/var/spool").symlink_to(outside)
    without = owners._CONTAINERS
    places = ["var/log", "var/spool", "var/spool/file", "var/none"]
    assert renumber.renumber(str(tmp_path / "persist"), places, {105: 107}, {}, without) == 2
    assert (outside / "file").stat().st_uid == 105
    assert (place / "link").lstat().st_uid == 107
    assert (place / "program").stat().st_mode & 0o7777 == 0o4755
    assert (place / "program").stat().st_uid == 107
