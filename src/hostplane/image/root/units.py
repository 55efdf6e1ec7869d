"""systemd units of a root: found, enabled, disabled and masked by their links, without running anything of the root.

What `systemctl enable` would do offline: the links that a unit's [Install] section asks for. A unit that is not there
is an error, because a typing mistake must not pass for a service that runs.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hostplane.errors import ImageError
from hostplane.image.root.rootpath import within

__all__ = ["disable", "enable", "mask"]

_OWN = "/etc/systemd/system"
_PLACES = (_OWN, "/usr/lib/systemd/system", "/lib/systemd/system")


def enable(root: Path, name: str) -> None:
    """Make the links that the unit's [Install] section asks for, and those of the units it names in Also=.

    Raises:
        ImageError: UnitMissing, or UnitInstallsNothing for a unit that nothing could start by being enabled.
    """
    links = _links(root, name, set())
    if not links:
        raise ImageError("UnitInstallsNothing", unit=name)
    own = within(root, _OWN)
    for link, goal in links:
        path = own / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(goal)


def disable(root: Path, name: str) -> None:
    """Remove every link in /etc that makes the unit start, or gives it another name.

    Raises:
        ImageError: UnitMissing.
    """
    _find(root, name)
    own = within(root, _OWN)
    for path in sorted(own.rglob("*")) if own.is_dir() else ():
        if path.is_symlink() and (path.name == name or os.path.basename(os.readlink(path)) == name):
            path.unlink()


def mask(root: Path, name: str) -> None:
    """Make the unit impossible to start; it need not be there."""
    path = within(root, _OWN) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/null")


def _links(root: Path, name: str, seen: set[str]) -> list[tuple[str, str]]:
    """(path below /etc/systemd/system, what it leads to)."""
    if name in seen:
        return []
    seen.add(name)
    place, path = _find(root, name)
    install = _install_section(path)
    stem, at, rest = name.partition("@")
    instance, _, kind = rest.rpartition(".")
    if at and not instance:  # a template is enabled as its default instance
        default = install.get("DefaultInstance", [""])[-1]
        if not default:
            raise ImageError("UnitInstallsNothing", unit=name)
        instance, name = default, f"{stem}@{default}.{kind}"
    goal = f"{place}/{path.name}"
    links = [(alias.replace("%i", instance), goal) for alias in _words(install, "Alias")]
    for key, suffix in (("WantedBy", "wants"), ("RequiredBy", "requires"), ("UpheldBy", "upholds")):
        for target in _words(install, key):
            links.append((f"{target.replace('%i', instance)}.{suffix}/{name}", goal))
    for other in _words(install, "Also"):
        links += _links(root, other, seen)
    return links


def _find(root: Path, name: str) -> tuple[str, Path]:
    """The directory of the image that holds the unit (or its template), and the file."""
    stem, at, rest = name.partition("@")
    template = f"{stem}@.{rest.rpartition('.')[2]}"
    for candidate in dict.fromkeys((name, template) if at else (name,)):
        for place in _PLACES:
            path = within(root, place) / candidate
            if path.is_file() or path.is_symlink():
                return place, within(root, f"{place}/{candidate}")
    raise ImageError("UnitMissing", unit=name)


def _install_section(path: Path) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    section = ""
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Install]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            found[key.strip()].append(value.strip())
    return found


def _words(install: Mapping[str, Sequence[str]], key: str) -> Iterable[str]:
    for value in install.get(key, ()):
        yield from value.split()
