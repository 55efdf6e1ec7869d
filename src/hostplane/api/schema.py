"""From a msgspec type to the structural OpenAPI schema that the API server enforces.

Structural means: no references, no `anyOf`, every node typed or explicitly free. A type this cannot say exactly is
refused here, at generation time, rather than published as something laxer than what our programs decode.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
from msgspec import inspect as types

from .definition import Rule

__all__ = ["object_schema", "validations"]

JsonSchema = dict[str, Any]


def object_schema(cls: type[msgspec.Struct], *, defaults: bool = True) -> JsonSchema:
    """The schema of `cls`; `defaults` False leaves them all out (a status says only what was reported).

    Raises:
        TypeError: a field's type has no exact structural schema.
    """
    return _struct(types.type_info(cls), defaults)


def validations(rules: tuple[Rule, ...]) -> list[dict[str, str]]:
    """`rules` as x-kubernetes-validations."""
    return [{"rule": rule.rule, "message": rule.message} for rule in rules]


def _struct(info: types.Type, defaults: bool) -> JsonSchema:
    if not isinstance(info, types.StructType):
        raise TypeError(f"{info} is not an object")
    schema: JsonSchema = {"type": "object"}
    if info.cls.__doc__:
        schema["description"] = inspect.cleandoc(info.cls.__doc__)
    required = [field.encode_name for field in info.fields if field.required]
    if required:
        schema["required"] = required
    schema["properties"] = {field.encode_name: _field(field, info.cls, defaults) for field in info.fields}
    rules: tuple[Rule, ...] = getattr(info.cls, "rules", ())
    if rules:
        schema["x-kubernetes-validations"] = validations(rules)
    return schema


def _field(field: types.Field, owner: type[msgspec.Struct], defaults: bool) -> JsonSchema:
    schema = _schema(field.type, defaults)
    value = field.default
    if not defaults or value in (msgspec.NODEFAULT, None):
        return schema
    if isinstance(value, msgspec.Struct):
        schema["default"] = {}  # the members bring their own
    elif value or getattr(owner, "store_defaults", False):
        schema["default"] = value
    return schema


def _schema(info: types.Type, defaults: bool) -> JsonSchema:
    match info:
        case types.Metadata():
            return {**_schema(info.type, defaults), **(info.extra_json_schema or {})}
        case types.StructType():
            return _struct(info, defaults)
        case types.UnionType(types=members):
            rest = [member for member in members if not isinstance(member, types.NoneType)]
            if len(rest) == 1:  # optional: the API server drops a null before it validates
                return _schema(rest[0], defaults)
            if {type(member) for member in rest} == {types.IntType, types.StrType}:
                return {}  # the annotation carries x-kubernetes-int-or-string
            raise TypeError(f"no structural schema for {info}")
        case types.ListType():
            items = {"type": "array", "items": _schema(info.item_type, defaults)}
            return items | _bounds(minItems=info.min_length, maxItems=info.max_length)
        case types.DictType():
            values = {"type": "object", "additionalProperties": _schema(info.value_type, defaults)}
            return values | _bounds(minProperties=info.min_length, maxProperties=info.max_length)
        case types.StrType():
            return {"type": "string"} | _bounds(
                minLength=info.min_length, maxLength=info.max_length, pattern=info.pattern
            )
        case types.IntType():
            return {"type": "integer", "format": "int64"} | _bounds(minimum=info.ge, maximum=info.le)
        case types.BoolType():
            return {"type": "boolean"}
        case types.AnyType():
            return {"x-kubernetes-preserve-unknown-fields": True}
    raise TypeError(f"no structural schema for {info}")


def _bounds(**bounds: Any) -> JsonSchema:
    return {name: bound for name, bound in bounds.items() if bound is not None}
