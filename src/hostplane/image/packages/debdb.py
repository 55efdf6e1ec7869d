"""The packages of a dpkg root, read from its database without running anything of the root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hostplane.image.backends import Package
from hostplane.image.packages.licences import of_copyright
from hostplane.image.root.rootpath import within

__all__ = ["STATUS", "files", "installed", "stanzas"]

STATUS = "var/lib/dpkg/status"
_INFO = "var/lib/dpkg/info"
_SOURCE = re.compile(r"^(\S+)(?:\s+\(([^)]+)\))?$")
_MAINTAINER = re.compile(r"\s*<[^>]*>\s*$")


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a dpkg database or a package index; of a field of several lines the first."""
    for paragraph in text.split("\n\n"):
        fields = {}
        for line in paragraph.splitlines():
            if line[:1] not in (" ", "\t", "") and ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def installed(root: Path) -> list[Package]:
    """The installed packages, sorted by name and architecture; none where there is no database."""
    path = within(root, STATUS)
    if not path.is_file():
        return []
    found = []
    for fields in stanzas(path.read_text(encoding="utf-8", errors="replace")):
        if not fields.get("Status", "").endswith(" installed"):
            continue
        source = _SOURCE.match(fields.get("Source", fields["Package"]))
        found.append(
            Package(
                name=fields["Package"],
                version=fields["Version"],
                arch=fields["Architecture"],
                source=source[1] if source else fields["Package"],
                source_version=(source[2] if source else None) or fields["Version"],
                licence=_licence(root, fields["Package"]),
                size=int(fields.get("Installed-Size", "0")) * 1024,
                homepage=fields.get("Homepage", ""),
                supplier=_MAINTAINER.sub("", fields.get("Maintainer", "")),
            )
        )
    return sorted(found, key=lambda package: (package.name, package.arch))


def _licence(root: Path, name: str) -> str:
    path = within(root, f"/usr/share/doc/{name}/copyright")
    try:
        return of_copyright(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""


def files(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(package, the absolute paths it owns), as its list has them: directories too."""
    for path in sorted(within(root, _INFO).glob("*.list")):
        name = path.name.removesuffix(".list").partition(":")[0]
        yield name, path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
