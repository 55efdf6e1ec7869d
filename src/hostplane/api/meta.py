"""What every object shares: metadata trimmed to the fields we read, conditions, selectors, and how a kind is addressed.

Types here and beside it are msgspec Structs: frozen, keyword-only, not tracked by the garbage collector (they hold no
cycles, and 10,000 of them would slow every collection). A field we do not read is not in a type, so it costs nothing
to decode; therefore nobody ever writes a whole object back: all writes are patches of the fields we own.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec

__all__ = [
    "Condition",
    "Conditions",
    "LabelSelector",
    "ObjectMeta",
    "OwnerReference",
    "Requirement",
    "Resource",
    "Rule",
    "SchemaVersion",
]


class ApiStruct(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel", omit_defaults=True):
    """Base of every wire type; names are camelCase on the wire, unknown fields are ignored, defaults stay unwritten."""


SchemaVersion = Annotated[
    str,
    msgspec.Meta(
        description="Version of this object's schema, major.minor; an unknown major is refused.",
        extra_json_schema={"pattern": r"^1\.[0-9]{1,4}$"},  # not on decoding: what is stored must be reportable
    ),
]


class OwnerReference(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Who owns an object; `controller` marks the one that manages it."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class ObjectMeta(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Kubernetes' metadata, as far as any of our programs reads it. Times are RFC 3339 strings."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []


class Condition(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A standard condition. `reason` is a catalogue name, `message` begins with its code."""

    type: Annotated[str, msgspec.Meta(max_length=316, description="What the claim is about.")]
    status: Annotated[
        str,
        msgspec.Meta(extra_json_schema={"enum": ["True", "False", "Unknown"]}, description="Whether the claim holds."),
    ]
    reason: Annotated[str, msgspec.Meta(max_length=1024, description="A name from the catalogue of reasons.")] = ""
    message: Annotated[str, msgspec.Meta(max_length=32768, description="The reason's code and sentence.")] = ""
    last_transition_time: Annotated[str, msgspec.Meta(max_length=40, description="When status last changed.")] = ""
    observed_generation: Annotated[int, msgspec.Meta(description="The generation of the spec this was judged by.")] = 0


Conditions = Annotated[
    list[Condition],
    msgspec.Meta(
        max_length=16,
        extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        description="What holds now, one entry a type.",
    ),
]


class Rule(msgspec.Struct, frozen=True):
    """A CEL rule and the sentence the API server answers with. On a Struct: its class variable `rules`."""

    rule: str
    message: str


class Requirement(ApiStruct, frozen=True, kw_only=True, gc=False):
    """One line of a label selector."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "In and NotIn need values, Exists and DoesNotExist take none",
        ),
    )

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=317, description="The label.")]
    operator: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            description="How values are compared.",
        ),
    ]
    values: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=63)]], msgspec.Meta(max_length=100, description="For In and NotIn.")
    ] = []


class LabelSelector(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Kubernetes' label selector; empty selects everything."""

    match_labels: Annotated[
        dict[str, Annotated[str, msgspec.Meta(max_length=63)]],
        msgspec.Meta(max_length=50, description="Labels a node must carry with exactly these values."),
    ] = {}
    match_expressions: Annotated[
        list[Requirement], msgspec.Meta(max_length=50, description="Further requirements; all must hold.")
    ] = []


T = TypeVar("T")


class Resource(msgspec.Struct, Generic[T], frozen=True):
    """How a kind is addressed on the API server, and the type its objects are decoded into."""

    type: type[T]
    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = False

    @property
    def api_version(self) -> str:
        """`group/version`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection, of one object, or of its subresource; no leading host, no query."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def manifest(self, name: str, namespace: str | None = None, **fields: Any) -> dict[str, Any]:
        """A dict of this kind with its name, ready to create or apply; `fields` are added as they are."""
        metadata: dict[str, Any] = {"name": name}
        if namespace:
            metadata["namespace"] = namespace
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata, **fields}
