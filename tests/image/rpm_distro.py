"""A distribution of RPMs, made where no RPM distribution can be reached: real packages, signed, that boot.

A Debian root with dracut, a kernel and GRUB is split into RPMs of the names that an openEuler has, so that dnf, rpm,
dracut and the boot stage run for real: bootstrap and base, kernel, boot loader, and a few packages that exist to be
refused or left out. It stands in for the package tools and the boot path, and proves nothing about the packages of a
real openEuler. Made once, kept outside the checkout under a key of this file's own text.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from hostplane.image.packages.sources import machine_sources, render

__all__ = ["EPOCH", "RELEASE", "RpmDistro", "rpm_distro", "small_repository", "write_distro_file"]

EPOCH = 1_700_000_000
RELEASE = "22.03-LTS-SP3"
_SUITE = "bookworm"
_OS_RELEASE = """NAME="openEuler"
VERSION="22.03 (LTS-SP3)"
ID="openEuler"
VERSION_ID="22.03"
PRETTY_NAME="openEuler 22.03 (LTS-SP3)"
ANSI_COLOR="0;31"
"""
_DEBS = (
    "systemd,systemd-sysv,udev,dbus,kmod,libpam-systemd,dracut,linux-image-cloud-amd64,iproute2,openssl,ca-certificates,"
    "openssh-server,python3,e2fsprogs,xfsprogs,util-linux,mount,procps,less,rpm,grub-common,grub2-common,grub-pc-bin,"
    "grub-efi-amd64-bin,shim-signed,zstd,cryptsetup-bin,iptables,ethtool,socat,conntrack"
)
_LEFT_OUT = (
    *("proc/", "sys/", "dev/", "run/", "tmp/", "var/lib/dpkg", "var/lib/apt", "var/cache/", "var/log/", "etc/apt"),
    *("etc/machine-id", "etc/resolv.conf", "etc/hostname", "etc/kernel/postinst.d", "etc/ssh/ssh_host_", "usr/bin/apt"),
    *(
        "usr/bin/dpkg",
        "usr/lib/dpkg",
        "usr/lib/apt",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "initrd.img",
    ),
    *("vmlinuz", "boot/initrd.img", "var/tmp/", "etc/dpkg", "lib32", "libx32", "lib64.usr-is-merged", "etc/os-release"),
    *("usr/lib/os-release", "usr/share/grub/default", "usr/lib/systemd/system/apt"),
)
_EMPTY = ("proc", "sys", "dev", "run", "tmp", "var/log", "var/cache", "var/tmp")
_KERNEL = ("boot/vmlinuz-", "boot/config-", "boot/System.map-", "usr/lib/modules/6", "usr/lib/modules/5")
_GRUB_PC = ("usr/lib/grub/i386-pc",)
_GRUB_EFI = ("usr/lib/grub/x86_64-efi",)
_SHIM = ("boot/efi/EFI",)
_SETUP = ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/profile", "etc/host", "etc/shells", "etc/fstab")
_PYTHON = ("usr/lib/python3", "usr/bin/python3", "usr/share/python3")
_DRACUT = (
    "usr/lib/dracut",
    "usr/bin/dracut",
    "etc/dracut.conf",
    "usr/bin/lsinitrd",
    "usr/lib/kernel/install.d/50-drac",
)


_NAMES = (
    *("grub2-common", "grub2-tools", "grub2-pc", "grub2-pc-modules", "grub2-efi-x64", "grub2-efi-x64-modules", "shim"),
    *("openssl", "openssh-server", "python3", "containerd"),
)
"""What openEuler's data asks for by name, beside what the tree itself gives."""


_FORGETFUL = """#!/bin/sh
# An rpm that finds nothing in a database that it has not written itself, as one that reads another kind.
case "$*" in
*--justdb*) touch /var/lib/rpm-has-written ;;
esac
[ -e /var/lib/rpm-has-written ] || exit 0
exec /usr/bin/rpm-real "$@"
"""


class RpmDistro(Struct, frozen=True, kw_only=True):
    """Where it lies."""

    repository: Path
    """The signed packages with their index."""
    key: Path
    """The public key they are signed with."""
    other_key: Path
    """Somebody else's."""
    broken: Path
    """A repository with `unsigned`, which carries no signature, and `foreign`, signed by somebody else."""


def rpm_distro() -> RpmDistro:
    """The distribution; made on the first call of a machine, in about a minute, by real rpmbuild."""
    return _cached("rpm-distro", _make_distro)


def small_repository() -> RpmDistro:
    """The same with tiny packages only, made in seconds: enough for everything but a boot."""
    return _cached("rpm-small", _make_small)


