"""Signs bundles and trusted key sets with the machine's openssl; a private key is only ever a path handed to it.

A signature is written over a digest and a few words (`agent.bundle.signature.message`). Adding one to a bundle rewrites
the list of signatures and the index, never the manifest that was signed. Every signature is verified with the public
half before it is written, so that a wrong key is found here and not on a host.
"""

from __future__ import annotations

import base64
import os
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hostplane.agent.bundle.limits import MAX_SIGNATURES
from hostplane.agent.bundle.manifest import SCHEMA
from hostplane.agent.bundle.signature import (
    ALGORITHM,
    BUNDLE,
    Signature,
    message,
    openssl_verify,
    public_key_pem,
)
from hostplane.agent.bundle.trust import fingerprint
from hostplane.errors import ImageError, LocalError, RecipeError
from hostplane.image.building.tools import require
from hostplane.image.bundle.ocilayout import canonical, open_bundle, replaced_file
from hostplane.image.recipe import Signing

__all__ = [
    "default_key_id",
    "expiry",
    "generate",
    "key_path",
    "public_key",
    "sign",
    "sign_bundle",
    "sign_by_recipe",
    "signature_json",
]

_SECONDS = 60.0
_ID_DIGITS = 16


def _openssl(*words: str, text: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    require("openssl")
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        return subprocess.run(
            ["openssl", *words], input=text, capture_output=True, timeout=_SECONDS, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise LocalError("OpensslFailed", detail=fault) from fault


def generate(private: Path, public: Path) -> bytes:
    """Make a key pair: `private` readable by its owner alone; gives the public key as DER.

    Raises:
        LocalError: KeyExists (nothing is overwritten), OpensslFailed.
    """
    for path in (private, public):
        if path.exists():
            raise LocalError("KeyExists", path=path)
    with tempfile.TemporaryDirectory(prefix=".key-", dir=private.parent) as scratch:  # 0700, on the same file system
        fresh = Path(scratch) / "key"
        done = _openssl(
            *("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-pkeyopt", "ec_param_enc:named_curve", "-out", str(fresh)),
        )
        if done.returncode:
            raise LocalError("OpensslFailed", detail=_told(done))
        fresh.chmod(0o600)
        der = public_key(fresh)
        os.link(fresh, private)  # unlike a rename, refuses to replace a key that appeared meanwhile
    replaced_file(public, public_key_pem(ALGORITHM, der) or b"")
    return der


def public_key(path: Path) -> bytes:
    """The public key, as DER, of a PEM file that holds a private or a public one.

    Raises:
        LocalError: KeyUnreadable, KeyUnfit (not P-256), OpensslFailed.
    """
    try:
        pem = path.read_bytes()
    except OSError as fault:
        raise LocalError("KeyUnreadable", path=path, detail=fault.strerror) from fault
    kind = ("-pubin",) if b"BEGIN PUBLIC KEY" in pem else ()
    done = _openssl("pkey", *kind, "-pubout", "-outform", "DER", "-passin", "pass:", text=pem)
    if done.returncode:
        raise LocalError("KeyUnreadable", path=path, detail=_told(done))
    if public_key_pem(ALGORITHM, done.stdout) is None:
        raise LocalError("KeyUnfit", path=path, algorithm=ALGORITHM)
    return done.stdout


def default_key_id(der: bytes) -> str:
    """The id of a key that was given no name: the head of its fingerprint."""
    return fingerprint(der)[:_ID_DIGITS]


def expiry(days: int | None, now: datetime | None = None) -> str:
    """The time `days` from now as signatures write it; empty for never."""
    if days is None:
        return ""
    return ((now or datetime.now(UTC)) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def sign(digest: str, key: Path, *, purpose: str = BUNDLE, key_id: str | None = None, expires: str = "") -> Signature:
    """A signature over `digest` by the private key in `key`.

    Raises:
        LocalError: KeyUnreadable, KeyUnfit, OpensslFailed.
        ImageError: SignatureUnproven, when what openssl made does not verify.
    """
    der = public_key(key)
    blank = Signature(key_id or default_key_id(der), ALGORITHM, expires, b"")
    text = message(purpose, digest, blank)
    done = _openssl("dgst", "-sha256", "-sign", str(key), "-passin", "pass:", text=text)
    if done.returncode:
        raise LocalError("KeyUnreadable", path=key, detail=_told(done))
    if not openssl_verify(der, text, done.stdout):
        raise ImageError("SignatureUnproven", path=key)
    return blank._replace(value=done.stdout)


def signature_json(signature: Signature) -> dict[str, object]:
    """The signature as its list holds it."""
    return {
        "keyId": signature.key_id,
        "algorithm": signature.algorithm,
        "expires": signature.expires or None,
        "signature": base64.b64encode(signature.value).decode(),
    }


def sign_bundle(directory: Path, key: Path, *, key_id: str | None = None, expires: str = "") -> str:
    """Add a signature to the bundle in `directory`, in place of an earlier one by the same key; gives the key's id.

    Raises:
        LocalError, ImageError: what `sign` raises; SignaturesFull; what reading the bundle raises.
        HostError: what reading the bundle raises.
    """
    opened = open_bundle(directory)
    digest = opened.manifest.digest
    made = sign(digest, key, key_id=key_id, expires=expires)
    kept = [one for one in opened.signatures.signatures if one.key_id != made.key_id]
    if len(kept) >= MAX_SIGNATURES:
        raise ImageError("SignaturesFull", path=directory, limit=MAX_SIGNATURES)
    signatures = [signature_json(one) for one in (*kept, made)]
    listed = canonical({"schema": SCHEMA, "subject": digest, "signatures": signatures})
    opened.layout.point(opened.descriptor, opened.ref, listed)
    opened.layout.keep_only(open_bundle(directory))
    return made.key_id


def key_path(signing: Signing, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The private key a recipe names, by path or by an environment variable that holds one; None: unsigned.

    Raises:
        RecipeError: SigningKeyUnset, when the variable is not set.
    """
    if signing.key_env is not None:
        value = environment.get(signing.key_env)
        if not value:
            raise RecipeError("SigningKeyUnset", variable=signing.key_env)
        return Path(value)
    return None if signing.key is None else Path(signing.key)


def sign_by_recipe(directory: Path, signing: Signing) -> str | None:
    """Sign the bundle as its recipe says; gives the key's id, or None where the recipe has no key.

    Raises:
        RecipeError: SigningKeyUnset.
        LocalError, ImageError, HostError: what `sign_bundle` raises.
    """
    key = key_path(signing)
    if key is None:
        return None
    return sign_bundle(directory, key, key_id=signing.key_id, expires=expiry(signing.expires_days))


def _told(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
