"""Licences are mapped where they are known, kept as they are where not, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostplane.image.backends import Package
from hostplane.image.packages.licences import expression, of_copyright, write

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: x

Files: *
License: GPL-2+

Files: a/*
License: Expat or GPL-2+
 The text.

Files: b/*
License: BSD-3-clause and Expat
"""


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("Expat", "MIT"),
        ("GPLv2+", "GPL-2.0-or-later"),
        ("GPL-2 or Artistic-2.0", "GPL-2.0-only OR Artistic-2.0"),
        ("LGPLv2+ and MIT", "LGPL-2.0-or-later AND MIT"),
        ("GPL-2 and/or MIT", "GPL-2.0-only OR MIT"),
        ("public-domain", "LicenseRef-public-domain"),
        ("My Own Words", "LicenseRef-My-Own-Words"),
        ("GPL-2+ with OpenSSL exception", "LicenseRef-GPL-2-or-later-with-OpenSSL-exception"),
        ("MulanPSL-2.0", "MulanPSL-2.0"),
        ("", ""),
    ],
)
def test_a_licence_field_becomes_an_spdx_expression(word: str, wanted: str) -> None:
    assert expression(word) == wanted


def test_a_copyright_file_gives_all_its_licences_once() -> None:
    assert of_copyright(COPYRIGHT) == "BSD-3-Clause AND GPL-2.0-or-later AND MIT AND (MIT OR GPL-2.0-or-later)"


def test_a_copyright_file_for_people_gives_nothing() -> None:
    assert of_copyright("This package is free.\nLicense: something\n") == ""


def test_licences_are_written_per_package_and_per_licence(tmp_path: Path) -> None:
    packages = [
        Package(name="a", version="1", arch="amd64", licence="MIT"),
        Package(name="b", version="2", arch="amd64"),
        Package(name="c", version="3", arch="amd64", licence="MIT"),
    ]
    write(packages, tmp_path / "licences.json")
    found = json.loads((tmp_path / "licences.json").read_text())
    assert found["licences"] == {"MIT": ["a", "c"], "unknown": ["b"]}
    assert found["packages"][1] == {"name": "b", "version": "2", "licence": None}
