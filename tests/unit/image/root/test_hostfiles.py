"""What is put into a root: complete, executable where it must be, enabled by links, and nothing of one host in it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hostplane import distros
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.settings import policy
from hostplane.agent.settings.policy import Policy
from hostplane.distros.profile import Profile
from hostplane.image.recipe import Disk, Partition, Recipe, Settings, Signing
from hostplane.image.root import hostfiles
from hostplane.image.stage import Work

UNITS = "usr/lib/systemd/system"


def profile_for(initramfs: str) -> Profile:
    return msgspec.structs.replace(distros.load("debian", "12", "x86_64"), initramfs=initramfs)


def work_for(root: Path, initramfs: str = "initramfs-tools", **changes: Any) -> Work:
    root.mkdir(exist_ok=True)
    recipe = Recipe(name="demo", version="1.2", distro="debian", release="12", **changes)

    def refuse(*_: object, **__: object) -> bytes:
        raise AssertionError("nothing may be run")

    return Work(
        recipe=recipe,
        profile=profile_for(initramfs),
        root=root,
        out=root,
        scratch=root,
        cache=root,
        epoch=0,
        rootless=True,
        earlier={},
        run=refuse,
        log=lambda _: None,
        progress=lambda *_: None,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_the_agent_its_script_and_its_units_are_there(root: Path) -> None:
    hostfiles.install(work_for(root))
    for name in ("agent.pyz", "mounts"):
        assert (root / "usr/lib/hostplane" / name).stat().st_mode & 0o777 == 0o755
    assert (root / "usr/bin/hostplane-agent").resolve() == root / "usr/lib/hostplane/agent.pyz"
    assert json.loads((root / "usr/lib/hostplane/image.json").read_text())["version"] == "1.2"
    assert "machine-id\n" in (root / "usr/lib/hostplane/identity").read_text()
    assert "hostplane/blocked\n" in (root / "usr/lib/hostplane/identity").read_text()
    assert json.loads((root / "etc/hostplane/agent.json").read_text()) == {"bootTries": 3}


def test_units_are_enabled_by_links_that_lead_somewhere(root: Path) -> None:
    hostfiles.install(work_for(root))
    links = [path for path in (root / UNITS).glob("*.wants/*") if path.is_symlink()]
    assert {link.name for link in links} >= {"hostplane-agent.socket", "hostplane-grow.service", "tmp.mount"}
    assert all(link.exists() for link in links)


@pytest.mark.parametrize(
    ("initramfs", "mine", "other"),
    [
        ("initramfs-tools", "usr/share/initramfs-tools/scripts/local-bottom/hostplane", "usr/lib/dracut"),
        ("dracut", "usr/lib/dracut/modules.d/90hostplane/module-setup.sh", "usr/share/initramfs-tools"),
    ],
)
def test_the_roots_own_initramfs_generator_is_served(root: Path, initramfs: str, mine: str, other: str) -> None:
    hostfiles.install(work_for(root, initramfs))
    assert (root / mine).stat().st_mode & stat.S_IXUSR
    assert not (root / other).exists()


def test_the_image_says_what_settings_may_touch(root: Path) -> None:
    def said(**settings: Any) -> Policy:
        work = work_for(root, settings=Settings(**settings))
        hostfiles.install(work)
        assert hostfiles.policy_json(work.recipe).decode() == hostfiles.inputs(work.recipe, work.profile)["policy"]
        return policy.load(HostRoot(str(root)))

    assert said() == Policy(policy.DEFAULT_PATHS, frozenset())
    assert said(allowed_paths=()) == Policy((), frozenset())
    assert said(allowed_paths=("/etc/x/",), signed_models=("*",)) == Policy(("/etc/x/",), frozenset("*"))


def test_every_mount_point_is_there_and_a_distributions_link_stays(root: Path) -> None:
    (root / "var/home").mkdir(parents=True)
    (root / "home").symlink_to("var/home")
    hostfiles.install(work_for(root))
    for line in (root / "usr/lib/hostplane/mounts.conf").read_text().splitlines():
        if line and not line.startswith(("#", "image")):
            assert (root / line.split()[1].lstrip("/")).is_dir()
    assert (root / "home").is_symlink()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "boot/hostplane").is_dir()


def test_no_generator_mounts_partitions_by_their_type(root: Path) -> None:
    """The ESP would appear at /boot, above the boot state."""
    hostfiles.install(work_for(root))
    assert (root / "etc/systemd/system-generators/systemd-gpt-auto-generator").readlink() == Path("/dev/null")


def test_nothing_that_makes_a_host_that_host_stays(root: Path) -> None:
    (root / "etc/ssh").mkdir(parents=True)
    (root / "var/lib/dbus").mkdir(parents=True)
    for name in ("etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "var/lib/dbus/machine-id"):
        (root / name).write_text("secret")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/ssh/sshd_config").write_text("kept")
    hostfiles.install(work_for(root))
    assert [path.name for path in (root / "etc/ssh").iterdir()] == ["sshd_config"]
    assert (root / "etc/machine-id").read_text() == ""
    assert (root / "var/lib/dbus/machine-id").is_symlink()


def test_repeating_it_changes_nothing(root: Path) -> None:
    work = work_for(root, disk=Disk(partitions=(Partition(label="DATA", size_mib=9, mount="/data", style="fstab"),)))
    hostfiles.install(work)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    hostfiles.install(work)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_recipe_without_agent_gets_nothing(root: Path) -> None:
    work = work_for(root, agent=False)
    hostfiles.install(work)
    assert list(root.iterdir()) == []
    assert hostfiles.inputs(work.recipe, work.profile) == {}


def test_a_roots_absolute_link_means_the_roots_own_place(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "usr").mkdir(parents=True)
    (root / "usr/lib").symlink_to(outside)
    hostfiles.install(work_for(root))
    assert list(outside.iterdir()) == []
    assert (root / str(outside).lstrip("/") / "hostplane/mounts").is_file()


@pytest.mark.parametrize("style", ["systemd", "fstab"])
def test_a_data_partition_is_mounted_from_this_very_disk(root: Path, style: str) -> None:
    part = Partition(label="DATA", size_mib=9, mount="/srv/my data", style=style)
    hostfiles.install(work_for(root, disk=Disk(partitions=(part,))))
    unit = root / "etc/systemd/system/srv-my\\x20data.mount"
    assert (root / "srv/my data").is_dir()
    assert unit.exists() == (style == "systemd")
    text = (unit if style == "systemd" else root / "etc/fstab").read_text()
    assert "/dev/hostplane/DATA" in text


def test_an_old_login_prompt_is_given_the_line_too(root: Path) -> None:
    (root / "usr/sbin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/issue").write_text("Old system\n")
    (root / "usr/sbin/agetty").write_bytes(b"\x7fELF /etc/issue")
    hostfiles.install(work_for(root))
    assert (root / "etc/issue").readlink() == Path("../run/hostplane/issue")
    assert (root / "usr/lib/hostplane/issue").read_text() == "Old system\n"


def test_a_new_login_prompt_keeps_its_issue(root: Path) -> None:
    (root / "usr/sbin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/issue").write_text("New system\n")
    (root / "usr/sbin/agetty").write_bytes(b"\x7fELF /etc/issue /etc/issue.d /run/issue")
    hostfiles.install(work_for(root))
    assert (root / "etc/issue").read_text() == "New system\n"
    assert (root / "etc/issue.d/hostplane.issue").is_symlink()


def test_trusted_keys_are_put_where_the_agent_looks(root: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    work = work_for(root, signing=Signing(trusted_keys=str(tmp_path / "keys.json")))
    hostfiles.install(work)
    assert (root / "usr/lib/hostplane/keys/trusted.json").read_text() == "{}"


def test_inputs_are_json_and_follow_what_is_installed(tmp_path: Path, root: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    plain = work_for(root)
    keyed = work_for(root, signing=Signing(trusted_keys=str(tmp_path / "keys.json")))
    parted = work_for(root, disk=Disk(partitions=(Partition(label="DATA", size_mib=9, mount="/data"),)))
    dracut = work_for(root, "dracut")
    keys = {json.dumps(hostfiles.inputs(work.recipe, work.profile)) for work in (plain, keyed, parted, dracut)}
    assert len(keys) == 4
    (tmp_path / "keys.json").write_text("[]")
    assert json.dumps(hostfiles.inputs(keyed.recipe, keyed.profile)) not in keys
