"""A tree that has one of everything, and what a mounted image or an unpacked tar says of it.

Images are looked at through the kernel, in a mount namespace of a process of its own, so that neither mount nor loop
device outlives the look.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["EPOCH", "Facts", "facts", "plant", "seen_in"]

EPOCH = 1_600_000_000
Facts = dict[str, dict[str, Any]]
"""By path below the tree: what a file is."""

_CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
_LABEL = b"system_u:object_r:etc_t:s0\0"
_SHOWN_TWICE = ("trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT")
"""Access lists, as xfs shows them a second time."""
_UNDEFINED = 0xFFFFFFFF


def _access_list(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_ACL = _access_list(
    (1, 7, _UNDEFINED),
    (2, 5, 1000),
    (2, 4, 2000),
    (4, 5, _UNDEFINED),
    (8, 6, 50),
    (16, 7, _UNDEFINED),
    (32, 0, _UNDEFINED),
)


def plant(tree: Path, seed: int = 1) -> Path:
    """Make the tree; `seed` changes the order things are made in, and nothing that an image should hold."""
    chance = random.Random(seed)
    tree.mkdir(mode=0o755)
    _write(tree / "plain", b"content\n" * 1000, mtime=1_500_000_000)
    _write(tree / "later-than-the-epoch", b"now")
    _write(tree / "empty", b"")
    _write(tree / "large", random.Random(7).randbytes(3 << 20), mtime=1_400_000_000)
    with (tree / "sparse").open("wb") as sparse:
        sparse.truncate(5 << 20)
        sparse.seek(4 << 20)
        sparse.write(b"end")
    os.link(tree / "plain", tree / "second-name")
    (tree / "link").symlink_to("plain")
    (tree / "long-link").symlink_to("/usr/share/" + "a" * 150)
    (tree / "very-long-link").symlink_to("/" + "b" * 900)
    os.mkfifo(tree / "fifo", 0o640)
    for name, mode in {"setuid": 0o4755, "setgid": 0o2750, "no-rights": 0}.items():
        _write(tree / name, b"#!", mode=mode)
    _write(tree / "owned", b"x", owner=(1000, 2000))
    _write(tree / "owned-by-many", b"x", owner=(70000, 4_000_000_000))
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    (tree / "setgid-directory").mkdir()
    (tree / "setgid-directory").chmod(0o2775)
    for name in ("a name with blanks", " leading", ":etc:ssh:sshd_config", "$dollar", "tab\there", "naïve-日本"):
        _write(tree / name, name.encode(), mtime=1_450_000_000)
    (tree / "long-link-to-blanks").symlink_to("/a name/" + "c" * 500)
    (tree / "link to blanks").symlink_to("a name with blanks")
    (tree / "a directory with blanks").mkdir()
    _write(tree / "a directory with blanks/in it", b"deep")
    names = [f"file-number-{number:05}-of-many" for number in range(2500)]
    for count, parent in ((40, "some"), (300, "many"), (2500, "thousands")):
        (tree / parent).mkdir()
        for name in chance.sample(names[:count], count):
            _write(tree / parent / name, name.encode())
    if os.geteuid() == 0:
        os.mknod(tree / "character", 0o620 | stat.S_IFCHR, os.makedev(5, 1))
        os.mknod(tree / "block", 0o660 | stat.S_IFBLK, os.makedev(259, 300))
        _write(tree / "capable", b"\x7fELF", mode=0o755)
        os.setxattr(tree / "capable", "security.capability", _CAPABILITY)
        os.setxattr(tree / "capable", "security.selinux", _LABEL)
        os.setxattr(tree / "link", "security.selinux", _LABEL, follow_symlinks=False)
        os.setxattr(tree / "sticky", "trusted.hostplane", b"\0binary\xff")
        for parent in ("some", "many", "thousands"):  # directories of every form that xfs has
            os.setxattr(tree / parent, "security.selinux", _LABEL)
        os.setxattr(tree, "security.selinux", b"system_u:object_r:root_t:s0\0")
    os.setxattr(tree / "plain", "user.note", b"kept")
    os.setxattr(tree / "plain", "user.empty", b"")
    os.setxattr(tree / "large", "system.posix_acl_access", _ACL)
    os.setxattr(tree / "many", "system.posix_acl_default", _ACL)
    os.setxattr(tree / "many", "system.posix_acl_access", _ACL)
    for number, (path, directories, _) in enumerate(os.walk(tree)):
        for name in directories:
            os.utime(os.path.join(path, name), (1_300_000_000 + number, 1_300_000_000 + number))
    os.utime(tree, (1_200_000_000, 1_200_000_000))
    return tree


def _write(path: Path, content: bytes, *, mode: int = 0o644, mtime: int = 0, owner: tuple[int, int] = (0, 0)) -> None:
    path.write_bytes(content)
    if os.geteuid() == 0:
        os.chown(path, *owner)
    path.chmod(mode)
    if mtime:
        os.utime(path, ns=(0, mtime * 10**9 + 123_456_789))


def add_socket(tree: Path) -> None:
    """A socket, which no image keeps."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))


def facts(tree: Path) -> Facts:
    """What the tree holds, times later than the epoch as the epoch."""
    found: Facts = {}
    groups: dict[int, list[str]] = {}
    for path in (tree, *sorted(tree.rglob("*"))):
        status = path.lstat()
        name = str(path.relative_to(tree))
        kind = stat.S_IFMT(status.st_mode)
        if stat.S_ISSOCK(kind) or name == "lost+found":
            continue
        found[name] = {
            "mode": oct(status.st_mode),
            "owner": [status.st_uid, status.st_gid],
            "time": min(int(status.st_mtime), EPOCH),
            "device": status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
            "xattrs": {
                key: os.getxattr(path, key, follow_symlinks=False).hex()
                for key in sorted(os.listxattr(path, follow_symlinks=False))
                if key not in _SHOWN_TWICE
            },
        }
        if stat.S_ISLNK(kind):
            found[name]["link"] = os.readlink(path)
        elif stat.S_ISREG(kind):
            found[name] |= {"size": status.st_size, "content": hashlib.sha256(path.read_bytes()).hexdigest()}
            groups.setdefault(status.st_ino, []).append(name)
    for names in groups.values():
        for name in names:
            found[name]["names"] = names
    return found


def seen_in(image: Path, kind: str, at: Path, offset: int = 0) -> Facts:
    """What the kernel finds in an image, mounted read-only on the directory `at`; also that no time is later."""
    options = f"loop,ro,offset={offset}" + (",norecovery" if kind == "xfs" else "")
    steps = f'mount -t {kind} -o {options} "$1" "$2" && exec "$3" -m tests.image.richtree "$2"'
    at.mkdir(exist_ok=True)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", steps, "sh", str(image), str(at), sys.executable],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: Facts = json.loads(done.stdout)
    return found


def _main() -> None:
    tree = Path(sys.argv[1])
    for path in (tree, *tree.rglob("*")):
        status = path.lstat()
        assert max(status.st_mtime, status.st_ctime) <= EPOCH, f"{path} is of the time the image was made"
    print(json.dumps(facts(tree)))


if __name__ == "__main__":
    _main()
