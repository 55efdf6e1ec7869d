"""Runs a command as an ordinary user made for the test: `python -m tests.image.ordinary USER COMMAND...`, as root.

A mount namespace of its own lets the user see an interpreter and a checkout that lie below a directory only root may
enter, so that no right on the machine has to be changed.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from hostplane.image.building import mounts

ROOT = Path(__file__).parents[2]


@contextmanager
def ordinary_user() -> Iterator[str]:
    """A user with subordinate ids and without anything else, for as long as the block runs."""
    name = f"hptest{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--home-dir", "/nonexistent", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["userdel", name], check=True)


def _show(path: Path) -> None:
    """Make `path` reachable for everybody: what lies beside it below the closed directory is hidden."""
    closed = next((p for p in [*reversed(path.parents), path] if not p.stat().st_mode & 0o001), None)
    if closed is None or closed == path:
        return
    aside = mkdtemp()
    mounts.mount(str(path), aside, "", mounts.MS_BIND | mounts.MS_REC)
    mounts.mount("tmpfs", closed, "tmpfs", 0, "mode=0755")
    path.mkdir(parents=True)
    mounts.mount(aside, path, "", mounts.MS_BIND | mounts.MS_REC)
    mounts.umount(aside)
    os.rmdir(aside)


def main(name: str, *command: str) -> None:
    """Become the user and the command."""
    user = pwd.getpwnam(name)
    mounts.unshare(mounts.NEW_MOUNTS)
    mounts.mount("none", "/", "", mounts.MS_PRIVATE | mounts.MS_REC)
    for path in (Path(os.path.realpath(sys.base_prefix)), ROOT):
        _show(path)
    os.chdir("/")
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.execve(command[0], command, os.environ)


if __name__ == "__main__":
    main(*sys.argv[1:])
