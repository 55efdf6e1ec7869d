"""Rollout: bring groups of nodes to a release, or back, or to new settings, a few at a time."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from .definition import Column, Definition, IntOrPercent, Rule
from .host import CONFIGURE, ROLLBACK, UPGRADE, Settings
from .meta import ApiStruct, Condition, ObjectMeta, Resource, SchemaVersion

__all__ = ["ROLLOUT", "ROLLOUT_DEFINITION", "Counts", "Rollout", "RolloutPhase", "RolloutSpec", "RolloutStatus", "Step"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class RolloutPhase:
    """Where a rollout is."""

    QUEUED = "Queued"
    RUNNING = "Running"
    PAUSED = "Paused"
    COMPLETE = "Complete"


class Step(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Up to so many nodes of each group, then a soak before the next step. After the last step: all."""

    nodes: IntOrPercent
    soak_seconds: Annotated[int, msgspec.Meta(ge=0, le=2592000)] = 0


class RolloutSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What is to be done, to whom, how carefully."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.operation != 'upgrade' || has(self.image) || has(self.images)",
            "an upgrade names an image, or images by group",
        ),
        Rule("!(has(self.image) && has(self.images))", "give either image or images, not both"),
        Rule("self.operation != 'configure' || has(self.settings)", "configure needs settings"),
        Rule("self.operation == oldSelf.operation", "operation is fixed: create another Rollout"),
    )

    schema_version: SchemaVersion = "1.0"
    operation: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [UPGRADE, ROLLBACK, CONFIGURE]})]
    groups: Annotated[
        list[Name], msgspec.Meta(min_length=1, max_length=64, extra_json_schema={"x-kubernetes-list-type": "set"})
    ]
    image: Annotated[str, msgspec.Meta(max_length=253, description="The OSImage for every group.")] = ""
    images: Annotated[dict[str, Name], msgspec.Meta(max_length=64, description="The OSImage by group.")] = {}
    settings: Settings | None = None
    steps: Annotated[list[Step], msgspec.Meta(max_length=32)] = []
    failure_threshold: Annotated[IntOrPercent, msgspec.Meta(description="So many failed hosts stop new grants.")] = 1
    trial_seconds: Annotated[int, msgspec.Meta(ge=10, le=86400)] = 7200
    paused: bool = False
    skip: Annotated[list[Name], msgspec.Meta(max_length=1000, description="Nodes left out.")] = []
    retry: Annotated[
        list[Name],
        msgspec.Meta(
            max_length=1000, description="Failed nodes to try once more; each change of the spec allows one more try."
        ),
    ] = []

    def image_for(self, group: str) -> str:
        """Name of the OSImage that `group` is to run; empty where this rollout names none."""
        return self.images.get(group, "") if self.images else self.image


class Counts(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Hosts of the rollout by where they are."""

    total: int = 0
    done: int = 0
    in_progress: int = 0
    staged: int = 0
    waiting: int = 0
    failed: int = 0
    skipped: int = 0


class RolloutStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """How far it is. Never a list of nodes: those are Hosts."""

    observed_generation: int = 0
    phase: Annotated[str, msgspec.Meta(max_length=32)] = ""
    step: int = 0
    step_done_at: Annotated[str, msgspec.Meta(max_length=40)] = ""
    counts: Counts = Counts()
    summary: Annotated[str, msgspec.Meta(max_length=256, description="How far it is, at a glance.")] = ""
    started_at: Annotated[str, msgspec.Meta(max_length=40)] = ""
    completed_at: Annotated[str, msgspec.Meta(max_length=40)] = ""
    eta_seconds: int | None = None
    conditions: Annotated[list[Condition], msgspec.Meta(max_length=16)] = []


class Rollout(ApiStruct, frozen=True, kw_only=True, gc=False):
    """One operation on groups of nodes."""

    metadata: ObjectMeta
    spec: RolloutSpec
    status: RolloutStatus = RolloutStatus()


ROLLOUT = Resource(Rollout, "hostplane.dev", "v1alpha1", "Rollout", "rollouts")
ROLLOUT_DEFINITION = Definition(
    resource=ROLLOUT,
    short_names=("ro",),
    description="Brings groups of nodes to a release, or back, or to new settings, a few at a time.",
    columns=(
        Column(name="Operation", path=".spec.operation"),
        Column(name="Image", path=".spec.image"),
        Column(name="Phase", path=".status.phase"),
        Column(name="Progress", path=".status.summary"),
        Column(name="Failed", path=".status.counts.failed", type="integer", priority=1),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ),
)
