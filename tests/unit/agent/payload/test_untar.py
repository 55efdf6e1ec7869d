"""A root's tar arrives below one directory with all its files carry, or is refused; it never touches anything else."""

from __future__ import annotations

import contextlib
import io
import os
import random
import stat
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostplane.agent.payload import untar
from hostplane.errors import HostError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and attributes are set by root alone")
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw, effective


def info(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in more.items():
        setattr(member, key, value)
    return member


def packed(*members: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for one in members:
            member, content = one if isinstance(one, tuple) else (one, b"")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def unpacked(tmp_path: Path, tar: bytes) -> tuple[Path, untar.Unpacked]:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    return root, untar.unpack(io.BytesIO(tar), str(root))


def refusal(tmp_path: Path, tar: bytes) -> str:
    with pytest.raises(HostError) as caught:
        unpacked(tmp_path, tar)
    assert caught.value.name == "TarUnfit"
    return str(caught.value)


def attributes(value: bytes) -> dict[str, str]:
    return {"SCHILY.xattr.security.capability": value.decode("utf-8", "surrogateescape")}


def test_everything_a_file_carries_arrives(tmp_path: Path) -> None:
    tar = packed(
        info(".", tarfile.DIRTYPE),
        info("./usr", tarfile.DIRTYPE, mtime=1000),
        info("./usr/bin", tarfile.DIRTYPE, mode=0o2755, uid=3, gid=4),
        (info("./usr/bin/su", mode=0o4755, mtime=2000, uid=0, gid=7), b"su" * 300_000),
        (info("./usr/bin/ping", mode=0o755, pax_headers=attributes(CAPABILITY)), b"ping"),
        info("./usr/bin/doas", tarfile.LNKTYPE, linkname="./usr/bin/su"),
        info("./bin", tarfile.SYMTYPE, linkname="usr/bin", uid=5),
        info("./run/pipe", tarfile.FIFOTYPE, mode=0o600),
        info("./dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        info("./usr/bin/sda", tarfile.BLKTYPE, devmajor=8),
        (info("./holes"), bytes(3 << 20) + b"end"),
        (info("./etc/passwd"), b"root:x:0:0::/:\nbob:x:1234:1::/:\n"),
        (
            info(
                "./srv", pax_headers={"SCHILY.acl.access": "user::rw-\nuser:bob:r--\ngroup::r--\nmask::r--\nother::r--"}
            ),
            b"s",
        ),
        (info("./label", pax_headers={"RHT.security.selinux": "system_u:object_r:etc_t:s0"}), b""),
    )
    root, done = unpacked(tmp_path, tar)
    su, ping = root / "usr/bin/su", root / "usr/bin/ping"
    assert (su.stat().st_mode, su.stat().st_gid, su.stat().st_mtime) == (stat.S_IFREG | 0o4755, 7, 2000)
    assert su.read_bytes() == b"su" * 300_000
    assert os.path.samefile(su, root / "usr/bin/doas")
    assert (root / "usr").stat().st_mtime == 1000
    assert ((root / "usr/bin").stat().st_mode & 0o7777, (root / "usr/bin").stat().st_uid) == (0o2755, 3)
    assert os.getxattr(ping, "security.capability") == CAPABILITY
    assert (os.readlink(root / "bin"), os.lstat(root / "bin").st_uid) == ("usr/bin", 5)
    assert stat.S_ISFIFO((root / "run/pipe").stat().st_mode)
    assert not (root / "dev/null").exists()
    assert not (root / "usr/bin/sda").exists()
    assert (root / "holes").read_bytes() == bytes(3 << 20) + b"end"
    assert (root / "holes").stat().st_blocks * 512 < 1 << 20
    assert struct.pack("<HHI", 2, 4, 1234) in os.getxattr(root / "srv", "system.posix_acl_access")
    assert os.getxattr(root / "label", "security.selinux").rstrip(b"\0") == b"system_u:object_r:etc_t:s0"
    untar.verify(str(root), done)


def replaced(path: Path) -> Path:
    path.unlink()
    return path


SPOILERS: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "a/file").write_bytes(b"othr"),
    "mode": lambda root: (root / "a/file").chmod(0o4755),
    "owner": lambda root: os.chown(root / "a/file", 1, 1),
    "attribute": lambda root: os.setxattr(root / "a/file", "user.x", b"1"),
    "capability": lambda root: os.setxattr(root / "a/file", "security.capability", CAPABILITY),
    "missing": lambda root: (root / "a/file").unlink(),
    "more": lambda root: (root / "a/more").write_bytes(b""),
    "goal": lambda root: replaced(root / "link").symlink_to("other"),
    "kind": lambda root: replaced(root / "link").write_bytes(b"a/file"),
}


@pytest.mark.parametrize("spoil", sorted(SPOILERS))
def test_reading_back_finds_any_difference(tmp_path: Path, spoil: str) -> None:
    root, done = unpacked(tmp_path, packed((info("a/file"), b"file"), info("link", tarfile.SYMTYPE, linkname="a/file")))
    (root / "lost+found").mkdir()
    untar.verify(str(root), done)
    SPOILERS[spoil](root)
    with pytest.raises(HostError) as caught:
        untar.verify(str(root), done)
    assert caught.value.name == "TarReadBackMismatch"


@pytest.mark.parametrize(
    "members",
    [
        [(info("../evil"), b"x")],
        [(info("a/../../evil"), b"x")],
        [info("out", tarfile.SYMTYPE, linkname=".."), (info("out/evil"), b"x")],
        [info("out", tarfile.SYMTYPE, linkname="/"), info("out/evil", tarfile.DIRTYPE)],
        [info("a", tarfile.DIRTYPE), info("a/b", tarfile.SYMTYPE, linkname="../.."), (info("a/b/evil"), b"x")],
        [info("x", tarfile.LNKTYPE, linkname="../evil")],
        [info("d", tarfile.SYMTYPE, linkname=".."), info("x", tarfile.LNKTYPE, linkname="d/secret")],
        [info("x", tarfile.LNKTYPE, linkname="missing")],
        [info("d", tarfile.DIRTYPE), info("x", tarfile.LNKTYPE, linkname="d")],
        [info("d", tarfile.DIRTYPE), (info("d"), b"x")],
        [(info("d"), b"x"), (info("d/evil"), b"x")],
        [(info("x"), b"x"), info("x", tarfile.DIRTYPE)],
        [info("x", b"Z")],
        [(info("/"), b"x")],
    ],
)
def test_no_member_reaches_out_of_the_root_or_surprises(tmp_path: Path, members: list[Any]) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    refusal(tmp_path, packed(*members))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "secret"]
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_a_later_member_replaces_a_file_or_a_link(tmp_path: Path) -> None:
    (tmp_path / "evil").write_bytes(b"untouched")
    kernel = info("boot/vmlinuz", tarfile.SYMTYPE, linkname="../../evil")
    root, done = unpacked(tmp_path, packed(kernel, (info("boot/vmlinuz"), b"kernel")))
    assert (root / "boot/vmlinuz").read_bytes() == b"kernel"
    assert (tmp_path / "evil").read_bytes() == b"untouched"
    untar.verify(str(root), done)


