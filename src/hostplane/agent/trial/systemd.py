"""What the service manager says of this boot, asked through systemctl as every version since 219 understands it.

It refuses nothing and changes nothing: a manager that does not answer in time gives empty words, and whoever asks
takes these for the bad sign they are.
"""

import fnmatch
import subprocess
from typing import Dict, Iterable, List

__all__ = ["STARTING", "failed_units", "is_wanted", "output", "properties", "system_state", "unexpected", "unfinished"]

STARTING = ("initializing", "starting")
_TOOL_SECONDS = 30.0


def output(*command: str) -> str:
    """What `command` prints; nothing when it cannot be run or does not end within 30 seconds."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TOOL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def system_state() -> str:
    """starting, running, degraded, maintenance, stopping...; empty when nobody answers."""
    return output("systemctl", "is-system-running").strip()


def unfinished(state: str) -> str:
    """Why the boot is not over where the system is in `state`, with the units that it waits for; empty when it is."""
    if state in ("running", "degraded"):
        return ""
    listed = output("systemctl", "list-jobs", "--no-legend", "--no-pager") if state in STARTING else ""
    jobs = ", ".join(job[1] for job in map(str.split, listed.splitlines()) if len(job) > 3 and job[3] == "running")
    return "the system is %s%s" % (state or "not answering", ", waiting for " + jobs if jobs else "")


def failed_units(listing: str) -> List[str]:
    """Names in what `systemctl list-units --state=failed` prints; older versions put a mark before each."""
    words = (line.lstrip("●*× ").split() for line in listing.splitlines())
    return [line[0] for line in words if line]


def unexpected(failed: Iterable[str], allowed: Iterable[str]) -> List[str]:
    """The failed units that no pattern allows."""
    patterns = list(allowed)
    return [unit for unit in failed if not any(fnmatch.fnmatchcase(unit, pattern) for pattern in patterns)]


def properties(unit: str, *names: str) -> Dict[str, str]:
    """Properties of a unit; empty ones where nobody answers."""
    said = output("systemctl", "show", "--property=" + ",".join(names), unit)
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    return {name: found.get(name, "") for name in names}


def is_wanted(unit: str) -> bool:
    """Whether `unit` is to run on this host: somebody wants it, however it was enabled, and its conditions hold."""
    said = properties(unit, "LoadState", "WantedBy", "RequiredBy", "ConditionResult", "ActiveState")
    if said["LoadState"] != "loaded":
        return False
    if said["ActiveState"] in ("active", "activating", "reloading", "failed"):
        return True
    return bool(said["WantedBy"] or said["RequiredBy"]) and said["ConditionResult"] != "no"
