"""What the agent does, in the system's journal: each kind of event under an id that never changes.

`journalctl MESSAGE_ID=...` finds one kind on every host and version, `HOSTPLANE_SEQ=7` one operation. Events of the
host's state are told from its changes, in one place, so that none is forgotten and none is told twice. Without a
journal the same words go to standard error. An id is never used for anything else, and none is ever removed.
"""

import logging
import os
import socket
import struct
import sys
from typing import Dict, List, NamedTuple

from hostplane.rpc import messages

from .state import State

__all__ = ["EVENTS", "Event", "JournalHandler", "encode", "record", "set_up", "story", "tell"]

EVENTS: Dict[str, str] = {
    "StagingBegan": "e4e147de3c244ca8ae606766dfef5886",
    "Staged": "b7a600e36e964988a7534b8976c897ec",
    "StagingFailed": "d19d6b332fbf420db4b88a0500972e21",
    "SwitchAccepted": "92f77ef0e83f4ec79e99ef0bdac150c2",
    "EtcPrepared": "030c6ce43d3648e395682cfcf69999f0",
    "SwitchInterrupted": "6a2d1eac11b94e54971fee31d6502dbb",
    "BootStateWritten": "6f3f0109e15746c7ac7a99f8bda42c4f",
    "RebootAsked": "c5676f3a15b64337b1cb2e0ce6193de0",
    "TrialBegan": "016a72dda4d6451d81a84013253e5ed4",
    "TriesTaken": "c96fa70d4bb04e4c8932365f67a73764",
    "ChecksPassed": "8d0cf4045749430a905657a9446c43a5",
    "ReachLost": "b89406da305b43608ae687e2645f2526",
    "TrialGivenUp": "e1748f36037b4375bdb30ecced229eaa",
    "Committed": "8023351d7f3c4f08ad1cd565a9620b3d",
    "WentBack": "86c0b39247ba4407894be6aff87ca096",
    "Released": "aff9e98c9a8746178a1c6950b05da2cf",
    "RollbackAsked": "d3a7d8e96e6d488cb813ebe25933a00a",
    "SettingsApplied": "76b3eb556abc45139687c0b819c01264",
    "SettingsRefused": "665d53373b534e2598aae0487eee6237",
    "SettingsDrifted": "7eaa14fa80114a52aea04df69420728a",
    "WatchdogOpened": "c3149e361a96424ea766e185979a937f",
    "WatchdogClosed": "ce687bd27f11472b9391b8cd5e79921c",
    "WatchdogMissing": "a6ce863ba7a940fc8302b3c63fdeb708",
    "AgentSilent": "f76db77a4d174bc99381ca147ef60ff0",
    "RebootForced": "70fcbcff216c4a538a1cfd68577fd45f",
    "PeerRefused": "132a5a21e4274653b1529a1f5805a556",
}
_SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_MAX_WORDS = 16384
_log = logging.getLogger("hostplane.agent")


class Event(NamedTuple):
    """One thing that happened: a name of EVENTS, its words, how bad it is, and fields to search by."""

    name: str
    words: str
    level: int = logging.INFO
    fields: Dict[str, str] = {}


def record(name: str, words: str, level: int = logging.INFO, **fields: object) -> None:
    """Log an event of the table; `fields` become HOSTPLANE_NAME."""
    _record(Event(name, words, level, {key: str(value) for key, value in fields.items()}))


def _record(event: Event) -> None:
    _log.log(event.level, "%s", event.words, extra={"event": event})


def tell(before: State, after: State) -> None:
    """Log what a change of the state means."""
    for event in story(before, after):
        _record(event)


def story(before: State, after: State) -> List[Event]:
    """The events in a change of the state; nothing for what only counts on."""
    told = []
    if (before.phase, before.operation) != (after.phase, after.operation):
        told.append(_of_phase(before, after))
    if after.settings_digest and after.settings_digest != before.settings_digest:
        words = "settings %s are in force" % (after.settings_version or "without a version")
        told.append(Event("SettingsApplied", words, fields={"VERSION": after.settings_version}))
    if after.settings_error and after.settings_error != before.settings_error:
        told.append(Event("SettingsRefused", "settings not applied: " + after.settings_error, logging.WARNING))
    if after.settings_drift and after.settings_drift != before.settings_drift:
        words = "not as set any more: " + "; ".join(after.settings_drift.split("\n"))
        told.append(Event("SettingsDrifted", words, logging.WARNING, {"VERSION": after.settings_version}))
    return [event for event in told if event.name]


