"""Which kernel a root boots with and which of its modules an initramfs gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.errors import ImageError
from hostplane.image.boot import kernel

_DEP = """\
kernel/drivers/ata/ahci.ko.xz: kernel/drivers/ata/libahci.ko.xz kernel/drivers/ata/libata.ko.xz
kernel/drivers/ata/libahci.ko.xz: kernel/drivers/ata/libata.ko.xz
kernel/drivers/ata/libata.ko.xz:
kernel/drivers/scsi/fcoe/fcoe.ko:
kernel/drivers/scsi/sd_mod.ko:
kernel/drivers/scsi/megaraid/megaraid_sas.ko.zst:
kernel/drivers/net/e1000.ko:
kernel/drivers/block/virtio_blk.ko.xz:
kernel/drivers/block/nbd.ko:
kernel/drivers/md/dm-verity.ko.zst: kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-mod.ko:
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko:
kernel/crypto/crc32c-intel.ko:
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "modules.dep").write_text(_DEP)
    (tmp_path / "modules.softdep").write_text("# comment\nsoftdep ext4 pre: crc32c_intel post: absent\n")
    (tmp_path / "modules.builtin").write_text("kernel/drivers/nvme/host/nvme-core.ko\n")
    return tmp_path


def test_an_initramfs_gets_what_disks_need_and_nothing_of_a_network(directory: Path) -> None:
    assert kernel.boot_modules(directory, ()) == [
        "kernel/crypto/crc32c-intel.ko",
        "kernel/drivers/ata/ahci.ko.xz",
        "kernel/drivers/ata/libahci.ko.xz",
        "kernel/drivers/ata/libata.ko.xz",
        "kernel/drivers/block/virtio_blk.ko.xz",
        "kernel/drivers/md/dm-mod.ko",
        "kernel/drivers/md/dm-verity.ko.zst",
        "kernel/drivers/scsi/megaraid/megaraid_sas.ko.zst",
        "kernel/drivers/scsi/sd_mod.ko",
        "kernel/fs/ext4/ext4.ko",
        "kernel/fs/jbd2/jbd2.ko",
    ]


def test_a_module_asked_for_by_name_comes_along_or_is_built_in(directory: Path) -> None:
    plain = kernel.boot_modules(directory, ())
    assert kernel.boot_modules(directory, ("e1000", "nvme-core")) == sorted([*plain, "kernel/drivers/net/e1000.ko"])


@pytest.mark.parametrize("name", ["nosuch", "e100"])
def test_a_module_that_the_kernel_lacks_is_an_error(directory: Path, name: str) -> None:
    with pytest.raises(ImageError, match=name):
        kernel.boot_modules(directory, (name,))


def _install(root: Path, version: str, image: str) -> None:
    (root / "lib/modules" / version).mkdir(parents=True)
    place = root / image
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()


def test_the_highest_version_that_has_its_modules_is_booted(tmp_path: Path) -> None:
    _install(tmp_path, "6.1.0-9-amd64", "boot/vmlinuz-6.1.0-9-amd64")
    _install(tmp_path, "6.1.0-10-amd64", "boot/vmlinuz-6.1.0-10-amd64")
    (tmp_path / "boot/vmlinuz-7.0.0").touch()
    (tmp_path / "lib/modules/8.0.0").mkdir()
    assert kernel.find(tmp_path).version == "6.1.0-10-amd64"


def test_a_kernel_may_lie_beside_its_modules_behind_links_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "lib").symlink_to("/usr/lib")
    _install(tmp_path / "usr", "5.10.0-1.oe2203.x86_64", "lib/modules/5.10.0-1.oe2203.x86_64/vmlinuz")
    found = kernel.find(tmp_path)
    assert found.image == tmp_path / "usr/lib/modules/5.10.0-1.oe2203.x86_64/vmlinuz"


def test_a_root_without_a_kernel_says_so(tmp_path: Path) -> None:
    (tmp_path / "lib/modules/6.1.0").mkdir(parents=True)
    with pytest.raises(ImageError) as caught:
        kernel.find(tmp_path)
    assert caught.value.reason.name == "KernelMissing"
