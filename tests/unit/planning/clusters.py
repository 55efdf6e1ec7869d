"""Whole clusters in a line or two, for one pass over them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from hostplane.api.core import Node
from hostplane.api.host import Grant, Host, HostStatus, SlotStatus
from hostplane.api.ledger import Holder, Ledger
from hostplane.planning.outcome import Plan
from hostplane.planning.plan import plan
from hostplane.planning.snapshot import Options, Snapshot

from . import build

__all__ = [
    "NOW",
    "SECONDS",
    "V2_REF",
    "begun",
    "change",
    "decide",
    "held",
    "kubeos",
    "native",
    "on_v2",
    "reasons",
    "staged",
    "working",
]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
V2_REF = build.wanted(build.image())


def staged(name: str, **fields: Any) -> Host:
    """On v1, v2 waits in the other slot."""
    slots = {
        "A": SlotStatus(state="Confirmed", digest=build.digest("v1"), version="v1"),
        "B": SlotStatus(state="Staged", digest=build.digest("v2"), version="v2"),
    }
    known: dict[str, Any] = {"schema": "1.0", "protocol": 1, "phase": "Staged", "boot_id": "boot-1", "active_slot": "A"}
    return build.host(name, status=HostStatus(slots=slots, **known), **{"image": V2_REF, **fields})


def native(count: int, *, limit: int | str = 1, **fields: Any) -> dict[str, Any]:
    names = [f"n{i}" for i in range(count)]
    labels = {"pool": "web", "hostplane.dev/agent": "native"}
    return {
        "nodes": {n: build.node(n, labels=labels) for n in names},
        "hosts": {n: staged(n) for n in names},
        "groups": {"web": build.group("web", max_unavailable=limit)},
        "rollouts": {"up": build.rollout()},
        "images": {"v2": build.image()},
        **fields,
    }


def kubeos(count: int, *, limit: int = 1, **fields: Any) -> dict[str, Any]:
    names = [f"n{i}" for i in range(count)]
    return {
        "nodes": {n: build.node(n, labels={build.POOL: "pool"}) for n in names},
        "instances": {n: build.instance(n) for n in names},
        "oses": {"default/pool": build.os_object(maxunavailable=limit)},
        **fields,
    }


def decide(world: dict[str, Any], now: datetime = NOW, **options: Any) -> Plan:
    return plan(Snapshot(**world), now, UTC, Options(**options))


def begun(decided: Plan) -> list[str]:
    assert {a.node for a in decided.begin} <= decided.ledger.add.keys()
    return [a.node for a in decided.begin]


def reasons(decided: Plan) -> dict[str, str]:
    for why in decided.reasons.values():
        assert "?" not in str(why)
    return {name: why.name for name, why in decided.reasons.items()}


def held(owner: str, **seqs: int) -> Ledger:
    """A Ledger in which `owner` has let these nodes in, 10 s ago."""
    holders = {n: Holder(seq=s, group=0, since=SECONDS - 10) for n, s in seqs.items()}
    spec = msgspec.structs.replace(build.ledger(max(seqs.values()) + 2).spec, groups=[owner], holders=holders)
    return msgspec.structs.replace(build.ledger(), spec=spec)


def change(world: dict[str, Any], name: str, **fields: Any) -> None:
    """Make a node another one: `ready`, `cordoned`, `labels`, `annotations`."""
    old: Node = world["nodes"][name]
    labels = {**old.metadata.labels, **fields.pop("labels", {})}
    world["nodes"][name] = build.node(name, labels={k: v for k, v in labels.items() if v is not None}, **fields)


def working(name: str, seq: int, stage: str = "Switch") -> Host:
    grant = Grant(
        seq=seq, operation="upgrade", digest=build.digest("v2"), stage=stage, rollout="uid-up/1", at=SECONDS - 5
    )
    return staged(name, grant=grant)


def on_v2(host: Host) -> HostStatus:
    slots = {"A": SlotStatus(state="Confirmed", digest=build.digest("v2"), version="v2"), "B": SlotStatus()}
    return msgspec.structs.replace(host.status, phase="Idle", slots=slots)
