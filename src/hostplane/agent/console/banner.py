"""`hostplane-agent banner`: the line above the login prompt, from the first login on, true when the boot is over.

Written at once (`starting`), then the service manager is told that gettys may start; once no job is left, what is wrong
is found out (failed units, the agent's own report) and the line is written again. A login prompt that can be told to
show itself again is told. Nothing here is essential: a host whose line cannot be written works on.
"""

import os
import time
from typing import Callable

from hostplane.agent.hostroot import HostRoot
from hostplane.agent.trial import systemd
from hostplane.agent.trial.guard import notify_ready
from hostplane.errors import HostError, HostplaneError

from .text import Facts, banner_line

__all__ = ["look", "show", "write"]

_BOOT_SECONDS = 600.0
_POLL_SECONDS = 1.0
_AGENT_SECONDS = 60.0


def look(host: HostRoot, output: Callable[..., str] = systemd.output) -> Facts:
    """How this host is. `output` gives what a command prints."""
    try:
        slot = host.active_slot()
    except HostError:
        slot = ""
    image = host.image()
    known = Facts(slot, " ".join((image.name, image.version)).strip() or host.os_version())
    system = output("systemctl", "is-system-running").strip()
    if system in systemd.STARTING:
        return known._replace(system=system)
    units = output("systemctl", "list-units", "--state=failed", "--no-legend", "--no-pager", "--plain")
    known = known._replace(system=system or "unknown", failed_units=systemd.failed_units(units))
    if not slot:
        return known
    try:
        from hostplane.rpc.client import AgentClient

        with AgentClient(host.path("run/hostplane/agent.sock"), timeout=_AGENT_SECONDS) as agent:
            return known._replace(report=agent.call("status"))
    except HostplaneError as fault:
        return known._replace(fault=str(fault))


def write(host: HostRoot, line: str) -> bool:
    """Put `line` where login prompts and shells find it; whether it is another one than before.

    Raises:
        OSError: it cannot be written.
    """
    plain = line.replace("\\", "/")  # a login prompt takes a backslash for a command
    try:
        with open(host.path("usr/lib/hostplane/issue"), encoding="utf-8", errors="replace") as file:
            before = file.read()
    except OSError:
        before = ""
    is_news = _replace(host.path("run/issue.d/hostplane.issue"), plain + "\n")
    _replace(host.path("run/motd.d/hostplane"), line + "\n")
    _replace(host.path("run/hostplane/issue"), before + plain + "\n\n")
    return is_news


def _replace(path: str, text: str) -> bool:
    content = text.encode("utf-8")
    try:
        with open(path, "rb") as file:
            if file.read() == content:
                return False
    except OSError:
        pass
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "wb") as file:
        file.write(content)
    os.replace(path + ".new", path)
    return True


def show(host: HostRoot, seconds: float = _BOOT_SECONDS, output: Callable[..., str] = systemd.output) -> str:
    """Keep the line true until the boot is over, at most for `seconds`; gives the last one.

    Raises:
        OSError: it cannot be written.
    """
    deadline = time.monotonic() + seconds
    facts = look(host, output)
    is_news = write(host, banner_line(facts))
    notify_ready()
    while facts.system in systemd.STARTING and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        facts = look(host, output)
    line = banner_line(facts)
    if write(host, line) or is_news:
        output("agetty", "--reload")
    return line
