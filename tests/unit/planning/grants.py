"""One Host with one grant, and what the planner makes of it."""

from __future__ import annotations

from typing import Any

from hostplane.api.core import Node
from hostplane.api.host import Grant, Host, HostStatus, SlotStatus
from hostplane.api.ledger import Holder
from hostplane.api.rollout import Rollout
from hostplane.planning.actions import (
    Action,
    SetGrant,
)
from hostplane.planning.native import Seen, observe
from hostplane.planning.snapshot import Options
from hostplane.planning.standing import Standing
from hostplane.planning.wishes import GroupWish

from . import build

__all__ = [
    "HOLDER",
    "NOW",
    "OPTIONS",
    "V2",
    "grant",
    "host",
    "look",
    "node",
    "only",
    "released",
    "status",
    "why",
    "wish",
]

NOW = 1_800_000_000
OPTIONS = Options(return_grace=900)
V1, V2 = build.digest("v1"), build.digest("v2")
MARK = "hostplane.dev/cordon"


def wish(rollout: Rollout | None = None, **group: Any) -> GroupWish:
    it = rollout or build.rollout()
    return GroupWish(name="web", group=build.group("web", **group), active=it, image=it)


def status(phase: str = "Staged", *, seq: int = 0, active: str = "v1", **fields: Any) -> HostStatus:
    """Slot A runs `active`, slot B holds the other one of v1 and v2."""
    passive = "v2" if active == "v1" else "v1"
    known: dict[str, Any] = {
        "schema": "1.0",
        "protocol": 1,
        "phase": phase,
        "boot_id": "boot-1",
        "active_slot": "A",
        "slots": {
            "A": SlotStatus(state="Confirmed", digest=build.digest(active), version=active),
            "B": SlotStatus(state="Staged", digest=build.digest(passive), version=passive),
        },
        "seq": seq,
    }
    return HostStatus(**known | fields)


def grant(stage: str = "Reserved", *, seq: int = 5, operation: str = "upgrade", **fields: Any) -> Grant:
    known: dict[str, Any] = {"digest": V2, "rollout": "uid-up/1", "at": NOW - 10, "trial_seconds": 600}
    return Grant(seq=seq, operation=operation, stage=stage, **known | fields)


def host(given: Grant | None = None, shown: HostStatus | None = None, **spec: Any) -> Host:
    return build.host("n", status=shown or status(), grant=given, **spec)


def node(mark: int | None = None, *, cordoned: bool | None = None, **fields: Any) -> Node:
    """`mark`: cordoned by us under that number."""
    notes = {} if mark is None else {MARK: f'{{"seq":{mark},"was":false}}'}
    labels = {"pool": "web", "hostplane.dev/agent": "native"}
    is_cordoned = mark is not None if cordoned is None else cordoned
    return build.node("n", labels=labels, annotations=notes, cordoned=is_cordoned, **fields)


HOLDER = Holder(seq=5, group=0, since=NOW - 10)


def look(
    subject: Node,
    it: Host | None,
    holder: Holder | None = HOLDER,
    *,
    group: GroupWish | None = None,
    seen: Seen | None = None,
    wished: bool = True,
    now: int = NOW,
) -> Standing:
    aim = (group or wish()) if wished else None
    return observe(aim, build.image(), subject, it, holder, seen or Seen(), now, OPTIONS)


def only(standing: Standing, kind: type[Action]) -> Any:
    (action,) = standing.actions
    assert isinstance(action, kind)
    return action


def why(standing: Standing) -> str:
    assert standing.reason is not None
    assert "?" not in str(standing.reason)
    return str(standing.reason.name)


def released(standing: Standing) -> Grant:
    """The Release that is written: one number higher, on the version that was seen."""
    action = only(standing, SetGrant)
    assert isinstance(action.grant, Grant)
    assert action.grant.stage == "Release"
    assert action.base == "7"
    assert action.grant.at == NOW
    assert not standing.leaves
    return action.grant
