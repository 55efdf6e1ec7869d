"""Rollout: bring groups of nodes to a release, or back, or to new settings, a few at a time."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from .definition import Column, Definition, IntOrPercent, Rule, about
from .host import CONFIGURE, ROLLBACK, UPGRADE, HostSettings
from .meta import ApiStruct, Conditions, ObjectMeta, Resource, SchemaVersion

__all__ = ["ROLLOUT", "ROLLOUT_DEFINITION", "Counts", "Rollout", "RolloutPhase", "RolloutSpec", "RolloutStatus", "Step"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class RolloutPhase:
    """Where a rollout is."""

    QUEUED = "Queued"
    RUNNING = "Running"
    PAUSED = "Paused"
    COMPLETE = "Complete"


class Step(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Up to so many nodes of the whole Rollout, then a soak before the next step. After the last step: all."""

    nodes: Annotated[IntOrPercent, about("Nodes of each group that may be done when this step ends.")]
    soak_seconds: Annotated[
        int, msgspec.Meta(ge=0, le=2592000, description="How long they must stay well before the next step begins.")
    ] = 0


_HAS_IMAGE = "(has(self.image) && self.image != '')"
_HAS_IMAGES = "(has(self.images) && size(self.images) > 0)"


class RolloutSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What is to be done, to whom, how carefully."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.operation != 'upgrade' || {_HAS_IMAGE} || {_HAS_IMAGES}",
            "an upgrade names an image, or images by group",
        ),
        Rule(f"!({_HAS_IMAGE} && {_HAS_IMAGES})", "give either image or images, not both"),
        Rule(
            "!has(self.images) || self.images.all(group, group in self.groups)",
            "images names a group that is not in groups",
        ),
        Rule(
            f"self.operation != 'upgrade' || !{_HAS_IMAGES} || self.groups.all(group, group in self.images)",
            "an upgrade with images names one for every group",
        ),
        Rule("self.operation != 'configure' || has(self.settings)", "configure needs settings"),
        Rule("self.operation == oldSelf.operation", "operation is fixed: create another Rollout"),
    )

    schema_version: SchemaVersion = "1.0"
    operation: Annotated[
        str, msgspec.Meta(extra_json_schema={"enum": [UPGRADE, ROLLBACK, CONFIGURE]}, description="Fixed once made.")
    ]
    groups: Annotated[
        list[Name],
        msgspec.Meta(
            min_length=1,
            max_length=64,
            extra_json_schema={"x-kubernetes-list-type": "set"},
            description="The NodeGroups it is for.",
        ),
    ]
    image: Annotated[str, msgspec.Meta(max_length=253, description="The OSImage for every group.")] = ""
    images: Annotated[dict[str, Name], msgspec.Meta(max_length=64, description="The OSImage by group.")] = {}
    settings: Annotated[HostSettings | None, about("What `configure` applies.")] = None
    steps: Annotated[
        list[Step], msgspec.Meta(max_length=32, description="Careful beginnings; empty: all nodes, within the budget.")
    ] = []
    failure_threshold: Annotated[IntOrPercent, msgspec.Meta(description="So many failed hosts stop new grants.")] = 1
    trial_seconds: Annotated[
        int,
        msgspec.Meta(ge=10, le=86400, description="A host on trial that hears nothing for so long goes back."),
    ] = 7200
    paused: Annotated[bool, about("No new grants; what was granted is finished.")] = False
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

    total: Annotated[int, about("All hosts it is for.")] = 0
    done: Annotated[int, about("As wished.")] = 0
    in_progress: Annotated[int, about("Granted and on their way.")] = 0
    staged: Annotated[int, about("Ready for a grant.")] = 0
    waiting: Annotated[int, about("Not begun.")] = 0
    failed: Annotated[int, about("Failed; each Host says why.")] = 0
    skipped: Annotated[int, about("Left out, by wish or for a reason of their own.")] = 0


class RolloutStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """How far it is. Never a list of nodes: those are Hosts."""

    observed_generation: Annotated[int, about("The generation of the spec this was judged by.")] = 0
    phase: Annotated[str, msgspec.Meta(max_length=32, description="Queued, Running, Paused or Complete.")] = ""
    step: Annotated[int, about("The step in progress, counted from 0.")] = 0
    step_done_at: Annotated[
        str,
        msgspec.Meta(max_length=40, description="When the last host of this step was done; its soak runs from here."),
    ] = ""
    counts: Counts = Counts()
    summary: Annotated[str, msgspec.Meta(max_length=256, description="How far it is, at a glance.")] = ""
    started_at: Annotated[str, msgspec.Meta(max_length=40, description="When the first host was granted.")] = ""
    completed_at: Annotated[str, msgspec.Meta(max_length=40, description="When the last host was done.")] = ""
    eta_seconds: Annotated[int | None, about("Seconds left, as far as can be told.")] = None
    conditions: Conditions = []


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