def _of_phase(before: State, after: State) -> Event:
    operation, image = after.operation, after.image
    known = {"PHASE": after.phase, "PHASE_BEFORE": before.phase}
    if operation is not None:
        known.update(SEQ=str(operation.seq), DIGEST=operation.digest, SLOT=operation.target)
    fault = after.returning or after.last_error
    words = fault.message if fault is not None else ""
    if fault is not None:
        known["REASON"] = fault.name
    if operation is not None and operation.outcome == "Interrupted" and operation != before.operation:
        return Event("SwitchInterrupted", "switch interrupted: " + words, logging.WARNING, known)
    if after.phase == before.phase:
        return Event("", "")
    if after.phase == messages.STAGING and image is not None:
        known.update(DIGEST=image.digest, VERSION=image.version)
        return Event("StagingBegan", "staging %s (%s)" % (image.version, image.digest), logging.INFO, known)
    if after.phase == messages.STAGED and image is not None:
        known.update(DIGEST=image.digest, VERSION=image.version)
        return Event("Staged", "staged %s (%s)" % (image.version, image.digest), logging.INFO, known)
    if after.phase == messages.FAILED:
        return Event("StagingFailed", "staging failed: " + words, logging.ERROR, known)
    if after.phase == messages.REBOOTING and after.returning is not None:
        return Event("TrialGivenUp", "trial given up: " + words, logging.ERROR, known)
    if after.phase == messages.REBOOTING and operation is not None:
        what = "%s to slot %s accepted (grant %d)" % (operation.operation, operation.target, operation.seq)
        return Event("SwitchAccepted", what, logging.INFO, known)
    if after.phase == messages.TRIAL:
        return Event("TrialBegan", after.transitions[-1].reason + " on trial", logging.INFO, known)
    if after.phase == messages.RETURNED:
        return Event("WentBack", "went back: " + words, logging.ERROR, known)
    if after.phase == messages.IDLE and operation is not None and operation.outcome == "Committed":
        return Event("Committed", "slot %s is committed" % operation.target, logging.INFO, known)
    return Event("Released", "phase %s: %s" % (after.phase, after.transitions[-1].reason), logging.INFO, known)


def encode(record: logging.LogRecord) -> bytes:
    """One entry in the journal's own protocol: NAME=value lines; NAME, length and value for what has lines in it."""
    words = record.getMessage()
    if record.exc_info:
        words += "\n" + logging.Formatter().formatException(record.exc_info)
    priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
    fields = {"MESSAGE": words, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "hostplane-agent"}
    event = getattr(record, "event", None)
    if isinstance(event, Event):
        fields.update(MESSAGE_ID=EVENTS[event.name], HOSTPLANE_EVENT=event.name)
        fields.update({"HOSTPLANE_" + name.upper(): value for name, value in event.fields.items()})
    parts = []
    for name, value in fields.items():
        raw = value.encode("utf-8", "replace")[:_MAX_WORDS]
        if b"\n" in raw:
            parts.append(name.encode("ascii") + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n")
        else:
            parts.append(name.encode("ascii") + b"=" + raw + b"\n")
    return b"".join(parts)


class JournalHandler(logging.Handler):
    """Sends records to the journal's socket; to `stream` what it does not take."""

    def __init__(self, path: str = _SOCKET) -> None:
        super().__init__()
        self._path = path
        self._fallback = logging.StreamHandler(sys.stderr)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sock.setblocking(False)  # a journal that is stuck must not stop the agent

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            self._sock.sendto(encode(record), self._path)
        except OSError:
            self._fallback.emit(record)

    def close(self) -> None:
        """Let go of the socket."""
        self._sock.close()
        super().close()


def set_up(is_service: bool, path: str = _SOCKET) -> None:
    """Where the log goes: a service's to the journal, where there is one, else to standard error."""
    handler: logging.Handler
    if is_service and os.path.exists(path):
        handler = JournalHandler(path)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
