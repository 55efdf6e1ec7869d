"""The administrator's checks: every executable in /etc/hostplane/checks.d, in order of name, each with a deadline.

A check passes by exiting 0. The first that fails, or does not end in time, ends the trial: its last output becomes the
reason. Checks get no input, a group of their own so that nothing of them survives, and the slot in their environment.
"""

import os
import signal
import subprocess
import tempfile
import threading
from typing import Callable, List, Optional

from hostplane.errors import HostError

from ..fetch import Cancelled
from ..hostroot import HostRoot

__all__ = ["UserChecks"]

_TAIL = 400  # bytes of a failed check's output that become its reason


class UserChecks(object):
    """One round of checks; `cancel` may be called from any thread and ends it at once."""

    def __init__(self, host: HostRoot, slot: str) -> None:
        self._host, self._slot = host, slot
        self._lock = threading.Lock()
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._cancelled = False

    def names(self) -> List[str]:
        """The checks of this host, in the order they run; hidden files and what is not executable are left out."""
        directory = self._host.path("etc/hostplane/checks.d")
        try:
            found = sorted(os.listdir(directory))
        except FileNotFoundError:
            return []
        paths = ((name, os.path.join(directory, name)) for name in found if not name.startswith("."))
        return [name for name, path in paths if os.path.isfile(path) and os.access(path, os.X_OK)]

    def cancel(self) -> None:
        """End the round: `run` raises Cancelled."""
        with self._lock:
            self._cancelled = True
            self._kill()

    def _kill(self) -> None:
        """The check and all it has started; its group has its number as long as one of them lives."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def run(self, remaining: Callable[[], float]) -> None:
        """Run them all; `remaining` is the seconds until the trial's own deadline.

        Raises:
            HostError: CheckFailed or CheckTimedOut. Cancelled.
        """
        for name in self.names():
            try:
                self._one(name, max(0.1, min(self._host.config.check_seconds, remaining())))
            except OSError as fault:
                raise HostError("CheckFailed", check=name, detail=fault.strerror or str(fault)) from fault

    def _one(self, name: str, seconds: float) -> None:
        environment = dict(os.environ, HOSTPLANE_ROOT=self._host.root, HOSTPLANE_SLOT=self._slot)
        with tempfile.TemporaryFile() as output:
            try:
                with self._lock:
                    if self._cancelled:
                        raise Cancelled()
                    self._process = subprocess.Popen(
                        [self._host.path("etc/hostplane/checks.d/" + name)],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        cwd=self._host.root,
                        env=environment,
                        start_new_session=True,
                    )
                code = self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise HostError("CheckTimedOut", check=name, seconds=seconds) from None
            finally:
                with self._lock:
                    self._kill()
                    process, self._process = self._process, None
                if process is not None:
                    process.wait()
            if self._cancelled:
                raise Cancelled()
            if code:
                raise HostError("CheckFailed", check=name, detail=_tail(output.fileno()) or "exit status %d" % code)


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace").strip()
