"""What of the agent's Status the Host should show, and how soon. Pure: times come in as parameters.

Thousands of nodes write here, so a write must be worth it: an edge (anything but a number that moves by itself) goes
out at once, progress at most every 30 s and every 10 %, and the seconds a trial has left only along with something
else. Conditions are the proxy's own word: whether the agent can be reached, and whether it refused the last wish.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

import msgspec

from hostplane.api.host import HostStatus, Phase, PreviewStatus, Progress
from hostplane.api.meta import Condition
from hostplane.errors import Reason, reason

__all__ = ["AGENT_REACHABLE", "WISH_ACCEPTED", "News", "Report", "compose", "delay", "news", "patch"]

AGENT_REACHABLE = "AgentReachable"
WISH_ACCEPTED = "WishAccepted"
PROGRESS_SECONDS = 30.0
PROGRESS_SHARE = 0.1


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy knows of its host: `status` is the agent's last one, None before the first.

    `preview` answers the Host's question what settings would change; it is nothing that the agent keeps.
    """

    uid: str
    status: HostStatus | None
    unreachable: Reason | None = None
    refusal: Reason | None = None
    preview: PreviewStatus | None = None


class News(Enum):
    """How much of what the Host shows is not true any more."""

    NONE = "none"
    PROGRESS = "progress"
    EDGE = "edge"


def compose(report: Report, shown: HostStatus, now: str) -> HostStatus:
    """The status the Host should have; `now` (RFC 3339) dates the conditions whose status differs from the shown.

    What the agent said last stays visible while it cannot be reached.
    """
    status = report.status or shown
    conditions = (
        _condition(AGENT_REACHABLE, report.unreachable, reason("AgentAnswers")),
        _condition(WISH_ACCEPTED, report.refusal, reason("NothingRefused")),
    )
    fields = {name: getattr(status, name) for name in HostStatus.__struct_fields__}
    return HostStatus(**fields | {"preview": report.preview, "conditions": _dated(conditions, shown.conditions, now)})


def _condition(kind: str, against: Reason | None, otherwise: Reason) -> Condition:
    why = against or otherwise
    return Condition(type=kind, status="False" if against else "True", reason=why.name, message=str(why)[:32768])


def _dated(conditions: Iterable[Condition], shown: Iterable[Condition], now: str) -> list[Condition]:
    since = {(c.type, c.status): c.last_transition_time for c in shown}
    return [msgspec.structs.replace(c, last_transition_time=since.get((c.type, c.status)) or now) for c in conditions]


def news(shown: HostStatus, wanted: HostStatus) -> News:
    """How much `wanted` differs from what the Host shows."""
    if _steady(shown) != _steady(wanted):
        return News.EDGE
    return News.PROGRESS if shown.progress != wanted.progress else News.NONE


def _steady(status: HostStatus) -> HostStatus:
    """Without what moves by itself: numbers, and while an image is fetched the slot that it goes to."""
    slots = status.slots
    if status.phase == Phase.STAGING:
        slots = {name: slot for name, slot in slots.items() if name == status.active_slot}
    return msgspec.structs.replace(status, slots=slots, progress=None, trial_seconds_left=None)


def delay(shown: HostStatus, wanted: HostStatus, since_last_write: float) -> float | None:
    """Seconds until `wanted` may be written, `since_last_write` seconds after the last time; None: not in this form."""
    match news(shown, wanted):
        case News.NONE:
            return None
        case News.EDGE:
            return 0.0
        case News.PROGRESS:
            before, after = shown.progress or Progress(), wanted.progress or Progress()
            if abs(after.bytes - before.bytes) < PROGRESS_SHARE * max(after.total, 1):
                return None
            return max(0.0, PROGRESS_SECONDS - since_last_write)


def patch(uid: str, status: HostStatus) -> list[dict[str, Any]]:
    """The JSON Patch that makes the status exactly this, on the Host with this uid and on no later one of its name.

    A merge would keep members that the agent no longer reports.
    """
    return [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "add", "path": "/status", "value": msgspec.to_builtins(status)},
    ]
