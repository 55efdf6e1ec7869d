"""The trusted keys: a versioned set that signs its own successor, so that keys change without a new image.

A host starts with the set in its image and moves on only to a higher version that enough active keys of the set it has
have signed. An active key signs images and sets. A retired key signs nothing new, and what it signed still counts. A
revoked key's signatures count no more, and no later set may trust that key again. Nothing ever goes back.

    trust file = one envelope a line, oldest first: {"schema", "set": base64 of the set's JSON, "signatures": [...]}
"""

import hashlib
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from hostplane.agent.bundle.limits import MAX_JSON, MAX_KEYS, MAX_SIGNATURES, MAX_TRUST_CHAIN
from hostplane.agent.bundle.manifest import digest_of
from hostplane.agent.bundle.signature import (
    ALGORITHM,
    BUNDLE,
    KEY_ID,
    TRUST,
    Signature,
    SignatureList,
    Verify,
    decoded,
    message,
    parse_signature,
    public_key_pem,
)
from hostplane.agent.bundle.strict import Fields, check_schema, invalid, parse_object, parse_time
from hostplane.errors import HostError

__all__ = [
    "ACTIVE",
    "RETIRED",
    "Envelope",
    "Key",
    "TrustSet",
    "Verdict",
    "advance",
    "fingerprint",
    "follow",
    "judge",
    "load",
    "parse_chain",
    "parse_set",
    "require",
]

ACTIVE, RETIRED = "active", "retired"
_PART = "trusted keys"
_LINE = 2 * MAX_JSON


class Key(NamedTuple):
    """One trusted public key; `not_after` is a time as written, or empty."""

    id: str
    algorithm: str
    der: bytes
    status: str
    not_after: str


class TrustSet(NamedTuple):
    """One version of the set. `revoked` maps fingerprints to ids; `digest` is of the bytes that are signed."""

    version: int
    threshold: int
    keys: Dict[str, Key]
    revoked: Dict[str, str]
    digest: str


class Envelope(NamedTuple):
    """A set and the signatures on it."""

    trust: TrustSet
    signatures: Tuple[Signature, ...]


class Verdict(NamedTuple):
    """What one signature is worth: `state` is Good, Bad, Expired, KeyUnknown, KeyRevoked, KeyRetired, KeyExpired or
    AlgorithmUnknown. Only Good counts."""

    key_id: str
    algorithm: str
    expires: str
    state: str


def fingerprint(der: bytes) -> str:
    """The hex sha256 of a public key as DER: what revokes it for ever, whatever its id."""
    return hashlib.sha256(der).hexdigest()


def parse_set(raw: bytes) -> TrustSet:
    """The set in `raw`. Keys of an unknown algorithm are kept and never count.

    Raises:
        HostError: BundleInvalid, BundleTooLarge, BundleSchemaUnknown.
    """
    fields = parse_object(_PART, raw)
    check_schema(_PART, fields.text("schema"))
    keys = {}  # type: Dict[str, Key]
    prints = set()
    for one in fields.objects("keys", MAX_KEYS):
        key = _key(one)
        if key.id in keys or fingerprint(key.der) in prints:
            raise invalid(_PART, "key %s is there twice" % key.id)
        keys[key.id] = key
        prints.add(fingerprint(key.der))
    revoked = {}  # type: Dict[str, str]
    for one in fields.objects("revoked", 4 * MAX_KEYS):
        revoked[one.text("fingerprint", r"[0-9a-f]{64}")] = one.text("id", KEY_ID)
    if prints.intersection(revoked) or set(keys).intersection(revoked.values()):
        raise invalid(_PART, "a key is trusted and revoked at once")
    trust = TrustSet(
        version=fields.number("version", 1, 1 << 31),
        threshold=fields.number("threshold", 1, MAX_SIGNATURES),
        keys=keys,
        revoked=revoked,
        digest=digest_of(raw),
    )
    if sum(key.status == ACTIVE and key.algorithm == ALGORITHM for key in keys.values()) < trust.threshold:
        raise invalid(_PART, "fewer keys can sign than must")
    return trust


def _key(fields: Fields) -> Key:
    key = Key(
        id=fields.text("id", KEY_ID),
        algorithm=fields.text("algorithm", r"[0-9a-z][0-9a-z-]{0,31}"),
        der=decoded(fields, "publicKey", 4096),
        status=fields.text("status", "%s|%s" % (ACTIVE, RETIRED)),
        not_after=fields.optional_text("notAfter") or "",
    )
    if key.not_after:
        parse_time(fields.part, key.not_after)
    if key.algorithm == ALGORITHM and public_key_pem(key.algorithm, key.der) is None:
        raise invalid(fields.part, "it is not a key of %s" % key.algorithm)
    return key


