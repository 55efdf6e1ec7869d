#!/bin/bash
# Hostplane's part of an initramfs made by dracut: one script, called by a unit where systemd runs the initramfs, else
# by a hook before pivoting (ahead of the hook that loads the SELinux policy). Works with dracut 033 and later.

check() {
    [ -x "$dracutsysrootdir/usr/lib/hostplane/mounts" ] || return 1
}

depends() {
    echo base rootfs-block
    [ ! -x "$dracutsysrootdir/usr/sbin/veritysetup" ] || echo dm
}

installkernel() {
    hostonly='' instmods ext4 xfs erofs dm_verity
}

install() {
    inst_multiple sh mount umount chroot sleep sync
    inst_multiple -o reboot modprobe udevadm readlink veritysetup
    inst_simple /usr/lib/hostplane/mounts
    # The root behind /dev/mapper/hostplane-root is opened in the loop that waits for devices, with systemd or without.
    inst_hook initqueue/settled 50 "$moddir/open-verity.sh"
    dracut_need_initqueue
    if dracut_module_included systemd || dracut_module_included systemd-initrd; then
        local unit target
        for unit in hostplane-mounts.service hostplane-lost.service; do
            inst_simple "$moddir/$unit" "$systemdsystemunitdir/$unit"
        done
        for target in initrd-fs.target initrd-parse-etc.service; do
            mkdir -p "$initdir$systemdsystemunitdir/$target.requires"
            ln -sf ../hostplane-mounts.service "$initdir$systemdsystemunitdir/$target.requires/hostplane-mounts.service"
        done
    else
        inst_hook pre-pivot 10 "$moddir/mount-state.sh"
    fi
}
