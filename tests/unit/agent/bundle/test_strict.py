"""JSON that is large, deep, double or of another type than it should be is refused with the field's name."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.agent.bundle.manifest import parse_index, parse_layout, parse_manifest, parse_metadata
from hostplane.agent.bundle.signature import parse_signatures
from hostplane.agent.bundle.strict import check_schema, parse_object, parse_time
from hostplane.agent.bundle.trust import parse_chain, parse_set
from hostplane.errors import HostError

METADATA: dict[str, Any] = {
    "schema": "1.0",
    "name": "node",
    "version": "1.0",
    "distro": "some",
    "release": "9",
    "arch": "x86_64",
    "created": "2026-01-31T00:00:00Z",
    "images": {name: {"size": 4096, "sha256": "a" * 64, "fs": "ext4", "verity": None} for name in ("boot", "root")},
    "bootArguments": ["quiet"],
    "reachableFrom": [],
    "minimumVersion": None,
    "stateVersions": {},
}


NAMES = ["schema", "schemaVersion", "manifests", "layers", "keys", "signatures", "set", "images", "subject", "config"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("1.0") | st.just(2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": NaN}',
        b'{"a": 1e400}',
        b'{"a": 1.5}',
        b'{"a": 12345678901234567890}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": "' + b"x" * (256 << 10) + b'"}',
    ],
)
def test_what_is_no_plain_object_is_refused(raw: bytes) -> None:
    with pytest.raises(HostError) as caught:
        parse_object("part", raw)
    assert caught.value.name in ("BundleInvalid", "BundleTooLarge")


@pytest.mark.parametrize(
    "parse", [parse_layout, parse_index, parse_manifest, parse_metadata, parse_signatures, parse_set, parse_chain]
)
@given(value=st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_no_document_makes_a_parser_fail_without_a_sentence(parse: Any, value: Any) -> None:
    with contextlib.suppress(HostError):
        parse(json.dumps(value).encode())


def changed(path: str, value: object) -> bytes:
    document = json.loads(json.dumps(METADATA))
    *parents, last = path.split("/")
    inner = document
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return json.dumps(document).encode()


def test_right_metadata_is_read() -> None:
    assert parse_metadata(json.dumps(METADATA).encode()).boot_arguments == ("quiet",)


def test_fields_of_a_newer_minor_schema_are_passed_over() -> None:
    assert parse_metadata(changed("later", {"a": 1}).replace(b'"1.0",', b'"1.9",', 1)).schema == "1.9"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "2.0"),
        ("schema", "1"),
        ("schema", 1),
        ("name", "../x"),
        ("name", "a\nb"),
        ("version", ""),
        ("version", "-1"),
        ("arch", "riscv"),
        ("created", "yesterday"),
        ("created", "2026-02-30T00:00:00Z"),
        ("created", "2026-01-31T00:00:00Z\n"),
        ("images", {}),
        ("images/root", None),
        ("images/root/size", 4097),
        ("images/root/size", 0),
        ("images/root/size", True),
        ("images/root/size", (16 << 30) + 4096),
        ("images/root/sha256", "A" * 64),
        ("images/root/fs", "ext4 -o suid"),
        ("images/root/verity", {"rootHash": "a" * 64, "hashOffset": 4097, "salt": ""}),
        ("images/root/verity", {"rootHash": "a" * 63, "hashOffset": 0, "salt": ""}),
        ("bootArguments", "quiet"),
        ("bootArguments", ["x"] * 257),
        ("bootArguments", ["x" * 257]),
        ("reachableFrom", [1]),
        ("minimumVersion", "a b"),
        ("stateVersions", {"a": 1}),
        ("stateVersions", {str(number): "1" for number in range(33)}),
    ],
)
def test_wrong_metadata_is_refused(path: str, value: object) -> None:
    with pytest.raises(HostError) as caught:
        parse_metadata(changed(path, value))
    assert caught.value.name in ("BundleInvalid", "BundleTooLarge", "BundleSchemaUnknown")


@pytest.mark.parametrize("schema", ["", "1", "1.", "1.0.0", "a.b", " 1.0", "99999.0", "-1.0", "1.0\n"])
def test_a_schema_of_another_form_is_refused(schema: str) -> None:
    with pytest.raises(HostError):
        check_schema("part", schema)


def test_times_are_utc_to_the_second() -> None:
    assert parse_time("part", "1970-01-02T00:00:01Z") == 86401
