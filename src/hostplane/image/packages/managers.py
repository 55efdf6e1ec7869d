"""Takes the package managers out of a root and leaves the database of what is installed.

A manager that something else in the image depends on stays, and so do the libraries others share with it: the database
never lists a package whose dependencies it broke. dpkg and rpm themselves stay, because they answer for the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hostplane.errors import ImageError
from hostplane.image.packages import debdb
from hostplane.image.packages.dpkg import quiet
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Run

__all__ = ["closure", "remove_deb", "remove_rpm", "superfluous"]

_NAME = re.compile(r"\s*([^\s(:|]+)")


def closure(start: Iterable[str], needs: Mapping[str, Iterable[str]]) -> set[str]:
    """`start` and all that it needs, and all that that needs."""
    found = {name for name in start if name in needs}
    todo = list(found)
    while todo:
        for other in needs[todo.pop()]:
            if other in needs and other not in found:
                found.add(other)
                todo.append(other)
    return found


def superfluous(managers: Iterable[str], essential: Iterable[str], needs: Mapping[str, Iterable[str]]) -> set[str]:
    """The managers and what came only for their sake, without anything that another package needs."""
    with_managers = closure(managers, needs)
    others = needs.keys() - with_managers
    return with_managers - closure([*others, *essential], needs)


def _needs(stanzas: Sequence[Mapping[str, str]]) -> dict[str, set[str]]:
    """What each installed package needs; of alternatives each one that is there counts."""
    provides: dict[str, set[str]] = {}
    for fields in stanzas:
        for word in fields.get("Provides", "").split(","):
            if match := _NAME.match(word):
                provides.setdefault(match[1], set()).add(fields["Package"])
    names = {fields["Package"] for fields in stanzas}
    found: dict[str, set[str]] = {}
    for fields in stanzas:
        needed = found.setdefault(fields["Package"], set())
        for word in re.split(r"[,|]", f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}"):
            if match := _NAME.match(word):
                needed |= ({match[1]} & names) | provides.get(match[1], set())
    return found


def remove_deb(root: Path, managers: Sequence[str], wanted: Iterable[str], run: Run) -> list[str]:
    """Purge `managers` and what came with them, though not what is in `wanted`; the names of what went.

    Raises:
        ImageError: ToolFailed.
    """
    status = within(root, debdb.STATUS)
    if not status.is_file():
        return []
    stanzas = [
        fields
        for fields in debdb.stanzas(status.read_text(encoding="utf-8", errors="replace"))
        if fields.get("Status", "").endswith(" installed")
    ]
    essential = [fields["Package"] for fields in stanzas if fields.get("Essential") == "yes"]
    asked = {name.partition(":")[0].partition("=")[0] for name in wanted} - set(managers)
    gone = sorted(superfluous(managers, [*essential, *asked], _needs(stanzas)))
    if gone:
        with quiet(root):
            run(["dpkg", "--purge", "--force-remove-protected", "--force-unsafe-io", *gone], chroot=True)
    return gone


def remove_rpm(root: Path, managers: Sequence[str], run: Run) -> list[str]:
    """Erase those of `managers` that nothing else needs; the names of what went.

    Raises:
        ImageError: ToolNotInRoot.
    """
    left = [name for name in managers if _is_installed(name, run)]
    gone: list[str] = []
    while left:
        done = [name for name in [left, *([each] for each in left)] if _erased(name, run)][:1]
        if not done:
            break
        gone += done[0]
        left = [name for name in left if name not in done[0]]
    return sorted(gone)


def _is_installed(name: str, run: Run) -> bool:
    try:
        run(["rpm", "-q", name], chroot=True)
    except ImageError as error:
        if error.name != "ToolFailed":
            raise
        return False
    return True


def _erased(names: Sequence[str], run: Run) -> bool:
    try:
        run(["rpm", "-e", "--allmatches", *names], chroot=True)
    except ImageError as error:
        if error.name != "ToolFailed":
            raise
        return False
    return True
