"""Roots of deb packages: mmdebstrap makes the smallest one that has apt, apt fills it from outside.

Both take their packages from one solution that is verified and fetched before anything of it runs (`image/apt.py`), so
that a lock, an excluded package and a wrong digest stop the build early. mmdebstrap sees only a folder of those very
files; nothing of the network, of credentials or of the machine's apt reaches the root. Installing never makes an
initramfs, never starts a service and never waits for a disk: a half-written root is thrown away anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from hostplane.distros.profile import Profile
from hostplane.errors import ImageError
from hostplane.image.backends import Lock, Locked, Package, wanted
from hostplane.image.building.mounts import MS_BIND, api_mounts, mount, umount
from hostplane.image.packages import debdb
from hostplane.image.packages import lock as locks
from hostplane.image.packages.apt import Apt, Archive, repositories
from hostplane.image.packages.dpkg import normalise, quiet
from hostplane.image.packages.sources import machine_sources, render
from hostplane.image.recipe import Recipe, Repository
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Inputs, Run, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SOURCES", "bootstrap", "inputs_bootstrap", "inputs_packages", "installed", "lock", "packages"]

_NOTHING = Path("/dev/null")
_FAST = "--force-unsafe-io"
SOURCES = "/etc/apt/sources.list.d/image.sources"
"""What the image's own apt would ask, where it stays."""
_KEYS = "/etc/apt/keyrings"


def inputs_bootstrap(recipe: Recipe, profile: Profile) -> Inputs:
    """The release, where it comes from, and the lock."""
    machine = [source.public() for source in machine_sources(profile.id, profile.codename)]
    repos = repositories(recipe, profile)
    return {
        "distro": [profile.id, profile.codename, profile.deb_arch],
        "repositories": [_identity(each) for each in repos] if repos else render(machine),
        "lock": locks.digest(recipe.packages.lock),
        "exclude": sorted(recipe.packages.exclude),
    }


def _identity(each: Repository) -> dict[str, object]:
    """What of a repository decides what comes out of it: not how it is reached."""
    kept = ("url", "suites", "components", "check_signatures", "priority")
    facts: dict[str, object] = {name: value for name, value in asdict(each).items() if name in kept}
    facts["key"] = locks.digest(each.key)
    return facts


def inputs_packages(recipe: Recipe, profile: Profile) -> Inputs:
    """The packages by name; versions come from the lock, or from the day."""
    return {"packages": wanted(recipe, profile), "manager": recipe.packages.keep_manager}


def bootstrap(work: Work) -> None:
    """Essential packages and apt into the empty `work.root`.

    Raises:
        ImageError: LockedVersionGone, LockedHashWrong, LockedPackageUnknown, ArchiveHashWrong, ToolFailed.
        RecipeError: a key or a password is missing.
    """
    apt, locked = _apt(work)
    archives = _solve(apt, locked, "dist-upgrade", status=_NOTHING)
    work.progress(0.2, f"{len(archives)} packages")
    apt.fetch(archives, "dist-upgrade", status=_NOTHING)
    _index(apt, archives)
    work.progress(0.3, "mmdebstrap")
    command = ["mmdebstrap", "--mode=root", "--format=directory", "--variant=apt", "--skip=check/signed-by"]
    command += [f"--architectures={work.profile.deb_arch}", f"--dpkgopt={_FAST[2:]}"]
    command += ['--aptopt=APT::Sandbox::User "root"', work.profile.codename, str(work.root)]
    command += [f"deb [trusted=yes] copy:{apt.farm} ./"]
    work.run(command, env={**_environment(work), "TMPDIR": str(work.scratch)}, timeout=3600)
    for name in ("etc/resolv.conf", "etc/hostname", "etc/apt/sources.list", "etc/fstab"):
        (work.root / name).unlink(missing_ok=True)
    for path in (*work.root.glob("etc/apt/sources.list.d/*"), *work.root.glob("etc/*/*.d/99mmdebstrap")):
        path.unlink()
    normalise(work.root, work.epoch)


def packages(work: Work) -> None:
    """The recipe's packages into the bootstrapped `work.root`, and newer ones for those that are there.

    Raises: as `bootstrap`.
    """
    apt, locked = _apt(work)
    status = work.root / "var/lib/dpkg/status"
    words = ["dist-upgrade", *wanted(work.recipe, work.profile)]
    archives = _solve(apt, locked, *words, status=status)
    try:
        apt.fetch(archives, *words, status=status)
    except ImageError as error:
        if locked or error.name != "ToolFailed":
            raise
        work.log("the archive has moved on since its index was fetched; trying again with a new one")
        apt.update(force=True)
        archives = _solve(apt, locked, *words, status=status)
        apt.fetch(archives, *words, status=status)
    work.progress(0.2, f"{len(archives)} packages")
    with api_mounts(work.root), quiet(work.root), _bound(apt.farm, work.root / "var/cache/apt/archives") as inner:
        options = [f"DPkg::Chroot-Directory={work.root}", f"Dir::Cache::archives={inner}/"]
        options += [f"DPkg::Options::={word}" for word in (_FAST, "--force-confold")]
        apt.call("--yes", "--no-download", *words, status=status, options=options, env=_environment(work))
    normalise(work.root, work.epoch)
    _leave_sources(apt, work.root)


