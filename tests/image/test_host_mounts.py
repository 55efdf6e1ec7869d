"""The script of the initramfs, in a mount namespace of its own: what PERSIST holds after boots, cuts and slot changes.

A root is a directory with this machine's /usr in it, PERSIST another directory; mounts are real. What needs a disk (to
find PERSIST, to check it) is tried in virtual machines.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hostplane.image.root import hostfiles

SCRIPT = Path(hostfiles.__file__).parent.parent / "data/host/common/usr/lib/hostplane/mounts"
SHELLS = ("dash", "bash", "busybox sh")
CONF = """# comment
var        /var
image      /var/lib/dpkg
image      /var/lib/rpm
home       /home
"""
MACHINE_ID = re.compile(r"[0-9a-f]{32}\n")


class Rig:
    """One host: a root, PERSIST, and the way to boot a slot."""

    def __init__(self, base: Path, shell: str) -> None:
        self.root, self.persist, self.shell = base / "root", base / "persist", shell
        self.persist.mkdir(parents=True)
        for name in (
            "usr",
            "dev",
            "proc",
            "sys",
            "run",
            "tmp",
            "persist",
            "home",
            "var/lib/dpkg",
            "var/log",
            "library",
        ):
            (self.root / name).mkdir(parents=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            (self.root / link).symlink_to(f"usr/{link}")
        self.etc = self.root / "etc"
        (self.etc / "ssh").mkdir(parents=True)
        (self.etc / "machine-id").write_text("")
        (self.etc / "ssh/sshd_config").write_text("image\n")
        (self.etc / "hostname").write_text("image\n")
        (self.root / "var/lib/dpkg/status").write_text("version 1\n")
        (self.root / "var/log/first").write_text("log\n")
        shutil.copy(SCRIPT, self.root / "library/mounts")
        (self.root / "library/mounts.conf").write_text(CONF)
        (self.root / "library/identity").write_text("machine-id\nhostname\nssh/ssh_host_*_key\nkubernetes\ncni/net.d\n")

    def boot(self, slot: str, then: str = "true", *, fails: bool = False) -> str:
        """Boot `slot`, run `then` in it, give what both say."""
        (self.root / "line").write_text(f"quiet root=x hostplane.slot={slot} hostplane.persist=PARTUUID=1 panic=10\n")
        root, persist = self.root, self.persist
        boot = f"{self.shell} /library/mounts place && cd / && {then}"
        script = f"""
            set -e
            mount --bind {root} {root}
            mount --make-shared {root}
            cd {root}
            for name in usr proc dev; do mount --rbind /$name $name; done
            mount --bind {persist} persist
            exec chroot . /bin/bash -c '{boot}'
        """
        environment = {
            "PATH": os.environ["PATH"],
            "HOSTPLANE_LIBRARY": "/library",
            "HOSTPLANE_KERNEL_LINE": "/line",
        }
        namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
        done = subprocess.run(
            [*namespace, "bash", "-c", script], capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) is fails, said
        return said

    def live(self, slot: str, name: str) -> Path:
        """The file `name` of the slot's own /etc."""
        return self.persist / "etc" / slot / name

    def replace(self, slot: str, name: str, text: str) -> None:
        """Write as programs do: a new file renamed over the old one."""
        target = self.live(slot, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(target.name + ".tmp")
        fresh.write_text(text)
        fresh.replace(target)


@pytest.fixture(params=SHELLS)
def any_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return Rig(tmp_path, request.param)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, "dash")


def test_a_first_boot_makes_every_tree_and_shows_it(any_shell: Rig) -> None:
    rig = any_shell
    said = rig.boot(
        "A", "cat /etc/machine-id /etc/ssh/sshd_config /var/log/first; echo mine >/etc/new; echo x >/home/x"
    )
    assert MACHINE_ID.fullmatch(said.splitlines()[0] + "\n")
    assert said.splitlines()[1:] == ["image", "log"]
    assert (rig.persist / "home/x").read_text() == "x\n"
    assert rig.live("A", "new").read_text() == "mine\n"
    assert (rig.persist / "last-slot").read_text() == "A\n"
    assert not (rig.etc / "new").exists()
    assert not list(rig.persist.glob("**/*.new"))


