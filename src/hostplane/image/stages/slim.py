"""Takes out of the root what a host does not need: by the recipe's policy, never by guessing.

Licences stay, the database of packages stays and answers read-only, labels and attributes of what stays are not
touched. The kernel and its initramfs are in the slot's boot image by now, so /boot is emptied. What went, by reason,
and every setuid program that stayed are written down.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import to_builtins

from hostplane.distros.profile import Profile
from hostplane.image.backends import Package, wanted
from hostplane.image.backends.deb import SOURCES
from hostplane.image.boot import kernelmodules
from hostplane.image.packages import debdb, managers, rpmdb
from hostplane.image.recipe import Recipe, StageName
from hostplane.image.root.rootglob import matches, remove
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Inputs, Work

__all__ = ["NAME", "inputs", "locale_stays", "privileged", "run"]

NAME = StageName.SLIM

_DOCUMENTATION = (
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/gtk-doc/*",
    "/usr/share/help/*",
    "/usr/share/lintian",
    "/usr/share/bug",
    "/usr/share/doc-base/*",
    "/usr/local/share/man/*",
)
_DOC = "/usr/share/doc"
_LICENCE = re.compile(r"(copyright|licen[cs]e|copying|notice|patents)", re.IGNORECASE)
_LOCALES = ("/usr/share/locale", "/usr/lib/locale", "/usr/share/help", "/usr/share/cracklib/locale")
_CACHES = (
    "/var/cache/apt/*",
    "/var/cache/dnf/*",
    "/var/cache/yum/*",
    "/var/cache/man/*",
    "/var/cache/ldconfig/*",
    "/var/cache/fontconfig/*",
    "/var/lib/apt/lists/*",
    "/var/lib/dnf/*",
    "/var/lib/yum/*",
    "/var/tmp/*",
    "/var/log/**/*.log",
    "/root/.cache",
    "/tmp/*",
)
_PLACES_OF_APT = ("/var/cache/apt", "/var/lib/apt", "/var/log/apt", "/etc/apt")
_BOOT = ("/boot/*", "/boot/.*", "/vmlinuz*", "/initrd.img*", "/lib/modules/*/vmlinuz", "/lib/modules/*/System.map")
_MICROCODE = ("intel-ucode", "amd-ucode", "regulatory.db", "regulatory.db.p7s")
_DPKG, _DPKG_PLACE = "/var/lib/dpkg", "/usr/lib/sysimage/dpkg"
_MODULE = re.compile(r"\.ko(\.(xz|zst|gz))?$")


def inputs(recipe: Recipe, profile: Profile) -> Inputs:
    """The policy, and what it asks of the rest of the recipe."""
    return {
        "slim": to_builtins(recipe.slim),
        "manager": [recipe.packages.keep_manager, *profile.manager_packages],
        "wanted": wanted(recipe, profile),
        "modules": sorted({*recipe.modules_load, *recipe.boot.modules}),
    }


def run(work: Work) -> None:
    """Slim the root; `out` gets slim.json and privileged.json.

    Raises:
        ImageError: ToolFailed, ToolMissing.
    """
    slim, root = work.recipe.slim, work.root
    removed: dict[str, int] = {}
    gone: list[Package] = []
    if not work.recipe.packages.keep_manager:
        work.progress(0.0, "package managers")
        gone = _remove_managers(work)
        removed["managers"] = sum(package.size for package in gone)
    work.progress(0.2, "boot files, modules, firmware")
    removed["boot"] = _remove(root, _BOOT)
    if work.recipe.agent:
        (root / "boot/hostplane").mkdir(parents=True, exist_ok=True)  # where the host mounts its boot state
    removed["modules"] = _remove_modules(work)
    removed["firmware"] = _remove_firmware(work)
    work.progress(0.6, "documentation, locales, caches")
    if slim.documentation:
        removed["documentation"] = _remove(root, _DOCUMENTATION) + _remove_documents(within(root, _DOC))
    removed["locales"] = _remove_locales(root, slim.locales)
    if slim.caches:
        removed["caches"] = _remove(root, _CACHES)
    removed["recipe"] = _remove(root, slim.remove)
    _settle_database(work)
    work.progress(0.9, "what is left")
    _write(work.out / "slim.json", {"removed_bytes": removed, "removed_packages": [package.name for package in gone]})
    _write(work.out / "privileged.json", list(privileged(root)))


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _remove(root: Path, patterns: Iterable[str]) -> int:
    return sum(remove(path) for pattern in patterns for path in matches(root, pattern))


def _remove_managers(work: Work) -> list[Package]:
    root, profile = work.root, work.profile
    if not _has_database(work):
        return []
    if profile.package_format == "deb":
        before = debdb.installed(root)
        names = managers.remove_deb(root, profile.manager_packages, wanted(work.recipe, profile), work.run)
        _remove(root, _PLACES_OF_APT if "apt" in names else [SOURCES])
    else:
        before = list(rpmdb.installed(root))
        names = managers.remove_rpm(root, profile.manager_packages, work.run)
    stayed = [
        package.name for package in before if package.name in profile.manager_packages and package.name not in names
    ]
    work.log(f"package managers removed: {', '.join(names) or 'none'}; needed by others: {', '.join(stayed) or 'none'}")
    return [package for package in before if package.name in names]


def _has_database(work: Work) -> bool:
    """Whether the root has a database of the kind its distribution uses, and the program that goes with it."""
    if work.profile.package_format == "deb":
        return within(work.root, debdb.STATUS).is_file() and within(work.root, "/usr/bin/dpkg").is_file()
    return within(work.root, "/usr/bin/rpm").is_file() or within(work.root, "/bin/rpm").is_file()


def _remove_documents(doc: Path) -> int:
    """Everything below /usr/share/doc but the licences, and then the directories that are empty."""
    freed = 0
    for place, folders, files in os.walk(doc, topdown=False):
        for name in files:
            if not _LICENCE.search(name):
                freed += remove(Path(place, name))
        for name in folders:
            path = Path(place, name)
            if not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()
    for link in doc.glob("*"):
        if link.is_symlink() and not link.parent.joinpath(link.readlink()).exists():
            link.unlink()
    return freed


def locale_stays(name: str, wanted: Iterable[str]) -> bool:
    """Whether the directory `name` of a locale stays: one that is wanted, or its language, or no locale at all."""
    own = re.split(r"[.@]", name)[0]
    plain = {re.split(r"[.@]", each)[0] for each in wanted}
    languages = {each.partition("_")[0] for each in plain}
    is_locale = re.fullmatch(r"[a-z]{2,3}(_[A-Z]{2}|_[A-Z][a-z]{3})?", own) is not None or own == "C"
    return not is_locale or own == "C" or own in plain or own in languages


def _remove_locales(root: Path, keep: tuple[str, ...] | None) -> int:
    if keep is None or "*" in keep:
        return 0
    freed = 0
    for place in _LOCALES:
        for path in matches(root, f"{place}/*"):
            if path.is_dir() and not path.is_symlink() and not locale_stays(path.name, keep):
                freed += remove(path)
    return freed


def _remove_modules(work: Work) -> int:
    if work.recipe.slim.modules == "all":
        return 0
    policy = kernelmodules.policy(work.recipe.slim.modules)
    named = [*work.recipe.slim.modules_keep, *work.recipe.boot.modules, *work.recipe.modules_load]
    freed = 0
    for tree in _module_trees(work.root):
        needs = kernelmodules.dependencies((tree / "modules.dep").read_text(encoding="utf-8"))
        softdep = tree / "modules.softdep"
        likes = kernelmodules.soft_dependencies(softdep.read_text(encoding="utf-8")) if softdep.is_file() else {}
        stay = kernelmodules.kept(needs, likes, policy, named)
        for path in needs.keys() - stay:
            freed += remove(tree / path)
        _prune(tree / "kernel")
        work.run(["depmod", "--basedir", str(work.root), tree.name])
        work.log(f"{tree.name}: {len(stay)} of {len(needs)} modules stay")
    return freed


def _module_trees(root: Path) -> list[Path]:
    return [path.parent for path in matches(root, "/lib/modules/*/modules.dep")]


def _prune(directory: Path) -> None:
    for place, _, _ in os.walk(directory, topdown=False):
        if not any(os.scandir(place)):
            os.rmdir(place)


def _remove_firmware(work: Work) -> int:
    rule, place = work.recipe.slim.firmware, within(work.root, "/lib/firmware")
    if rule == "all" or not place.is_dir():
        return 0
    stay = set(_MICROCODE)
    if rule == "modules":
        for tree in _module_trees(work.root):
            stay |= _firmware_of(work, tree)
    freed = 0
    keep = {path for name in stay for path in _firmware_files(work.root, place, name)}
    for directory, folders, files in os.walk(place):
        folders[:] = [name for name in folders if Path(directory, name) not in keep]
        freed += sum(remove(Path(directory, name)) for name in files if Path(directory, name) not in keep)
    _prune(place)
    place.mkdir(exist_ok=True)
    return freed


def _firmware_of(work: Work, tree: Path) -> set[str]:
    """What the modules of a tree, and the kernel itself, ask for."""
    modules = sorted(str(path) for path in tree.rglob("*.ko*") if _MODULE.search(path.name))
    found: set[str] = set()
    for start in range(0, len(modules), 500):
        found |= set(work.run(["modinfo", "-F", "firmware", *modules[start : start + 500]]).decode().split())
    builtin = tree / "modules.builtin.modinfo"
    return found | (kernelmodules.builtin_firmware(builtin.read_bytes()) if builtin.is_file() else set())


def _firmware_files(root: Path, place: Path, name: str) -> Iterator[Path]:
    """A firmware file by its name, also compressed, and where it is a link what that leads to."""
    for suffix in ("", ".xz", ".zst"):
        for path in matches(root, f"/lib/firmware/{name}{suffix}"):
            yield path
            yield within(root, Path("/", path.relative_to(root)).as_posix())


def _settle_database(work: Work) -> None:
    """The database of packages, where it belongs to the image and not to the host's own /var."""
    root = work.root
    if work.profile.package_format == "deb" and within(root, debdb.STATUS).is_file():
        old, new = root / _DPKG.lstrip("/"), root / _DPKG_PLACE.lstrip("/")
        if not old.is_symlink():
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(old, new, symlinks=True)
            shutil.rmtree(old)
            old.symlink_to(os.path.relpath(new, old.parent))
        for name in ("lock", "lock-frontend", "status-old", "available"):
            (new / name).unlink(missing_ok=True)
    elif work.profile.package_format == "rpm" and _has_database(work):
        rpmdb.seal(root, work.epoch)


def privileged(root: Path) -> Iterator[dict[str, object]]:
    """The files that run with more than their caller's rights: setuid, setgid or with capabilities; by path."""
    for place, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode):
                continue
            capabilities = _capabilities(path) if mode & 0o111 else ""
            if mode & (stat.S_ISUID | stat.S_ISGID) or capabilities:
                facts = os.lstat(path)
                yield {
                    "path": "/" + os.path.relpath(path, root),
                    "mode": f"{stat.S_IMODE(mode):04o}",
                    "uid": facts.st_uid,
                    "gid": facts.st_gid,
                    "capabilities": capabilities,
                }


def _capabilities(path: str) -> str:
    """The security.capability attribute in hex; empty for none."""
    try:
        return os.getxattr(path, "security.capability", follow_symlinks=False).hex()
    except OSError:
        return ""
