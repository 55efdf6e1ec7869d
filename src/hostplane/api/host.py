"""Host: one object per node. Its spec is the operator's wish for that node, its status the node's own report.

The operator moves `grant.stage`; the agent reboots only at Switch and commits only at Confirm of the same `seq`.
A host's report never lists secrets and stays small (the last 20 transitions), because every node writes one.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from .definition import Column, Definition, Rule, about, items, text
from .meta import ApiStruct, Conditions, ObjectMeta, Resource, SchemaVersion

__all__ = [
    "CONFIGURE",
    "CONFIRM",
    "HOST",
    "HOST_DEFINITION",
    "RELEASE",
    "RESERVED",
    "ROLLBACK",
    "SWITCH",
    "UPGRADE",
    "EtcConflict",
    "EtcStatus",
    "FailedDigest",
    "Grant",
    "Host",
    "HostSettings",
    "HostSpec",
    "HostStatus",
    "ImageRef",
    "LastError",
    "Phase",
    "PlanStatus",
    "Preview",
    "PreviewStatus",
    "Progress",
    "Setting",
    "Settings",
    "SettingsModel",
    "SlotStatus",
    "Transition",
]

UPGRADE, ROLLBACK, CONFIGURE = "upgrade", "rollback", "configure"
RESERVED, SWITCH, CONFIRM, RELEASE = "Reserved", "Switch", "Confirm", "Release"

Digest = Annotated[
    str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$", description="sha256: and 64 lower-case hexadecimal digits.")
]
Version = Annotated[str, msgspec.Meta(min_length=1, max_length=256, description="VERSION_ID of its os-release.")]


class Phase:
    """The phases an agent reports (design: a host's phases)."""

    IDLE = "Idle"
    STAGING = "Staging"
    STAGED = "Staged"
    REBOOTING = "Rebooting"
    TRIAL = "Trial"
    FAILED = "Failed"
    RETURNED = "Returned"
    ALL = (IDLE, STAGING, STAGED, REBOOTING, TRIAL, FAILED, RETURNED)


class ImageRef(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The payload for this host: where it is, and what it must hash and measure to."""

    format: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"enum": ["bundle", "rootTar", "osTar"]},
            description="bundle (ours), rootTar (a root file system) or osTar (KubeOS's os.tar).",
        ),
    ]
    ref: Annotated[str, msgspec.Meta(min_length=1, max_length=2048, description="Where the payload is fetched from.")]
    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=1, description="Bytes of the payload.")]
    version: Version
    attempt: Annotated[
        int,
        msgspec.Meta(
            ge=0, description="Grows with each allowed retry; a host refuses a digest that failed at this attempt."
        ),
    ] = 0


class Grant(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Leave to be unavailable, and how far the host may go with it."""

    seq: Annotated[int, msgspec.Meta(ge=1, description="From the Ledger; the agent refuses any lower one it has seen.")]
    operation: Annotated[
        str,
        msgspec.Meta(extra_json_schema={"enum": [UPGRADE, ROLLBACK, CONFIGURE]}, description="What the leave is for."),
    ]
    digest: Annotated[str, msgspec.Meta(max_length=71, description="The image to switch to; empty for configure.")] = ""
    stage: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"enum": [RESERVED, SWITCH, CONFIRM, RELEASE]},
            description="Reserved: the budget is held; Switch: reboot into it; Confirm: commit; Release: given back.",
        ),
    ]
    trial_seconds: Annotated[
        int,
        msgspec.Meta(ge=10, le=86400, description="Hard deadline of the trial on the host's boot clock, in seconds."),
    ] = 7200
    rollout: Annotated[
        str, msgspec.Meta(max_length=128, description="Uid and generation of the Rollout it was given for: UID/N.")
    ] = ""
    at: Annotated[int, msgspec.Meta(ge=0, description="When this stage was written, seconds since 1970.")] = 0
    verdict: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"enum": ["", "HostFault", "NoVerdict"]},
            description="With Release: whose fault it was that the operation did not succeed; empty: it did.",
        ),
    ] = ""
    why: Annotated[
        str, msgspec.Meta(max_length=128, description="With Release: the reason's name; empty: it succeeded.")
    ] = ""


class Setting(ApiStruct, frozen=True, kw_only=True, gc=False):
    """One key of a settings model; a value may be any JSON the model knows."""

    key: Annotated[str, text(1024, "Name of the setting, in the model's own notation.")] = ""
    value: Annotated[Any, about("Any JSON; absent means empty.")] = None
    operation: Annotated[str, text(64, "Empty to add or update, `delete` to delete.")] = ""


