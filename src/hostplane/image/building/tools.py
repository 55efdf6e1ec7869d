"""Which package brings a program, in the words of this machine's package manager.

The machine that builds may be of another distribution than the image; nothing here is about images.
"""

from __future__ import annotations

from shutil import which

from hostplane.errors import ImageError

__all__ = ["PACKAGES", "install_line", "require"]

_FAMILIES = ("apt-get", "dnf", "yum", "zypper", "pacman")
_INSTALL = {"pacman": "pacman -S"}

PACKAGES: dict[str, tuple[str, str]] = {
    # program: (Debian's package, the RPM families' package)
    "apt-get": ("apt", "apt"),
    "busybox": ("busybox-static", "busybox"),
    "cpio": ("cpio", "cpio"),
    "createrepo_c": ("createrepo-c", "createrepo_c"),
    "debugfs": ("e2fsprogs", "e2fsprogs"),
    "dnf": ("dnf", "dnf"),
    "dracut": ("dracut-core", "dracut"),
    "dump.erofs": ("erofs-utils", "erofs-utils"),
    "e2fsck": ("e2fsprogs", "e2fsprogs"),
    "faketime": ("faketime", "libfaketime"),
    "fsck.erofs": ("erofs-utils", "erofs-utils"),
    "getfattr": ("attr", "attr"),
    "getfacl": ("acl", "acl"),
    "gpg": ("gpg", "gnupg2"),
    "gpgv": ("gpgv", "gnupg2"),
    "grub-mkimage": ("grub-common", "grub2-tools"),
    "mcopy": ("mtools", "mtools"),
    "mformat": ("mtools", "mtools"),
    "mke2fs": ("e2fsprogs", "e2fsprogs"),
    "mkfs.erofs": ("erofs-utils", "erofs-utils"),
    "mkfs.vfat": ("dosfstools", "dosfstools"),
    "mkfs.xfs": ("xfsprogs", "xfsprogs"),
    "mmdebstrap": ("mmdebstrap", "mmdebstrap"),
    "modinfo": ("kmod", "kmod"),
    "depmod": ("kmod", "kmod"),
    "newgidmap": ("uidmap", "shadow-utils"),
    "newuidmap": ("uidmap", "shadow-utils"),
    "openssl": ("openssl", "openssl"),
    "qemu-img": ("qemu-utils", "qemu-img"),
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-system-x86"),
    "qemu-system-aarch64": ("qemu-system-arm", "qemu-system-aarch64"),
    "rpm": ("rpm", "rpm"),
    "rpmbuild": ("rpm", "rpm-build"),
    "rpm2cpio": ("rpm2cpio", "rpm"),
    "rpmdb": ("rpm", "rpm"),
    "rpmkeys": ("rpm", "rpm"),
    "tar": ("tar", "tar"),
    "umoci": ("umoci", "umoci"),
    "veritysetup": ("cryptsetup-bin", "veritysetup"),
    "xfs_db": ("xfsprogs", "xfsprogs"),
    "xfs_repair": ("xfsprogs", "xfsprogs"),
    "xz": ("xz-utils", "xz"),
    "zstd": ("zstd", "zstd"),
}


def install_line(program: str) -> str:
    """The command that installs `program` on this machine, for a sentence to a person."""
    family = next((name for name in _FAMILIES if which(name)), "apt-get")
    debian, rpm = PACKAGES.get(program, (program, program))
    return f"{_INSTALL.get(family, f'{family} install')} {debian if family == 'apt-get' else rpm}"


def require(*programs: str) -> None:
    """Refuse to begin a long work that will lack a program.

    Raises:
        ImageError: ToolMissing, for the first that is not there.
    """
    for program in programs:
        if which(program) is None:
            raise ImageError("ToolMissing", tool=program, install=install_line(program))
