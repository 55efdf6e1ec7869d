"""What a recipe says: the whole input of one image, as one frozen value.

The words are the ones of the TOML file, written with underscores there and here. A default stands here once; the JSON
schema for editors is made from these types, the rules that a type cannot say live in `check.py`. Paths in a recipe are
relative to the file that names them; reading resolves them, so that everything past `read.py` sees absolute ones.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

__all__ = [
    "Arch",
    "Backend",
    "Boot",
    "Disk",
    "File",
    "Firmware",
    "ImageFile",
    "Kubernetes",
    "Output",
    "Packages",
    "Partition",
    "Recipe",
    "Repository",
    "RootFs",
    "Script",
    "ScriptPlace",
    "Signing",
    "Slim",
    "StageName",
    "StateFs",
    "Unit",
    "User",
]

MiB = Annotated[int, Meta(ge=1, le=64 << 20)]
"""A size in MiB (1,048,576 bytes)."""


_UNIT = r"^[A-Za-z0-9:_.\\@-]+\.(service|socket|mount|timer|path|target|slice|automount)$"


class Arch(StrEnum):
    """The processor an image is for, as `uname -m` says it."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class Backend(StrEnum):
    """Where a root's files come from."""

    DNF = "dnf"
    DEB = "deb"
    TREE = "tree"
    RPMS = "rpms"


class Firmware(StrEnum):
    """What starts the boot loader."""

    BIOS = "bios"
    UEFI = "uefi"


class RootFs(StrEnum):
    """The file system of a root, mounted read-only."""

    EXT4 = "ext4"
    XFS = "xfs"
    EROFS = "erofs"


class StateFs(StrEnum):
    """The file system of PERSIST and of extra partitions."""

    EXT4 = "ext4"
    XFS = "xfs"


class StageName(StrEnum):
    """The stages, in the order they run."""

    BOOTSTRAP = "bootstrap"
    PACKAGES = "packages"
    FILES = "files"
    SCRIPTS = "scripts"
    BOOT = "boot"
    SLIM = "slim"
    SEAL = "seal"
    PACK = "pack"


class Output(StrEnum):
    """A file or directory that `pack` writes."""

    RAW = "raw"
    QCOW2 = "qcow2"
    ROOT_TAR = "root-tar"
    OS_TAR = "os-tar"
    BUNDLE = "bundle"


class ScriptPlace(StrEnum):
    """Where a script runs: in the image's root, or on the building machine with $ROOT set."""

    CHROOT = "chroot"
    HOST = "host"


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the recipe; an unknown key is an error, so that a typo cannot pass for a wish."""


class Repository(_Table, frozen=True, kw_only=True):
    """One package repository. Secrets are names of environment variables or paths of files; never the secret itself."""

    name: str
    url: str
    """http(s)://, file:///… or the path of a mounted DVD; $release and $arch are filled in."""
    suites: tuple[str, ...] = ()
    """deb only: suites (empty: the release's code name)."""
    components: tuple[str, ...] = ("main",)
    """deb only."""
    key: str | None = None
    """Path of the public key(s) that packages are signed with."""
    check_signatures: bool = True
    ca: str | None = None
    """Path of a private certificate authority's PEM file."""
    client_certificate: str | None = None
    client_key: str | None = None
    username: str | None = None
    password_env: str | None = None
    """Name of the environment variable that holds the password."""
    proxy: str | None = None
    priority: int | None = None


class Packages(_Table, frozen=True, kw_only=True):
    """What is installed, and from where."""

    backend: Backend | None = None
    """Empty: the distribution's own."""
    repositories: tuple[Repository, ...] = ()
    """Empty: the distribution's public ones."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Never installed, also where another package recommends it."""
    defaults: bool = True
    """Whether the distribution's list for a slim Kubernetes host is included."""
    kernel: bool = True
    """Whether the distribution's kernel and boot loader packages are included."""
    lock: str | None = None
    """Path of a lock file (`hostplane image lock`): exact versions of every package."""
    directory: str | None = None
    """rpms only: the folder of RPM files."""
    source: str | None = None
    """tree only: a directory, a tar (also compressed), or an OCI layout (DIR or DIR:tag)."""
    keep_manager: bool = False
    """Whether apt, dnf or yum stay in the image. The package database always stays."""