class SettingsModel(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The keys of one file or facility."""

    model: Annotated[str, text(64, "Which kind of file or facility, like `kernel.sysctl`.")] = ""
    configpath: Annotated[str, text(1024, "The file, where it is not the model's usual one.")] = ""
    contents: Annotated[list[Setting], items(1024, "The settings, applied in this order.")] = []


class Settings(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A versioned set of settings; another version is another wish."""

    version: Annotated[str, text(256, "Name of this set; a change of it is what makes hosts act.")] = ""
    configs: Annotated[list[SettingsModel], items(256, "The models, applied in this order.")] = []


class HostSettings(Settings, frozen=True, kw_only=True, gc=False):
    """Settings for our own hosts."""

    undo: Annotated[bool, about("First take back what earlier settings changed on the host.")] = False
    enforce: Annotated[bool, about("Put right what somebody changes later; else it is only reported.")] = False
    signatures: Annotated[
        str,
        text(4096, "A list of signatures of exactly these settings, where the image's policy asks for one."),
    ] = ""


class Preview(HostSettings, frozen=True, kw_only=True, gc=False):
    """A question: what would these settings change on this host? Nothing is done with them."""

    id: Annotated[str, text(64, "Names the question; the answer carries it.")] = ""


class HostSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The operator's wish for this node."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(oldSelf.grant) || !has(self.grant) || self.grant.seq >= oldSelf.grant.seq",
            "grant.seq only grows: a lower one would replay an old leave",
        ),
    )

    schema_version: SchemaVersion = "1.0"
    node_uid: Annotated[str, msgspec.Meta(max_length=128, description="Uid of the Node this Host was made for.")] = ""
    image: ImageRef | None = None
    grant: Grant | None = None
    settings: HostSettings | None = None
    preview: Preview | None = None


class SlotStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What a slot holds: Empty, Writing, Staged, Trial, Confirmed or Bad."""

    state: Annotated[
        str, msgspec.Meta(max_length=32, description="Empty, Writing, Staged, Trial, Confirmed or Bad.")
    ] = "Empty"
    digest: Annotated[str, msgspec.Meta(max_length=71, description="What the payload hashed to.")] = ""
    version: Annotated[str, msgspec.Meta(max_length=256, description="VERSION_ID of what it holds.")] = ""
    size: Annotated[int, about("Bytes of the payload.")] = 0


class Operation(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The grant the agent is acting on."""

    seq: Annotated[int, about("The grant's number.")] = 0
    operation: Annotated[str, msgspec.Meta(max_length=32, description="The grant's operation.")] = ""
    digest: Annotated[str, msgspec.Meta(max_length=71, description="The grant's image.")] = ""
    outcome: Annotated[
        str, msgspec.Meta(max_length=32, description="Empty while it runs; then Committed, Returned or Interrupted.")
    ] = ""


class Progress(ApiStruct, frozen=True, kw_only=True, gc=False):
    """How far staging is, in bytes and bytes per second."""

    bytes: Annotated[int, about("Bytes read and written so far, by all its passes.")] = 0
    total: Annotated[int, about("Bytes of all its passes.")] = 0
    bytes_per_second: Annotated[int, about("Over its whole run.")] = 0
    eta_seconds: Annotated[int, about("Seconds it will still take; 0: unknown.")] = 0


class PlanStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What the image on its way costs, in bytes."""

    download: Annotated[int, about("Over the network.")] = 0
    reused: Annotated[int, about("Of the image's content, found on this host.")] = 0
    total: Annotated[int, about("Of the whole image.")] = 0


class LastError(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Why the last operation did not end well. `reason_class` is HostFault, NoVerdict or empty."""

    name: Annotated[str, msgspec.Meta(max_length=128, description="The reason's name in the catalogue.")] = ""
    code: Annotated[str, msgspec.Meta(max_length=16, description="The reason's code.")] = ""
    message: Annotated[str, msgspec.Meta(max_length=4096, description="Its sentence.")] = ""
    reason_class: Annotated[
        str, msgspec.Meta(max_length=32, description="HostFault counts against the image, NoVerdict does not.")
    ] = ""
    digest: Annotated[str, msgspec.Meta(max_length=71, description="The image it is about.")] = ""
    at: Annotated[str, msgspec.Meta(max_length=40, description="When, by the host's clock.")] = ""


class FailedDigest(ApiStruct, frozen=True, kw_only=True, gc=False):
    """An image this host went back from, and why."""

    digest: Annotated[str, msgspec.Meta(max_length=71, description="The image.")] = ""
    name: Annotated[str, msgspec.Meta(max_length=128, description="The reason's name in the catalogue.")] = ""
    attempt: Annotated[int, about("The attempt that failed; a higher one is an allowed retry.")] = 0


class Transition(ApiStruct, frozen=True, kw_only=True, gc=False):
    """One change of phase."""

    phase: Annotated[str, msgspec.Meta(max_length=32, description="The phase that began.")] = ""
    at: Annotated[str, msgspec.Meta(max_length=40, description="When, by the host's clock.")] = ""
    reason: Annotated[str, msgspec.Meta(max_length=1024, description="Why.")] = ""


class SettingsStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The settings version in force, or why the last one is not."""

    version: Annotated[str, msgspec.Meta(max_length=256, description="The version in force.")] = ""
    error: Annotated[str, msgspec.Meta(max_length=4096, description="Why the wished version is not in force.")] = ""
    drift: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=512)]],
        msgspec.Meta(max_length=20, description="What is not as set any more: file and setting."),
    ] = []
    reboot_needed: Annotated[bool, about("Some of it takes effect with the next boot.")] = False


class PreviewStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The answer to spec.preview: names of what would change, no values; gone when the question is."""

    id: Annotated[str, msgspec.Meta(max_length=64, description="The question's.")] = ""
    changes: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=512)]],
        msgspec.Meta(max_length=50, description="Files and kernel parameters, each with the keys that would change."),
    ] = []
    more: Annotated[int, about("Further ones that are not listed.")] = 0
    services: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=512)]],
        msgspec.Meta(max_length=50, description="What would be restarted or reloaded."),
    ] = []
    reboot_needed: Annotated[bool, about("Some of it would take effect with the next boot.")] = False
    error: Annotated[str, msgspec.Meta(max_length=4096, description="Why the host would refuse all of it.")] = ""


class EtcConflict(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A file of /etc that both the host and the new image have changed."""

    path: Annotated[str, msgspec.Meta(max_length=1024, description="The file, below /etc.")] = ""
    kind: Annotated[str, msgspec.Meta(max_length=64, description="What kind of file it was taken for.")] = ""
    action: Annotated[str, msgspec.Meta(max_length=256, description="What the upgrade does about it.")] = ""


class EtcStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What the staged image would do to /etc, or did by the last switch."""

    merged: Annotated[int, about("Files that take up changes of both sides.")] = 0
    kept: Annotated[int, about("Files that stay as the host has them.")] = 0
    conflicts: Annotated[list[EtcConflict], msgspec.Meta(max_length=20, description="The first conflicts.")] = []


class FirmwareStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Versions of what starts the disk, which no upgrade touches."""

    shim: Annotated[
        str, msgspec.Meta(max_length=100, description="The signed first loader; empty: none, or unknown.")
    ] = ""
    grub: Annotated[str, msgspec.Meta(max_length=100, description="GRUB.")] = ""
    esp: Annotated[str, msgspec.Meta(max_length=100, description="The image whose build wrote the ESP.")] = ""


class HostStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The node's own report; written by its proxy and by nobody else."""

    schema: Annotated[str, msgspec.Meta(max_length=16, description="Version of the agent's report.")] = ""
    agent_version: Annotated[str, msgspec.Meta(max_length=64, description="The agent's own version.")] = ""
    protocol: Annotated[int, about("The protocol spoken with it.")] = 0
    phase: Annotated[
        str, msgspec.Meta(max_length=32, description="Idle, Staging, Staged, Rebooting, Trial, Failed or Returned.")
    ] = ""
    boot_id: Annotated[str, msgspec.Meta(max_length=64, description="The running boot.")] = ""
    active_slot: Annotated[str, msgspec.Meta(max_length=8, description="The slot that runs: A or B.")] = ""
    slots: Annotated[dict[str, SlotStatus], msgspec.Meta(max_length=4, description="What each slot holds.")] = {}
    seq: Annotated[int, about("The highest grant's number it ever saw.")] = 0
    operation: Operation | None = None
    progress: Progress | None = None
    plan: PlanStatus | None = None
    last_error: LastError | None = None
    failed_digests: Annotated[
        list[FailedDigest], msgspec.Meta(max_length=20, description="Images it went back from.")
    ] = []
    transitions: Annotated[list[Transition], msgspec.Meta(max_length=20, description="The last changes of phase.")] = []
    settings: SettingsStatus | None = None
    preview: PreviewStatus | None = None
    etc: EtcStatus | None = None
    firmware: FirmwareStatus | None = None
    trial_seconds_left: Annotated[int | None, about("Seconds until a host on trial goes back by itself.")] = None
    never: Annotated[bool, about("True while /etc/hostplane/never forbids every write.")] = False
    conditions: Conditions = []

    @property
    def active(self) -> SlotStatus:
        """The running slot; an empty one while the host has not reported."""
        return self.slots.get(self.active_slot, SlotStatus())

    @property
    def passive(self) -> SlotStatus:
        """The other slot; an empty one while the host has not reported."""
        return next((s for name, s in self.slots.items() if name != self.active_slot), SlotStatus())


class Host(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The operating system of one node."""

    metadata: ObjectMeta
    spec: HostSpec = HostSpec()
    status: HostStatus = HostStatus()


HOST = Resource(Host, "hostplane.dev", "v1alpha1", "Host", "hosts")
HOST_DEFINITION = Definition(
    resource=HOST,
    short_names=("hh",),
    description="The operating system of one node: the operator's wish (spec) and the node's own report (status).",
    columns=(
        Column(name="Phase", path=".status.phase"),
        Column(name="Slot", path=".status.activeSlot"),
        Column(name="A", path=".status.slots.A.version", description="What slot A holds."),
        Column(name="B", path=".status.slots.B.version", description="What slot B holds."),
        Column(name="Wanted", path=".spec.image.version"),
        Column(name="Grant", path=".spec.grant.stage"),
        Column(name="Bytes", path=".status.progress.bytes", type="integer", priority=1),
        Column(name="Of", path=".status.progress.total", type="integer", priority=1),
        Column(name="Seconds", path=".status.progress.etaSeconds", type="integer", priority=1),
        Column(name="Error", path=".status.lastError.name"),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ),
)
