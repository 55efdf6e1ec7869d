"""What a root's bytes are spent on: by package, by place, and what slimming saved.

A file counts for the package whose list names it; what no package owns is shown by its place. Directories weigh
nothing, a file of several names counts once.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

from hostplane.image.backends import Package
from hostplane.image.packages import debdb, rpmdb
from hostplane.image.root.rootpath import within

__all__ = ["PackageSize", "Sizes", "removed_by_slim", "report", "write"]

_DEPTH = 3


class PackageSize(Struct, frozen=True, kw_only=True):
    """One package's share."""

    name: str
    size: int
    """Bytes of its files that are in the root now."""
    files: int
    installed: int
    """Bytes that the package itself says it installs."""


class Sizes(Struct, frozen=True, kw_only=True):
    """The report; every size in bytes."""

    total: int
    files: int
    packages: tuple[PackageSize, ...]
    """The largest first."""
    unowned: dict[str, int]
    """Of files that no package owns: bytes by directory, the largest first."""
    removed: dict[str, int] = {}
    """What slimming took out, by reason."""


def report(root: Path, packages: Sequence[Package], removed: Mapping[str, int] | None = None) -> Sizes:
    """Where the bytes of `root` are; `packages` are its database's.

    Raises:
        ImageError: RpmDatabaseMissing.
    """
    owners = _owners(root)
    by_package: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    unowned: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    for place, _, names in os.walk(root):
        inner = "/" + os.path.relpath(place, root) if place != str(root) else ""
        for name in names:
            facts = os.lstat(os.path.join(place, name))
            if facts.st_nlink > 1:
                if (facts.st_dev, facts.st_ino) in seen:
                    continue
                seen.add((facts.st_dev, facts.st_ino))
            size = facts.st_size if stat.S_ISREG(facts.st_mode) else 0
            owner = owners.get(f"{inner}/{name}")
            if owner is None:
                unowned["/".join(f"{inner}/".split("/")[: _DEPTH + 1]) or "/"] += size
            else:
                by_package[owner] += size
                counts[owner] += 1
    installed = {package.name: package.size for package in packages}
    names = sorted(installed, key=lambda name: (-by_package[name], name))
    return Sizes(
        total=by_package.total() + unowned.total(),
        files=counts.total(),
        packages=tuple(
            PackageSize(name=name, size=by_package[name], files=counts[name], installed=installed[name])
            for name in names
        ),
        unowned={place: size for place, size in unowned.most_common() if size},
        removed=dict(removed or {}),
    )


def write(sizes: Sizes, path: Path) -> None:
    """The report as JSON in `path`, all at once."""
    from msgspec import json as encoder

    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_bytes(encoder.format(encoder.encode(sizes), indent=1) + b"\n")
    new.replace(path)


def removed_by_slim(out: Path) -> dict[str, int]:
    """What the slim stage wrote into its `out`; nothing where it did not run."""
    path = out / "slim.json"
    if not path.is_file():
        return {}
    found: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["removed_bytes"]
    return found


def _owners(root: Path) -> dict[str, str]:
    """Package by the absolute path in the root, links on the way resolved as the root has them."""
    found: dict[str, str] = {}
    real: dict[str, str] = {}
    for name, paths in _lists(root):
        for path in paths:
            parent, _, file = path.rpartition("/")
            if parent not in real:
                inner = within(root, PurePosixPath(parent or "/")).relative_to(root)
                real[parent] = "" if str(inner) == "." else f"/{inner}"
            found[f"{real[parent]}/{file}"] = name
    return found


def _lists(root: Path) -> Iterable[tuple[str, list[str]]]:
    if within(root, debdb.STATUS).is_file():
        return debdb.files(root)
    if (within(root, "/usr/lib/sysimage/rpm").is_dir()) or within(root, "/var/lib/rpm").is_dir():
        return _rpm_lists(rpmdb.database(root))
    return []


def _rpm_lists(place: Path) -> Iterable[tuple[str, list[str]]]:
    """As `debdb.files`, asked of this machine's rpm."""
    argv = ["rpm", "--dbpath", str(place), "-qa", "--qf", "[%{=NAME}\\t%{FILENAMES}\\n]"]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=300, env={**os.environ, "LC_ALL": "C.UTF-8"})
    found: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        name, _, path = line.partition("\t")
        found.setdefault(name, []).append(path)
    return found.items()
