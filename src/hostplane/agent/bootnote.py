"""What a slot does early in its boot, before container runtime and kubelet: say that it is in charge of /var.

State that the slot before it wrote and this one cannot read is reset where the image declares that possible (the node
was drained, images can be fetched again), else the unit fails with the reason, and with it what would read that state.
Then the stamp is renewed. It also looks once a boot at what the ESP holds, for the report.
"""

import argparse
import glob
import logging
import os
import shutil
import stat

from hostplane.errors import HostError

from . import firmware
from .hostroot import HostRoot
from .payload import admission, statecheck

__all__ = ["note_boot", "reset", "run"]

_log = logging.getLogger("hostplane.agent")


def run(options: argparse.Namespace) -> int:
    """The verb `state`. Raises HostError StateUnreadableHere; no other fault, and no fault of ours, stops a node."""
    try:
        note_boot(HostRoot(options.root))
    except HostError as fault:
        if fault.name == "StateUnreadableHere":
            raise
        _log.warning("who is in charge of /var is not on record: %s", fault)
    except Exception:
        _log.exception("who is in charge of /var is not on record")
    return 0


def note_boot(host: HostRoot) -> None:
    """Do it; safe to repeat, and to cut anywhere.

    Raises:
        HostError: StateUnreadableHere.
    """
    if host.is_vetoed:
        return
    _take_charge(host)
    try:
        firmware.refresh(host)
    except (OSError, ValueError) as fault:
        _log.warning("the ESP cannot be looked at: %s", fault)


def _take_charge(host: HostRoot) -> None:
    try:
        own = admission.running_state(host)
        rules = statecheck.read_rules(host)
        before = statecheck.read_stamp(host)
    except HostError as fault:  # a damaged note is no reason to keep a node from starting
        _log.warning("nothing is known of who wrote /var last: %s", fault)
        return
    for clash in statecheck.clashes(before, own, rules):
        try:
            if not clash.reset:
                raise ValueError("nothing may be reset")
            _log.warning("state of %s %s is reset for %s", clash.component, clash.writer, clash.reader)
            for pattern in clash.reset:
                reset(host, pattern)
        except (OSError, ValueError) as fault:
            raise HostError(
                "StateUnreadableHere",
                component=clash.component,
                writer=clash.writer,
                reader=clash.reader,
                detail=str(fault),
            ) from fault
    try:
        statecheck.write_stamp(host, own)
    except HostError as fault:  # a full disk is not either
        _log.warning("not on record who is in charge of /var: %s", fault)


def reset(host: HostRoot, pattern: str) -> None:
    """Remove the files, and the content of the directories, that the absolute `pattern` names below /var.

    Directories stay, with their owners and labels; a link among them is not followed. Raises OSError, ValueError.
    """
    for path in sorted(glob.glob(host.root.rstrip("/") + pattern)):
        inner = host.inside(path[len(host.root.rstrip("/")) :])
        if not inner.startswith(host.path("var") + "/"):
            raise ValueError("%s is not below /var" % path)
        if stat.S_ISDIR(os.lstat(inner).st_mode):
            for name in os.listdir(inner):
                _remove(os.path.join(inner, name))
        else:
            _remove(inner)


def _remove(path: str) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
