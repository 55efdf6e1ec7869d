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
    "Settings",
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
    """Unique; files and logs are named after it."""
    url: str
    """http(s)://, file:///… or the path of a mounted DVD; $release and $arch are filled in."""
    suites: tuple[str, ...] = ()
    """deb only: suites (empty: the release's code name)."""
    components: tuple[str, ...] = ("main",)
    """deb only."""
    key: str | None = None
    """Path of the public key(s) that packages are signed with; for RPMs also an https address."""
    check_signatures: bool = True
    """Whether packages must be signed with `key`."""
    ca: str | None = None
    """Path of a private certificate authority's PEM file."""
    client_certificate: str | None = None
    """Path of a PEM certificate shown to the server; needs client_key."""
    client_key: str | None = None
    """Path of the certificate's PEM private key."""
    username: str | None = None
    """For the server; needs password_env."""
    password_env: str | None = None
    """Name of the environment variable that holds the password."""
    proxy: str | None = None
    """Address of a proxy: http(s)://… or socks5://…"""
    priority: int | None = None
    """Lower wins, as the package manager counts."""


class Packages(_Table, frozen=True, kw_only=True):
    """What is installed, and from where."""

    backend: Backend | None = None
    """Empty: the distribution's own."""
    repositories: tuple[Repository, ...] = ()
    """Empty: the distribution's public ones."""
    include: tuple[str, ...] = ()
    """Names; name=version asks for a version."""
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
    """Its PARTLABEL."""
    size_mib: MiB
    fs: StateFs = StateFs.EXT4
    mount: str | None = None
    """Where the running host mounts it; empty: nowhere."""
    style: Annotated[str, Meta(pattern="^(systemd|fstab)$")] = "systemd"
    """Whether a systemd mount unit or a line of fstab mounts it."""


class Disk(_Table, frozen=True, kw_only=True):
    """The disk: two slots of {BOOT-x, ROOT-x}, the boot state, and PERSIST over the rest."""

    size_gib: Annotated[int, Meta(ge=1, le=65536)] = 20
    """Size of the image; PERSIST grows to the disk at first boot."""
    root_mib: MiB = 4096
    """Size of each ROOT-x: this version and the next ones must fit."""
    boot_mib: MiB = 512
    """Size of each BOOT-x."""
    esp_mib: MiB = 64
    """Size of the EFI system partition."""
    bootstate_mib: MiB = 16
    """Size of BOOTSTATE."""
    fs: RootFs = RootFs.EXT4
    """File system of the roots."""
    persist_fs: StateFs = StateFs.EXT4
    """File system of PERSIST."""
    verity: bool = False
    """Whether the root is sealed by dm-verity."""
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
    """What the disk starts from. Where it is not said: all that the processor has."""
    console: tuple[str, ...] = ("tty0", "ttyS0,115200")
    """Consoles of GRUB, the kernel and the login prompt; the last one is /dev/console."""
    tries: Annotated[int, Meta(ge=1, le=9)] = 3
    """Boots of a new version that may fail before the old one comes back."""
    timeout_seconds: Annotated[int, Meta(ge=0, le=60)] = 1
    """How long the menu waits."""
    modules: tuple[str, ...] = ()
    """Kernel modules that the initramfs must hold."""
    page_size: int | None = None
    """Bytes of the target kernel's page, where it is not 4096 (some aarch64 kernels: 65536)."""
    grub_password_hash: str | None = None
    """grub.pbkdf2.… for editing the boot menu."""


class User(_Table, frozen=True, kw_only=True):
    """An account of the image."""

    name: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
    """Made when it does not exist; root always does."""
    password_hash: str | None = None
    """crypt(3) hash; a plain password is refused."""
    ssh_keys: tuple[str, ...] = ()
    """Lines of authorized_keys."""
    groups: tuple[str, ...] = ()
    """Further groups."""
    primary_group: str | None = None
    """Empty: a group of the same name."""
    uid: Annotated[int, Meta(ge=0, le=65533)] | None = None
    """Empty: the next free one."""
    shell: str = "/bin/bash"
    home: str | None = None
    """Empty: /home/NAME, and /root for root."""


class File(_Table, frozen=True, kw_only=True):
    """A file or tree put into the image: `content` or `source`, one of the two."""

    path: str
    """Absolute, in the image."""
    content: str | None = None
    """Text."""
    source: str | None = None
    """Path of a file or directory."""
    mode: Annotated[str, Meta(pattern="^0?[0-7]{3,4}$")] | None = None
    """Octal. Empty: what the source has, 0644 for content."""
    owner: str = "root"
    """Name or number."""
    group: str = "root"
    """Name or number."""
    replace: bool = True
    """Whether an existing file gives way."""


class Unit(_Table, frozen=True, kw_only=True):
    """A systemd unit: written when it has content, then enabled, disabled or masked."""

    name: Annotated[str, Meta(pattern=_UNIT)]
    """With its kind: my.service."""
    content: str | None = None
    """The unit file; empty: the unit comes with a package."""
    state: Annotated[str, Meta(pattern="^(enabled|disabled|masked|present)$")] = "enabled"


