"""Why a trial ended when no agent was there to write it down: one file of the trial service's, read after the boot.

It counts in the boots after the one it was written in, and is removed once one of them has read it, or a trial is over.
"""

import json
import os
from typing import Optional

from hostplane.errors import HostplaneError
from hostplane.rpc import messages

from ..hostroot import HostRoot
from ..state import Fault

__all__ = ["LastWords"]

_FILE = "var/lib/hostplane/last-words.json"


class LastWords(object):
    """The file of one host. Nothing here may stop a boot or a reboot, so nothing is raised."""

    def __init__(self, host: HostRoot) -> None:
        self._path = host.path(_FILE)

    def write(self, boot_id: str, error: HostplaneError, now: str) -> None:
        """Leave the reason; without a room for it the boot goes on without."""
        said = {"boot": boot_id, "name": error.name, "code": error.code, "message": str(error), "at": now}
        try:
            with open(self._path + ".new", "w", encoding="ascii") as file:
                json.dump(said, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._path + ".new", self._path)
        except OSError:
            pass

    def read(self, boot_id: str) -> Optional[Fault]:
        """What was said before the boot `boot_id`; None where nothing was."""
        try:
            with open(self._path, encoding="ascii") as file:
                said = json.load(file)
            if said["boot"] == boot_id:
                return None
            words = [str(said[name]) for name in ("name", "code", "message")]
            return Fault(words[0], words[1], words[2], messages.CLASS_HOST_FAULT, "", str(said["at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forget(self) -> None:
        """Remove it."""
        try:
            os.unlink(self._path)
        except OSError:
            pass
