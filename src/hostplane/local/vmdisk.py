"""A disk for one machine: a copy of an image's, with what makes this host that host put into its PERSIST.

The files go into PERSIST/identity, which every host built by us takes as its own at its first boot (docs/reference/
host.md); the image itself stays without a secret. Written from outside with debugfs, so nothing is mounted and nobody
need be root. Each file is read back: debugfs does not say when it fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from hostplane.errors import LocalError
from hostplane.image.disk import diskview

__all__ = ["prepare_disk"]

_SECONDS = 300.0
_IDENTITY = PurePosixPath("/identity")


def prepare_disk(image: Path, target: Path, files: Mapping[str, str]) -> Path:
    """Copy the raw disk `image` to `target` and give it an identity; gives `target`.

    Args:
        files: text by path below /etc, such as `hostname`. What holds a token or a key is readable by root alone.

    Raises:
        LocalError: DiskNotPrepared.
        ImageError: the disk has no table that can be read.
    """
    _run("cp", "--sparse=always", "--reflink=auto", "--", str(image), str(target))
    persist = next((part for part in diskview.read(target).partitions if part.name == "PERSIST"), None)
    if persist is None:
        raise LocalError("DiskNotPrepared", disk=target, detail="it has no PERSIST")
    place = f"{target}?offset={persist.offset}"
    with tempfile.TemporaryDirectory(prefix="hostplane-identity-") as scratch:
        commands = [f"mkdir {folder}" for folder in _folders(files)]
        for number, (name, text) in enumerate(sorted(files.items())):
            source = Path(scratch) / str(number)
            mode = 0o600 if "token:" in text or "PRIVATE KEY" in text else 0o644
            with open(os.open(source, os.O_WRONLY | os.O_CREAT, mode), "w", encoding="utf-8") as file:
                file.write(text)
            commands.append(f"write {source} {_IDENTITY / name}")
        script = Path(scratch) / "commands"
        script.write_text("".join(f"{command}\n" for command in commands), "utf-8")
        said = _run(_tool("debugfs"), "-w", "-f", str(script), place)
        for name, text in files.items():
            if _run(_tool("debugfs"), "-R", f"cat {_IDENTITY / name}", place) != text:
                detail = " ".join(said.split())[-300:]
                raise LocalError("DiskNotPrepared", disk=target, detail=f"{name} was not written: {detail}")
    return target


def _folders(files: Mapping[str, str]) -> list[PurePosixPath]:
    """Every directory to make, the outer ones first."""
    found = {parent for name in files for parent in (_IDENTITY / name).parents if parent != PurePosixPath("/")}
    return sorted(found, key=lambda folder: (len(folder.parts), folder))


def _tool(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or name


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except FileNotFoundError as error:
        raise LocalError("DiskNotPrepared", disk=command[-1], detail=f"{command[0]} is missing") from error
    except subprocess.CalledProcessError as error:
        raise LocalError("DiskNotPrepared", disk=command[-1], detail=error.stderr.strip()[-300:]) from error
    return done.stdout