class Partition(_Table, frozen=True, kw_only=True):
    """An extra partition, laid out between the slots and PERSIST."""

    label: Annotated[str, Meta(pattern=r"^[A-Z0-9][A-Z0-9-]{0,11}$")]
    size_mib: MiB
    fs: StateFs = StateFs.EXT4
    mount: str | None = None
    style: Annotated[str, Meta(pattern="^(systemd|fstab)$")] = "systemd"
    """Whether a systemd mount unit or a line of fstab mounts it."""


class Disk(_Table, frozen=True, kw_only=True):
    """The disk: two slots of {BOOT-x, ROOT-x}, the boot state, and PERSIST over the rest (design section 6)."""

    size_gib: Annotated[int, Meta(ge=1, le=65536)] = 20
    root_mib: MiB = 4096
    boot_mib: MiB = 512
    """Size of each BOOT-x."""
    esp_mib: MiB = 64
    bootstate_mib: MiB = 16
    fs: RootFs = RootFs.EXT4
    persist_fs: StateFs = StateFs.EXT4
    verity: bool = False
    partitions: tuple[Partition, ...] = ()
    persist_dirs: tuple[str, ...] = ()
    """Extra directories made in PERSIST."""
    block_size: Annotated[int, Meta(ge=512, le=65536)] = 4096
    """Bytes of a file system's block; no larger than the target kernel's page."""


class Boot(_Table, frozen=True, kw_only=True):
    """How the host boots."""

    arguments: tuple[str, ...] = ()
    """Kernel arguments, besides the ones Hostplane sets."""
    firmware: tuple[Firmware, ...] = (Firmware.BIOS, Firmware.UEFI)
    console: tuple[str, ...] = ("tty0", "ttyS0,115200")
    tries: Annotated[int, Meta(ge=1, le=9)] = 3
    timeout_seconds: Annotated[int, Meta(ge=0, le=60)] = 1
    modules: tuple[str, ...] = ()
    """Kernel modules that the initramfs must hold."""
    page_size: int | None = None
    """Bytes of the target kernel's page, where it is not 4096 (some aarch64 kernels: 65536)."""
    grub_password_hash: str | None = None
    """grub.pbkdf2.… for editing the boot menu."""


class User(_Table, frozen=True, kw_only=True):
    """An account of the image."""

    name: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
    password_hash: str | None = None
    """crypt(3) hash; a plain password is refused."""
    ssh_keys: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    primary_group: str | None = None
    uid: Annotated[int, Meta(ge=0, le=65533)] | None = None
    shell: str = "/bin/bash"
    home: str | None = None


class File(_Table, frozen=True, kw_only=True):
    """A file or tree put into the image: `content` or `source`, one of the two."""

    path: str
    content: str | None = None
    source: str | None = None
    mode: Annotated[str, Meta(pattern="^0?[0-7]{3,4}$")] | None = None
    """Octal. Empty: what the source has, 0644 for content."""
    owner: str = "root"
    group: str = "root"
    replace: bool = True
    """Whether an existing file gives way."""


class Unit(_Table, frozen=True, kw_only=True):
    """A systemd unit: written when it has content, then enabled, disabled or masked."""

    name: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9:_.\\@-]+\.(service|socket|mount|timer|path|target|slice|automount)$")
    ]
    content: str | None = None
    state: Annotated[str, Meta(pattern="^(enabled|disabled|masked|present)$")] = "enabled"