def test_edits_and_machine_id_survive_boots_of_the_slot(any_shell: Rig) -> None:
    rig = any_shell
    first = rig.boot("A", "cat /etc/machine-id; echo mine >/etc/ssh/sshd_config; echo more >>/var/log/first")
    assert rig.boot("A", "cat /etc/machine-id /etc/ssh/sshd_config /var/log/first") == first + "mine\nlog\nmore\n"


def test_each_slot_has_its_own_etc_and_the_host_one_identity(any_shell: Rig) -> None:
    rig = any_shell
    first = rig.boot(
        "A", "cat /etc/machine-id; echo mine >/etc/ssh/sshd_config; echo secret >/etc/ssh/ssh_host_rsa_key"
    )
    then = "cat /etc/machine-id /etc/ssh/sshd_config /etc/ssh/ssh_host_rsa_key; stat -c %a /etc/ssh/ssh_host_rsa_key"
    rig.live("A", "ssh/ssh_host_rsa_key").chmod(0o600)
    assert rig.boot("B", then) == first + "image\nsecret\n600\n"
    assert rig.boot("A", "cat /etc/ssh/sshd_config") == "mine\n"


def test_identity_replaced_by_rename_reaches_the_other_slot(any_shell: Rig) -> None:
    rig = any_shell
    rig.boot("A")
    rig.boot("B")
    rig.replace("B", "hostname", "renamed\n")
    rig.replace("B", "kubernetes/pki/ca.crt", "ca\n")
    assert rig.boot("A", "cat /etc/hostname /etc/kubernetes/pki/ca.crt") == "renamed\nca\n"


def test_identity_that_was_removed_stays_removed(rig: Rig) -> None:
    rig.boot("A", "echo k >/etc/ssh/ssh_host_dsa_key")
    rig.boot("B", "rm /etc/ssh/ssh_host_dsa_key")
    assert rig.boot("A", "ls /etc/ssh") == "sshd_config\n"


@pytest.mark.parametrize("broken", ["", "short\n", "0" * 32 + "\n", "UPPERCASEUPPERCASEUPPERCASEUPPER\n"])
def test_a_broken_machine_id_never_takes_a_good_ones_place(any_shell: Rig, broken: str) -> None:
    rig = any_shell
    first = rig.boot("A", "cat /etc/machine-id")
    rig.boot("B")
    rig.live("B", "machine-id").unlink()
    rig.live("B", "machine-id").write_text(broken)
    assert rig.boot("A", "cat /etc/machine-id") == first
    assert rig.boot("B", "cat /etc/machine-id") == first


def test_an_empty_file_is_not_taken_for_identity(rig: Rig) -> None:
    rig.boot("A", "echo key >/etc/ssh/ssh_host_rsa_key")
    rig.boot("A")  # collected
    rig.live("A", "ssh/ssh_host_rsa_key").write_text("")
    assert rig.boot("B", "cat /etc/ssh/ssh_host_rsa_key") == "key\n"


def test_an_installer_may_leave_identity_before_the_first_boot(rig: Rig) -> None:
    (rig.persist / "identity").mkdir()
    (rig.persist / "identity/machine-id").write_text("12345678901234567890123456789abc\n")
    (rig.persist / "identity/hostname").write_text("node-7\n")
    assert rig.boot("A", "cat /etc/machine-id /etc/hostname") == "12345678901234567890123456789abc\nnode-7\n"


def test_a_slots_etc_made_anew_is_given_the_identity(rig: Rig) -> None:
    first = rig.boot("A", "cat /etc/machine-id; echo key >/etc/ssh/ssh_host_rsa_key")
    rig.boot("A")
    shutil.rmtree(rig.persist / "etc/A")
    assert rig.boot("A", "cat /etc/machine-id /etc/ssh/ssh_host_rsa_key") == first + "key\n"


