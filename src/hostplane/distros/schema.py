"""The words of a distribution's file, once its overrides are merged: what must be said, and of which type.

Kept apart from `Profile` so that the file can group what belongs together while the rest of the builder reads flat
answers. It refuses every key it does not know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, to_builtins

from hostplane.distros.profile import Evidence, Loader, Profile

__all__ = ["Facts", "Listing"]

_Name = Annotated[str, Meta(min_length=1)]
_Package = Annotated[str, Meta(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9+._:/*-]*$")]
_Packages = tuple[_Package, ...]
_Some = Annotated[_Packages, Meta(min_length=1)]
_Absolute = Annotated[str, Meta(pattern=r"^/[^\s]+$")]

_DEB_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_REMOVABLE = {"x86_64": "BOOTX64.EFI", "aarch64": "BOOTAA64.EFI"}


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; an unknown key is an error."""


class Repository(_Table, frozen=True, kw_only=True):
    """A public repository, in the words of a recipe."""

    name: _Name
    url: Annotated[str, Meta(pattern=r"^(https?|file)://")]
    suites: tuple[str, ...] = ()
    components: tuple[str, ...] = ("main",)
    key: str | None = None
    """Path on the building machine, or an https address, of the public keys that packages are signed with."""
    priority: int | None = None


class Grub(_Table, frozen=True, kw_only=True):
    """The boot loader's tools."""

    prefix: Literal["grub", "grub2"]
    modules: _Absolute = "/usr/lib/grub"


class Efi(_Table, frozen=True, kw_only=True):
    """What lies in the ESP."""

    vendor: _Name
    shim: _Absolute | None = None
    grub: _Absolute | None = None
    grub_name: _Name


class Packages(_Table, frozen=True, kw_only=True):
    """Names of packages by what they are for."""

    bootstrap: _Packages = ()
    kernel: _Some
    boot: _Some
    base: _Some
    verity: _Packages = ()
    xfs: _Packages = ()
    manager: _Packages
    release: _Package


class Filesystems(_Table, frozen=True, kw_only=True):
    """The floor: what kernel and GRUB of the release can read."""

    ext4: tuple[str, ...]
    boot_ext4: tuple[str, ...]
    xfs: tuple[str, ...]
    page_sizes: Annotated[tuple[int, ...], Meta(min_length=1)] = (4096,)


class EvidenceFact(_Table, frozen=True, kw_only=True):
    """What stands behind the data."""

    level: Literal["booted", "built", "checked"]
    note: str = ""


class Facts(_Table, frozen=True, kw_only=True):
    """One release on one architecture, as the file groups it."""

    id: _Name
    title: _Name
    codename: str = ""
    backend: Literal["dnf", "deb"]
    platform: str = ""
    initramfs: Literal["dracut", "initramfs-tools"]
    selinux: bool
    identity: Annotated[tuple[Annotated[str, Meta(pattern=r"^[^/\s][^\s]*$")], ...], Meta(min_length=1)]
    repositories: tuple[Repository, ...]
    grub: Grub
    efi: Efi
    packages: Packages
    runtimes: dict[str, _Packages]
    filesystems: Filesystems
    evidence: EvidenceFact

    def profile(self, release: str, arch: str) -> Profile:
        """The flat answers.

        Raises:
            ValueError: Hostplane knows no such architecture.
        """
        if arch not in _DEB_ARCH:
            raise ValueError(f"Hostplane builds for {' and '.join(_DEB_ARCH)}, not for {arch}")
        deb = self.backend == "deb"
        return Profile(
            id=self.id,
            title=self.title,
            release=release,
            codename=self.codename,
            arch=arch,
            backend=self.backend,
            package_format="deb" if deb else "rpm",
            deb_arch=_DEB_ARCH[arch] if deb else arch,
            repositories=tuple(to_builtins(each) for each in self.repositories),
            efi_vendor=self.efi.vendor,
            loader=Loader(
                shim=self.efi.shim,
                grub=self.efi.grub,
                grub_name=self.efi.grub_name,
                removable=_REMOVABLE[arch],
            ),
            grub_prefix=self.grub.prefix,
            grub_modules=self.grub.modules,
            initramfs=self.initramfs,
            bootstrap_packages=self.packages.bootstrap,
            kernel_packages=self.packages.kernel,
            boot_packages=self.packages.boot,
            base_packages=self.packages.base,
            runtime_packages=dict(self.runtimes),
            verity_packages=self.packages.verity,
            xfs_packages=self.packages.xfs,
            manager_packages=self.packages.manager,
            release_package=self.packages.release,
            platform=self.platform,
            ext4_features=self.filesystems.ext4,
            boot_ext4_features=self.filesystems.boot_ext4,
            xfs_options=self.filesystems.xfs,
            page_sizes=self.filesystems.page_sizes,
            identity=self.identity,
            selinux=self.selinux,
            evidence=Evidence(level=self.evidence.level, note=self.evidence.note),
        )


class Listing(Struct, frozen=True, kw_only=True):
    """One release and its architectures, with a profile for each."""

    file: Path
    arches: tuple[str, ...]
    profiles: tuple[Profile, ...]
