"""What is written, and who signs it."""

from __future__ import annotations

import base64
import binascii
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from hostplane.errors import reason
from hostplane.image.reading.positions import KeyPath, written
from hostplane.image.reading.rules.case import Case, Fault, Rule, error, existing, unique, warning
from hostplane.image.reading.rules.packages import is_set
from hostplane.image.recipe import Output

__all__ = ["RULES"]

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+~-]{0,62}")
_PEM = re.compile(r"-----BEGIN (?:EC )?PRIVATE KEY-----(.+?)-----END", re.DOTALL)
_P256 = bytes.fromhex("06082a8648ce3d030107")
"""The curve's object identifier, as both PEM forms of a private key hold it."""


def something_is_written(case: Case) -> Iterator[Fault]:
    path = ("image", "outputs")
    if not case.recipe.image.outputs:
        yield error(path, reason("ListEmpty", key=written(path), known=", ".join(Output)))


def outputs_are_unique(case: Case) -> Iterator[Fault]:
    outputs = enumerate(case.recipe.image.outputs)
    yield from unique((("image", "outputs", index), value.value) for index, value in outputs)


def codec_is_installed(case: Case) -> Iterator[Fault]:
    path, value = ("image", "codec"), case.recipe.image.codec
    if value == "zstd" and importlib.util.find_spec("zstandard") is None:
        yield error(path, reason("CodecUnavailable", key=written(path), value=value))


def frames_are_whole_blocks(case: Case) -> Iterator[Fault]:
    path, value = ("image", "frame_kib"), case.recipe.image.frame_kib
    if value % 4:
        yield error(path, reason("RecipeValueWrong", key=written(path), value=value, wanted="4 × n"))


def former_versions_are_versions(case: Case) -> Iterator[Fault]:
    for index, version in enumerate(case.recipe.image.reachable_from):
        if not _VERSION.fullmatch(version):
            path = ("image", "reachable_from", index)
            yield error(
                path, reason("RecipeValueWrong", key=written(path), value=version, wanted=f"=~ ^{_VERSION.pattern}$")
            )


def least_version_is_a_version(case: Case) -> Iterator[Fault]:
    path, value = ("image", "minimum_version"), case.recipe.image.minimum_version
    if value is not None and not _VERSION.fullmatch(value):
        yield error(path, reason("RecipeValueWrong", key=written(path), value=value, wanted=f"=~ ^{_VERSION.pattern}$"))


def previous_bundle_exists(case: Case) -> Iterator[Fault]:
    previous = case.recipe.image.previous
    yield from existing(("image", "previous"), str(Path(previous, "index.json")) if previous else None)


def signing_files_exist(case: Case) -> Iterator[Fault]:
    yield from existing(("signing", "key"), case.recipe.signing.key)
    yield from existing(("signing", "trusted_keys"), case.recipe.signing.trusted_keys)


def signing_key_has_one_source(case: Case) -> Iterator[Fault]:
    path, signing = ("signing", "key_env"), case.recipe.signing
    if signing.key is not None and signing.key_env is not None:
        yield error(path, reason("SigningKeyTwice", key=written(path), value=signing.key_env))


def signing_key_variable_is_set(case: Case) -> Iterator[Fault]:
    path, name = ("signing", "key_env"), case.recipe.signing.key_env
    if name is not None:
        yield from is_set(case, path, name)


def signing_key_is_a_key(case: Case) -> Iterator[Fault]:
    signing = case.recipe.signing
    places: list[tuple[KeyPath, str | None]] = [(("signing", "key"), signing.key)]
    if signing.key_env is not None:
        places.append((("signing", "key_env"), case.environment.get(signing.key_env)))
    for path, value in places:
        if value and (Path(value).exists() or path[-1] == "key_env") and not _is_p256(Path(value)):
            yield error(path, reason("SigningKeyInvalid", key=written(path), value=value))


def _is_p256(path: Path) -> bool:
    try:
        match = _PEM.search(path.read_text("ascii"))
        return match is not None and _P256 in base64.b64decode("".join(match[1].split()), validate=True)
    except (OSError, UnicodeDecodeError, binascii.Error):
        return False


def signature_has_a_key(case: Case) -> Iterator[Fault]:
    signing = case.recipe.signing
    if signing.key is not None or signing.key_env is not None:
        return
    for field in ("key_id", "expires_days"):
        if getattr(signing, field) is not None:
            path = ("signing", field)
            yield error(path, reason("SigningKeyMissing", key=written(path), value=getattr(signing, field)))


def bundle_is_signed(case: Case) -> Iterator[Fault]:
    signing = case.recipe.signing
    if Output.BUNDLE in case.recipe.image.outputs and signing.key is None and signing.key_env is None:
        yield warning(("signing",), reason("RecipeUnsigned"))


def hosts_can_be_upgraded(case: Case) -> Iterator[Fault]:
    if not case.recipe.agent:
        yield warning(("agent",), reason("AgentLeftOut", key="agent"))


RULES: tuple[Rule, ...] = (
    something_is_written,
    outputs_are_unique,
    codec_is_installed,
    frames_are_whole_blocks,
    former_versions_are_versions,
    least_version_is_a_version,
    previous_bundle_exists,
    signing_files_exist,
    signing_key_has_one_source,
    signing_key_variable_is_set,
    signing_key_is_a_key,
    signature_has_a_key,
    bundle_is_signed,
    hosts_can_be_upgraded,
)
