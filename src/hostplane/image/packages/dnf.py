"""dnf over a root of its own choosing, with nothing of the building machine's configuration mixed in.

Configuration, credentials, keys and the cache in use lie in a private scratch directory (0600 where a password is in
it), so that two builds never wait for each other and no secret can reach a root, a log or a key. A transaction is two
calls: one that may use the network resolves, downloads and verifies signatures; one without the network installs the
very same from the cache, so that a package's scripts never see the network. What was downloaded goes back to the
shared cache by rename. Refused: a package without a good signature (unless the repository's check was switched off), a
repository that cannot be read, and a package that is not in the lock where there is one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hostplane.distros.profile import Profile
from hostplane.errors import ImageError, RecipeError
from hostplane.image.backends import Lock, Locked
from hostplane.image.packages import rpmkeys
from hostplane.image.recipe import Recipe, Repository
from hostplane.image.stage import Run

__all__ = ["DATABASE", "Dnf", "address", "repositories", "sha256"]

DATABASE = "usr/lib/sysimage/rpm"
"""Where a root's package database lies: not in /var, which all slots share; /var/lib/rpm is a link to it."""

_MACROS = f"""%_dbpath /{DATABASE}
%_db_backend sqlite
%_var /var
%_rpmlock_path /{DATABASE}/.rpm.lock
%_netsharedpath %{{nil}}
%_pkgverify_level digest
%_install_script_path /sbin:/bin:/usr/sbin:/usr/bin
"""
_PLANNED = re.compile(r"---> Package (\S+)\.(\S+) (\S+) will be (?:installed|an upgrade|reinstalled)")
_SAYS: tuple[tuple[str, str], ...] = (
    (r"Package (?P<package>\S+) is not signed", "PackageUnsigned"),
    (r"Public key for (?P<package>\S+) is not installed", "PackageSignatureWrong"),
    (r"GPG check FAILED|Failing package is: (?P<package>\S+)", "PackageSignatureWrong"),
    (r"(?:Unable to find a match:|No match for argument:) (?P<packages>.+)", "PackagesUnknown"),
    (r"(?P<problem>nothing provides .+)", "PackagesConflict"),
    (r"(?P<problem>(?:package \S+ )?conflicts with .+|cannot install .+ of .+)", "PackagesConflict"),
    (r"Failed to download metadata for repo '(?P<repository>[^']+)'(?:: (?P<why>.+))?", "RepositoryUnreachable"),
    (r"Error in (?P<script>\S+) scriptlet in rpm package (?P<package>\S+)", "PackageScriptFailed"),
)


def repositories(recipe: Recipe, profile: Profile) -> list[Repository]:
    """The recipe's repositories, else the distribution's public ones."""
    if recipe.packages.repositories:
        return list(recipe.packages.repositories)
    return [Repository(**each) for each in profile.repositories]  # type: ignore[arg-type]  # written in its words


def address(url: str, profile: Profile) -> str:
    """A repository's address with $release, $arch and $codename filled in; a path becomes file://."""
    words = {"$release": profile.release, "$arch": profile.arch, "$codename": profile.codename}
    for word, value in words.items():
        url = url.replace(word, value)
    return f"file://{url}" if url.startswith("/") else url


