"""Where one host stands towards its wish: the common ground of the drivers, and all the planner knows of either."""

from __future__ import annotations

from enum import Enum

import msgspec

from hostplane.errors import Reason

from .actions import Action, SetImage

__all__ = ["Stand", "Standing"]


class Stand(Enum):
    """Exactly one of these, for every host of a wish."""

    DONE = "done"
    """Nothing to do."""
    READY = "ready"
    """Wants work and could begin; needs budget."""
    WAITING = "waiting"
    """Wants work and cannot begin yet, for a reason that passes by itself (staging, another owner finishing)."""
    WORKING = "working"
    """Holds budget and is on its way."""
    BLOCKED = "blocked"
    """Wants work and cannot, until somebody changes something."""
    FAILED = "failed"
    """Tried and came back, or did not; not tried again by itself."""


class Standing(msgspec.Struct, frozen=True, gc=False):
    """One host's stand, why, and what to do about it now."""

    node: str
    stand: Stand
    reason: Reason | None = None
    actions: tuple[Action, ...] = ()
    leaves: bool = False
    """It is in the Ledger and nothing is left that keeps it there."""
    joins: int | None = None
    """It is away because of an operation, yet not in the Ledger: it must be counted, whatever the budget says, under
    this number (0: a new one)."""
    stage: SetImage | None = None
    """What would make it fetch its image, when there is room among those that fetch."""
    staging: bool = False
    """It is fetching its image now."""
    staged: bool = False
    """Its image waits in the passive slot."""
    nudge: int = 0
    """KubeOS's proxy may not be looking at the OS object that now owns its node; under this grant's number."""
