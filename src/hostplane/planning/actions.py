"""What a pass can ask for. Each action is safe to repeat and safe to lose: the next pass asks again.

`base` is the resource version the decision was taken from, `node_base` that of the Node where another object is written
first; the write carries it, so a decision from a stale view is refused by the API server instead of being done.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hostplane.api.host import Grant, HostSettings, ImageRef
from hostplane.api.nodegroup import Drain
from hostplane.errors import Reason

__all__ = [
    "Action",
    "AskWord",
    "Assign",
    "Cordon",
    "CreateHost",
    "DeleteHost",
    "DeleteInstance",
    "EndOperation",
    "LabelNode",
    "LedgerChange",
    "NudgeOS",
    "Reclaim",
    "SetGrant",
    "SetImage",
    "StartDrain",
    "StopDrain",
    "Uncordon",
]


class Action(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The root; `node` is whom it is about."""

    node: str
    patience: float = 0
    """Seconds for which this must be wished before it is done, because whoever should do it is probably about to."""


class CreateHost(Action, frozen=True, kw_only=True, tag=True):
    """Make the Host of a node that carries our agent."""

    node_uid: str


class DeleteHost(Action, frozen=True, kw_only=True, tag=True):
    """Remove a Host whose node is another one now, or gone."""

    uid: str


class SetImage(Action, frozen=True, kw_only=True, tag=True):
    """Wish an image onto a host; it begins to stage."""

    image: ImageRef
    base: str


class SetGrant(Action, frozen=True, kw_only=True, tag=True):
    """Write a stage of a grant; `settings` go with a configure grant.

    `drop_image` with a rollback: the host would stage again what it is to leave.
    """

    grant: Grant
    base: str
    settings: HostSettings | None = None
    drop_image: bool = False
    marks: dict[str, str] = {}
    """Annotations that go with it."""


class Cordon(Action, frozen=True, kw_only=True, tag=True):
    """Make the node unschedulable, with our mark."""

    seq: int
    base: str = ""


class Uncordon(Action, frozen=True, kw_only=True, tag=True):
    """Give the node the cordon state back that we found."""

    base: str = ""


class StartDrain(Action, frozen=True, kw_only=True, tag=True):
    """Begin (or go on) to move the pods away; `spent_seconds` of the deadline are used already."""

    seq: int
    policy: Drain
    spent_seconds: int = 0


class StopDrain(Action, frozen=True, kw_only=True, tag=True):
    """Forget a drain that nobody waits for any more."""


class AskWord(Action, frozen=True, kw_only=True, tag=True):
    """Look whether the DaemonSet pods noted at the grant are back on a host on trial."""

    seq: int


class Assign(Action, frozen=True, kw_only=True, tag=True):
    """Give a KubeOS node its operation: the OSInstance first, then the label."""

    namespace: str
    body: dict[str, Any]
    label: str
    node_base: str = ""


class LabelNode(Action, frozen=True, kw_only=True, tag=True):
    """Set (value "") or remove (None) labels of a node."""

    labels: dict[str, str | None]
    base: str = ""


class EndOperation(Action, frozen=True, kw_only=True, tag=True):
    """Write nodestatus=idle and keep the label, so that KubeOS's own proxy un-labels and uncordons."""

    namespace: str
    body: dict[str, Any]
    reason: Reason


class Reclaim(Action, frozen=True, kw_only=True, tag=True):
    """End an operation whose proxy will not: idle, no owner, no label; uncordon where the node was schedulable."""

    namespace: str
    body: dict[str, Any]
    uncordon: bool
    reason: Reason
    node_base: str = ""


class DeleteInstance(Action, frozen=True, kw_only=True, tag=True):
    """Remove the OSInstance of a node that was deleted."""

    namespace: str
    name: str
    uid: str


class NudgeOS(Action, frozen=True, kw_only=True, tag=True):
    """Touch an OS object (`node` is its key), because KubeOS's proxies look at a new owner only when it changes."""

    token: str


class LedgerChange(msgspec.Struct, frozen=True, kw_only=True):
    """One conditional update of the Ledger: who comes, who leaves, the group names and the next number."""

    add: dict[str, tuple[int, str]] = {}
    """node -> (seq, owner)"""
    remove: frozenset[str] = frozenset()
    next_seq: int = 1

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)