def write_distro_file(directory: Path) -> Path:
    """openEuler's own data with the stand-in's package lists, in `directory`; gives `directory`."""
    from hostplane.distros import BUILT_IN

    text = (BUILT_IN / "openeuler.toml").read_text(encoding="utf-8")
    head, _, rest = text.partition("base = [")
    text = f'{head}base = ["basesystem", "openssl", "python3", "openssh-server"]\n{rest.partition("]")[2].lstrip()}'
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "openeuler.toml").write_text(text, encoding="utf-8")
    return directory


def _cached(name: str, make: Callable[[Path], None]) -> RpmDistro:
    home = Path(os.environ.get("HOSTPLANE_TEST_CACHE") or Path.home() / ".cache/hostplane/tests")
    place = home / f"{name}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}"
    if not place.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=f"{name}.") as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            make(new)
            try:
                new.rename(place)
            except OSError:  # another test run was first
                if not place.exists():
                    raise
        for old in home.glob(f"{name}-*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)
    return RpmDistro(
        repository=place / "repo", key=place / "key.asc", other_key=place / "other.asc", broken=place / "broken"
    )


def _call(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=900,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} failed: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


class _Builder:
    """rpmbuild, gpg and createrepo_c over one new directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.work = place.parent / "work"
        self.repository, self.broken = place / "repo", place / "broken"
        for path in (self.repository, self.broken, self.work):
            path.mkdir()

    def package(
        self, name: str, version: str = "1.0", release: str = "1", *, files: str = "", root: Path | None = None,
        head: Iterable[str] = (), scripts: str = "", into: Path | None = None, arch: str = "x86_64",
    ) -> Path:  # fmt: skip
        """Build one package from `files` of `root`; gives the RPM's path."""
        spec = self.work / f"{name}-{version}.spec"
        (self.work / f"{name}.files").write_text(files, encoding="utf-8")
        lines = [
            f"Name: {name}", f"Version: {version}", f"Release: {release}", f"Summary: {name} of the stand-in",
            "License: MIT", "Vendor: Hostplane tests", f"URL: https://example.org/{name}", "AutoReqProv: no",
            *([f"BuildArch: {arch}"] if arch == "noarch" else []), *head,
            "%description", f"{name}.", f"%files -f {self.work}/{name}.files", scripts,
        ]  # fmt: skip
        spec.write_text("\n".join(lines), encoding="utf-8")
        empty = self.work / "empty"
        empty.mkdir(exist_ok=True)
        _call(
            "rpmbuild", "-bb", "--quiet", "--target", arch, "--buildroot", root or empty, "--noclean", "--nodebuginfo",
            "-D", f"_topdir {self.work}/top", "-D", f"_rpmdir {self.work}/rpms", "-D", "__os_install_post %{nil}",
            "-D", "_binary_payload w1.zstdio", "-D", "_build_id_links none", "-D", "__spec_install_pre %{nil}",
            "-D", "__spec_clean_body %{nil}", "-D", "use_source_date_epoch_as_buildtime 1", "-D", "_buildhost test",
            "-D", "_unpackaged_files_terminate_build 0", "-D", "__check_files %{nil}", spec,
            env={"SOURCE_DATE_EPOCH": str(EPOCH), "HOME": str(self.work)},
        )  # fmt: skip
        built = self.work / "rpms" / arch / f"{name}-{version}-{release}.{arch}.rpm"
        return Path(shutil.move(built, (into or self.repository) / built.name))

    def key(self, name: str) -> tuple[Path, str]:
        """A throw-away signing key: the gpg home it lies in, and its public half in `place`."""
        home = Path(tempfile.mkdtemp(prefix="hp-gpg-"))  # short: the agent's socket lies in it
        _call(
            "gpg", "--homedir", home, "--batch", "--passphrase", "", "--quick-gen-key", name, "rsa2048", "sign", "never"
        )
        public = _call("gpg", "--homedir", home, "--armor", "--export", name)
        (self.place / f"{name}.asc").write_text(public, encoding="utf-8")
        return home, name

    def sign(self, packages: Iterable[Path], key: tuple[Path, str]) -> None:
        """Sign `packages` in place."""
        paths = list(packages)
        _call(
            "rpmsign", "--addsign", "-D", f"__gpg {shutil.which('gpg')}",
            "-D", f"_gpg_name {key[1]}", "-D", f"_gpg_path {key[0]}", *paths,
            env={"GNUPGHOME": str(key[0])},
        )  # fmt: skip

    def finish(self) -> None:
        """Sign, index, and leave no agent of gpg behind."""
        mine, other = self.key("key"), self.key("other")
        try:
            self.sign(sorted(self.repository.glob("*.rpm")), mine)
            self.sign(sorted(self.broken.glob("foreign-*.rpm")), other)
        finally:
            for home, _ in (mine, other):
                subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
                shutil.rmtree(home, ignore_errors=True)
        for path in (self.repository, self.broken):
            _call("createrepo_c", "--quiet", "--revision", str(EPOCH), "--set-timestamp-to-revision", path)


def _extras(builder: _Builder) -> None:
    """Packages that a test asks for, refuses, or expects to be left out."""
    tree = builder.work / "extras"
    for path in ("usr/share/hello/one", "usr/share/hello/two", "usr/share/weak/file", "usr/bin/dnf"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(f"{path}\n", encoding="utf-8")
    hello = '%attr(0644,root,root) "/usr/share/hello/one"\n'
    builder.package("hello", "1.0", root=tree, files=hello, arch="noarch")
    builder.package("hello", "2.0", root=tree, files=hello, arch="noarch", head=["Recommends: weak", "Epoch: 1"])
    builder.package("weak", root=tree, files='"/usr/share/weak/file"\n', arch="noarch")
    builder.package("dnf", root=tree, files='%attr(0755,root,root) "/usr/bin/dnf"\n', arch="noarch")
    two = '%caps(cap_net_raw=ep) %attr(0755,root,root) "/usr/share/hello/two"\n'
    builder.package("capable", root=tree, files=two)
    for name in ("unsigned", "foreign"):
        builder.package(name, root=tree, files='"/usr/share/hello/one"\n', into=builder.broken, arch="noarch")
    forgetful = tree / "usr/bin/rpm-forgetful"
    forgetful.write_text(_FORGETFUL, encoding="utf-8")
    swap = "%posttrans\nmv /usr/bin/rpm /usr/bin/rpm-real\nmv /usr/bin/rpm-forgetful /usr/bin/rpm\n"
    line = '%attr(0755,root,root) "/usr/bin/rpm-forgetful"\n'
    builder.package("old-rpm", root=tree, files=line, arch="noarch", scripts=swap, head=["Requires: basesystem"])
    builder.package("needy", root=tree, files='"/usr/share/hello/one"\n', arch="noarch", head=["Requires: absent"])
    failing = "%pre\nexit 3\n"
    builder.package("impatient", root=tree, files='"/usr/share/hello/one"\n', arch="noarch", scripts=failing)


def _make_small(place: Path) -> None:
    builder = _Builder(place)
    tree = builder.work / "root"
    for directory in (
        *_EMPTY,
        "root",
        "etc",
        "usr/bin",
        "usr/lib",
        "usr/sbin",
        "var/lib",
        "boot",
        "usr/lib/modules/5.10.0-stand-in",
    ):
        (tree / directory).mkdir(parents=True, exist_ok=True)
    for link in ("bin", "sbin", "lib"):
        (tree / link).symlink_to(f"usr/{link}")
    (tree / "usr/lib/os-release").write_text(_OS_RELEASE, encoding="utf-8")
    (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="utf-8")
    (tree / "etc/group").write_text("root:x:0:\n", encoding="utf-8")
    shutil.copy2("/bin/busybox", tree / "usr/bin/busybox")
    for name in ("sh", "cat", "mkdir", "touch", "test", "["):
        (tree / "usr/bin" / name).symlink_to("busybox")
    dracut = tree / "usr/bin/dracut"
    dracut.write_text('#!/bin/sh\ntouch "$2"\n', encoding="utf-8")
    dracut.chmod(0o755)
    (tree / "usr/lib/modules/5.10.0-stand-in/vmlinuz").write_bytes(b"kernel")
    _split(builder, tree, "5.10.0")


def _make_distro(place: Path) -> None:
    builder = _Builder(place)
    tree = builder.work / "root"
    sources = builder.work / "sources"
    found = machine_sources("debian", _SUITE)
    sources.write_text(render(found), encoding="utf-8")
    skip = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
    origin = [sources] if found else []
    _call("mmdebstrap", "--variant=minbase", "--mode=root", *skip, f"--include={_DEBS}", _SUITE, tree, *origin)
    for tool in list((tree / "usr/bin").glob("grub-*")) + list((tree / "usr/sbin").glob("grub-*")):
        tool.with_name(tool.name.replace("grub-", "grub2-", 1)).symlink_to(tool.name)
    vendor = tree / "boot/efi/EFI/openEuler"
    (tree / "boot/efi/EFI/BOOT").mkdir(parents=True)
    vendor.mkdir()
    shutil.copy(tree / "usr/lib/shim/shimx64.efi.signed", vendor / "shimx64.efi")
    shutil.copy(tree / "usr/lib/shim/shimx64.efi.signed", tree / "boot/efi/EFI/BOOT/BOOTX64.EFI")
    modules = (
        "normal configfile part_gpt part_msdos ext2 fat linux loadenv test echo search search_label search_fs_uuid"
    )
    _call(
        "grub-mkimage", "-O", "x86_64-efi", "-d", tree / "usr/lib/grub/x86_64-efi", "-p", "/EFI/openEuler",
        "-o", vendor / "grubx64.efi", *f"{modules} boot reboot halt sleep minicmd serial terminal all_video".split(),
    )  # fmt: skip
    shutil.rmtree(tree / "usr/lib/shim")
    (tree / "etc/os-release").unlink()
    (tree / "usr/lib/os-release").unlink()
    (tree / "usr/lib/os-release").write_text(_OS_RELEASE, encoding="utf-8")
    (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    (tree / "etc/issue").write_text("\\S\n\n", encoding="utf-8")
    (tree / "etc/motd").write_text("", encoding="utf-8")
    (tree / "etc/rpm").mkdir(exist_ok=True)
    (tree / "etc/rpm/macros.stand-in").write_text("%_dbpath /var/lib/rpm\n", encoding="utf-8")  # as every RPM target
    kernel = _kernel_name(tree)
    _split(builder, tree, kernel.partition("-")[0])


def _split(builder: _Builder, tree: Path, kernel: str) -> None:
    """Every path of `tree` goes into one package."""
    owners: dict[str, list[str]] = {}
    names = _names(tree)
    for path, line in _lines(tree, names):
        owners.setdefault(_owner(path), []).append(line)
    release = "mkdir -p /boot\n[ ! -x /usr/bin/dracut ] || dracut -f /boot/initramfs-stand-in.img"
    scripts = {"kernel": f"%posttrans\n{release} {_kernel_name(tree)}\n"}
    head = {
        "basesystem": ["Requires: setup", "Provides: bash coreutils /bin/sh"],
        "setup": ["Requires: filesystem"],
        "openEuler-release": ["Provides: system-release"],
        "python3": ["Provides: python3-libs"],
        "kernel": ["Requires(posttrans): bash"],
    }
    versions = {"kernel": (kernel, "1.oe2203"), "openEuler-release": ("22.03LTS_SP3", "1")}
    for name in sorted({*owners, *_NAMES}):
        version, number = versions.get(name, ("1.0", "1"))
        files = "\n".join(owners.get(name, [])) + "\n"
        builder.package(
            name, version, number, root=tree, files=files, head=head.get(name, ()), scripts=scripts.get(name, "")
        )
    _extras(builder)
    builder.finish()


def _owner(path: str) -> str:
    table = {
        "kernel": _KERNEL, "grub2-pc-modules": _GRUB_PC, "grub2-efi-x64-modules": _GRUB_EFI, "shim": _SHIM,
        "setup": _SETUP, "python3": _PYTHON, "dracut": _DRACUT,
        "openEuler-release": ("etc/os-release", "usr/lib/os-rel"),
    }  # fmt: skip
    found = next((name for name, heads in table.items() if path.startswith(heads)), None)
    if found:
        return found
    return "filesystem" if path.count("/") < 2 and "." not in path else "basesystem"


def _kernel_name(tree: Path) -> str:
    return next((tree / "usr/lib/modules").iterdir()).name


def _names(tree: Path) -> dict[str, dict[int, str]]:
    """uid and gid to name, as the tree itself has them."""
    found: dict[str, dict[int, str]] = {}
    for kind in ("passwd", "group"):
        rows = [line.split(":") for line in (tree / "etc" / kind).read_text(encoding="utf-8").splitlines()]
        found[kind] = {int(row[2]): row[0] for row in rows if len(row) > 2}
    return found


def _lines(tree: Path, names: dict[str, dict[int, str]]) -> Iterator[tuple[str, str]]:
    """(path, its line of the file list) for all that is packaged."""
    for here, directories, files in os.walk(tree):
        inner = Path(here).relative_to(tree)
        for name in sorted([*directories, *files]):
            path = str(inner / name)
            status = (Path(here) / name).lstat()
            if path not in _EMPTY and (_is_left_out(path) or _is_device(status.st_mode)):
                continue
            user, group = names["passwd"].get(status.st_uid, "root"), names["group"].get(status.st_gid, "root")
            mode = "-" if stat.S_ISLNK(status.st_mode) else f"{stat.S_IMODE(status.st_mode):04o}"
            kind = "%dir " if stat.S_ISDIR(status.st_mode) else ""
            yield path, f'{kind}%attr({mode},{user},{group}) "/{path.replace("%", "%%")}"'
        directories[:] = sorted(
            d for d in directories if str(inner / d) not in _EMPTY and not _is_left_out(str(inner / d))
        )


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _is_left_out(path: str) -> bool:
    if path.startswith("etc/") and path.endswith("-"):  # passwd- and the like: back-ups
        return True
    return path.startswith(_LEFT_OUT) and not path.startswith(("etc/os-release", "usr/lib/os-release"))
