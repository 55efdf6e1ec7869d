"""What stays of a kernel's modules is closed under what they need."""

from __future__ import annotations

import pytest

from hostplane.image.boot.kernelmodules import (
    Policy,
    builtin_firmware,
    dependencies,
    kept,
    module_name,
    policy,
    soft_dependencies,
)

NEEDS = dependencies(
    """\
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/sound/soundcore.ko.xz:
kernel/drivers/media/cam.ko.zst: kernel/sound/soundcore.ko.xz
kernel/lib/crc-x.ko:
extra/vendor.ko: kernel/lib/crc-x.ko
"""
)


def test_what_a_module_needs_stays_with_it() -> None:
    chosen = Policy(keep=("drivers/net/*.ko",))
    assert kept(NEEDS, {}, chosen, ()) == {
        "kernel/drivers/net/virtio_net.ko",
        "kernel/drivers/net/net_failover.ko",
        "kernel/net/core/failover.ko",
        "extra/vendor.ko",
        "kernel/lib/crc-x.ko",
    }


def test_dropped_modules_stay_when_they_are_named_or_needed() -> None:
    chosen = Policy(keep=("*",), drop=("sound", "drivers/media"))
    assert "kernel/sound/soundcore.ko.xz" not in kept(NEEDS, {}, chosen, ())
    assert "kernel/sound/soundcore.ko.xz" in kept(NEEDS, {}, chosen, ("cam",))
    assert "kernel/drivers/media/cam.ko.zst" in kept(NEEDS, {}, chosen, ("c?m",))


def test_soft_dependencies_count() -> None:
    likes = soft_dependencies("# note\nsoftdep virtio_net pre: crc-x post: missing\n")
    assert likes == {"virtio_net": ["crc_x", "missing"]}
    needs = {path: entries for path, entries in NEEDS.items() if not path.startswith("extra")}
    assert "kernel/lib/crc-x.ko" in kept(needs, likes, Policy(keep=("drivers/net",)), ())


def test_a_pattern_is_a_path_and_no_substring() -> None:
    chosen = Policy(keep=("drivers/net/*.ko",))
    assert chosen.allows("drivers/net/tun.ko")
    assert not chosen.allows("drivers/net/wireless/x.ko")
    assert not chosen.allows("more/drivers/net/tun.ko")


def test_names_are_as_modprobe_says_them() -> None:
    assert module_name("kernel/crypto/crc32c-intel.ko.zst") == "crc32c_intel"


@pytest.mark.parametrize("name", ["host", "virtual"])
def test_the_sets_keep_what_a_node_boots_from_and_drop_what_it_never_has(name: str) -> None:
    chosen = policy(name)
    for path in (
        "fs/ext4/ext4.ko",
        "fs/xfs/xfs.ko",
        "fs/overlayfs/overlay.ko",
        "fs/erofs/erofs.ko",
        "drivers/md/dm-verity.ko",
        "drivers/md/dm-mod.ko",
        "drivers/block/virtio_blk.ko",
        "drivers/scsi/virtio_scsi.ko",
        "drivers/scsi/sd_mod.ko",
        "drivers/nvme/host/nvme.ko",
        "drivers/ata/ahci.ko",
        "drivers/net/virtio_net.ko",
        "drivers/net/vxlan/vxlan.ko",
        "drivers/net/veth.ko",
        "drivers/net/wireguard/wireguard.ko",
        "net/bridge/br_netfilter.ko",
        "net/netfilter/nf_conntrack.ko",
        "net/netfilter/ipvs/ip_vs.ko",
        "drivers/watchdog/softdog.ko",
        "drivers/char/tpm/tpm_crb.ko",
        "fs/nls/nls_ascii.ko",
        "fs/fat/vfat.ko",
    ):
        assert chosen.allows(path), path
    for path in (
        "sound/soundcore.ko",
        "drivers/media/v4l2.ko",
        "net/bluetooth/bluetooth.ko",
        "drivers/net/wireless/w.ko",
    ):
        assert not chosen.allows(path), path


def test_the_kernel_itself_may_ask_for_firmware() -> None:
    raw = b"tg3.firmware=tigon/tg3.bin\0tg3.license=GPL\0x.firmware=a/b\0"
    assert builtin_firmware(raw) == {"tigon/tg3.bin", "a/b"}