class Script(_Table, frozen=True, kw_only=True):
    """A step of one's own, before or after a stage."""

    name: str
    """Unique; its log is named after it."""
    stage: StageName = StageName.SCRIPTS
    """The stage it belongs to."""
    when: Annotated[str, Meta(pattern="^(before|after)$")] = "after"
    """Before or after the stage."""
    place: ScriptPlace = ScriptPlace.CHROOT
    """chroot: in the image. host: on the building machine, with $ROOT set."""
    content: str | None = None
    """The script; its first line may name the interpreter."""
    source: str | None = None
    """Path of the script."""
    environment: dict[str, str] = {}
    """Variables; everybody can read them in logs."""
    secrets: tuple[str, ...] = ()
    """Names of environment variables handed to the script; their values reach no key, log or image."""
    network: bool = False
    """Whether it may reach the network."""
    timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 1800


class Kubernetes(_Table, frozen=True, kw_only=True):
    """The node's own programs, from files or from packages named in `packages.include`."""

    version: Annotated[str, Meta(pattern=r"^1\.\d+(\.\d+)?$")] | None = None
    """For the record; what brings the kubelet decides."""
    runtime: Annotated[str, Meta(pattern="^(containerd|cri-o|docker|none)$")] = "containerd"
    """Whose packages are included."""
    kubelet: str | None = None
    """Path of a kubelet program to install."""
    cni_plugins: str | None = None
    """Path of a directory or tar of CNI plugins."""


class Slim(_Table, frozen=True, kw_only=True):
    """What is left out of the root."""

    documentation: bool = True
    """Whether documentation, manual pages and the like are removed (licences stay)."""
    locales: tuple[str, ...] | None = ("C", "en_US")
    """Locales that stay; ["*"] keeps all."""
    caches: bool = True
    """Whether package lists, downloads and logs are removed."""
    modules: Annotated[str, Meta(pattern="^(all|host|virtual)$")] = "host"
    """Kernel modules that stay: all, what servers use, or what virtual machines use."""
    modules_keep: tuple[str, ...] = ()
    """Names or globs of modules that stay in any case."""
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
    """Empty: made from the public key."""
    expires_days: Annotated[int, Meta(ge=1, le=3650)] | None = None
    """Days from the build until hosts refuse the signature; empty: never."""
    trusted_keys: str | None = None
    """Path of the trusted key set put into the image."""


class Settings(_Table, frozen=True, kw_only=True):
    """What settings from the cluster may touch on hosts of this image; more needs a signature by a trusted key."""

    allowed_paths: tuple[str, ...] | None = None
    """Files, and directories that end with a slash, that settings may write. Empty: docs/reference/settings.md."""
    signed_models: tuple[str, ...] = ()
    """Models that hosts take only with a signature; ["*"]: all."""


class ImageFile(_Table, frozen=True, kw_only=True):
    """What is written."""

    outputs: tuple[Output, ...] = (Output.RAW, Output.BUNDLE)
    """raw and qcow2 are disks, bundle is what hosts upgrade with, os-tar is KubeOS's form of it."""
    codec: Annotated[str, Meta(pattern="^(xz|deflate|none|zstd)$")] = "xz"
    """How frames of the bundle are compressed."""
    frame_kib: Annotated[int, Meta(ge=64, le=8192)] = 1024
    """Bytes of a frame before compression, in KiB; a multiple of 4."""
    reachable_from: tuple[str, ...] = ()
    """Versions this one may be installed over; empty: any."""
    minimum_version: str | None = None
    """Hosts that took this image refuse any version below it from then on; empty: none is refused."""
    previous: str | None = None
    """Path of the bundle of the version before: the new one's frames are cut so that its hosts fetch little."""


class Recipe(_Table, frozen=True, kw_only=True):
    """One image."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    """Names the output directory and is part of every identifier on the disk."""
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z._+~-]{0,62}$")]
    """The version of this image."""
    distro: str
    """ID of os-release: debian, openEuler, …; `hostplane image distros` lists them."""
    release: str
    """Its release, as that list has it."""
    arch: Arch = Arch.X86_64
    profiles: tuple[str, ...] = ()
    """Names of built-in profiles merged below the recipe."""
    include: tuple[str, ...] = ()
    """Paths of further TOML files merged below the recipe."""
    hostname: str | None = None
    """Empty: hosts get their names from the network or at their installation."""
    timezone: str = "UTC"
    """A name of the zone database."""
    source_date_epoch: Annotated[int, Meta(ge=0)] | None = None
    """Seconds; every time stamp of the image. Empty: taken from the newest locked package, else fixed."""
    agent: bool = True
    """Whether the Hostplane agent, its units and the mounts of /etc and /var are put in."""
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
    """Kernel settings by name: "net.ipv4.ip_forward" = 1."""
    kubernetes: Kubernetes = Kubernetes()
    slim: Slim = Slim()
    signing: Signing = Signing()
    settings: Settings = Settings()
    image: ImageFile = ImageFile()
