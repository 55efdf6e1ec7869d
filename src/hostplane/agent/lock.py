"""One agent a host: two would both act on one state."""

import fcntl
import os
import time

from hostplane.errors import HostError

__all__ = ["lock"]

_SECONDS = 5.0


def lock(root: str) -> int:
    """The descriptor that holds the lock until it is closed. A predecessor that is just ending is waited for.

    Raises:
        HostError: AgentAlreadyRunning.
    """
    directory = os.path.join(root, "var/lib/hostplane")
    os.makedirs(directory, exist_ok=True)
    descriptor = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise HostError("AgentAlreadyRunning", root=root) from None
            time.sleep(0.05)