class Script(_Table, frozen=True, kw_only=True):
    """A step of one's own, before or after a stage."""

    name: str
    stage: StageName = StageName.SCRIPTS
    when: Annotated[str, Meta(pattern="^(before|after)$")] = "after"
    place: ScriptPlace = ScriptPlace.CHROOT
    content: str | None = None
    source: str | None = None
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    """Names of environment variables handed to the script; their values reach no key, log or image."""
    network: bool = False
    timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 1800


class Kubernetes(_Table, frozen=True, kw_only=True):
    """The node's own programs, from files or from packages named in `packages.include`."""

    version: Annotated[str, Meta(pattern=r"^1\.\d+(\.\d+)?$")] | None = None
    runtime: Annotated[str, Meta(pattern="^(containerd|cri-o|docker|none)$")] = "containerd"
    kubelet: str | None = None
    """Path of a kubelet program to install."""
    cni_plugins: str | None = None
    """Path of a directory or tar of CNI plugins."""


class Slim(_Table, frozen=True, kw_only=True):
    """What is left out of the root."""

    documentation: bool = True
    """Whether documentation, manual pages and the like are removed (licences stay)."""
    locales: tuple[str, ...] | None = ("C", "en_US")
    """Locales that stay; null in a profile is not expressible in TOML: ["*"] keeps all."""
    caches: bool = True
    modules: Annotated[str, Meta(pattern="^(all|host|virtual)$")] = "host"
    """Kernel modules that stay: all, what servers use, or what virtual machines use."""
    modules_keep: tuple[str, ...] = ()
    firmware: Annotated[str, Meta(pattern="^(all|none|modules)$")] = "modules"
    """Firmware that stays: all, none, or what the kept modules ask for."""
    remove: tuple[str, ...] = ()
    """Further paths or globs, absolute in the image."""


class Signing(_Table, frozen=True, kw_only=True):
    """Who signs the bundle."""

    key: str | None = None
    """Path of a PEM private key, ECDSA P-256; empty: unsigned."""
    key_env: str | None = None
    """Name of the environment variable that holds that path."""
    key_id: str | None = None
    expires_days: Annotated[int, Meta(ge=1, le=3650)] | None = None
    trusted_keys: str | None = None
    """Path of the trusted key set put into the image."""


class ImageFile(_Table, frozen=True, kw_only=True):
    """What is written."""

    outputs: tuple[Output, ...] = (Output.RAW, Output.BUNDLE)
    codec: Annotated[str, Meta(pattern="^(xz|deflate|none|zstd)$")] = "xz"
    frame_kib: Annotated[int, Meta(ge=64, le=8192)] = 1024
    reachable_from: tuple[str, ...] = ()
    """Versions this one may be installed over; empty: any."""


class Recipe(_Table, frozen=True, kw_only=True):
    """One image."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z._+~-]{0,62}$")]
    distro: str
    release: str
    arch: Arch = Arch.X86_64
    profiles: tuple[str, ...] = ()
    """Names of built-in profiles merged below the recipe (already merged in when this value is seen)."""
    include: tuple[str, ...] = ()
    """Paths of further TOML files merged below the recipe (already merged in when this value is seen)."""
    hostname: str | None = None
    timezone: str = "UTC"
    source_date_epoch: Annotated[int, Meta(ge=0)] | None = None
    """Seconds; every time stamp of the image. Empty: taken from the newest locked package, else fixed."""
    agent: bool = True
    """Whether the Hostplane agent, its units and the mounts of design section 6 are put in."""
    packages: Packages = Packages()
    disk: Disk = Disk()
    boot: Boot = Boot()
    user: tuple[User, ...] = ()
    file: tuple[File, ...] = ()
    unit: tuple[Unit, ...] = ()
    script: tuple[Script, ...] = ()
    modules_load: tuple[str, ...] = ()
    """Kernel modules loaded at boot."""
    modules_block: tuple[str, ...] = ()
    """Kernel modules that may not be loaded."""
    sysctl: dict[str, str | int] = {}
    kubernetes: Kubernetes = Kubernetes()
    slim: Slim = Slim()
    signing: Signing = Signing()
    image: ImageFile = ImageFile()
