"""Background processes that outlive the command that started them, and are ended by a later one, exactly.

A process is remembered by its id, its start time and the boot it belongs to; a process id that has meanwhile become
somebody else's is never signalled. Signals go through pidfds, so nothing can slip in between check and signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hostplane.errors import LocalError

__all__ = ["Process", "end", "end_session", "ended", "exited", "is_alive", "last_lines", "spawn", "wait"]

_LISTEN_FD = 3  # sd_listen_fds: the first one
_KILL_SECONDS = 5.0
_TELLING = re.compile(r'[EF]\d{4} |[Ee]rror|panic|hostplane: HP-|\S*Error:|\{"level":"(error|fatal|panic)"')


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process we started: `started` is its start time in clock ticks of boot `boot`."""

    name: str
    pid: int
    started: int
    boot: str
    log: str


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _state(pid: int) -> tuple[str, int] | None:
    """(state letter, start time in ticks) of a process, or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the program's name may hold spaces and brackets
    return fields[0], int(fields[19])


def spawn(
    name: str,
    command: list[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    listen: int | None = None,
    own_session: bool = True,
) -> Process:
    """Starts `command`, its output appended to `log` (mode 0600).

    Args:
        listen: a listening socket handed over the way systemd's socket activation does (LISTEN_FDS, LISTEN_PID).
        own_session: leave our session, so that it outlives us and our terminal.

    Raises:
        LocalError: it cannot be started.
    """
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    program, environment = command[0], dict(os.environ if environment is None else environment)
    if listen is not None:
        actions.append((os.POSIX_SPAWN_DUP2, listen, _LISTEN_FD))
        environment["LISTEN_FDS"] = "1"
        command = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', *command]  # only the child knows its own id
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            environment,
            file_actions=actions,
            setsid=own_session,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGPIPE],
        )
    except OSError as error:
        raise LocalError("ProgramNotStarted", program=name, path=program, error=error.strerror) from error
    state = _state(pid)
    return Process(name=name, pid=pid, started=state[1] if state else 0, boot=_boot(), log=str(log))


def is_alive(process: Process) -> bool:
    """Whether it still runs and is still the one we started; a zombie does not run."""
    state = _state(process.pid)
    return state is not None and state[0] not in "ZX" and state[1] == process.started and process.boot == _boot()


def wait(process: Process, seconds: float) -> bool:
    """Waits until it has ended, at most `seconds`; whether it has. A child of ours is reaped."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        state = _state(process.pid)
        if state is not None and state[1] == process.started:
            # Also for a zombie: its first thread may have ended while others still hold its sockets.
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            if not poller.poll(max(0.0, seconds) * 1000):
                return False
    finally:
        os.close(fd)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return True


async def exited(process: Process) -> None:
    """Returns once it has ended; a child of ours is reaped."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(fd, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
        wait(process, 0)


def ended(processes: list[Process]) -> Process | None:
    """The first of them that no longer runs."""
    return next((process for process in processes if not is_alive(process)), None)


def end(processes: list[Process], grace: float = 10.0, signal_number: int = signal.SIGTERM) -> list[Process]:
    """Ends them in the given order, each with `grace` seconds before it is killed. Safe to repeat.

    Returns:
        Those that were still running.
    """
    ran = []
    for process in processes:
        if _signal(process, signal_number):
            ran.append(process)
            deadline = time.monotonic() + grace
            if not wait(process, deadline - time.monotonic()):
                _signal(process, signal.SIGKILL)
        wait(process, _KILL_SECONDS)
    return ran


def end_session(leader: Process) -> None:
    """Kills what an ended leader of a session left behind in it.

    The kernel gives a session's id to nobody else while a member lives; an id that is in use by a stranger, or that
    belongs to another boot, therefore means that nothing of ours is left.
    """
    if leader.boot != _boot() or (_state(leader.pid) is not None and not is_alive(leader)):
        return
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != leader.pid:
            try:
                is_member = os.getsid(int(entry.name)) == leader.pid
            except OSError:
                continue
            state = _state(int(entry.name))
            if is_member and state is not None:
                member = Process(name="", pid=int(entry.name), started=state[1], boot=leader.boot, log="")
                end([member], signal_number=signal.SIGKILL)


def _signal(process: Process, number: int) -> bool:
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(process):  # checked while the pidfd holds the identity
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def last_lines(process: Process, lines: int = 3) -> str:
    """The end of its log, on one line: the lines that name an error where there are any."""
    try:
        text = Path(process.log).read_text("utf-8", "replace").splitlines()[-200:]
    except OSError:
        return "(no log)"
    telling = [line for line in text if _TELLING.match(line)]
    return " / ".join((telling or text)[-lines:])[-600:]
