"""What an initramfs can hold counts; what it cannot does not make it anew."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from hostplane.image.building.changes import initramfs_digest, is_relevant


@pytest.mark.parametrize(
    "path",
    [
        "etc/modprobe.d/a.conf",
        "etc/modules",
        "etc/modules-load.d/x.conf",
        "etc/initramfs-tools/hooks/a",
        "etc/dracut.conf",
        "etc/dracut.conf.d/z.conf",
        "etc/udev/rules.d/1.rules",
        "etc/crypttab",
        "etc/fstab",
        "etc/mdadm/mdadm.conf",
        "etc/lvm/lvm.conf",
        "usr/lib/firmware/a.bin",
        "usr/bin/mount",
        "usr/lib/hostplane/mounts",
        "boot/vmlinuz-6.1",
        "usr/share/initramfs-tools/init",
        "lib64",
        "anything/else",
    ],
)
def test_it_can_hold(path: str) -> None:
    assert is_relevant(PurePosixPath(path))


@pytest.mark.parametrize(
    "path",
    [
        "etc/motd",
        "usr/lib/hostplane/image.json",
        "usr/lib/hostplane/mounts.conf",
        "etc/passwd",
        "etc/sysctl.d/50-image.conf",
        "etc/systemd/system/a.service",
        "var/lib/x",
        "opt/cni/bin/bridge",
        "home/a/.ssh/authorized_keys",
        "root/.bashrc",
        "srv/x",
        "usr/local/share/a",
        "usr/share/doc/x/copyright",
        "etc/fstab.d/x",
    ],
)
def test_it_cannot_hold(path: str) -> None:
    assert not is_relevant(PurePosixPath(path))


def test_a_file_elsewhere_leaves_the_digest_alone(tmp_path: Path) -> None:
    empty = initramfs_digest(tmp_path)
    (tmp_path / "usr/local/share/x").mkdir(parents=True)
    (tmp_path / "usr/local/share/x/a").write_text("a")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/motd").write_text("hello")
    assert initramfs_digest(tmp_path) == empty


def test_content_mode_and_links_count(tmp_path: Path) -> None:
    seen = {initramfs_digest(tmp_path)}
    file = tmp_path / "usr/bin/tool"
    file.parent.mkdir(parents=True)
    file.write_text("1")
    seen.add(initramfs_digest(tmp_path))
    file.write_text("2")
    seen.add(initramfs_digest(tmp_path))
    file.chmod(0o755)
    seen.add(initramfs_digest(tmp_path))
    file.unlink()
    file.symlink_to("other")
    seen.add(initramfs_digest(tmp_path))
    assert len(seen) == 5
