"""The one way a build calls a program: a list of words, a time-out, a clean environment, and a log.

A program sees no variable of the caller's besides the proxies (and those only with the network), and no network unless
it was asked for. Its output goes to the stage's log line by line with secrets taken out; its standard output is handed
back as it is. Nothing here takes a shell string, and nothing waits for ever.
"""

from __future__ import annotations

import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shutil import which
from typing import IO

from hostplane.errors import ImageError
from hostplane.image.building import mounts
from hostplane.image.building.tools import install_line

__all__ = ["Redactor", "Runner"]

_HOST = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_CHROOT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root", "TMPDIR": "/tmp"}
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_TAIL_LINES, _LINE_BYTES, _OUTPUT_BYTES = 12, 64 << 10, 64 << 20
_LINGER_SECONDS = 1.0  # for the last words of a program that left a child with its pipes open
_USERINFO = re.compile(rb"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")


class Redactor:
    """Takes secrets out of what is written: the values it is told, and the user:password part of any URL."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        lines = {line.strip() for secret in secrets for line in [secret, *secret.splitlines()]}
        values = sorted((line.encode() for line in lines if len(line) >= 3), key=len, reverse=True)
        self._values = re.compile(b"|".join(re.escape(value) for value in values)) if values else None

    def __call__(self, raw: bytes) -> bytes:
        """`raw` without them."""
        clean = _USERINFO.sub(b"***", raw) if b"@" in raw else raw
        return self._values.sub(b"***", clean) if self._values else clean


class Runner:
    """A `stage.Run` over one root, writing to one log."""

    def __init__(
        self,
        root: Path,
        log: IO[bytes],
        log_path: Path,
        *,
        environment: Mapping[str, str] | None = None,
        redact: Redactor | None = None,
    ) -> None:
        """`log` is open, unbuffered; `log_path` is where errors send the reader; `environment` is every program's."""
        self._root = root
        self._log = log
        self._log_path = log_path
        self._environment = dict(environment or {})
        self._redact = redact or Redactor()

    def __call__(
        self,
        argv: Sequence[str],
        *,
        chroot: bool = False,
        network: bool = False,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout: float = 1800.0,
        cwd: Path | None = None,
    ) -> bytes:
        """Run `argv`; with `chroot`, `cwd` is a path of the root.

        Raises:
            ImageError: ToolMissing, ToolNotInRoot, ToolNotRun, ToolTimeout, ToolTooTalkative or ToolFailed.
        """
        environment = {**(_CHROOT if chroot else _HOST), **self._environment, **_proxies(network), **(env or {})}
        program = argv[0]
        if not chroot and which(program, path=environment["PATH"]) is None:
            raise ImageError("ToolMissing", tool=program, install=install_line(program))
        self.note("$ " + shlex.join(argv))
        with ExitStack() as held:
            if chroot:
                held.enter_context(mounts.api_mounts(self._root, resolver=network))
            try:
                process = subprocess.Popen(  # no other thread of a worker holds a lock
                    argv,
                    stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    cwd=None if chroot else cwd,
                    start_new_session=True,
                    preexec_fn=partial(_enter, self._root if chroot else None, cwd, network),  # noqa: PLW1509  # a worker has one thread
                )
            except FileNotFoundError as error:
                raise ImageError("ToolNotInRoot", tool=program) from error
            except OSError as error:  # of another architecture, or not a program
                raise ImageError("ToolNotRun", tool=program, error=error.strerror) from error
            with process:
                try:
                    return self._follow(process, program, stdin, timeout)
                finally:
                    _end(process)

    def note(self, text: str) -> None:
        """One line of the log, redacted."""
        self._log.write(self._redact(text.encode("utf-8", "replace")) + b"\n")

    def _follow(self, process: subprocess.Popen[bytes], program: str, stdin: bytes | None, timeout: float) -> bytes:
        """Feed and drain the program until it ends."""
        streams = {process.stdout: _Lines(self), process.stderr: _Lines(self)}
        tail = deque[str](maxlen=_TAIL_LINES)
        kept = bytearray()
        pending = memoryview(stdin or b"")
        deadline = time.monotonic() + timeout
        ended = False
        with selectors.DefaultSelector() as selector:
            for stream in streams:
                assert stream is not None
                selector.register(stream, selectors.EVENT_READ)
            if process.stdin is not None:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE)
            while selector.get_map():
                if not ended and process.poll() is not None:
                    ended, deadline = True, min(deadline, time.monotonic() + _LINGER_SECONDS)
                left = deadline - time.monotonic()
                ready = selector.select(min(max(left, 0.0), 0.2))
                if left <= 0 or (ended and not ready):
                    break
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        pending = _feed(process.stdin, pending)
                        if not pending:
                            selector.unregister(process.stdin)
                            process.stdin.close()
                        continue
                    chunk = os.read(key.fd, 1 << 16)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stdout:
                        kept += chunk
                    tail.extend(streams[key.fileobj].take(chunk))  # type: ignore[index]  # the very same objects
                    if len(kept) > _OUTPUT_BYTES:
                        raise ImageError("ToolTooTalkative", tool=program, mib=_OUTPUT_BYTES >> 20)
        for lines in streams.values():
            tail.extend(lines.take(b""))
        try:
            status = process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            raise ImageError(
                "ToolTimeout", tool=program, seconds=round(timeout), log=self._log_path, tail=list(tail)
            ) from None
        if status != 0:
            last = next((line for line in reversed(tail) if line.strip()), "no output")
            raise ImageError(
                "ToolFailed", tool=program, status=_said(status), last=last, log=self._log_path, tail=list(tail)
            )
        return bytes(kept)


class _Lines:
    """Cuts a stream into lines and logs them; a line without an end is cut so that memory stays bounded."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._rest = b""

    def take(self, chunk: bytes) -> list[str]:
        """The whole lines that `chunk` completes, redacted; an empty chunk ends the stream."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        if self._rest and (not chunk or len(self._rest) > _LINE_BYTES):
            whole.append(self._rest)
            self._rest = b""
        clean = [self._runner._redact(line) for line in whole]
        if clean:
            self._runner._log.write(b"\n".join(clean) + b"\n")
        return [line.decode("utf-8", "replace").rstrip() for line in clean]


def _enter(root: Path | None, cwd: Path | None, network: bool) -> None:
    """In the forked child: the last steps before the program."""
    mounts.die_with_parent()
    if not network:
        mounts.go_offline()
    if root is not None:
        os.chroot(root)
        os.chdir(cwd or "/")


def _feed(stream: IO[bytes], pending: memoryview) -> memoryview:
    try:
        return pending[os.write(stream.fileno(), pending[: 1 << 16]) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:  # it read what it wanted
        return pending[:0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing that the program started in its session outlives it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _proxies(network: bool) -> dict[str, str]:
    names = [n for name in _PROXIES for n in (name, name.upper())] if network else []
    return {name: os.environ[name] for name in names if name in os.environ}


def _said(status: int) -> str:
    return f"exit code {status}" if status > 0 else f"signal {-status}"