def lock(recipe: Recipe, profile: Profile, *, cache: Path, scratch: Path, run: Run) -> Lock:
    """Exact versions and digests of all that a build would install now; an older lock is not looked at.

    Raises: as `bootstrap`.
    """
    apt = Apt(recipe, profile, cache=cache, scratch=scratch, run=run, log=_ignore)
    apt.update(force=True)
    base = apt.solve("dist-upgrade", status=_NOTHING)
    status = scratch / "status"
    stanzas = [f"{stanza}\nStatus: install ok installed\n" for stanza in apt.stanzas(base)]
    status.write_text("\n".join(stanzas), encoding="utf-8")
    archives = {(a.name, a.arch): a for a in base}
    archives |= {(a.name, a.arch): a for a in apt.solve("dist-upgrade", *wanted(recipe, profile), status=status)}
    return Lock(
        distro=profile.id,
        release=profile.release,
        arch=profile.arch,
        backend="deb",
        epoch=apt.epoch(),
        packages=tuple(
            Locked(name=a.name, version=a.version, arch=a.arch, sha256=a.sha256) for _, a in sorted(archives.items())
        ),
    )


def installed(root: Path) -> Sequence[Package]:
    """The packages of `root`, sorted by name."""
    return debdb.installed(root)


def _ignore(text: str) -> None:
    return


def _apt(work: Work) -> tuple[Apt, Lock | None]:
    locked = locks.read(Path(work.recipe.packages.lock)) if work.recipe.packages.lock else None
    apt = Apt(work.recipe, work.profile, cache=work.cache, scratch=work.scratch, run=work.run, log=work.log)
    if locked:
        versions = {package.name: package.version for package in locked.packages}
        apt.prefer(work.recipe.packages.exclude, versions, repositories(work.recipe, work.profile))
    work.progress(0.0, "indexes")
    apt.update()
    return apt, locked


def _solve(apt: Apt, locked: Lock | None, *words: str, status: Path) -> list[Archive]:
    try:
        archives = apt.solve(*words, status=status)
    except ImageError as error:
        gone = apt.absent({p.name: p.version for p in locked.packages}) if locked else []
        if gone:
            raise ImageError("LockedVersionGone", packages=", ".join(gone[:8]), count=len(gone)) from error
        raise
    if locked:
        _hold_to(locked, archives)
    return archives


def _hold_to(locked: Lock, archives: Sequence[Archive]) -> None:
    """Refuse a solution that is not the lock's."""
    known = {(package.name, package.arch): package for package in locked.packages}
    for archive in archives:
        package = known.get((archive.name, archive.arch))
        if package is None or package.version != archive.version:
            raise ImageError("LockedPackageUnknown", package=archive.name, version=archive.version)
        if package.sha256 and package.sha256 != archive.sha256:
            raise ImageError("LockedHashWrong", package=archive.name, got=archive.sha256, want=package.sha256)


def _index(apt: Apt, archives: Sequence[Archive]) -> None:
    """Make the farm a flat archive of exactly these packages."""
    files = {archive.sha256: archive.file for archive in archives}
    text = []
    for stanza in apt.stanzas(archives):
        lines = stanza.splitlines()
        digest = next(line.removeprefix("SHA256: ") for line in lines if line.startswith("SHA256: "))
        lines = [f"Filename: ./{files[digest]}" if line.startswith("Filename: ") else line for line in lines]
        text.append("\n".join(lines) + "\n\n")
    (apt.farm / "Packages").write_text("".join(text), encoding="utf-8")


def _environment(work: Work) -> dict[str, str]:
    return {
        "SOURCE_DATE_EPOCH": str(work.epoch),
        "DEBIAN_FRONTEND": "noninteractive",
        "DEBCONF_NONINTERACTIVE_SEEN": "true",
    }


def _leave_sources(apt: Apt, root: Path) -> None:
    """Sources for the user's scripts, and for a manager that stays (slim removes them otherwise).

    Without passwords; with the keys that the image does not have itself.
    """
    left = []
    for source in (each.public() for each in apt.sources):
        key = Path(source.signed_by)
        if source.signed_by and key.is_file() and not within(root, source.signed_by).is_file():
            kept = within(root, f"{_KEYS}/{key.name}")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(key.read_bytes())
            source = replace(source, signed_by=f"{_KEYS}/{key.name}")
        left.append(source)
    within(root, SOURCES).write_text(render(left), encoding="utf-8")


@contextmanager
def _bound(source: Path, target: Path) -> Iterator[Path]:
    target.mkdir(parents=True, exist_ok=True)
    mount(str(source), target, "", MS_BIND)
    try:
        yield target
    finally:
        umount(target)
