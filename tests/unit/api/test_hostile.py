"""Whatever the API server stores under our schemas decodes: any size, any text, any number, any unknown field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostplane.api.crds import DEFINITIONS, manifest
from hostplane.api.definition import Definition
from hostplane.api.kubeos import KubeOS
from hostplane.api.nodegroup import NodeGroup
from hostplane.api.rollout import Rollout
from hostplane.api.validate import MAX_REASONS, check_group, check_os, check_rollout

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_INT64 = (-(2**63), 2**63 - 1)
_KINDS = pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.resource.kind)


def _accepted(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that `schema` accepts; CEL rules are left out, so it draws more than the API server lets in."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(1, _INT64[1]) | st.from_regex(r"\A(100|[1-9][0-9]?)%\Z")
    match schema.get("type"):
        case None:
            return _JSON
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum", _INT64[0]), schema.get("maximum", _INT64[1]))
        case "string":
            return _string(schema)
        case "array":
            return _array(schema)
        case "object" if "additionalProperties" in schema:
            return st.dictionaries(_TEXT, _accepted(schema["additionalProperties"]), max_size=3)
    fields = {name: _accepted(field) for name, field in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional={**fields, "unknownToUs": _JSON})


def _string(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"].replace("^", r"\A", 1).removesuffix("$") + r"\Z")
    longest = schema["maxLength"]
    huge = st.sampled_from([character * longest for character in ("x", "\U0001f4a5", "\x00")])
    return _TEXT.map(lambda text: text[:longest] or "x") | huge


def _array(schema: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    items = _accepted(schema["items"])
    few = st.lists(items, min_size=schema.get("minItems", 0), max_size=3)
    if "maxItems" in repr(schema["items"]) or schema["items"].get("maxLength", 0) > 4096:
        return few  # full at the innermost level only: the API server's request limit allows no more either
    return few | items.map(lambda item: [item] * schema["maxItems"])


def _objects(definition: Definition) -> st.SearchStrategy[dict[str, Any]]:
    schema = manifest(definition)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema = {**schema, "properties": dict(schema["properties"])}
    for name in ("metadata", "apiVersion", "kind"):
        del schema["properties"][name]
    named = st.fixed_dictionaries({"metadata": st.just({"name": "n", "managedFields": [{"fieldsV1": {}}]})})
    return st.tuples(named, _accepted(schema)).map(lambda parts: {**parts[0], **parts[1]})


@_KINDS
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_the_schema_accepts_decodes_and_is_judged(definition: Definition, data: st.DataObject) -> None:
    body = data.draw(_objects(definition))
    found = msgspec.json.decode(msgspec.json.encode(body), type=definition.resource.type)
    warnings = []
    if isinstance(found, KubeOS):
        warnings = check_os(found)
    elif isinstance(found, NodeGroup):
        warnings = check_group(found)
    elif isinstance(found, Rollout):
        warnings = check_rollout(found)
    assert len(warnings) <= MAX_REASONS
    assert all(len(str(why)) < 1000 for why in warnings)


@_KINDS
def test_an_object_with_nothing_but_its_required_fields_decodes(definition: Definition) -> None:
    schema = manifest(definition)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    body: dict[str, Any] = {"metadata": {"name": "n"}, "spec": {}}
    samples = {"integer": 1, "object": {}, "array": ["a"], "string": "a"}
    for name in schema["properties"]["spec"].get("required", ()):
        field = schema["properties"]["spec"]["properties"][name]
        body["spec"][name] = field["enum"][0] if "enum" in field else samples[field["type"]]
    if definition.resource.kind == "OSImage":
        digest = "sha256:" + "0" * 64
        variant = {"architecture": "amd64", "format": "bundle", "ref": "r", "digest": digest, "size": 1}
        body["spec"]["variants"] = [variant]
    msgspec.convert(body, definition.resource.type)
