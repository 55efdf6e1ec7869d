"""Roots of RPM packages: dnf fills them from outside, with a configuration of our own.

The first transaction installs what later scripts need (a shell, the accounts), the second everything but the kernel,
the third the kernel, while the program that makes an initramfs does nothing: the boot stage makes the one that counts.
The package database ends below /usr, read-only and the same bytes for the same packages; nothing of dnf's own stays
unless the recipe keeps the manager. The building machine's rpm writes the database; a target whose rpm reads another
kind gets it rewritten by its own rpm.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from msgspec.structs import asdict

from hostplane.distros.profile import Profile
from hostplane.errors import ImageError
from hostplane.image.backends import Lock, Locked, Package, wanted
from hostplane.image.building.mounts import MS_BIND, api_mounts, mount, umount
from hostplane.image.packages import lock as locks
from hostplane.image.packages import rpmdb, rpmkeys
from hostplane.image.packages.dnf import DATABASE, Dnf, address, repositories, sha256
from hostplane.image.recipe import Recipe, Repository
from hostplane.image.stage import Inputs, Run, Work

__all__ = [
    "bootstrap",
    "fill",
    "identity",
    "inputs_bootstrap",
    "inputs_packages",
    "installed",
    "lock",
    "lock_over",
    "packages",
]

_IDLE = ("usr/bin/dracut", "usr/sbin/dracut", "sbin/dracut")
_NO_OP = "#!/bin/sh\nexit 0\n"
_EMPTIED = ("etc/dnf/modules.d", "etc/dnf")
_LEFTOVERS = (
    "etc/*-",
    "etc/dnf/modules.d/*",
    "etc/ssh/ssh_host_*",
    "root/.rpmdb",
    "run/*",
    "tmp/*",
    "var/cache/dnf/*",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dnf",
    "var/lib/rpm.rpmmoved",
    "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed",
    "var/log/dnf*",
    "var/log/hawkey*",
    "var/tmp/*",
)


def inputs_bootstrap(recipe: Recipe, profile: Profile) -> Inputs:
    """The release, where it comes from, and the lock."""
    return {
        "distro": [profile.id, profile.release, profile.arch, profile.platform],
        "packages": list(profile.bootstrap_packages),
        "repositories": [identity(each, profile) for each in repositories(recipe, profile)],
        "lock": locks.digest(recipe.packages.lock),
        "exclude": sorted(recipe.packages.exclude),
        "documentation": not recipe.slim.documentation,
    }


def identity(each: Repository, profile: Profile) -> dict[str, object]:
    """What of a repository decides what comes out of it: not how it is reached."""
    kept = ("name", "url", "check_signatures", "priority")
    facts: dict[str, object] = {name: value for name, value in asdict(each).items() if name in kept}
    facts["key"] = rpmkeys.identity(each)
    index = Path(address(each.url, profile).removeprefix("file://")) / "repodata/repomd.xml"
    if index.is_file():
        facts["url"] = hashlib.sha256(index.read_bytes()).hexdigest()  # its content counts, not where it is mounted
    return facts


def inputs_packages(recipe: Recipe, profile: Profile) -> Inputs:
    """The packages by name; versions come from the lock, or from the day."""
    return {
        "packages": wanted(recipe, profile),
        "manager": list(profile.manager_packages) if recipe.packages.keep_manager else None,
    }


def bootstrap(work: Work) -> None:
    """The distribution's first packages into the empty `work.root`.

    Raises:
        ImageError: what `Dnf.install` says; RpmDatabaseMissing, RpmDatabaseUnreadable.
        RecipeError: a key or a password is missing.
    """
    fill(work, repositories(work.recipe, work.profile), first=True)


def packages(work: Work) -> None:
    """The recipe's packages into the bootstrapped `work.root`.

    Raises: as `bootstrap`; LockedPackageAbsent.
    """
    fill(work, repositories(work.recipe, work.profile), first=False)


def fill(work: Work, repos: Sequence[Repository], *, first: bool) -> None:
    """One of the two steps, over `repos`.

    Raises: as `bootstrap` and `packages`.
    """
    recipe, profile, root = work.recipe, work.profile, work.root
    locked = locks.read(Path(recipe.packages.lock)) if recipe.packages.lock else None
    dnf = Dnf(recipe, profile, repos, cache=work.cache, scratch=work.scratch, run=work.run, locked=locked)
    if first:
        _lay_out(root)
        with _early_mounts(root):
            work.progress(0.1, "first packages")
            dnf.install(root, profile.bootstrap_packages)
    else:
        kernel = [name for name in wanted(recipe, profile) if name in profile.kernel_packages]
        others = [name for name in wanted(recipe, profile) if name not in kernel]
        with api_mounts(root):
            work.progress(0.1, f"{len(others)} packages and what they need")
            if others:
                dnf.install(root, others)
            work.progress(0.8, "kernel")
            if kernel:
                with _idle(root, work.scratch):
                    dnf.install(root, kernel)
    if not first and not _own_rpm_reads(work):
        _rewrite(work, dnf)
        if not _own_rpm_reads(work):
            raise ImageError("RpmDatabaseForeign")
    rpmdb.seal(root, work.epoch)
    _tidy(root)
    if not first and recipe.packages.keep_manager:
        dnf.leave_repositories(root)


def lock(recipe: Recipe, profile: Profile, *, cache: Path, scratch: Path, run: Run) -> Lock:
    """Exact versions and digests of all that a build would install now; an older lock is not looked at.

    The packages are downloaded, since an index may name another digest than SHA-256; the build will need them anyway.

    Raises: as `packages`.
    """
    return lock_over(repositories(recipe, profile), recipe, profile, cache=cache, scratch=scratch, run=run)


def lock_over(
    repos: Sequence[Repository], recipe: Recipe, profile: Profile, *, cache: Path, scratch: Path, run: Run
) -> Lock:
    """The same over `repos`."""
    root = scratch / "root"
    _lay_out(root)
    dnf = Dnf(recipe, profile, repos, cache=cache, scratch=scratch, run=run)
    files = dnf.download(root, [*profile.bootstrap_packages, *wanted(recipe, profile)])
    found = [Locked(name=p.name, version=p.version, arch=p.arch, sha256=sha256(path)) for p, path in files.items()]
    return Lock(
        distro=profile.id,
        release=profile.release,
        arch=profile.arch,
        backend=str(recipe.packages.backend or profile.backend),
        epoch=dnf.newest(files.values()),
        packages=tuple(sorted(found, key=lambda each: (each.name, each.version, each.arch))),
    )


def installed(root: Path) -> Sequence[Package]:
    """The packages of `root`, sorted by name."""
    return rpmdb.installed(root)


def _lay_out(root: Path) -> None:
    """Where the database goes, before the first package: in /usr, with a link where every rpm looks for it."""
    (root / DATABASE).mkdir(parents=True, exist_ok=True)
    link = root / "var/lib/rpm"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() and not link.exists():
        link.symlink_to(os.path.relpath(root / DATABASE, link.parent))


@contextmanager
def _early_mounts(root: Path) -> Iterator[None]:
    """/dev and /run for the first scripts; /proc and /sys only as places, since a package sets their modes."""
    with ExitStack() as undo:
        for name in ("proc", "sys"):
            (root / name).mkdir(exist_ok=True)
            mount("none", root / name, "tmpfs", 0, "mode=0555")
            undo.callback(umount, root / name)
        undo.enter_context(api_mounts(root))
        yield


@contextmanager
def _idle(root: Path, scratch: Path) -> Iterator[None]:
    """The programs that make an initramfs do nothing, for as long as the block runs."""
    no_op = scratch / "no-op"
    no_op.write_text(_NO_OP, encoding="utf-8")
    no_op.chmod(0o755)
    with ExitStack() as undo:
        for name in _IDLE:
            target = root / name
            if target.is_file() and not target.is_symlink() and target.parent.resolve().is_relative_to(root.resolve()):
                mount(str(no_op), target, "", MS_BIND)
                undo.callback(umount, target)
        yield


def _own_rpm_reads(work: Work) -> bool:
    """Whether the rpm of the root itself finds every package; true where it has none."""
    if not (work.root / "usr/bin/rpm").exists():
        return True
    want = sorted(each.name for each in rpmdb.installed(work.root))
    try:
        said = work.run(["rpm", "--dbpath", f"/{DATABASE}", "-qa", "--qf", "%{NAME}\\n"], chroot=True)
    except ImageError as error:
        if error.name != "ToolFailed":
            raise
        return False
    return sorted(name for name in said.decode().split() if name != "gpg-pubkey") == want


def _rewrite(work: Work, dnf: Dnf) -> None:
    """Let the root's own rpm make the database in the kind it reads, from the headers of the same package files."""
    work.log("the image's own rpm does not read the database; it is rewritten by it")
    root, place = work.root, work.root / DATABASE
    names = {f"{each.name}-{each.version.rpartition(':')[2]}.{each.arch}.rpm" for each in rpmdb.installed(root)}
    files = {path.name: path for path in dnf.files() if path.name in names}
    if set(files) != names:
        raise ImageError("RpmDatabaseRewrite", packages=", ".join(sorted(names - set(files))[:5]))
    inner = root / "run/hostplane-rpms"
    with api_mounts(root):
        inner.mkdir()
        for name, path in files.items():
            (inner / name).touch()
            mount(str(path), inner / name, "", MS_BIND)
        shutil.rmtree(place)
        place.mkdir()
        argv = ["rpm", "--install", "--justdb", "--nodeps", "--noscripts", "--notriggers", "--nosignature", "--force"]
        inside = [f"/run/hostplane-rpms/{name}" for name in sorted(files)]
        work.run([*argv, "--dbpath", f"/{DATABASE}", *inside], chroot=True)
        for name in files:
            umount(inner / name)


def _tidy(root: Path) -> None:
    """No log, cache, back-up or moment of this build stays in the root."""
    for pattern in _LEFTOVERS:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for name in _EMPTIED:
        with suppress(OSError):  # not there, or a package's files are in it
            (root / name).rmdir()
    machine_id = root / "etc/machine-id"
    if machine_id.is_file() and not machine_id.is_symlink():
        machine_id.write_bytes(b"")