def test_the_package_database_stays_the_images(any_shell: Rig) -> None:
    rig = any_shell
    rig.boot("A")
    (rig.root / "var/lib/dpkg/status").write_text("version 2\n")
    assert rig.boot("B", "cat /var/lib/dpkg/status /var/log/first; ls /persist/image") == "version 2\nlog\n"


def test_the_images_own_trees_are_never_written(rig: Rig) -> None:
    rig.boot("A", "echo x >/etc/passwd; rm /var/log/first; echo x >/home/x")
    assert sorted(path.name for path in rig.etc.iterdir()) == ["hostname", "machine-id", "ssh"]
    assert (rig.etc / "machine-id").read_text() == ""
    assert (rig.root / "var/log/first").exists()


def test_ownership_modes_times_and_links_are_copied(rig: Rig) -> None:
    target = rig.etc / "ssh/sshd_config"
    target.chmod(0o640)
    os.utime(target, (1_000_000_000, 1_000_000_000))
    (rig.etc / "link").symlink_to("ssh/sshd_config")
    assert (
        rig.boot("A", "stat -c %a.%Y /etc/ssh/sshd_config; readlink /etc/link") == "640.1000000000\nssh/sshd_config\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set a security attribute")
def test_labels_are_copied(rig: Rig) -> None:
    label = b"system_u:object_r:etc_t:s0\0"
    os.setxattr(rig.etc / "ssh/sshd_config", "security.selinux", label)
    os.setxattr(rig.etc / "machine-id", "security.selinux", label)
    rig.boot("A")
    for name in ("ssh/sshd_config", "machine-id"):
        assert os.getxattr(rig.live("A", name), "security.selinux") == label


def test_a_cut_copy_is_made_again(any_shell: Rig) -> None:
    rig = any_shell
    (rig.persist / "etc/A.new/half").mkdir(parents=True)
    (rig.persist / "var.new/half").mkdir(parents=True)
    (rig.persist / "identity.new").mkdir()
    assert rig.boot("A", "ls /etc /var") == "/etc:\nhostname\nmachine-id\nssh\n\n/var:\nlib\nlog\n"


def test_a_cut_between_collecting_and_noting_loses_no_identity(rig: Rig) -> None:
    first = rig.boot("A", "cat /etc/machine-id")
    rig.boot("B")
    (rig.persist / "identity").rename(rig.persist / "identity.old")  # cut between the two renames
    assert rig.boot("A", "cat /etc/machine-id") == first


@pytest.mark.parametrize("tree", ["etc/A", "var"])
def test_a_tree_that_is_a_file_loses_the_boot(any_shell: Rig, tree: str) -> None:
    rig = any_shell
    (rig.persist / tree).parent.mkdir(exist_ok=True)
    (rig.persist / tree).write_text("")
    assert f"{tree} in PERSIST is not a directory" in rig.boot("A", fails=True)


@pytest.mark.parametrize("slot", ["", "C", "AB"])
def test_a_kernel_line_without_a_slot_loses_the_boot(rig: Rig, slot: str) -> None:
    assert "does not say hostplane.slot" in rig.boot(slot, fails=True)


def test_a_wrong_or_missing_table_loses_the_boot_and_notes_no_slot(rig: Rig) -> None:
    (rig.root / "library/mounts.conf").write_text("var /var nonsense\n")
    assert "unknown word nonsense" in rig.boot("A", fails=True)
    (rig.root / "library/mounts.conf").unlink()
    rig.boot("A", fails=True)
    assert not (rig.persist / "last-slot").exists()


def test_the_last_of_two_slots_on_the_kernel_line_counts(rig: Rig) -> None:
    assert rig.boot("A hostplane.slot=B", "ls /persist/etc") == "B\n"


@pytest.mark.parametrize(
    "name",
    [str(path) for path in sorted((SCRIPT.parents[4]).rglob("*")) if path.is_file() and path.read_bytes()[:2] == b"#!"],
)
def test_shellcheck_finds_nothing(name: str) -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    left_out = "SC1091,SC2154,SC2034" if "module-setup" in name or "/hooks/" in name else "SC0000"
    done = subprocess.run([program, "-e", left_out, name], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
