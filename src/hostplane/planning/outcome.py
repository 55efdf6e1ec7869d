"""What one pass came to: for each owner, for each Rollout in force, and what is to be done. plan.py fills it in."""

from __future__ import annotations

import msgspec

from hostplane.api.rollout import Rollout
from hostplane.errors import Reason

from .actions import Action, LedgerChange
from .membership import Membership
from .standing import Standing
from .wishes import Wishes

__all__ = ["OwnerPlan", "Plan", "RolloutPlan"]


class OwnerPlan(msgspec.Struct, kw_only=True):
    """What a pass found for one NodeGroup or OS object."""

    owner: str
    standings: list[Standing] = []
    away: int = 0
    limit: int = 0
    hold: Reason | None = None
    """Why nobody of it may begin now, or None."""
    conflicts: tuple[Reason, ...] = ()
    rollout: Rollout | None = None
    unsettled: Reason | None = None
    """Why the group's own settings are handed to nobody, or None."""
    drifted: tuple[str, ...] = ()
    """Members that report that their settings do not hold any more."""


class RolloutPlan(msgspec.Struct, kw_only=True):
    """What a pass found for one Rollout in force, over all its groups."""

    rollout: Rollout
    standings: list[Standing] = []
    step: int = 0
    step_done: bool = False
    """Its hosts are through, and it soaks."""
    room: int = 0
    """How many more hosts the step lets begin."""
    hold: Reason | None = None


class Plan(msgspec.Struct, kw_only=True):
    """All that is to be done and said after one pass."""

    ledger: LedgerChange
    begin: list[Action]
    """Only after `ledger` was accepted."""
    actions: list[Action]
    owners: dict[str, OwnerPlan]
    rollouts: dict[str, RolloutPlan]
    """The Rollouts in force, by name."""
    membership: Membership
    wishes: Wishes
    reasons: dict[str, Reason]
    """Every node that waits, is blocked or failed -> why."""
    restless: bool
    """Time alone may change the plan: make another soon."""
