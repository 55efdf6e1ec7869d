"""A host with a tree per slot on PERSIST and two images, all directories."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from hostplane.agent.hostroot import HostRoot

PASSWD = "root:x:0:0:root:/root:/bin/sh\nchrony:x:105:105::/var/lib/chrony:/bin/false\n"
GROUP = "root:x:0:\nchrony:x:105:\n"


class Rig:
    """DIR is the running image, its live /etc is PERSIST/etc/A, the new image is a directory in B's slot."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.new = root / "dev/hostplane/ROOT-B"
        self.persist = root / "persist"
        for image in (self.root, self.new):
            self.write(image, "usr/lib/hostplane/identity", "machine-id\nssh/ssh_host_*_key\nkubernetes\n")
            self.write(image, "usr/lib/os-release", "ID=debian\n")
            self.write(image, "etc/passwd", PASSWD)
            self.write(image, "etc/group", GROUP)
            self.write(image, "etc/motd", "hello\n")
            self.write(image, "etc/sysctl.conf", "a=1\nb=1\n")
        self.write(self.persist, "etc/A/passwd", PASSWD)
        self.write(self.persist, "etc/A/group", GROUP)
        self.write(self.persist, "etc/A/motd", "hello\n")
        self.write(self.persist, "etc/A/sysctl.conf", "a=1\nb=1\n")

    @property
    def host(self) -> HostRoot:
        return HostRoot(str(self.root))

    def write(self, base: Path, name: str, content: str) -> Path:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def live(self, name: str, content: str) -> None:
        """The host's own edit."""
        self.write(self.persist / "etc/A", name, content)

    def image(self, name: str, content: str) -> None:
        """What the new image has."""
        self.write(self.new / "etc", name, content)

    def merged(self, name: str) -> str:
        return (self.persist / "etc/B" / name).read_text()


def print_of(path: Path) -> str:
    """What tells two trees apart: names, kinds, attributes, times and content of everything in it."""
    digest = hashlib.sha256()
    for directory, names, files in os.walk(path):
        names.sort()
        for name in sorted([*names, *files]):
            each = os.path.join(directory, name)
            state = os.lstat(each)
            xattrs = sorted((key, os.getxattr(each, key, follow_symlinks=False)) for key in _xattrs(each))
            digest.update(f"{each} {state.st_mode} {state.st_uid} {state.st_gid} {xattrs}".encode("utf-8", "replace"))
            if os.path.islink(each):
                digest.update(os.readlink(each).encode("utf-8", "replace"))
            elif os.path.isfile(each):
                digest.update(str(state.st_mtime_ns).encode() + Path(each).read_bytes())
    return digest.hexdigest()


def _xattrs(path: str) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)
