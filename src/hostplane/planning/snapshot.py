"""What a pass knows: the objects as last seen, what the operator itself observed, and the settings it runs with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hostplane.api.core import Node
from hostplane.api.host import Host
from hostplane.api.kubeos import KubeOS, OSInstance
from hostplane.api.ledger import Ledger
from hostplane.api.meta import ObjectMeta
from hostplane.api.nodegroup import NodeGroup
from hostplane.api.osimage import OSImage
from hostplane.api.rollout import Rollout
from hostplane.errors import Reason

__all__ = ["NEVER", "DrainView", "Options", "Snapshot", "Word"]

NEVER = "hostplane.dev/never"
"""This label on a Node beats every group, rollout and OS object."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How the operator was told to work; durations in seconds."""

    cluster_max_unavailable: int | str = "100%"
    """Nodes away at once over the whole cluster."""
    max_staging: int = 50
    """Hosts that fetch an image at the same time."""
    kubeos_deadline: int = 7200
    """An upgrade or rollback of a KubeOS node that has not ended by then has failed."""
    config_deadline: int = 900
    """Likewise for settings."""
    ending_grace: int = 600
    """How long KubeOS's proxy may take to un-label a node after we ended its operation."""
    return_grace: int = 900
    """How long after its trial's hard deadline a host may stay silent before it counts as lost."""
    gone_grace: int = 300
    """How long a deleted node keeps its place in the Ledger."""
    object_grace: int = 10
    """How long its Host and its OSInstance are kept: their events may arrive before the new node's."""


class DrainView(msgspec.Struct, frozen=True, kw_only=True):
    """How the drain of one node is; `done` with a reason means it failed."""

    seq: int
    done: bool
    reason: Reason | None = None


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster says of a host on trial: are the pods back that were there at the grant?"""

    seq: int
    ok: bool
    reason: Reason | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one pass looks at. `oses` is keyed by namespace/name, the rest by name; `gone` holds nodes that
    vanished and when (seconds since 1970).

    `refused` and `warnings` are what api/validate.py says of owners (`os/NAMESPACE/NAME`, `group/NAME`) and of
    `rollout/NAME`, `refused` also of `settings/NAME`, a group's own settings; `unread` holds the keys of OS objects
    that exist and do not decode.
    """

    nodes: Mapping[str, Node] = {}
    hosts: Mapping[str, Host] = {}
    instances: Mapping[str, OSInstance] = {}
    groups: Mapping[str, NodeGroup] = {}
    rollouts: Mapping[str, Rollout] = {}
    images: Mapping[str, OSImage] = {}
    oses: Mapping[str, KubeOS] = {}
    ledger: Ledger = Ledger(metadata=ObjectMeta(name="cluster"))
    drains: Mapping[str, DrainView] = {}
    words: Mapping[str, Word] = {}
    gone: Mapping[str, float] = {}
    refused: Mapping[str, Reason] = {}
    warnings: Mapping[str, Sequence[Reason]] = {}
    unread: frozenset[str] = frozenset()
