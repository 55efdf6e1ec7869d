"""What a person, a unit or a test asks of this host on the command line; one function a verb.

Each takes the parsed options and gives the exit status, or raises a HostplaneError, which `main` turns into a sentence.
Nothing is decided here: the agent is asked over its socket. Only `rollback` also works where no agent can be reached
(an emergency shell): it then is the agent for as long as it takes.
"""

import argparse
import json
import os
import sys
import threading
from typing import Any, Dict, Optional

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

__all__ = ["banner", "call", "grow", "rollback", "status", "trial"]

_ANSWER_SECONDS = 60.0  # a slow host has to start the agent first
_GOING_DOWN_SECONDS = 120.0


def _socket_of(options: argparse.Namespace) -> str:
    return options.socket or HostRoot(options.root).path("run/hostplane/agent.sock")


def _ask(options: argparse.Namespace, method: str, params: Dict[str, Any], host_uid: str = "") -> Dict[str, Any]:
    from hostplane.rpc.client import AgentClient

    with AgentClient(_socket_of(options), timeout=_ANSWER_SECONDS, host_uid=host_uid, name="hostplane-agent") as agent:
        return agent.call(method, **params)


def _print(report: Dict[str, Any], as_json: bool) -> None:
    from .text import status_text

    sys.stdout.write(json.dumps(report, indent=2) + "\n" if as_json else status_text(report))


def status(options: argparse.Namespace) -> int:
    """Print the host's report. Raises HostError."""
    _print(_ask(options, "status", {}), options.json)
    return 0


def call(options: argparse.Namespace) -> int:
    """Make one call and print its result as JSON. Raises HostError, AgentError."""
    try:
        params = json.loads(sys.stdin.read() if options.params == "-" else options.params)
        if not isinstance(params, dict):
            raise ValueError("it is not an object")
    except ValueError as fault:
        raise HostError("CallParametersInvalid", detail=str(fault)[:200]) from None
    uid = options.host_uid if options.host_uid is not None else _known_uid(options.root)
    sys.stdout.write(json.dumps(_ask(options, options.method, params, uid), indent=2) + "\n")
    return 0


def _known_uid(root: str) -> str:
    """The Host this host obeys, as far as whoever asks may read that."""
    from hostplane.agent.state import StateFile

    try:
        state = StateFile(HostRoot(root).path("var/lib/hostplane/state.json")).load()
    except (HostError, OSError):
        return ""
    return state.host_uid if state is not None else ""


def rollback(options: argparse.Namespace) -> int:
    """Go to the other slot, if it is proven, by a reboot; without a cluster. Raises HostError, AgentError."""
    try:
        report = _ask(options, "rollback", {})
    except HostError as fault:
        if fault.name != "AgentUnreachable" or options.socket:
            raise
        report = _roll_back_alone(options.root)
    operation = report.get("operation") or {}
    sys.stdout.write("going to slot %s\n" % ("B" if report["activeSlot"] == "A" else "A"))
    if operation.get("digest") and report.get("lastError") is None:
        sys.stdout.write(
            "The checks of that boot commit it. The cluster may ask for the newer image again; "
            "/etc/hostplane/never keeps it from that.\n"
        )
    return 0


def _roll_back_alone(root: str) -> Dict[str, Any]:
    from hostplane.agent.host import Host
    from hostplane.agent.lock import lock

    held = lock(root)
    is_down = threading.Event()
    host = Host(root)
    try:
        host.start(is_down.set)
        report = host.roll_back()
        while not is_down.wait(0.2):
            now = host.status()
            if now["phase"] != "Rebooting":
                raise HostError("RollbackInterrupted", detail=(now.get("lastError") or {}).get("message", ""))
        return report
    finally:
        host.close()
        os.close(held)


def trial(options: argparse.Namespace) -> int:
    """Own the trial of this boot, if there is one. Raises HostError ActiveSlotUnknown."""
    from hostplane.agent.trial.guard import Guard

    Guard(HostRoot.lenient(options.root)).run()
    return 0


def grow(options: argparse.Namespace) -> int:
    """Let PERSIST fill its disk. Raises HostError."""
    from hostplane.agent import grow as growing

    host = HostRoot(options.root)
    if host.is_vetoed:
        print("/etc/hostplane/never forbids every change")
        return 0
    size: Optional[int] = growing.grow(host)
    print("nothing to grow" if size is None else "PERSIST has %d MiB now" % (size >> 20))
    return 0


def banner(options: argparse.Namespace) -> int:
    """Keep the line above the login prompt true until the boot is over. Raises HostError BannerNotWritten."""
    from . import banner as line_above

    try:
        line = line_above.show(HostRoot.lenient(options.root))
    except OSError as fault:
        raise HostError("BannerNotWritten", detail=str(fault)) from fault
    sys.stdout.buffer.write(line.encode("utf-8") + b"\n")  # whatever the console's locale is
    return 0