class Dnf:
    """dnf with its own configuration over the repositories of one recipe."""

    def __init__(
        self,
        recipe: Recipe,
        profile: Profile,
        repos: Sequence[Repository],
        *,
        cache: Path,
        scratch: Path,
        run: Run,
        locked: Lock | None = None,
    ) -> None:
        """`scratch` is private and exists; `cache` is shared by all builds.

        Raises:
            RecipeError: RepositoryPasswordUnset, RpmKeyUnset.
            ImageError: RpmKeyUnreachable.
        """
        self._home = scratch / "dnf"
        self._run = run
        self._locked = locked
        self._profile = profile
        self._is_offline = all(address(each.url, profile).startswith("file:") for each in repos)
        where = "\n".join([profile.release, profile.arch, *(f"{e.name} {address(e.url, profile)}" for e in repos)])
        self._shared = cache / "rpm" / hashlib.sha256(where.encode()).hexdigest()[:24]
        for name in ("cache", "etc", "keys", "log", "vars"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        (self._home / ".rpmmacros").write_text(_MACROS, encoding="utf-8")
        self._repos = list(repos)
        self._keys = {each.name: rpmkeys.collect(each, profile, self._home / "keys") for each in repos}
        only = [_spec(p.name, p.version, p.arch) for p in locked.packages] if locked else []
        text = [self._main(recipe), *(self._repository(each, only) for each in repos)]
        config = self._home / "etc/dnf.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join(text), encoding="utf-8")
        try:
            shutil.copytree(self._shared, self._home / "cache", dirs_exist_ok=True)
        except (OSError, shutil.Error):  # nothing there yet, or another build has just swapped it for its own
            shutil.rmtree(self._home / "cache")
            (self._home / "cache").mkdir()

    def install(self, root: Path, names: Sequence[str]) -> None:
        """Resolve, download, verify and install `names` and what they need into `root`; safe to repeat.

        Raises:
            ImageError: PackagesUnknown, PackagesConflict, PackageUnsigned, PackageSignatureWrong,
                RepositoryUnreachable, PackageScriptFailed, LockedPackageUnknown, LockedHashWrong, ToolFailed.
        """
        files = self.download(root, names)
        if self._locked:
            _hold_to(self._locked, files)
        self._call(root, "--cacheonly", "install", *names)

    def download(self, root: Path, names: Sequence[str]) -> dict[Locked, Path]:
        """Fetch and verify what `names` need beside what `root` has: those packages and their files.

        Raises: as `install`.
        """
        (self._home / "log/dnf.log").unlink(missing_ok=True)
        self._call(root, "install", "--downloadonly", *names, network=not self._is_offline)
        self._keep()
        planned = self._planned()
        files = {path.name: path for path in self.files()}
        missing = [each for each in planned if _file_name(each) not in files]
        if missing:
            raise ImageError("PackageFileMissing", package=_file_name(missing[0]))
        return {each: files[_file_name(each)] for each in planned}

    def newest(self, files: Iterable[Path]) -> int:
        """Seconds: when the newest of these package files was built; 0 for none."""
        paths = [str(path) for path in files]
        said = self._run(["rpm", "-qp", "--nosignature", "--qf", "%{BUILDTIME}\n", *paths], env=self.environment())
        return max((int(line) for line in said.split()), default=0)

    def resolve(self, root: Path, names: Sequence[str]) -> list[Locked]:
        """What `names` would bring beside what `root` has; fetches indexes, no packages.

        Raises: as `install`.
        """
        (self._home / "log/dnf.log").unlink(missing_ok=True)
        try:
            self._call(root, "install", "--assumeno", *names, network=not self._is_offline)
        except ImageError as error:
            if error.name != "ToolFailed" or _ABORTED not in _last_words(Path(str(error.reason.params.get("log")))):
                raise
        return self._planned()

    def known(self, root: Path, names: Sequence[str]) -> dict[str, bool]:
        """Whether a repository has a package of each name, or one that stands for it.

        Raises:
            ImageError: RepositoryUnreachable, ToolFailed.
        """
        named = set(self._query(root, *names)) if names else set()
        return {name: name in named or bool(self._query(root, "--whatprovides", name)) for name in names}

    def _query(self, root: Path, *words: str) -> list[str]:
        argv = ["repoquery", "--quiet", "--available", "--qf", "%{name}", *words]
        return self._call(root, *argv, network=not self._is_offline).split()

    def metadata(self) -> dict[str, str]:
        """SHA-256 of each repository's repomd.xml as fetched, by repository name."""
        found = {}
        for path in sorted((self._home / "cache").glob("*/repodata/repomd.xml")):
            found[path.parent.parent.name.rpartition("-")[0]] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def files(self) -> list[Path]:
        """Every package file at hand: downloaded by this build or an earlier one, or in a local repository."""
        found = sorted((self._home / "cache").glob("*/packages/*.rpm"))
        for each in self._repos:
            scheme, _, path = address(each.url, self._profile).partition("://")
            if scheme == "file":
                found += sorted(Path(path).rglob("*.rpm"))
        return found

    def _planned(self) -> list[Locked]:
        """What dnf resolved to, from its own log: the table that it prints is cut to the terminal's width."""
        log = (self._home / "log/dnf.log").read_text(encoding="utf-8", errors="replace")
        found = sorted(set(_PLANNED.findall(log)))
        return [Locked(name=name, version=version, arch=arch) for name, arch, version in found]

    def leave_repositories(self, root: Path) -> None:
        """Tell the manager that stays in `root` where its packages come from: no secret, no path of this machine."""
        keys = root / "etc/pki/rpm-gpg"
        lines = []
        for each in self._repos:
            url = address(each.url, self._profile)
            if url.startswith("file:"):
                continue
            lines += [f"[{each.name}]", f"name={each.name}", f"baseurl={url}", f"gpgcheck={int(each.check_signatures)}"]
            for number, path in enumerate(self._keys[each.name]):
                inner = keys / f"RPM-GPG-KEY-{each.name}-{number}"
                inner.parent.mkdir(parents=True, exist_ok=True)
                inner.write_bytes(path.read_bytes())
                lines.append(f"gpgkey=file:///{inner.relative_to(root)}")
            lines.append("")
        if lines:
            place = root / "etc/yum.repos.d/image.repo"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("\n".join(lines), encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """What makes rpm use this configuration and no other."""
        return {"HOME": str(self._home), "XDG_CONFIG_HOME": str(self._home), "XDG_CACHE_HOME": str(self._home)}

    def _call(self, root: Path, *words: str, network: bool = False) -> str:
        home = self._home
        argv = [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--"]  # dnf wants to be root, also to look
        argv += [_program(), "--assumeyes", f"--config={home}/etc/dnf.conf", f"--installroot={root}"]
        argv += [f"--releasever={self._profile.release}", "--noplugins"]
        if self._profile.arch != platform.machine():
            argv.append(f"--forcearch={self._profile.arch}")
        argv += [f"--setopt={name}={_UP}{home}/{directory}" for name, directory in _PLACES]
        try:
            return self._run([*argv, *words], network=network, env=self.environment(), timeout=7200).decode()
        except ImageError as error:
            if error.name != "ToolFailed":
                raise
            raise _sentence(error) from error

    def _main(self, recipe: Recipe) -> str:
        lines = ["[main]", "assumeyes=1", "best=1", "install_weak_deps=0", "gpgcheck=1", "localpkg_gpgcheck=1"]
        lines += ["keepcache=1", "metadata_expire=3600", "skip_if_unavailable=0", "timeout=60", "retries=4"]
        lines += [
            "obsoletes=1",
            "clean_requirements_on_remove=0",
            "diskspacecheck=0",
            "color=never",
            "protected_packages=",
        ]
        if recipe.slim.documentation:
            lines.append("tsflags=nodocs")
        if self._profile.platform:
            lines.append(f"module_platform_id={self._profile.platform}")
        left_out = set(recipe.packages.exclude)
        if not recipe.packages.keep_manager:
            left_out |= set(self._profile.manager_packages) - set(recipe.packages.include)
        lines.append(f"excludepkgs={','.join(sorted(left_out))}")
        return "\n".join([*lines, ""])

    def _repository(self, each: Repository, only: Sequence[str]) -> str:
        facts: dict[str, object] = {
            "name": each.name,
            "baseurl": address(each.url, self._profile),
            "enabled": 1,
            "gpgcheck": int(each.check_signatures),
            "gpgkey": " ".join(f"file://{path}" for path in self._keys[each.name]),
            "sslverify": 1,
            "sslcacert": each.ca,
            "sslclientcert": each.client_certificate,
            "sslclientkey": each.client_key,
            "username": each.username,
            "password": _password(each),
            "proxy": each.proxy,
            "priority": each.priority,
            "includepkgs": ",".join(only),
            "metadata_expire": 1 if address(each.url, self._profile).startswith("file:") else None,
        }
        said = [f"{name}={value}" for name, value in facts.items() if value is not None and value != ""]
        return "\n".join([f"[{each.name}]", *said, ""])

    def _keep(self) -> None:
        """Put what was fetched into the shared cache: a new directory of links, swapped in by rename."""
        new = self._shared.with_name(f"{self._shared.name}.{secrets.token_hex(4)}")  # every worker is process 1
        new.parent.mkdir(parents=True, exist_ok=True)
        skip = shutil.ignore_patterns("*.pid", "*.lock", "tempfiles.json", "*.tmp")
        shutil.copytree(self._home / "cache", new, copy_function=_link, ignore=skip)
        old = new.with_name(f"{new.name}.old")
        with suppress(FileNotFoundError):
            self._shared.rename(old)
        try:
            new.rename(self._shared)
        except OSError:  # another build was first; what it fetched is as good
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


_LOG_BYTES = 256 << 10
_ABORTED = "Operation aborted"
_UP = "/.." * 64
"""dnf puts some of its directories below the root whatever one says; from there this leads out again."""
_PLACES = (
    ("cachedir", "cache"),
    ("logdir", "log"),
    ("varsdir", "vars"),
    ("reposdir", "vars"),
    ("pluginconfpath", "vars"),
)


def _program() -> str:
    """dnf 4, also where `dnf` itself has become dnf 5: that one writes no log to read a solution from."""
    return next((name for name in ("dnf4", "dnf-3") if shutil.which(name)), "dnf")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hold_to(locked: Lock, files: Mapping[Locked, Path]) -> None:
    """Refuse a solution that is not the lock's, before anything of it is installed."""
    known = {(each.name, each.version, each.arch): each for each in locked.packages}
    for package, path in files.items():
        want = known.get((package.name, package.version, package.arch))
        if want is None:
            raise ImageError("LockedPackageUnknown", package=package.name, version=package.version)
        got = sha256(path)
        if want.sha256 and want.sha256 != got:
            raise ImageError("LockedHashWrong", package=package.name, got=got, want=want.sha256)


def _file_name(package: Locked) -> str:
    return f"{package.name}-{package.version.rpartition(':')[2]}.{package.arch}.rpm"


def _spec(name: str, version: str, arch: str) -> str:
    return f"{name}-{version}.{arch}"


def _password(each: Repository) -> str | None:
    if each.password_env is None:
        return None
    value = os.environ.get(each.password_env, "").rstrip("\n")
    if not value or "\n" in value:
        raise RecipeError("RepositoryPasswordUnset", repository=each.name, variable=each.password_env)
    return value


def _sentence(error: ImageError) -> ImageError:
    """The failure as one sentence, where dnf's words say which it is."""
    said = _last_words(Path(str(error.reason.params.get("log"))))
    for pattern, name in _SAYS:
        match = re.search(pattern, said)
        if match:
            return _named(name, {key: value or "?" for key, value in match.groupdict().items()}, error)
    return error


def _last_words(log: Path) -> str:
    """What the last program said: the log from its command on; the reason may stand well before the end."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _LOG_BYTES))
            return stream.read().decode("utf-8", "replace").rpartition("\n$ ")[2]
    except OSError:
        return ""


def _named(name: str, said: dict[str, str], error: ImageError) -> ImageError:
    log = error.reason.params.get("log")
    match name:
        case "PackageUnsigned":
            return ImageError("PackageUnsigned", package=said["package"])
        case "PackageSignatureWrong":
            return ImageError("PackageSignatureWrong", package=said["package"])
        case "PackagesUnknown":
            return ImageError("PackagesUnknown", packages=said["packages"])
        case "PackagesConflict":
            return ImageError("PackagesConflict", problem=said["problem"], log=log)
        case "RepositoryUnreachable":
            return ImageError("RepositoryUnreachable", repository=said["repository"], why=said["why"], log=log)
    return ImageError("PackageScriptFailed", script=said["script"], package=said["package"], log=log)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
