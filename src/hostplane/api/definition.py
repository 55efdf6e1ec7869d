"""What a custom resource says of itself beyond its fields: columns, short names, rules. `crds.py` turns it into YAML.

Kinds describe themselves beside their types, so that a field, its bounds and the rule that binds two fields are
read in one place and cannot drift from the manifest.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from .meta import Resource, Rule

__all__ = ["Column", "Definition", "IntOrPercent", "Rule", "about", "checked", "items", "text"]


def checked(rule: str, message: str, **schema: Any) -> dict[str, Any]:
    """`extra_json_schema` with a CEL rule on the field itself, so that an old object stays editable elsewhere."""
    return {**schema, "x-kubernetes-validations": [{"rule": rule, "message": message}]}


def text(length: int, description: str | None = None) -> msgspec.Meta:
    """A bound that the API server enforces and decoding does not: what was stored before the bound must be readable."""
    return msgspec.Meta(extra_json_schema={"maxLength": length}, description=description)


def items(length: int, description: str | None = None) -> msgspec.Meta:
    """As `text`, for the number of members of a list."""
    return msgspec.Meta(extra_json_schema={"maxItems": length}, description=description)


def about(description: str) -> msgspec.Meta:
    """What a field means, where its type says the rest."""
    return msgspec.Meta(description=description)


IntOrPercent = Annotated[
    int | str,
    msgspec.Meta(
        extra_json_schema=checked(
            "type(self) == int ? self >= 1 : self.matches('^(100|[1-9][0-9]?)%$')",
            "give a count of at least 1, or a share from 1% to 100%",
            **{"x-kubernetes-int-or-string": True, "maxLength": 16},
        )
    ),
]
"""A count of nodes, or a share of them like `25%`."""


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
    rules: tuple[Rule, ...] = ()
    description: str = ""
