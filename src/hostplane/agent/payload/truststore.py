"""Which keys this host trusts: the newest version of the trusted set that it has ever reached.

The running image brings a trust file; the host keeps the newest set that it was led to by signatures. An image with an
older file, or with one that the kept set did not sign, changes nothing: a host that was told of a revoked key never
forgets it, whatever it boots. The set moves at a commit only, so an image on trial decides nothing about its successor.

The clock decides what has expired, and a host may wake with none. Time never goes below what is known to be past: when
the running image was made, and the newest image ever committed here.
"""

import base64
import logging
import os
import time
from typing import Dict, Optional

from hostplane.agent.bundle.limits import MAX_JSON, MAX_TRUST_CHAIN
from hostplane.agent.bundle.signature import decoded, openssl_verify
from hostplane.agent.bundle.strict import parse_object
from hostplane.agent.bundle.trust import TrustSet, advance, load, parse_chain, parse_set
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import kept
from hostplane.errors import HostError

__all__ = ["IMAGE_FILE", "KEPT", "reach", "time_now", "trusted"]

IMAGE_FILE = "usr/lib/hostplane/keys/trusted.json"
KEPT = "trust.json"
_log = logging.getLogger("hostplane.agent")


def time_now(host: HostRoot, past: int = 0) -> float:
    """Seconds since the epoch, for judging what has expired; never before `past` or the running image's making."""
    try:
        made = os.stat(host.path("usr/lib/hostplane/image.json")).st_mtime  # the builder sets it to the image's epoch
    except OSError:
        made = 0.0
    return max(time.time(), made, float(past))


def trusted(host: HostRoot, now: float) -> TrustSet:
    """The set that counts: the kept one, or where the running image's file leads from there.

    Raises:
        HostError: NoTrustedKeys, KeptUnreadable; TrustedKeysUnsigned, BundleInvalid... on a host that has kept none,
            for the image's file; SignatureToolMissing.
    """
    return parse_set(_newest(host, now))


def reach(host: HostRoot, now: float) -> None:
    """Keep what `trusted` gives, for ever: the running image is proven. Nothing where there are no keys at all.

    Raises:
        HostError: as `trusted`, and KeptWriteFailed.
    """
    try:
        newest = _newest(host, now)
    except HostError as fault:
        if fault.name != "NoTrustedKeys":
            raise
        return
    if newest != _kept(host):
        kept.write(host, KEPT, {"set": base64.b64encode(newest).decode("ascii")})


def _kept(host: HostRoot) -> Optional[bytes]:
    fields = kept.read(host, KEPT)
    if fields is None:
        return None
    try:
        raw = decoded(fields, "set", MAX_JSON)
        parse_set(raw)
    except HostError as fault:
        raise HostError(
            "KeptUnreadable", path=host.path("%s/%s" % (kept.DIRECTORY, KEPT)), detail=str(fault)
        ) from fault
    return raw


def _newest(host: HostRoot, now: float) -> bytes:
    """The bytes of the set that counts."""
    own = _kept(host)
    raw = kept.read_file(host.path(IMAGE_FILE), MAX_TRUST_CHAIN * 2 * MAX_JSON)
    if not raw or not raw.strip():
        if own is None:
            raise HostError("NoTrustedKeys")
        return own
    if own is None:
        chain = parse_chain(raw)
        return _sets(raw)[load(chain, now, openssl_verify).digest]
    current = parse_set(own)
    for envelope in parse_chain(raw):
        if envelope.trust.version > current.version:
            try:
                current = advance(current, envelope, now, openssl_verify)
            except HostError as fault:
                if fault.name == "SignatureToolMissing":
                    raise
                _log.warning("trusted keys of the image passed over, version %d stays: %s", current.version, fault)
    return dict(_sets(raw), **{parse_set(own).digest: own})[current.digest]


def _sets(raw: bytes) -> Dict[str, bytes]:
    """The sets of a trust file that was parsed already, by digest."""
    found = {}
    for line in raw.split(b"\n"):
        if line.strip():
            body = decoded(parse_object("trusted keys", line, 2 * MAX_JSON), "set", MAX_JSON)
            found[parse_set(body).digest] = body
    return found
