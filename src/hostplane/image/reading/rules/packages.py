"""Packages: the backend and what it needs, repositories, and that no secret stands in the recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from hostplane.errors import reason
from hostplane.image.reading.positions import KeyPath, written
from hostplane.image.reading.rules.case import Case, Fault, Rule, error, existing, unique, warning
from hostplane.image.recipe import Backend, Repository

__all__ = ["RULES", "backend_of"]

_PACKAGE = re.compile(r"[A-Za-z0-9@][A-Za-z0-9+._:~@*/=-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORMAT = {Backend.DNF: "rpm", Backend.RPMS: "rpm", Backend.DEB: "deb"}
_BELONGS = (("directory", Backend.RPMS), ("source", Backend.TREE))


def backend_of(case: Case) -> Backend | None:
    """The backend in force; None where neither the recipe nor a known distribution says it."""
    if case.recipe.packages.backend is not None:
        return case.recipe.packages.backend
    return None if case.profile is None else Backend(case.profile.backend)


def backend_fits_distribution(case: Case) -> Iterator[Fault]:
    path = ("packages", "backend")
    chosen = case.recipe.packages.backend
    if case.profile is None or chosen not in _FORMAT:
        return
    if _FORMAT[chosen] != case.profile.package_format:
        why = reason(
            "BackendForeign",
            key=written(path),
            value=chosen.value,
            distro=case.profile.title,
            format=case.profile.package_format,
        )
        yield error(path, why)


def backend_has_what_it_needs(case: Case) -> Iterator[Fault]:
    backend = backend_of(case)
    for field, owner in _BELONGS:
        value = getattr(case.recipe.packages, field)
        path = ("packages", field)
        if backend is owner and value is None:
            yield error(("packages", "backend"), reason("BackendNeeds", backend=owner.value, key=written(path)))
        if backend is not None and backend is not owner and value is not None:
            yield error(path, reason("BackendIgnores", key=written(path), value=value, owner=owner.value))


def backend_sources_exist(case: Case) -> Iterator[Fault]:
    packages = case.recipe.packages
    yield from existing(("packages", "lock"), packages.lock)
    if packages.source is not None and not any(
        place and Path(place).exists() for place in (packages.source, packages.source.rpartition(":")[0])
    ):
        path = ("packages", "source")
        yield error(path, reason("PathMissing", key=written(path), value=packages.source))
    if packages.directory is not None and not any(Path(packages.directory or "/dev/null").glob("*.rpm")):
        path = ("packages", "directory")
        yield error(path, reason("NoRpmFiles", key=written(path), value=packages.directory))


def package_names_are_names(case: Case) -> Iterator[Fault]:
    for field in ("include", "exclude"):
        for index, name in enumerate(getattr(case.recipe.packages, field)):
            if not _PACKAGE.fullmatch(name):
                path = ("packages", field, index)
                yield error(path, reason("PackageNameInvalid", key=written(path), value=name))


def nothing_is_included_and_excluded(case: Case) -> Iterator[Fault]:
    packages = case.recipe.packages
    for index, name in enumerate(packages.exclude):
        path = ("packages", "exclude", index)
        if name in packages.include:
            yield error(path, reason("PackageBothWays", key=written(path), value=name))


def kernel_is_not_excluded(case: Case) -> Iterator[Fault]:
    packages = case.recipe.packages
    if case.profile is None or not packages.kernel:
        return
    for index, name in enumerate(packages.exclude):
        if name in (*case.profile.kernel_packages, *case.profile.boot_packages):
            path = ("packages", "exclude", index)
            yield error(path, reason("KernelExcluded", key=written(path), value=name))


def _repositories(case: Case) -> Iterator[tuple[KeyPath, Repository]]:
    for index, repository in enumerate(case.recipe.packages.repositories):
        yield ("packages", "repositories", index), repository


def repository_names_are_unique(case: Case) -> Iterator[Fault]:
    yield from unique(((*path, "name"), each.name) for path, each in _repositories(case))


def repository_names_are_names(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        if not _REPOSITORY.fullmatch(each.name):
            path = (*path, "name")
            yield error(path, reason("PlainNameInvalid", key=written(path), value=each.name))


def repository_addresses_are_reachable_kinds(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        path = (*path, "url")
        scheme, mark, rest = each.url.rpartition("://")
        if scheme in ("", "file") and "$" not in rest:
            yield from existing(path, rest)
        elif scheme not in ("", "file", "http", "https") or (mark and not rest):
            yield error(path, reason("RepositoryAddress", key=written(path), value=_without_secret(each.url)))


def no_secret_is_in_an_address(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        for field in ("url", "proxy"):
            value = getattr(each, field)
            if value and _has_password(value):
                why = reason("SecretInAddress", key=written((*path, field)), value=_without_secret(value))
                yield error((*path, field), why)


def proxies_are_addresses(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        if each.proxy is not None and not re.match(r"(https?|socks5h?)://[^/\s]+/?$", each.proxy):
            path = (*path, "proxy")
            yield error(path, reason("ProxyAddress", key=written(path), value=_without_secret(each.proxy)))


def credentials_come_in_pairs(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        for one, other in (("client_certificate", "client_key"), ("username", "password_env")):
            for given, missing in ((one, other), (other, one)):
                if getattr(each, given) is not None and getattr(each, missing) is None:
                    why = reason("PairIncomplete", key=written((*path, given)), other=written((*path, missing)))
                    yield error((*path, given), why)


def repository_files_exist(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        for field in ("key", "ca", "client_certificate", "client_key"):
            value = getattr(each, field)
            if field != "key" or not re.search(r"^https://|\$", value or ""):  # a key may be fetched
                yield from existing((*path, field), value)


def rpm_repositories_name_their_key(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        if backend_of(case) in (Backend.DNF, Backend.RPMS) and each.check_signatures and each.key is None:
            yield error(path, reason("RpmKeyUnset", repository=each.name))


def folder_of_rpms_says_whose_they_are(case: Case) -> Iterator[Fault]:
    path, packages = ("packages", "directory"), case.recipe.packages
    if (
        backend_of(case) is not Backend.RPMS
        or not packages.directory
        or not any(Path(packages.directory).glob("*.rpm"))
    ):
        return
    folders = [Path(each.url.removeprefix("file://")).resolve() for each in packages.repositories]
    if Path(packages.directory).resolve() not in folders:
        yield error(path, reason("RpmsFolderUnchecked", folder=packages.directory))


def tree_has_no_lock(case: Case) -> Iterator[Fault]:
    path, packages = ("packages", "lock"), case.recipe.packages
    if backend_of(case) is Backend.TREE and packages.lock is not None:
        yield error(path, reason("TreeHasNoLock", source=packages.source or "-"))


def certificates_are_pem(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        for field, word in (
            ("ca", "CERTIFICATE"),
            ("client_certificate", "CERTIFICATE"),
            ("client_key", "PRIVATE KEY"),
        ):
            value = getattr(each, field)
            if value and Path(value).is_file() and f"{word}-----" not in _head(Path(value)):
                path = (*path, field)
                yield error(path, reason("NotPem", key=written(path), value=value, wanted=f"-----BEGIN … {word}-----"))


def _head(path: Path) -> str:
    """The beginning of a file: 1 MiB holds a whole bundle of authorities, and a comment before the first."""
    with path.open("rb") as file:
        return file.read(1 << 20).decode("latin-1")


def passwords_are_in_the_environment(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        if each.password_env is not None:
            yield from is_set(case, (*path, "password_env"), each.password_env)


def is_set(case: Case, path: KeyPath, name: str) -> Iterator[Fault]:
    """A fault where `name` is no variable's name, or the environment has none of that name.

    What is no name may be the secret itself, so it is not repeated.
    """
    if not _VARIABLE.fullmatch(name):
        yield error(path, reason("VariableNameInvalid", key=written(path)))
    elif not case.environment.get(name):
        yield error(path, reason("VariableUnset", key=written(path), value=name))


def fields_of_deb_belong_to_deb(case: Case) -> Iterator[Fault]:
    backend = backend_of(case)
    if backend is None or backend is Backend.DEB:
        return
    for path, _ in _repositories(case):
        for field in ("suites", "components"):
            if case.said((*path, field)):
                path = (*path, field)
                yield error(path, reason("BackendIgnores", key=written(path), value="[…]", owner="deb"))


def signatures_are_checked(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        if not each.check_signatures:
            path = (*path, "check_signatures")
            yield warning(path, reason("SignaturesUnchecked", key=written(path), repository=each.name))


def passwords_travel_encrypted(case: Case) -> Iterator[Fault]:
    for path, each in _repositories(case):
        if each.username is not None and each.url.startswith("http://"):
            path = (*path, "username")
            yield warning(path, reason("PasswordInClear", key=written(path), repository=each.name))


def _has_password(address: str) -> bool:
    return "@" in urlsplit(address).netloc if "://" in address else False


def _without_secret(address: str) -> str:
    return re.sub(r"://[^/@]*@", "://…@", address)


RULES: tuple[Rule, ...] = (
    backend_fits_distribution,
    backend_has_what_it_needs,
    backend_sources_exist,
    package_names_are_names,
    nothing_is_included_and_excluded,
    kernel_is_not_excluded,
    repository_names_are_unique,
    repository_names_are_names,
    repository_addresses_are_reachable_kinds,
    no_secret_is_in_an_address,
    proxies_are_addresses,
    credentials_come_in_pairs,
    repository_files_exist,
    rpm_repositories_name_their_key,
    folder_of_rpms_says_whose_they_are,
    tree_has_no_lock,
    certificates_are_pem,
    passwords_are_in_the_environment,
    fields_of_deb_belong_to_deb,
    signatures_are_checked,
    passwords_travel_encrypted,
)
