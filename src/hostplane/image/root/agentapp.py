"""The agent as one file: a zip application that any Python from 3.6 on runs, with its two vendored libraries inside.

The same sources give the same bytes: entries are sorted and carry a fixed date. Only what runs on the host goes in; the
libraries are copied from this installation, without their compiled parts and with their licences.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import hostplane
from hostplane.errors import LocalError

__all__ = ["agent_digest", "build_agent"]

_OWN = ("__init__.py", "errors.py", "catalogue/agent.json", "catalogue/rpc.json")
_OWN_ROOMS = ("agent", "rpc")
_VENDORED = {"tomlkit": "tomlkit", "ruamel.yaml": "ruamel/yaml"}
_MAIN = b"import sys\n\nfrom hostplane.agent.main import main\n\nsys.exit(main())\n"
_SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def _own() -> Iterator[tuple[str, bytes]]:
    home = Path(hostplane.__file__).parent
    for name in _OWN:
        yield f"hostplane/{name}", (home / name).read_bytes()
    for room in _OWN_ROOMS:
        for source in (home / room).rglob("*.py"):
            yield f"hostplane/{source.relative_to(home).as_posix()}", source.read_bytes()


def _vendored(distribution: str, package: str) -> Iterator[tuple[str, bytes]]:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as fault:
        raise LocalError("VendoredLibraryMissing", library=distribution) from fault
    for entry in files:
        name = entry.as_posix()
        if name.startswith(f"{package}/") and name.endswith(".py"):
            yield name, entry.read_binary()
        elif ".dist-info/" in name and "LICENSE" in entry.name.upper():
            yield f"licences/{distribution}", entry.read_binary()


def _entries() -> dict[str, bytes]:
    entries = dict(_own())
    for distribution, package in _VENDORED.items():
        entries.update(_vendored(distribution, package))
    entries["ruamel/__init__.py"] = b""  # a namespace package, which a zip cannot hold on Python 3.6
    entries["__main__.py"] = _MAIN
    return entries


def agent_digest() -> str:
    """SHA-256 (hex) of what the agent is made of; without packing it.

    Raises:
        LocalError: VendoredLibraryMissing.
    """
    digest = hashlib.sha256(_SHEBANG)
    for name, content in sorted(_entries().items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def build_agent(target: Path) -> Path:
    """Write the agent's zip application to `target`, in one step, executable; gives `target`.

    Raises:
        LocalError: VendoredLibraryMissing, in an installation without the agent's libraries.
    """
    entries = _entries()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            packed.writestr(info, entries[name], zipfile.ZIP_DEFLATED)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.write_bytes(_SHEBANG + archive.getvalue())
    fresh.chmod(0o755)
    fresh.replace(target)
    return target
