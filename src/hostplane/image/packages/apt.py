"""apt over a root of its own choosing: indexes, solving and fetching, with nothing of the machine's own apt mixed in.

Configuration, credentials, indexes and package files live in a private scratch directory, so that two builds never wait
for each other and no secret can reach an image. Package files are kept once, by their SHA-256, below `Work.cache/deb`;
a file enters it by rename and is hashed again before every use. Nothing here installs: the backend does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from hostplane.distros.profile import Profile
from hostplane.errors import ImageError, RecipeError
from hostplane.image.packages.sources import Source, machine_sources, parse, render
from hostplane.image.recipe import Recipe, Repository
from hostplane.image.stage import Run

__all__ = ["Apt", "Archive", "archive_sources", "repositories"]

_FRESH_SECONDS = 3600
_LOWER_WINS = 599  # a repository of the usual priority, 99, has apt's usual 500
_KEYRINGS = Path("/usr/share/keyrings")
_PRINTED = re.compile(r"^'([^']+)' (\S+) (\d+) (\S*)$", re.MULTILINE)
_MACHINE_OPTIONS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Max-", "Acquire::ForceIP")


class Archive(Struct, frozen=True, kw_only=True):
    """One package file of a solution."""

    name: str
    version: str
    arch: str
    sha256: str
    size: int
    """Bytes of the file."""
    uri: str
    file: str
    """The name apt gives it: name_version_arch.deb, colons as %3a."""


class Apt:
    """apt-get with its own configuration, over the dpkg database it is told of."""

    def __init__(
        self, recipe: Recipe, profile: Profile, *, cache: Path, scratch: Path, run: Run, log: Callable[[str], None]
    ) -> None:
        """`scratch` is private and exists; `cache` is shared by all builds.

        Raises:
            RecipeError: RepositoryPasswordUnset, RepositoryKeyMissing, KeyringMissing.
            ImageError: what mmdebstrap says when no archive is known for the release.
        """
        self._home = scratch / "apt"
        self._debs = cache / "deb/files"
        self._run = run
        self._log = log
        self._profile = profile
        for name in (
            "etc/conf.d",
            "etc/sources.d",
            "etc/preferences.d",
            "etc/keys",
            "state/lists/partial",
            "cache",
            "log",
            "farm/partial",
        ):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        self._debs.mkdir(parents=True, exist_ok=True)
        self.farm = self._home / "farm"
        """The directory of package files that apt fetches into."""
        repos = repositories(recipe, profile)
        self.sources = [_repository_source(each, profile, self._home / "etc/keys") for each in repos]
        options: list[str] = []
        if not repos:
            self.sources, options = archive_sources(profile, scratch, run), _machine_options(run)
        text = render(self.sources)
        (self._home / "etc/sources.d/image.sources").write_text(text, encoding="utf-8")
        key = f"{profile.deb_arch}\n{text.replace(str(self._home), '')}".encode()
        self._lists = cache / "deb" / f"lists-{hashlib.sha256(key).hexdigest()[:24]}"
        self._write_private("etc/auth.conf", "".join(_login(each, profile) for each in repos if each.username))
        self._write_private("apt.conf", self._configuration(options + _connection_options(repos, profile), not repos))
        self.prefer(recipe.packages.exclude, {}, repos)

    def prefer(self, exclude: Iterable[str], locked: Mapping[str, str], repos: Iterable[Repository] = ()) -> None:
        """Never take a package of `exclude`; with `locked` (name: version) take these versions and nothing else."""
        stanzas = [(name, "release *", -1) for name in exclude]
        stanzas += [(name, f"version {version}", 1001) for name, version in sorted(locked.items())]
        if locked:
            stanzas.append(("*", "release *", -1))
        for each in repos:
            if each.priority is not None:
                host = urlsplit(_address(each.url, self._profile)).hostname
                stanzas.append(("*", f'origin "{host or ""}"', max(1, _LOWER_WINS - each.priority)))
        text = "\n".join(f"Package: {name}\nPin: {pin}\nPin-Priority: {priority}\n" for name, pin, priority in stanzas)
        (self._home / "etc/preferences.d/image.pref").write_text(text, encoding="utf-8")

    def update(self, *, force: bool = False) -> None:
        """Fetch and verify the indexes, or take the ones that a build fetched within the last hour."""
        lists = self._home / "state/lists"
        shutil.rmtree(lists)
        try:
            shutil.copytree(self._lists, lists, copy_function=_link)
            age = time.time() - (lists / "fetched").stat().st_mtime
        except (OSError, shutil.Error):
            shutil.rmtree(lists, ignore_errors=True)
            age = float("inf")
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        if not force and age < _FRESH_SECONDS:
            return
        (lists / "fetched").unlink(missing_ok=True)  # a link: it must not be touched through
        self.call("update", "--error-on=any", network=True)
        (lists / "fetched").touch()
        new = self._lists.with_name(f"{self._lists.name}.{secrets.token_hex(4)}")  # every worker is process 1
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(lists, new, copy_function=_link, ignore=shutil.ignore_patterns("lock", "partial"))
        old = new.with_name(f"{new.name}.old")
        with contextlib.suppress(FileNotFoundError):
            self._lists.rename(old)
        try:
            new.rename(self._lists)
        except OSError:  # another build was first; its indexes are as new
            shutil.rmtree(new)
        shutil.rmtree(old, ignore_errors=True)

    def epoch(self) -> int:
        """Seconds: the date of the newest index."""
        dates = [0.0]
        for path in (self._home / "state/lists").glob("*Release"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("Date:"):
                    dates.append(parsedate_to_datetime(line[5:].strip()).timestamp())
                    break
        return int(max(dates))

    def solve(self, *words: str, status: Path) -> list[Archive]:
        """What apt-get would install for `words` over the dpkg database `status`, in its order."""
        printed = self.call("--print-uris", "--yes", *words, status=status).decode()
        found = []
        for uri, file, size, digest in _PRINTED.findall(printed):
            kind, _, value = digest.partition(":")
            if kind != "SHA256":
                raise ImageError("ArchiveHashMissing", file=file)
            name, version, arch = file.removesuffix(".deb").split("_")
            version = unquote(version)
            found.append(
                Archive(name=name, version=version, arch=arch, sha256=value, size=int(size), uri=uri, file=file)
            )
        return found

    def fetch(self, archives: Sequence[Archive], *words: str, status: Path) -> None:
        """Put the files of a solution into `farm`: from the cache, else from the archive; each hashed before use.

        Raises:
            ImageError: ArchiveHashWrong; ToolFailed when a file cannot be fetched.
        """
        for path in self.farm.glob("*.deb"):
            path.unlink()
        with ThreadPoolExecutor(2) as pool:
            missing = [a for a, is_there in zip(archives, pool.map(self._take, archives), strict=True) if not is_there]
        if not missing:
            return
        total = sum(archive.size for archive in missing)
        self._log(f"fetching {len(missing)} of {len(archives)} packages, {total / 1e6:.1f} MB")
        self.call("--download-only", "--yes", *words, status=status, network=True)
        for archive in missing:
            file = self.farm / archive.file
            if not file.is_file() or _sha256(file) != archive.sha256:
                raise ImageError("ArchiveHashWrong", file=archive.file, want=archive.sha256)
            kept = self._debs / f"{archive.sha256}.deb"
            new = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}")
            _link(file, new)
            new.rename(kept)

    def _take(self, archive: Archive) -> bool:
        kept = self._debs / f"{archive.sha256}.deb"
        if not kept.is_file() or _sha256(kept) != archive.sha256:
            return False
        _link(kept, self.farm / archive.file)
        return True

    def absent(self, versions: Mapping[str, str]) -> list[str]:
        """`name version` of what no archive offers, sorted."""
        printed = self._run(["apt-cache", "madison", *sorted(versions)], env=self.environment).decode()
        rows = (line.split("|") for line in printed.splitlines())
        offered = {(row[0].strip(), row[1].strip()) for row in rows if len(row) > 1}
        return [f"{name} {version}" for name, version in sorted(versions.items()) if (name, version) not in offered]

    def stanzas(self, archives: Sequence[Archive]) -> list[str]:
        """The index entries of `archives`, in their order."""
        words = [f"{archive.name}:{archive.arch}={archive.version}" for archive in archives]
        text = self._run(["apt-cache", "show", *words], env=self.environment).decode() if words else ""
        by_hash = {}
        for stanza in text.split("\n\n"):
            match = re.search(r"^SHA256: (\w+)$", stanza, re.MULTILINE)
            if match:
                by_hash[match[1]] = stanza.strip()
        return [by_hash[archive.sha256] for archive in archives]

    def call(
        self,
        *words: str,
        status: Path | None = None,
        network: bool = False,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """apt-get; `options` are Name=value."""
        chosen = [f"Dir::State::status={status}"] if status else []
        argv = ["apt-get", "-q", *(word for each in [*chosen, *options] for word in ("-o", each)), *words]
        return self._run(argv, network=network, env={**self.environment, **(env or {})}, timeout=7200)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a program of apt's use this configuration and no other."""
        return {"APT_CONFIG": str(self._home / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}

    def _write_private(self, name: str, text: str) -> None:
        path = self._home / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")

    def _configuration(self, options: Iterable[str], machine: bool) -> str:
        home, arch = self._home, self._profile.deb_arch
        trusted = "/etc/apt/" if machine else f"{home}/etc/"
        return "\n".join(
            [
                f'Dir "{home}/";',
                f'Dir::State "{home}/state/"; Dir::State::lists "{home}/state/lists/";',
                f'Dir::State::extended_states "{home}/state/extended_states"; Dir::State::status "/dev/null";',
                f'Dir::Cache "{home}/cache/"; Dir::Cache::archives "{home}/farm/"; Dir::Log "{home}/log/";',
                f'Dir::Etc "{home}/etc/"; Dir::Etc::parts "{home}/etc/conf.d/"; Dir::Etc::main "no.conf";',
                f'Dir::Etc::sourcelist "no.list"; Dir::Etc::sourceparts "{home}/etc/sources.d/";',
                f'Dir::Etc::preferences "no"; Dir::Etc::preferencesparts "{home}/etc/preferences.d/";',
                f'Dir::Etc::trusted "{trusted}trusted.gpg"; Dir::Etc::trustedparts "{trusted}trusted.gpg.d/";',
                f'Dir::Etc::netrc "{trusted}auth.conf"; Dir::Etc::netrcparts "{trusted}auth.conf.d/";',
                f'APT::Architecture "{arch}"; APT::Architectures {{ "{arch}"; }};',
                'APT::Install-Recommends "false"; APT::Install-Suggests "false"; APT::Sandbox::User "root";',
                'APT::Get::Always-Include-Phased-Updates "true"; APT::Get::HideAutoRemove "true";',
                'Acquire::Languages "none"; Acquire::Retries "3"; Acquire::ForceHash "sha256";',
                'Dpkg::Use-Pty "0"; Debug::NoLocking "true";',
                *options,
                "",
            ]
        )


def repositories(recipe: Recipe, profile: Profile) -> list[Repository]:
    """The recipe's repositories, else the distribution's own; empty: what the machine knows."""
    if recipe.packages.repositories:
        return list(recipe.packages.repositories)
    return [Repository(**each) for each in profile.repositories]  # type: ignore[arg-type]  # written in its words


def archive_sources(profile: Profile, scratch: Path, run: Run) -> list[Source]:
    """Where the distribution is, when nobody said: the machine's own archives, else the ones mmdebstrap knows."""
    found = machine_sources(profile.id, profile.codename)
    if found:
        return found
    probe = scratch / "probe"
    skip = "update,cleanup,check/signed-by"
    run(["mmdebstrap", "--mode=root", "--variant=custom", f"--skip={skip}", profile.codename, str(probe)])
    found = parse((probe / "etc/apt/sources.list").read_text(encoding="utf-8"), one_line=True)
    shutil.rmtree(probe)
    keyring = _keyring(profile)
    return [Source(url=s.url, suites=s.suites, components=s.components, signed_by=str(keyring)) for s in found]


def _keyring(profile: Profile) -> Path:
    path = _KEYRINGS / f"{profile.id}-archive-keyring.gpg"
    if not path.is_file():
        raise RecipeError("KeyringMissing", distro=profile.title, path=path)
    return path


def _address(url: str, profile: Profile) -> str:
    filled = url.replace("$release", profile.release).replace("$arch", profile.deb_arch)
    filled = filled.replace("$codename", profile.codename)
    if filled.startswith("/"):
        return f"copy:{filled}"
    return re.sub(r"^file:/*", "copy:/", filled)


def _repository_source(each: Repository, profile: Profile, keys: Path) -> Source:
    signed_by = ""
    if each.check_signatures:
        path = Path(each.key) if each.key else _keyring(profile)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise RecipeError("RepositoryKeyMissing", repository=each.name, path=path) from error
        form = "asc" if raw.lstrip().startswith(b"-----BEGIN") else "gpg"
        copy = keys / f"{hashlib.sha256(raw).hexdigest()[:16]}.{form}"
        copy.write_bytes(raw)
        signed_by = str(copy)
    suites = each.suites or (profile.codename,)
    flat = all(suite.endswith("/") for suite in suites)
    return Source(
        url=_address(each.url, profile),
        suites=suites,
        components=() if flat else each.components,
        signed_by=signed_by,
        trusted=not each.check_signatures,
    )


def _login(each: Repository, profile: Profile) -> str:
    password = os.environ.get(each.password_env or "", "")
    if not password:
        raise RecipeError("RepositoryPasswordUnset", repository=each.name, variable=each.password_env or "")
    parts = urlsplit(_address(each.url, profile))
    return f"machine {parts.scheme}://{parts.netloc}{parts.path}\nlogin {each.username}\npassword {password}\n"


def _connection_options(repos: Iterable[Repository], profile: Profile) -> list[str]:
    lines = []
    for each in repos:
        host = urlsplit(_address(each.url, profile)).hostname
        https = {"CAInfo": each.ca, "SslCert": each.client_certificate, "SslKey": each.client_key}
        lines += [f'Acquire::https::{host}::{name} "{value}";' for name, value in https.items() if value]
        if each.proxy:
            lines += [f'Acquire::{scheme}::Proxy::{host} "{each.proxy}";' for scheme in ("http", "https")]
    return lines


def _machine_options(run: Run) -> list[str]:
    """How the machine reaches its own archives: proxies, certificates, whether dates are checked."""
    dump = run(["apt-config", "dump", "Acquire"]).decode()
    return [line for line in dump.splitlines() if line.startswith(_MACHINE_OPTIONS) and not line.endswith('"";')]


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
