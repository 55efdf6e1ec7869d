"""Makes and changes the trusted key set: a new version in a draft, then signatures, then a line of the trust file.

A trust file only grows: each change appends the next version, unsigned at first, and `sign` adds a signature to the
newest. A version counts on hosts once enough keys of the version before it have signed (agent.bundle.trust), and the
first one once its own keys have. A version that no key has signed yet may still be changed in place.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from hostplane.agent.bundle.manifest import SCHEMA
from hostplane.agent.bundle.signature import ALGORITHM, TRUST, Signature, SignatureList, openssl_verify
from hostplane.agent.bundle.trust import (
    ACTIVE,
    RETIRED,
    Envelope,
    TrustSet,
    Verdict,
    fingerprint,
    judge,
    load,
    parse_chain,
    parse_set,
)
from hostplane.errors import HostError, ImageError, LocalError
from hostplane.image.bundle.ocilayout import canonical, replaced_file
from hostplane.image.bundle.signing import default_key_id, public_key, sign, signature_json

__all__ = [
    "KeyTold",
    "SignatureTold",
    "TrustTold",
    "VersionTold",
    "add",
    "create",
    "named",
    "read_chain",
    "retire",
    "revoke",
    "sign_newest",
    "told",
    "trusted",
]

Draft = dict[str, Any]


def read_chain(path: Path) -> list[Envelope]:
    """The trust file's versions, oldest first, not verified.

    Raises:
        LocalError: TrustFileUnreadable.
        HostError: what the parser raises.
    """
    return parse_chain(_raw(path))


def trusted(path: Path, now: float | None = None) -> TrustSet:
    """The newest version of a trust file, its signatures verified from the first version on.

    Raises:
        LocalError: TrustFileUnreadable.
        HostError: TrustedKeysUnsigned and what the parser raises.
    """
    return load(read_chain(path), time.time() if now is None else now, openssl_verify)


def create(path: Path, keys: Sequence[tuple[str, Path]], threshold: int = 1) -> TrustSet:
    """Version 1 in a new trust file: `keys` are ids (empty: the default one) and PEM files.

    Raises:
        LocalError: KeyExists, KeyUnreadable, KeyUnfit.
        HostError: BundleInvalid, a set that could never be followed by another.
    """
    if path.exists():
        raise LocalError("KeyExists", path=path)
    draft: Draft = {"schema": SCHEMA, "version": 1, "threshold": threshold, "keys": [], "revoked": []}
    draft["keys"] = [_entry(name, pem) for name, pem in keys]
    return _append(path, b"", draft)


def add(path: Path, pem: Path, key_id: str | None = None, not_after: str | None = None) -> TrustSet:
    """The next version, with one more active key.

    Raises:
        ImageError: TrustedKeyTaken, TrustedKeyIsRevoked. LocalError, HostError: as `create`.
    """
    entry = _entry(key_id or "", pem)
    if not_after is not None:
        entry["notAfter"] = not_after

    def change(draft: Draft) -> None:
        der = base64.b64decode(str(entry["publicKey"]))
        if any(key["id"] == entry["id"] or key["publicKey"] == entry["publicKey"] for key in draft["keys"]):
            raise ImageError("TrustedKeyTaken", key=entry["id"])
        if any(one["fingerprint"] == fingerprint(der) or one["id"] == entry["id"] for one in draft["revoked"]):
            raise ImageError("TrustedKeyIsRevoked", key=entry["id"])
        draft["keys"].append(entry)

    return _changed(path, change)


def retire(path: Path, key_id: str) -> TrustSet:
    """The next version, in which the key signs nothing new; what it signed still counts.

    Raises:
        ImageError: TrustedKeyUnknown. LocalError, HostError: as `create`.
    """

    def change(draft: Draft) -> None:
        _find(draft, key_id)["status"] = RETIRED

    return _changed(path, change)


def revoke(path: Path, key_id: str, reason: str = "") -> TrustSet:
    """The next version, in which nothing the key signed counts, for ever.

    Raises:
        ImageError: TrustedKeyUnknown. LocalError, HostError: as `create`.
    """

    def change(draft: Draft) -> None:
        key = _find(draft, key_id)
        draft["keys"].remove(key)
        der = base64.b64decode(key["publicKey"])
        draft["revoked"].append({"id": key_id, "fingerprint": fingerprint(der), "reason": reason})

    return _changed(path, change)


def sign_newest(path: Path, key: Path, key_id: str | None = None) -> TrustSet:
    """Add a signature to the newest version, by an active key of the version before it (the first: its own).

    Raises:
        ImageError: TrustedKeyCannotSign. LocalError, HostError: as `create` and `signing.sign`.
    """
    raw = _raw(path)
    chain = parse_chain(raw)
    newest, signers = chain[-1], (chain[-2] if len(chain) > 1 else chain[-1]).trust
    der = public_key(key)
    own = [one.id for one in signers.keys.values() if one.der == der and one.status == ACTIVE]
    if not own or key_id not in (None, own[0]):
        raise ImageError("TrustedKeyCannotSign", key=key_id or default_key_id(der), version=signers.version)
    made = sign(newest.trust.digest, key, purpose=TRUST, key_id=own[0])
    kept = [one for one in newest.signatures if one.key_id != made.key_id]
    _write(path, raw, _set_bytes(raw), (*kept, made), is_new=False)
    return newest.trust


class KeyTold(Struct, frozen=True, kw_only=True, rename="camel"):
    """One key of the newest version, also a revoked one."""

    id: str
    status: str
    not_after: str
    fingerprint: str


class SignatureTold(Struct, frozen=True, kw_only=True, rename="camel"):
    """One signature and what it is worth: a `Verdict` with names."""

    key_id: str
    algorithm: str
    expires: str
    state: str


class VersionTold(Struct, frozen=True, kw_only=True, rename="camel"):
    """One version: `state` is Trusted, or Unsigned where hosts would stop before it."""

    version: int
    state: str
    threshold: int
    signatures: list[SignatureTold]


class TrustTold(Struct, frozen=True, kw_only=True, rename="camel"):
    """A trust file as people and scripts read it."""

    versions: list[VersionTold]
    keys: list[KeyTold]


def told(path: Path, now: float | None = None) -> TrustTold:
    """What a trust file says, and how far its signatures carry a host.

    Raises:
        LocalError: TrustFileUnreadable.
        HostError: what the parser raises, SignatureToolMissing.
    """
    chain = read_chain(path)
    versions, is_carried = [], True
    for at, envelope in enumerate(chain):
        signers = chain[max(at - 1, 0)].trust
        listed = SignatureList(envelope.trust.digest, envelope.signatures)
        found = judge(listed, signers, time.time() if now is None else now, openssl_verify, purpose=TRUST)
        is_carried = is_carried and len({one.key_id for one in found if one.state == "Good"}) >= signers.threshold
        state = "Trusted" if is_carried else "Unsigned"
        threshold = envelope.trust.threshold
        versions.append(
            VersionTold(version=envelope.trust.version, state=state, threshold=threshold, signatures=named(found))
        )
    newest = chain[-1].trust
    keys = [
        KeyTold(id=key.id, status=key.status, not_after=key.not_after, fingerprint=fingerprint(key.der))
        for key in newest.keys.values()
    ]
    keys += [KeyTold(id=name, status="revoked", not_after="", fingerprint=fp) for fp, name in newest.revoked.items()]
    return TrustTold(versions=versions, keys=keys)


def named(verdicts: Sequence[Verdict]) -> list[SignatureTold]:
    """The verdicts as they are printed."""
    return [SignatureTold(key_id=v.key_id, algorithm=v.algorithm, expires=v.expires, state=v.state) for v in verdicts]


def _raw(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise LocalError("TrustFileUnreadable", path=path, detail=fault.strerror) from fault


def _entry(key_id: str, pem: Path) -> Draft:
    der = public_key(pem)
    return {
        "id": key_id or default_key_id(der),
        "algorithm": ALGORITHM,
        "publicKey": base64.b64encode(der).decode(),
        "status": ACTIVE,
    }


def _find(draft: Draft, key_id: str) -> Draft:
    for key in draft["keys"]:
        if key["id"] == key_id:
            found: Draft = key
            return found
    raise ImageError("TrustedKeyUnknown", key=key_id)


def _changed(path: Path, change: Callable[[Draft], None]) -> TrustSet:
    raw = _raw(path)
    newest = parse_chain(raw)[-1]
    draft: Draft = json.loads(_set_bytes(raw))
    change(draft)
    if newest.signatures:
        draft["version"] += 1
        return _append(path, raw, draft)
    return _write(path, raw, canonical(draft), (), is_new=False)


def _append(path: Path, raw: bytes, draft: Draft) -> TrustSet:
    return _write(path, raw, canonical(draft), (), is_new=True)


def _set_bytes(raw: bytes) -> bytes:
    """The newest version's set, as it is signed."""
    return base64.b64decode(json.loads(raw.strip().rsplit(b"\n", 1)[-1])["set"])


def _write(path: Path, raw: bytes, body: bytes, signatures: tuple[Signature, ...], *, is_new: bool) -> TrustSet:
    trust = parse_set(body)
    lines = raw.strip().split(b"\n") if raw.strip() else []
    envelope = {
        "schema": SCHEMA,
        "set": base64.b64encode(body).decode(),
        "signatures": [signature_json(one) for one in signatures],
    }
    lines = lines if is_new else lines[:-1]
    content = b"\n".join([*lines, canonical(envelope)]) + b"\n"
    try:
        parse_chain(content)
    except HostError as fault:
        raise ImageError("TrustFileFull", path=path, detail=fault) from fault
    replaced_file(path, content)
    return trust
