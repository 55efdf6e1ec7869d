"""What the builder must know of a distribution: answers, so that no other room ever names one."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Evidence", "Loader", "Profile"]


class Loader(Struct, frozen=True, kw_only=True):
    """The EFI programs of one architecture, as the distribution names them."""

    shim: str | None
    """Path in the root of the signed shim, or none."""
    grub: str | None
    """Path in the root of the signed GRUB, or none: then one is made from the root's own modules."""
    grub_name: str
    """The name that shim starts, beside it: grubx64.efi."""
    removable: str
    """The name at EFI/BOOT: BOOTX64.EFI."""


class Evidence(Struct, frozen=True, kw_only=True):
    """What stands behind one release's data: `booted` in QEMU, `built`, or only `checked` against its documents."""

    level: str
    note: str = ""


class Profile(Struct, frozen=True, kw_only=True):
    """One distribution, one release, one architecture: everything resolved, nothing left to branch on."""

    id: str
    """ID of os-release."""
    title: str
    release: str
    codename: str
    arch: str
    backend: str
    """The backend it is built with unless the recipe says otherwise: deb or dnf."""
    package_format: str
    """deb or rpm: which database the root has."""
    deb_arch: str
    """amd64 or arm64; the name the package format gives the architecture (rpm: x86_64, aarch64)."""
    repositories: tuple[dict[str, object], ...]
    """Public repositories, in the words of a recipe's [[packages.repositories]]."""
    efi_vendor: str
    """The directory below EFI/: debian, centos, openEuler."""
    loader: Loader
    grub_prefix: str
    """`grub` or `grub2`: the head of the tools' names (grub2-mkimage) and of the directory below /boot and /etc."""
    grub_modules: str
    """Path in the root of GRUB's modules, without the platform: /usr/lib/grub."""
    initramfs: str
    """initramfs-tools or dracut."""
    verity_packages: tuple[str, ...] = ()
    """What the initramfs opens a sealed root with: `veritysetup`, however it is called."""
    xfs_packages: tuple[str, ...] = ()
    """What an xfs PERSIST is grown with: `xfs_growfs`."""
    bootstrap_packages: tuple[str, ...] = ()
    """rpm only: what the first transaction into an empty root installs, so that later scripts find a shell."""
    kernel_packages: tuple[str, ...]
    boot_packages: tuple[str, ...]
    """GRUB, shim and what makes the initramfs, for both firmwares."""
    base_packages: tuple[str, ...]
    """The default of a slim Kubernetes host, with Python for the agent and OpenSSL for signatures."""
    runtime_packages: dict[str, tuple[str, ...]]
    """containerd, cri-o, docker -> packages."""
    manager_packages: tuple[str, ...]
    """The package managers themselves, taken out unless asked for."""
    release_package: str
    platform: str = ""
    """rpm only: PLATFORM_ID of os-release, which picks module streams before os-release exists: platform:el9."""
    ext4_features: tuple[str, ...]
    """What follows mke2fs -O for a file system its kernel and GRUB can read: "^metadata_csum_seed"…"""
    boot_ext4_features: tuple[str, ...]
    """The same for BOOT-x and BOOTSTATE, which the oldest GRUB of the family must read; no metadata_csum."""
    xfs_options: tuple[str, ...]
    """What follows mkfs.xfs -m and -i, as "-m", "crc=1,finobt=0", …"""
    page_sizes: tuple[int, ...]
    """Bytes of a page of its kernels on this architecture, the usual one first."""
    identity: tuple[str, ...]
    """Paths below /etc that belong to the host and not to a slot: machine-id, ssh/ssh_host_*_key…"""
    selinux: bool
    evidence: Evidence
