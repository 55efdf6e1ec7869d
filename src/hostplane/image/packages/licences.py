"""Licences in the words of SPDX, from what packages say about themselves: never guessed.

A word that has no SPDX identifier is kept as the package wrote it, with the mark LicenseRef-; a copyright file that no
machine can read gives nothing. Which licence a file of a package has is not looked into: the package's are joined.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hostplane.image.backends import Package

__all__ = ["expression", "of_copyright", "write"]

_SHORT = {
    # machine-readable copyright files: SPDX
    "agpl-3": "AGPL-3.0-only",
    "agpl-3+": "AGPL-3.0-or-later",
    "apache-2": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-1": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "artistic-2.0": "Artistic-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "bsd-4-clause-uc": "BSD-4-Clause-UC",
    "bsl-1.0": "BSL-1.0",
    "boost-1.0": "BSL-1.0",
    "cc0": "CC0-1.0",
    "cc0-1.0": "CC0-1.0",
    "cc-by-3.0": "CC-BY-3.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-3.0": "CC-BY-SA-3.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "curl": "curl",
    "expat": "MIT",
    "mit": "MIT",
    "fsfap": "FSFAP",
    "fsful": "FSFUL",
    "fsfullr": "FSFULLR",
    "gfdl-1.2": "GFDL-1.2-only",
    "gfdl-1.2+": "GFDL-1.2-or-later",
    "gfdl-1.3": "GFDL-1.3-only",
    "gfdl-1.3+": "GFDL-1.3-or-later",
    "gpl-1": "GPL-1.0-only",
    "gpl-1+": "GPL-1.0-or-later",
    "gpl-2": "GPL-2.0-only",
    "gpl-2+": "GPL-2.0-or-later",
    "gpl-2.0": "GPL-2.0-only",
    "gpl-2.0+": "GPL-2.0-or-later",
    "gpl-3": "GPL-3.0-only",
    "gpl-3+": "GPL-3.0-or-later",
    "gpl-3.0": "GPL-3.0-only",
    "gpl-3.0+": "GPL-3.0-or-later",
    "isc": "ISC",
    "lgpl-2": "LGPL-2.0-only",
    "lgpl-2+": "LGPL-2.0-or-later",
    "lgpl-2.0+": "LGPL-2.0-or-later",
    "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-2.1+": "LGPL-2.1-or-later",
    "lgpl-3": "LGPL-3.0-only",
    "lgpl-3+": "LGPL-3.0-or-later",
    "lgpl-3.0": "LGPL-3.0-only",
    "lgpl-3.0+": "LGPL-3.0-or-later",
    "mpl-1.1": "MPL-1.1",
    "mpl-2.0": "MPL-2.0",
    "ofl-1.1": "OFL-1.1",
    "openldap-2.8": "OLDAP-2.8",
    "openssl": "OpenSSL",
    "perl": "(Artistic-1.0-Perl OR GPL-1.0-or-later)",
    "python-2.0": "Python-2.0",
    "psf-2": "PSF-2.0",
    "sil-1.1": "OFL-1.1",
    "unlicense": "Unlicense",
    "vim": "Vim",
    "x11": "X11",
    "zlib": "Zlib",
    "zlib/libpng": "Zlib",
    # RPM's older short names
    "asl 2.0": "Apache-2.0",
    "boost": "BSL-1.0",
    "gplv1+": "GPL-1.0-or-later",
    "gpl+": "GPL-1.0-or-later",
    "gplv2": "GPL-2.0-only",
    "gplv2+": "GPL-2.0-or-later",
    "gplv3": "GPL-3.0-only",
    "gplv3+": "GPL-3.0-or-later",
    "lgplv2": "LGPL-2.0-only",
    "lgplv2+": "LGPL-2.0-or-later",
    "lgplv2.1": "LGPL-2.1-only",
    "lgplv2.1+": "LGPL-2.1-or-later",
    "lgplv3": "LGPL-3.0-only",
    "lgplv3+": "LGPL-3.0-or-later",
    "mplv1.1": "MPL-1.1",
    "mplv2.0": "MPL-2.0",
    "artistic 2.0": "Artistic-2.0",
    "python": "Python-2.0",
    "mulan psl v2": "MulanPSL-2.0",
}
_PUBLIC = ("public-domain", "public domain")
_IDENTIFIER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")
_OPERATOR = {"or": "OR", "and/or": "OR"}
_OPERATORS = re.compile(r"\s+(and/or|and|or)\s+|\s*(?:,)\s*(?:and\s+|or\s+)?", re.IGNORECASE)
_WITH = re.compile(r"\s+with\s+.*$", re.IGNORECASE)
_FIELD = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE)
_FORMAT = re.compile(r"^Format(-Specification)?:", re.MULTILINE)


def of_copyright(text: str) -> str:
    """The licences of a machine-readable debian/copyright as an SPDX expression; empty for any other text."""
    if not _FORMAT.search(text[:2048]):
        return ""
    said = {expression(match[1]) for match in _FIELD.finditer(text)} - {""}
    found = {term for each in said for term in ([each] if " OR " in each else each.split(" AND "))}
    return " AND ".join(f"({each})" if " OR " in each and len(found) > 1 else each for each in sorted(found))


def expression(word: str) -> str:
    """One licence field, of deb or RPM, as an SPDX expression: known names mapped, unknown ones as LicenseRef-."""
    parts = _OPERATORS.split(word.strip())
    names, operators = parts[0::2], parts[1::2]
    said = [_one(name) for name in names if name and name.strip()]
    if not said:
        return ""
    chosen = {_OPERATOR.get((operator or "and").lower(), "AND") for operator in operators}
    if chosen == {"OR"}:
        return " OR ".join(dict.fromkeys(said))
    if len(chosen) < 2:
        return " AND ".join(dict.fromkeys(said))
    return " AND ".join(sorted(set(said)))  # mixed without brackets: all of them hold, which promises nothing away


def _one(name: str) -> str:
    bare = name.strip().strip("()")
    plain = _WITH.sub("", bare)
    known = _SHORT.get(plain.lower())
    if known is not None:
        exception = bare[len(plain) :]
        return f"LicenseRef-{_slug(bare)}" if exception else known
    if plain.lower() in _PUBLIC:
        return "LicenseRef-public-domain"
    if plain in _SPDX and plain == bare:
        return plain
    return f"LicenseRef-{_slug(bare)}"


_SPDX = frozenset(each for each in _SHORT.values() if _IDENTIFIER.match(each))


def _slug(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", re.sub(r"\+(?=$|[\s-])", "-or-later", word)).strip("-") or "unknown"


def write(packages: Sequence[Package], path: Path) -> None:
    """Licences per package, and packages per licence, as JSON in `path`."""
    by_licence: dict[str, list[str]] = {}
    for package in packages:
        by_licence.setdefault(package.licence or "unknown", []).append(package.name)
    body = {
        "packages": [
            {"name": package.name, "version": package.version, "licence": package.licence or None}
            for package in packages
        ],
        "licences": {licence: _unique(names) for licence, names in sorted(by_licence.items())},
    }
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)


def _unique(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
