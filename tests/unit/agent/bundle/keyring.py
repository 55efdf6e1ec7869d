"""Keys, sets and signatures for tests, made by the machine's openssl once a run."""

from __future__ import annotations

import base64
import functools
import json
import subprocess
import tempfile
from typing import Any

from hostplane.agent.bundle.signature import ALGORITHM, BUNDLE, TRUST, Signature, message
from hostplane.agent.bundle.trust import Envelope, fingerprint, parse_set

NOW = 1_800_000_000.0
EARLIER, LATER = "2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z"
DIGEST = "sha256:" + "d" * 64


@functools.cache
def private(name: str, curve: str) -> bytes:
    """The private key called `name`, as PEM."""
    return _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}")


@functools.cache
def public(name: str, curve: str = "P-256") -> bytes:
    """Its public half, as DER."""
    return _openssl("pkey", "-pubout", "-outform", "DER", text=private(name, curve))


def signature(
    name: str, digest: str = DIGEST, *, purpose: str = BUNDLE, expires: str = "", key_id: str | None = None
) -> Signature:
    """A signature by `name` under its own name, or another."""
    blank = Signature(key_id or name, ALGORITHM, expires, b"")
    return blank._replace(value=_signed(private(name, "P-256"), message(purpose, digest, blank)))


def _signed(key: bytes, text: bytes) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        file.write(key)
        file.flush()
        return _openssl("dgst", "-sha256", "-sign", file.name, text=text)


def entry(name: str, **more: Any) -> dict[str, Any]:
    """A key as a set lists it."""
    key = base64.b64encode(public(name)).decode()
    return {"id": name, "algorithm": ALGORITHM, "publicKey": key, "status": "active", **more}


def revoked(name: str) -> dict[str, str]:
    """A revoked key as a set lists it."""
    return {"id": name, "fingerprint": fingerprint(public(name))}


def body(version: int, *keys: dict[str, Any], threshold: int = 1, gone: tuple[str, ...] = (), **more: Any) -> bytes:
    """A set's JSON."""
    said = {"schema": "1.0", "version": version, "threshold": threshold, "keys": list(keys)}
    return json.dumps({**said, "revoked": [revoked(name) for name in gone], **more}).encode()


def envelope(raw: bytes, *signers: str) -> Envelope:
    """A set signed by `signers`."""
    trust = parse_set(raw)
    return Envelope(trust, tuple(signature(name, trust.digest, purpose=TRUST) for name in signers))


def line(raw: bytes, *signers: str) -> bytes:
    """The same as a line of a trust file."""
    signatures = [
        {
            "keyId": one.key_id,
            "algorithm": one.algorithm,
            "expires": one.expires or None,
            "signature": base64.b64encode(one.value).decode(),
        }
        for one in envelope(raw, *signers).signatures
    ]
    said = {"schema": "1.0", "set": base64.b64encode(raw).decode(), "signatures": signatures}
    return json.dumps(said).encode() + b"\n"


def _openssl(*words: str, text: bytes | None = None) -> bytes:
    return subprocess.run(["openssl", *words], input=text, capture_output=True, timeout=30, check=True).stdout
