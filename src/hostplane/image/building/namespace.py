"""A worker's own little machine: mounts and processes that end with it, and a root's rights for an ordinary user.

The builder starts `python -m hostplane.image.building.worker`; that process leaves the namespaces it was born in, and
the child it forks is process 1 of the new ones. Whoever of the three is killed, and however, the kernel ends what is
below it: the worker asks for its parent's death, process 1 for the worker's, and everything else dies with process 1.
An ordinary user needs a range of user ids (/etc/subuid, /etc/subgid) and the two set-uid programs that hand it out.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from typing import IO, NoReturn

from hostplane.errors import ImageError
from hostplane.image.building import mounts
from hostplane.image.building.tools import install_line

__all__ = ["enter", "start"]

_MAPPED = b"mapped\n"
_UTS = 0x04000000
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
"""What the interpreter needs. Programs of the root can read the worker's environment in /proc, so the rest comes with
the job."""


def start(job: bytes, *, stderr: int | IO[bytes], keep: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a worker on `job` (one line of JSON); its standard output carries its events.

    The file descriptors `keep` (locks) stay open in it, so that they are held until the last of both is gone.

    Raises:
        ImageError: UserIdsMissing, ToolMissing, NamespaceRefused.
    """
    rootless = os.geteuid() != 0
    ranges = _ranges() if rootless else []
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "hostplane.image.building.worker", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        pass_fds=keep,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(job.rstrip(b"\n") + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if answer == b"map\n":
            for program, own, first, count in ranges:
                line = [program, str(process.pid), "0", str(own), "1", "1", str(first), str(count)]
                subprocess.run(line, check=True, capture_output=True, timeout=10)
            process.stdin.write(_MAPPED)
            process.stdin.flush()
            answer = process.stdout.readline()
        if answer != b"ready\n":
            raise ImageError("NamespaceRefused", error=answer.decode("utf-8", "replace").strip() or "no answer")
    except BaseException as error:
        process.kill()
        process.communicate()
        if isinstance(error, (OSError, subprocess.SubprocessError)):
            said = getattr(error, "stderr", None) or b""
            raise ImageError("NamespaceRefused", error=said.decode("utf-8", "replace").strip() or error) from error
        raise
    return process


def enter(work: Callable[[bytes], int]) -> NoReturn:
    """The worker's life: read the job, leave for new namespaces, let process 1 do `work(job)`, end with its result."""
    parent = int(sys.argv[1])
    job = sys.stdin.buffer.readline()
    rootless = os.geteuid() != 0
    try:
        if rootless:
            mounts.unshare(mounts.NEW_USER)
            _say(b"map\n")
            if sys.stdin.buffer.readline() != _MAPPED:
                raise SystemExit(1)
            os.setgroups([])
        mounts.die_with_parent()
        if os.getppid() != parent:  # it died before the kernel was asked to tell
            raise SystemExit(1)
        mounts.unshare(mounts.NEW_MOUNTS | mounts.NEW_PIDS | mounts.NEW_IPC | _UTS)
        alive, dead = os.pipe()
        first = os.fork()
    except OSError as error:
        _say(f"{error}\n".encode())
        raise SystemExit(1) from None
    if first:
        os.close(alive)
        devnull = os.open(os.devnull, os.O_RDWR)
        os.dup2(devnull, 1)  # the events end when process 1 ends
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.close(dead)
    mounts.die_with_parent()
    os.set_blocking(alive, False)
    try:
        os.read(alive, 1)
        os._exit(1)  # end of file: the worker is gone already
    except BlockingIOError:
        os.close(alive)
    mounts.mount("none", "/", "", mounts.MS_PRIVATE | mounts.MS_REC)
    mounts.mount_proc(Path("/proc"))
    _say(b"ready\n")
    code = 1
    try:
        code = work(job)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _say(line: bytes) -> None:
    os.write(1, line)


def _ranges() -> list[tuple[str, int, int, int]]:
    """For users and for groups: the program that maps, our own id, and the first and number of ours in reserve."""
    found = []
    name = pwd.getpwuid(os.geteuid()).pw_name
    for program, path, own in (
        ("newuidmap", "/etc/subuid", os.geteuid()),
        ("newgidmap", "/etc/subgid", os.getegid()),
    ):
        if which(program) is None:
            raise ImageError("ToolMissing", tool=program, install=install_line(program))
        try:
            lines = Path(path).read_text("utf-8").splitlines()
        except OSError:
            lines = []
        mine = [line.split(":") for line in lines if line.split(":")[0] in (name, str(os.geteuid()))]
        ranges = [(int(f[1]), int(f[2])) for f in mine if len(f) == 3 and int(f[2]) >= 65535]
        if not ranges:
            raise ImageError("UserIdsMissing", user=name, file=path)
        found.append((program, own, *ranges[0]))
    return found