def parse_chain(raw: bytes) -> List[Envelope]:
    """The envelopes of a trust file, oldest first, not verified.

    Raises:
        HostError: BundleInvalid, BundleTooLarge, BundleSchemaUnknown.
    """
    lines = [line for line in raw.split(b"\n", MAX_TRUST_CHAIN + 1) if line.strip()]
    if len(lines) > MAX_TRUST_CHAIN:
        raise HostError("BundleTooLarge", part=_PART, size=len(lines), limit=MAX_TRUST_CHAIN)
    found = []  # type: List[Envelope]
    for line in lines:
        fields = parse_object(_PART, line, _LINE)
        check_schema(_PART, fields.text("schema"))
        trust = parse_set(decoded(fields, "set", MAX_JSON))
        if found and trust.version <= found[-1].trust.version:
            raise invalid(_PART, "the versions do not rise")
        signatures = tuple(parse_signature(one) for one in fields.objects("signatures", MAX_SIGNATURES))
        found.append(Envelope(trust, signatures))
    if not found:
        raise invalid(_PART, "there is no set")
    return found


def load(chain: Sequence[Envelope], now: float, verify: Verify) -> TrustSet:
    """The newest set of a trust file that is trusted as such (an image's own): its first set is the root of trust.

    Raises:
        HostError: TrustedKeysUnsigned, TrustedKeysRolledBack, BundleInvalid.
    """
    first = chain[0]
    _count(first.trust, first, now, verify)
    return follow(first.trust, chain[1:], now, verify)


def follow(current: TrustSet, chain: Sequence[Envelope], now: float, verify: Verify) -> TrustSet:
    """Where `chain` leads from `current`: sets that are not newer are passed over, each newer one must be signed by the
    one before it.

    Raises:
        HostError: TrustedKeysUnsigned, BundleInvalid.
    """
    for envelope in chain:
        if envelope.trust.version > current.version:
            current = advance(current, envelope, now, verify)
    return current


def advance(current: TrustSet, envelope: Envelope, now: float, verify: Verify) -> TrustSet:
    """The envelope's set, when `current` allows it to follow.

    Raises:
        HostError: TrustedKeysRolledBack, TrustedKeysUnsigned, BundleInvalid (it forgets a revoked key).
    """
    fresh = envelope.trust
    if fresh.digest == current.digest:
        return current
    if fresh.version <= current.version:
        raise HostError("TrustedKeysRolledBack", version=fresh.version, current=current.version)
    if not set(current.revoked) <= set(fresh.revoked):
        raise invalid(_PART, "version %d forgets a revoked key" % fresh.version)
    _count(current, envelope, now, verify)
    return fresh


def _count(by: TrustSet, envelope: Envelope, now: float, verify: Verify) -> None:
    """Raise unless enough active keys of `by` signed the envelope's set."""
    verdicts = judge(SignatureList(envelope.trust.digest, envelope.signatures), by, now, verify, purpose=TRUST)
    if len({verdict.key_id for verdict in verdicts if verdict.state == "Good"}) < by.threshold:
        raise HostError(
            "TrustedKeysUnsigned", version=envelope.trust.version, threshold=by.threshold, found=_told(verdicts)
        )


def judge(
    signatures: SignatureList, trust: TrustSet, now: float, verify: Verify, purpose: str = BUNDLE
) -> List[Verdict]:
    """What each signature is worth at `now`; `verify` is asked only about those that could count.

    Raises:
        HostError: SignatureToolMissing.
    """
    verdicts = []
    for one in signatures.signatures:
        state = _refusal(one, trust, now, purpose)
        if state is None:
            der = trust.keys[one.key_id].der
            state = "Good" if verify(der, message(purpose, signatures.subject, one), one.value) else "Bad"
        verdicts.append(Verdict(one.key_id, one.algorithm, one.expires, state))
    return verdicts


def _refusal(signature: Signature, trust: TrustSet, now: float, purpose: str) -> Optional[str]:
    if signature.algorithm != ALGORITHM:
        return "AlgorithmUnknown"
    key = trust.keys.get(signature.key_id)
    if key is None:
        return "KeyRevoked" if signature.key_id in trust.revoked.values() else "KeyUnknown"
    if key.algorithm != signature.algorithm:
        return "AlgorithmUnknown"
    if key.status == RETIRED and purpose == TRUST:
        return "KeyRetired"
    if key.not_after and now >= parse_time(_PART, key.not_after):
        return "KeyExpired"
    return "Expired" if signature.has_expired(now) else None


def require(digest: str, signatures: SignatureList, trust: TrustSet, now: float, verify: Verify) -> List[Verdict]:
    """The verdicts on a bundle's signatures, when enough trusted keys have signed `digest`.

    Raises:
        HostError: BundleUnsigned, BundleDigestMismatch (they are for another bundle), SignatureToolMissing.
    """
    if signatures.subject != digest:
        raise HostError("BundleDigestMismatch", part="signatures", got=signatures.subject, want=digest)
    verdicts = judge(signatures, trust, now, verify)
    if len({verdict.key_id for verdict in verdicts if verdict.state == "Good"}) < trust.threshold:
        raise HostError("BundleUnsigned", digest=digest, threshold=trust.threshold, found=_told(verdicts))
    return verdicts


def _told(verdicts: Sequence[Verdict]) -> str:
    return ", ".join("%s: %s" % (verdict.key_id, verdict.state) for verdict in verdicts) or "none"
