"""The merge of /etc on a host as it really is: /etc mounted over the image's own, the new image in a file system.

A root is a directory with this machine's /usr in it (test_host_mounts.py); the script of the initramfs boots slots, the
agent's zipapp merges, in a mount namespace of their own. The slot is a file with ext4, xfs or erofs in it, which must
come out of it bit for bit as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from hostplane.image.root.agentapp import build_agent
from tests.image.test_host_mounts import Rig
from tests.unit.agent.etc.conftest import print_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount an image")

KINDS = ("ext4", "xfs", "erofs")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
WORK = """
import sys
sys.path.insert(0, "/agent.pyz")
from hostplane.agent import etc
from hostplane.agent.hostroot import HostRoot
report = etc.prepare(HostRoot("/"), sys.argv[1], sys.argv[2], "keep")
print(report.merged, report.kept, len(report.conflicts))
"""
DEVICES = (
    "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/loop-control c 10 237 && mkdir /dev/hostplane"
    " && for n in 0 1 2 3 4 5 6 7 8 9 10; do mknod /dev/loop$n b 7 $n; done && ln -s /slot /dev/hostplane/ROOT-{slot}"
    " && mount -o bind /line /proc/cmdline"
)


class Host(Rig):
    """A host whose passive slot is the file `slot`."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, "dash")
        build_agent(self.root / "agent.pyz")
        (self.root / "work.py").write_text(WORK)
        library = self.root / "usr/lib/hostplane"  # seen below the mount of this machine's /usr, as the image's own
        library.mkdir(parents=True)
        (library / "identity").write_text((self.root / "library/identity").read_text())
        (self.root / "usr/lib/os-release").write_text("ID=debian\n")
        (self.etc / "sysctl.conf").write_text("a=1\nb=1\n")
        self.image = base / "image"
        subprocess.run(["cp", "-a", self.root / "etc", self._made(self.image) / "etc"], check=True)
        subprocess.run(["cp", "-a", self.root / "usr/lib", self._made(self.image / "usr") / "lib"], check=True)

    @staticmethod
    def _made(path: Path) -> Path:
        path.mkdir(exist_ok=True)
        return path

    def pack(self, kind: str, *, is_dirty: bool = False) -> str:
        """The image as a file system; gives its digest."""
        slot = self.root / "slot"
        slot.unlink(missing_ok=True)
        if kind == "erofs":
            subprocess.run(["mkfs.erofs", "--quiet", slot, self.image], check=True, capture_output=True)
            return digest_of(slot)
        with slot.open("wb") as handle:
            handle.truncate((32 if kind == "ext4" else 320) << 20)
        subprocess.run([f"mkfs.{kind}", "-q", slot], check=True, capture_output=True)
        place = self._made(slot.parent / "mnt")
        frozen = f"fsfreeze -f {place} && cp --sparse=always {slot} {slot}.cut; fsfreeze -u {place} && "
        filled = f"mount -o loop {slot} {place} && cp -a {self.image}/. {place}"
        script = f"{filled} && {frozen if is_dirty else ''}umount {place}"
        subprocess.run(["unshare", "--mount", "bash", "-ec", script], check=True, capture_output=True, timeout=60)
        if is_dirty:
            os.replace(f"{slot}.cut", slot)
        return digest_of(slot)

    def run(self, active: str, command: str) -> str:
        """Boot `active`, run `command` with the other slot there to look at."""
        devices = DEVICES.format(slot="B" if active == "A" else "A")
        return self.boot(active, f"{devices} && cd / && {command}")


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_merges_what_lies_below_the_mount_and_leaves_the_slot_alone(host: Host, kind: str) -> None:
    (host.image / "etc/sysctl.conf").write_text("a=9\nb=1\n")
    (host.image / "etc/new").write_text("new\n")
    before = host.pack(kind)
    machine_id = host.run("A", "cat /etc/machine-id; echo b=2 >>/etc/sysctl.conf; sed -i /b=1/d /etc/sysctl.conf")
    live = print_of(host.persist / "etc/A")
    said = json.loads(host.run("A", "/usr/bin/python3 /agent.pyz etc merge --dry-run --json"))
    assert (said["merged"], said["followed"], said["conflicts"]) == (1, 1, [])
    assert host.run("A", "/usr/bin/python3 /agent.pyz etc diff") == "A /etc/machine-id\nM /etc/sysctl.conf\n".replace(
        "A /etc", "M /etc"
    )
    assert not (host.persist / "etc/B").exists()
    assert host.run("A", "/usr/bin/python3 /work.py A B").startswith("1 ")
    assert digest_of(host.root / "slot") == before
    assert print_of(host.persist / "etc/A") == live
    assert host.boot("B", "cat /etc/machine-id /etc/sysctl.conf /etc/new") == machine_id + "a=9\nb=2\nnew\n"
    assert host.boot("A", "cat /etc/sysctl.conf") == "a=1\nb=2\n"
    assert print_of(host.persist / "etc/A") == live, "going back restores it exactly"


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_journal_in_the_slot_is_not_replayed(host: Host, kind: str) -> None:
    before = host.pack(kind, is_dirty=True)
    host.run("A", "/usr/bin/python3 /work.py A B")
    assert digest_of(host.root / "slot") == before


