"""Signatures over a digest: parsed here, verified by the host's own OpenSSL, counted against the trusted keys.

No cryptography is written by hand. What is signed is a few lines of text that fix purpose, algorithm, key, expiry and
digest, so that none of them can be exchanged. Every doubt counts against the signature: no `openssl`, a time-out, an
exit code other than 0. Signatures that do not count are passed over, since anybody can add one; what is missing is
enough that do count.
"""

import base64
import binascii
import os
import subprocess
import tempfile
from typing import Callable, Iterable, List, NamedTuple, Optional, Tuple

from hostplane.agent.bundle.limits import MAX_METADATA, MAX_SIGNATURES
from hostplane.agent.bundle.strict import Fields, check_schema, invalid, parse_object, parse_time
from hostplane.errors import HostError

__all__ = [
    "ALGORITHM",
    "BUNDLE",
    "KEY_ID",
    "RESERVED",
    "TRUST",
    "Signature",
    "SignatureList",
    "Verify",
    "decoded",
    "message",
    "openssl_verify",
    "parse_signature",
    "parse_signatures",
    "public_key_pem",
]

ALGORITHM = "ecdsa-p256-sha256"
"""The one algorithm in use: ECDSA on NIST P-256 over SHA-256, DER."""
RESERVED = ("ed25519", "sm2-sm3")
"""Names kept for later; until then they count as unknown."""
BUNDLE, TRUST = "bundle", "trusted-keys"
"""What a signature may be for."""
KEY_ID = r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}"
_NAME = r"[0-9a-z][0-9a-z-]{0,31}"
_P256 = binascii.unhexlify("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_SECONDS = 20.0

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key as DER, message, signature) -> whether it holds."""


class Signature(NamedTuple):
    """One signature. `expires` is as written, or empty for never."""

    key_id: str
    algorithm: str
    expires: str
    value: bytes

    def has_expired(self, now: float) -> bool:
        """Whether it no longer counts at `now`, in seconds since the epoch."""
        return bool(self.expires) and now >= parse_time("signature", self.expires)


class SignatureList(NamedTuple):
    """What a list of signatures holds: the digest they are for, and they."""

    subject: str
    signatures: Tuple[Signature, ...]


def message(purpose: str, digest: str, signature: Signature) -> bytes:
    """The bytes that `signature` signs."""
    lines = (
        "hostplane signature 1",
        "purpose " + purpose,
        "algorithm " + signature.algorithm,
        "key " + signature.key_id,
        "expires " + (signature.expires or "never"),
        "digest " + digest,
        "",
    )
    return "\n".join(lines).encode("ascii")


def parse_signatures(raw: bytes) -> SignatureList:
    """The list in `raw`.

    Raises:
        HostError: BundleInvalid, BundleTooLarge, BundleSchemaUnknown.
    """
    fields = parse_object("signatures", raw, MAX_METADATA)
    check_schema("signatures", fields.text("schema"))
    found = fields.objects("signatures", MAX_SIGNATURES)
    return SignatureList(fields.digest("subject"), tuple(parse_signature(one) for one in found))


def parse_signature(fields: Fields) -> Signature:
    """One signature.

    Raises:
        HostError: BundleInvalid.
    """
    expires = fields.optional_text("expires") or ""
    if expires:
        parse_time(fields.part, expires)
    value = decoded(fields, "signature", 1024)
    return Signature(fields.text("keyId", KEY_ID), fields.text("algorithm", _NAME), expires, value)


def decoded(fields: Fields, name: str, most: int) -> bytes:
    """The bytes of the base64 string `name`, at most `most`.

    Raises:
        HostError: BundleInvalid.
    """
    try:
        value = base64.b64decode(fields.text(name, r"[0-9A-Za-z+/=]{4,400000}"), validate=True)
    except binascii.Error as fault:
        raise invalid(fields.part, "%s is not base64" % name) from fault
    if len(value) > most:
        raise HostError("BundleTooLarge", part=fields.part, size=len(value), limit=most)
    return value


def public_key_pem(algorithm: str, der: bytes) -> Optional[bytes]:
    """The key as `openssl` reads it, or None when it is not one of `algorithm`."""
    if algorithm != ALGORITHM or len(der) != len(_P256) + 65 or not der.startswith(_P256 + b"\x04"):
        return None
    return b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(der) + b"-----END PUBLIC KEY-----\n"


def openssl_verify(der: bytes, text: bytes, value: bytes) -> bool:
    """Whether `value` is an ecdsa-p256-sha256 signature of `text` by the public key `der`, as this host's openssl says.

    Raises:
        HostError: SignatureToolMissing, when openssl does not run or does not answer.
    """
    pem = public_key_pem(ALGORITHM, der)
    if pem is None:
        return False
    with tempfile.TemporaryDirectory(prefix="hostplane-verify-") as directory:
        paths = _written(directory, (("key", pem), ("signature", value)))
        command = ["openssl", "dgst", "-sha256", "-verify", paths[0], "-signature", paths[1]]
        # A configuration file of somebody's must not choose the engine that says yes.
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "OPENSSL_CONF": os.devnull}
        try:
            done = subprocess.run(
                command,
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_SECONDS,
                env=environment,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as fault:
            raise HostError("SignatureToolMissing", detail=str(fault)) from fault
    return done.returncode == 0 and done.stdout.strip() == b"Verified OK"


def _written(directory: str, parts: Iterable[Tuple[str, bytes]]) -> List[str]:
    paths = []
    for name, content in parts:
        paths.append(os.path.join(directory, name))
        with open(paths[-1], "wb") as file:
            file.write(content)
    return paths
