"""Ledger: one object per cluster that says who is unavailable because of us; the budget is counted nowhere else.

It is changed only by conditional update, many hosts at a time, so two operators can never both believe a slot free.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .definition import Column, Definition, Rule
from .meta import ApiStruct, ObjectMeta, Resource, SchemaVersion

__all__ = ["LEDGER", "LEDGER_DEFINITION", "LEDGER_NAME", "MAX_BYTES", "MAX_HOLDERS", "Holder", "Ledger", "LedgerSpec"]

LEDGER_NAME = "cluster"
MAX_HOLDERS = 2000
MAX_BYTES = 128 * 1024


class Holder(ApiStruct, frozen=True, kw_only=True, gc=False):
    """One node that may be unavailable because of us."""

    seq: Annotated[int, msgspec.Meta(ge=1, description="The grant's number.")]
    group: Annotated[int, msgspec.Meta(ge=0, description="Index into `groups`: whose budget it uses.")]
    since: Annotated[int, msgspec.Meta(ge=0, description="When it was granted, seconds since 1970.")] = 0


class LedgerSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Who holds the budget, and the next number of a grant."""

    schema_version: SchemaVersion = "1.0"
    next_seq: Annotated[int, msgspec.Meta(ge=1, description="The next grant's number.")] = 1
    groups: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=512)]],
        msgspec.Meta(max_length=2000, description="Names that holders refer to by index."),
    ] = []
    holders: Annotated[dict[str, Holder], msgspec.Meta(max_length=MAX_HOLDERS, description="By node.")] = {}


class Ledger(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The cluster's budget in use."""

    metadata: ObjectMeta
    spec: LedgerSpec = LedgerSpec()


LEDGER = Resource(Ledger, "hostplane.dev", "v1alpha1", "Ledger", "ledgers")
LEDGER_DEFINITION = Definition(
    resource=LEDGER,
    rules=(Rule(f"self.metadata.name == '{LEDGER_NAME}'", f"there is one Ledger, and its name is {LEDGER_NAME}"),),
    description="Who is unavailable because of Hostplane, and the next grant's number; written by the operator alone.",
    columns=(
        Column(name="Next", path=".spec.nextSeq", type="integer"),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ),
)
