"""What a custom resource says of itself beyond its fields: columns, short names, rules. `crds.py` turns it into YAML.

Kinds describe themselves beside their types, so that a field, its bounds and the rule that binds two fields are
read in one place and cannot drift from the manifest.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from .meta import Resource

__all__ = ["Column", "Definition", "IntOrPercent", "Rule"]

IntOrPercent = Annotated[int | str, msgspec.Meta(extra_json_schema={"x-kubernetes-int-or-string": True})]
"""A count of nodes, or a share of them like `25%`."""


class Rule(msgspec.Struct, frozen=True):
    """A CEL rule and the sentence the API server answers with. On a Struct: its class variable `rules`."""

    rule: str
    message: str


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One printer column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """All a CustomResourceDefinition needs that is not a field."""

    resource: Resource[Any]
    columns: tuple[Column, ...]
    short_names: tuple[str, ...] = ()
    description: str = ""