def test_capabilities_access_lists_and_labels_come_along(host: Host) -> None:
    label = b"system_u:object_r:etc_t:s0\0"
    for name in ("tool", "plain"):
        (host.etc / name).write_text(name)
        (host.image / "etc" / name).write_text(name)
    os.setxattr(host.image / "etc/tool", "security.capability", CAPABILITY)
    os.setxattr(host.image / "etc/plain", "security.selinux", label)
    host.pack("ext4")
    host.run("A", "setfacl -m u:1:rw /etc/plain; chmod 2750 /etc/ssh")
    host.run("A", "/usr/bin/python3 /work.py A B")
    assert os.getxattr(host.live("B", "tool"), "security.capability") == CAPABILITY
    assert os.getxattr(host.live("B", "plain"), "security.selinux") == label
    acl = "system.posix_acl_access"
    assert os.getxattr(host.live("B", "plain"), acl) == os.getxattr(host.live("A", "plain"), acl)
    assert host.live("B", "ssh").stat().st_mode & 0o7777 == 0o2750


def test_a_cut_merge_is_made_again_and_a_slot_without_one_starts_from_its_image(host: Host) -> None:
    host.pack("ext4")
    host.run("A", "echo me >/etc/mine")
    (host.persist / "etc/B.new").mkdir()
    (host.persist / "etc/B.old").mkdir()
    assert "sysctl.conf" in host.boot("B", "ls /etc"), "somebody starts the slot by hand"
    host.boot("A")
    host.run("A", "/usr/bin/python3 /work.py A B")
    assert host.live("B", "mine").read_text() == "me\n"
    assert sorted(path.name for path in (host.persist / "etc").iterdir()) == ["A", "B"]


def test_credentials_renewed_on_trial_are_the_hosts_after_going_back(host: Host) -> None:
    host.pack("ext4")
    host.run("A", "mkdir -p /etc/kubernetes && echo old >/etc/kubernetes/kubelet.conf")
    host.run("A", "/usr/bin/python3 /work.py A B")
    assert host.boot("B", "cat /etc/kubernetes/kubelet.conf; echo renewed >/etc/kubernetes/kubelet.conf") == "old\n"
    assert host.boot("A", "cat /etc/kubernetes/kubelet.conf") == "renewed\n"


def test_a_slot_with_nothing_to_mount_is_a_sentence(host: Host) -> None:
    (host.root / "slot").write_bytes(bytes(1 << 16))
    said = host.run("A", "/usr/bin/python3 /agent.pyz etc merge --dry-run 2>&1 || true")
    assert "HP-6391" in said
    assert "it holds no ext4, xfs or erofs file system" in said