def test_absolute_names_and_links_stay_below_the_root(tmp_path: Path) -> None:
    root, _ = unpacked(tmp_path, packed((info("/a"), b"x"), info("l", tarfile.SYMTYPE, linkname="/etc/shadow")))
    assert (root / "a").read_bytes() == b"x"
    assert os.readlink(root / "l") == "/etc/shadow"


def test_a_cut_or_damaged_tar_is_refused(tmp_path: Path) -> None:
    tar = packed((info("a"), b"x" * 2000), (info("b"), b"y" * 2000), (info("c"), b"z"))
    for cut in (0, 100, 512, 1500, 2560, 3072, 5000):
        refusal(tmp_path, tar[:cut])
    damaged = bytearray(tar)
    damaged[2560 + 10] ^= 0xFF  # the header of b: tarfile takes it for the end
    refusal(tmp_path, bytes(damaged))
    refusal(tmp_path, tar + b"more")
    refusal(tmp_path, b"\x1f\x8b" + tar)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), flips=st.integers(1, 6))
def test_no_damage_to_a_tar_escapes_or_crashes(tmp_path: Path, seed: int, flips: int) -> None:
    chance = random.Random(seed)
    tar = bytearray(
        packed(
            info("etc", tarfile.DIRTYPE),
            info("etc/link", tarfile.SYMTYPE, linkname="../.."),
            (info("etc/" + "n" * 120, pax_headers=attributes(CAPABILITY)), b"x" * 700),
            info("hard", tarfile.LNKTYPE, linkname="etc/link"),
        )
    )
    for _ in range(flips):
        tar[chance.randrange(len(tar))] = chance.randrange(256)
    place = tmp_path / str(seed)
    place.mkdir(exist_ok=True)
    with contextlib.suppress(HostError):
        root, done = unpacked(place, bytes(tar))
        untar.verify(str(root), done)
    assert [path.name for path in place.iterdir()] == ["root"]


def test_a_file_of_holes_takes_no_time(tmp_path: Path) -> None:
    """A few hundred bytes that announce 4 EiB of zeros would keep a staging busy for years."""
    header = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": str(1 << 62),
        "GNU.sparse.map": "0,1",
    }
    member = info("big", pax_headers=header)
    assert "more than any slot" in refusal(tmp_path, packed((member, b"x")))


def test_a_header_of_its_own_cannot_fill_the_memory(tmp_path: Path) -> None:
    tar = bytearray(packed(info("a", pax_headers={"comment": "x" * 2000})))
    tar[124:136] = b"%011o\0" % (1 << 32)  # of the extended header
    tar[148:156] = b"        "
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    assert "too long" in refusal(tmp_path, bytes(tar))
