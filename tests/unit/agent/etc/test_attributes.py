"""Attributes three-way, and owners by name where two images number a user differently."""

from __future__ import annotations

import os
import struct

import pytest

from hostplane.agent import etc
from hostplane.agent.etc.attributes import merge_meta, renumbered, unprivileged
from hostplane.agent.etc.node import FILE, Meta, Node
from hostplane.agent.etc.users import Numbers
from tests.unit.agent.etc.conftest import GROUP, PASSWD, Rig

ACL = "system.posix_acl_access"


def access_list(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_an_access_list_names_the_same_people_in_the_order_the_kernel_wants() -> None:
    before = access_list(
        (1, 6, 0xFFFFFFFF), (2, 4, 105), (2, 6, 106), (4, 4, 0xFFFFFFFF), (8, 4, 105), (16, 6, 0xFFFFFFFF)
    )
    after = access_list(
        (1, 6, 0xFFFFFFFF), (2, 6, 100), (2, 4, 107), (4, 4, 0xFFFFFFFF), (8, 4, 200), (16, 6, 0xFFFFFFFF)
    )
    meta = Meta(0o644, 105, 105, ((ACL, before), ("user.a", before)))
    numbers = Numbers({105: 107, 106: 100}, {105: 200})
    assert renumbered(meta, numbers) == Meta(0o644, 107, 200, ((ACL, after), ("user.a", before)))


@pytest.mark.parametrize("value", [b"", b"\x02", b"\x02\0\0\0\1", access_list()])
def test_an_access_list_of_no_known_form_is_left_alone(value: bytes) -> None:
    meta = Meta(0o644, 1, 1, ((ACL, value),))
    assert renumbered(meta, Numbers({1: 2}, {})) == meta._replace(uid=2)


def test_an_attribute_goes_when_either_side_took_it_away() -> None:
    def node(**xattrs: bytes) -> Node:
        return Node(
            FILE, Meta(xattrs=tuple(sorted(("user." + name, value) for name, value in xattrs.items()))), data=b""
        )

    merged = merge_meta(node(a=b"1", b=b"1", c=b"1"), node(a=b"1", c=b"2"), node(b=b"1", c=b"3", d=b"1"))
    assert merged.xattrs == (("user.c", b"2"), ("user.d", b"1"))


def test_a_privilege_of_the_image_is_not_given_to_the_hosts_content() -> None:
    capability = (("security.capability", b"x"),)
    assert unprivileged(Meta(0o4755, 0, 0, capability), Meta(0o755)) == Meta(0o755)
    assert unprivileged(Meta(0o755), Meta(0o2755, 0, 0, capability)) == Meta(0o2755, 0, 0, capability)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_below_etc_go_by_name(rig: Rig) -> None:
    rig.image("passwd", PASSWD.replace("105:105", "107:108"))
    rig.image("group", GROUP.replace("105", "108"))
    rig.write(rig.root, "etc/chrony.keys", "1")
    rig.live("chrony.keys", "1")
    rig.live("chrony.mine", "me")
    rig.image("chrony.keys", "2")
    for path, uid, gid in (
        (rig.root / "etc/chrony.keys", 105, 105),
        (rig.persist / "etc/A/chrony.keys", 105, 105),
        (rig.persist / "etc/A/chrony.mine", 105, 0),
        (rig.new / "etc/chrony.keys", 107, 108),
    ):
        os.chown(path, uid, gid)
    report = etc.prepare(rig.host, "A", "B", etc.KEEP)
    found = {name: (rig.persist / "etc/B" / name).stat() for name in ("chrony.keys", "chrony.mine")}
    assert {name: (state.st_uid, state.st_gid) for name, state in found.items()} == {
        "chrony.keys": (107, 108),
        "chrony.mine": (107, 0),
    }
    assert rig.merged("chrony.keys") == "2"
    assert len(report.moved) == 2
