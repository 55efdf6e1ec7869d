"""The package database of an RPM root: read as `rpm -qa` reads it, and put into a form that stays.

Read from outside with this machine's rpm and without entering the root, so that nothing of the root runs. Sealed means:
no imported keys, every package's time of installation set to the build's epoch, one file without a journal, so that it
answers on a read-only file system and is the same bytes each time.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from hostplane.errors import ImageError
from hostplane.image.backends import Package
from hostplane.image.building.tools import require

__all__ = ["database", "installed", "seal"]

_PLACES = ("usr/lib/sysimage/rpm", "var/lib/rpm")
_FIELDS = (
    "%{NAME}",
    "%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}",
    "%{ARCH}",
    "%{SOURCERPM}",
    "%{LICENSE}",
    "%{LONGSIZE}",
    "%{URL}",
    "%{VENDOR}",
)
_FILE = "rpmdb.sqlite"
_KEY = "gpg-pubkey"
_NONE = "(none)"
_SECONDS = 300.0
_HEADER = struct.Struct(">2I")
_ENTRY = struct.Struct(">4I")
_TIMES = (1008, 1128)  # INSTALLTIME, INSTALLTID


def database(root: Path) -> Path:
    """The directory of the database of `root`.

    Raises:
        ImageError: RpmDatabaseMissing.
    """
    for place in _PLACES:
        path = root / place
        if not path.is_symlink() and path.is_dir() and any(path.iterdir()):
            return path
    raise ImageError("RpmDatabaseMissing", root=root)


def installed(root: Path) -> Sequence[Package]:
    """The packages of `root`, sorted by name; imported keys are not packages.

    Raises:
        ImageError: RpmDatabaseMissing, RpmDatabaseUnreadable, ToolMissing.
    """
    text = _rpm(database(root), "-qa", "--qf", "\\t".join(_FIELDS) + "\\n")
    rows = (line.split("\t") for line in text.splitlines())
    return sorted(
        (_package(row) for row in rows if row[0] != _KEY), key=lambda each: (each.name, each.version, each.arch)
    )


def _package(row: Sequence[str]) -> Package:
    name, version, arch, source, licence, size, homepage, vendor = ("" if word == _NONE else word for word in row)
    source_name, _, source_version = source.removesuffix(".src.rpm").removesuffix(".nosrc.rpm").rpartition("-")
    source_name, _, upstream = source_name.rpartition("-")
    return Package(
        name=name,
        version=version,
        arch=arch,
        source=source_name,
        source_version=f"{upstream}-{source_version}" if source_name else "",
        licence=licence,
        size=int(size or 0),
        homepage=homepage,
        supplier=vendor,
    )


def _rpm(place: Path, *words: str) -> str:
    require("rpm")
    with tempfile.TemporaryDirectory(prefix="hp-rpm-") as home:  # no macros of whoever builds
        argv = ["rpm", "--define", f"_rpmlock_path {home}/.rpm.lock", "--dbpath", str(place), *words]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(argv, capture_output=True, env=environment, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ImageError("RpmDatabaseUnreadable", place=place, why=f"no answer in {_SECONDS:.0f} s") from error
    if done.returncode != 0:
        why = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["rpm said nothing"]
        raise ImageError("RpmDatabaseUnreadable", place=place, why=why[-1])
    return done.stdout.decode("utf-8", "replace")


def seal(root: Path, epoch: int) -> None:
    """Bring a database that was just written into its final form; of one that is not SQLite only locks are removed.

    Raises:
        ImageError: as `installed`.
    """
    place = database(root)
    if not (place / _FILE).exists():
        for left in (*place.glob("__db.*"), *place.glob(".*.lock")):  # Berkeley DB's: of processes, not of packages
            left.unlink()
        return
    with tempfile.TemporaryDirectory(prefix="hp-rpmdb-") as scratch:  # rpm renames directories: no overlay allows it
        copy = Path(scratch, "db")
        shutil.copytree(place, copy)
        keys = [line for line in _rpm(copy, "-qa").splitlines() if line.startswith(f"{_KEY}-")]
        if keys:
            _rpm(copy, "-e", "--allmatches", "--justdb", "--nodeps", "--noscripts", *keys)
        with closing(sqlite3.connect(copy / _FILE)) as connection, connection:
            rows = connection.execute("SELECT hnum, blob FROM Packages").fetchall()
            changed = [(_stamped(blob, epoch), number) for number, blob in rows]
            connection.executemany("UPDATE Packages SET blob = ? WHERE hnum = ?", changed)
        _rpm(copy, "--rebuilddb")
        with closing(sqlite3.connect(copy / _FILE, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("VACUUM")
        new = place / f".{_FILE}"
        shutil.copyfile(copy / _FILE, new)
        new.chmod(0o644)
        new.replace(place / _FILE)
    for left in place.iterdir():
        if left.name != _FILE:
            left.unlink()


def _stamped(blob: bytes, epoch: int) -> bytes:
    """A package's header with its times of installation set to `epoch` seconds; they lie outside the signed part."""
    entries, _ = _HEADER.unpack_from(blob)
    start = _HEADER.size + entries * _ENTRY.size
    changed = bytearray(blob)
    for index in range(entries):
        tag, kind, offset, count = _ENTRY.unpack_from(blob, _HEADER.size + index * _ENTRY.size)
        if tag in _TIMES and kind == 4 and count == 1:
            struct.pack_into(">I", changed, start + offset, epoch)
    return bytes(changed)
