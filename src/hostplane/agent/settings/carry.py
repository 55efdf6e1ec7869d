"""Carries a plan out: noted first, then files, parameters, services and checks; taken back when a check fails.

The note (journal.py) makes many files one step: a cut at any instant leaves the settings of before, or the next start
completes these. Every step may be repeated. What is taken back is what the request itself changed, to what it found.
"""

import logging
from typing import List, Optional

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

from . import entry
from .journal import Journal, Record
from .plan import Plan
from .planner import Planner
from .reactions import Services
from .request import Request, check_size

__all__ = ["REPORTED", "apply", "drift", "make_plan", "resume"]

_log = logging.getLogger("hostplane.agent")
REPORTED = 20
"""Lines of drift that are reported."""


def make_plan(host: HostRoot, active: str, request: Request, record: Optional[Record]) -> Plan:
    """What `request` means on this host now, where `record` is in force. Writes nothing.

    Raises:
        HostError: SettingsTooLarge, SettingsChangedSince, and what Planner.plan raises.
    """
    if not request.is_kubeos:
        check_size(request.version, request.configs)
    planner = Planner(host, active, request)
    if request.undo and record is not None:
        record.take_back(host, planner)
    return planner.plan()


def apply(host: HostRoot, active: str, boot_id: str, request: Request) -> Plan:
    """Apply `request`; gives what was done.

    Raises:
        HostError: what make_plan raises: nothing was written. SettingWriteFailed, ServiceNotSettled,
            SettingsCheckFailed: everything is as before. VetoedByHost: the rest waits until the veto is gone.
    """
    journal = Journal(host)
    resume(host, boot_id)
    record = journal.record()
    plan = make_plan(host, active, request, record)
    for words in plan.warnings:
        _log.warning("%s", words)
    services = Services(host)
    told = [word.partition(" ")[2] for word in plan.tells]
    running = services.running(list(dict.fromkeys(told + plan.units)))
    fresh = (record or Record()).followed_by(plan, request, boot_id, running)
    host.refuse_if_vetoed()
    journal.begin(fresh)
    _finish(host, journal, fresh, True)
    return plan


def resume(host: HostRoot, boot_id: str) -> Optional[Record]:
    """Carry what an interrupted run left to its end; gives it where it is in force now.

    Raises:
        HostError: SettingsRecordUnreadable, and what `apply` raises for what failed and was taken back.
    """
    journal = Journal(host)
    pending = journal.pending()
    if pending is None:
        return None
    if pending.is_undoing:
        _go_back(host, journal, pending)
        return None
    # After a reboot the services start with the new files by themselves; the boot's own checks judge them.
    _finish(host, journal, pending, pending.boot_id == boot_id)
    return pending


def _finish(host: HostRoot, journal: Journal, record: Record, with_checks: bool) -> None:
    services = Services(host)
    try:
        for piece in record.pieces:
            if piece.is_fresh:
                entry.put(host, piece.path, piece.after)
        for value in record.values:
            if value.is_fresh:
                _write_parameter(host, value.path, value.after)
        services.tell(_tells(record), record.running)
        if with_checks:
            units = [unit for unit in record.units if unit in record.running]
            services.check(units, record.programs, record.check_seconds)
    except HostError as fault:
        if fault.name != "VetoedByHost":
            _log.error("settings %s taken back: %s", record.version, fault)
            journal.begin(record._replace(is_undoing=True))
            _go_back(host, journal, record)
        raise
    journal.end()


def _go_back(host: HostRoot, journal: Journal, record: Record) -> None:
    for piece in reversed(record.pieces):
        if piece.is_fresh:
            entry.put(host, piece.path, piece.was)
    for value in reversed(record.values):
        if value.is_fresh and value.was:
            try:
                _write_parameter(host, value.path, value.was)
            except HostError as fault:  # what the kernel gave it may not take back
                _log.error("%s", fault)
    try:
        Services(host).tell(_tells(record), record.running)
    except HostError as fault:
        _log.error("%s", fault)
    journal.drop()


def _tells(record: Record) -> List[str]:
    return list(dict.fromkeys(word for piece in record.pieces if piece.is_fresh for word in piece.tells))


def _write_parameter(host: HostRoot, path: str, value: str) -> None:
    host.refuse_if_vetoed()
    try:
        with open(host.path("proc/sys/" + path), "wb", buffering=0) as handle:
            handle.write((value + "\n").encode("utf-8"))
    except OSError as fault:
        raise HostError("SettingWriteFailed", path="/proc/sys/" + path, detail=fault.strerror) from fault


def drift(host: HostRoot, active: str, record: Optional[Record], with_parameters: bool = True) -> List[str]:
    """What is not as `record` wishes any more, a line each; empty where all holds. Writes nothing."""
    if record is None:
        return []
    try:
        plan = Planner(host, active, record.request, is_verified=True).plan()
    except HostError as fault:
        return [str(fault)[:300]]
    return plan.lines(with_parameters)
