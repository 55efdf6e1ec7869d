"""Which images this host lets in: every question is asked here, on the host, whatever the cluster or a proxy says.

A grant names a digest; it proves nothing. In this order, and nothing later is fetched before what is earlier held: the
digest is not blocked; enough trusted keys signed it; manifest and metadata are the ones that were signed; the image is
for this machine, is the version it was called, is not below the lowest this host takes, may be installed over what
runs, is sealed if what runs is, and leaves a way back. What is already in a slot is asked again before it is booted.
"""

import logging
import os
import re
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set

from hostplane.agent.bundle.limits import MAX_METADATA
from hostplane.agent.bundle.manifest import (
    Manifest,
    Metadata,
    check_blob,
    digest_of,
    is_reachable,
    parse_manifest,
    parse_metadata,
)
from hostplane.agent.bundle.signature import openssl_verify, parse_signatures
from hostplane.agent.bundle.strict import parse_object
from hostplane.agent.bundle.trust import judge
from hostplane.agent.bundle.versions import is_below
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import installed, kept, record, statecheck, truststore
from hostplane.agent.state import Image
from hostplane.errors import HostError

__all__ = ["Admitted", "admit", "broken_seal", "check_boot", "committed", "floor_of", "running_state"]

_log = logging.getLogger("hostplane.agent")
_FLOOR = "floor.json"
_SEAL = ("hostplane.verity", "hostplane.hashoffset")
_BLOCKED = "etc/hostplane/blocked"
_DAY = 86400
_MOST_LISTS = 16
_DIGEST = re.compile(r"\Asha256:[0-9a-f]{64}\Z")


class Admitted(NamedTuple):
    """An image that may be written: what was signed, parsed and as bytes."""

    manifest: Manifest
    metadata: Metadata
    manifest_raw: bytes
    metadata_raw: bytes


class _Floor(NamedTuple):
    """What a commit has settled for ever: the lowest version taken, and a time (epoch seconds) that is past."""

    version: str = ""
    past: int = 0


def admit(host: HostRoot, image: Image, source: Any, running: str) -> Admitted:
    """The image behind `image`, when this host may take it over the `running` version. Fetches manifest and metadata.

    Raises:
        HostError: DigestBlocked, BlockListUnreadable, NoTrustedKeys, BundleUnsigned, BundleDigestMismatch,
            ArchitectureWrong, VersionDiffers, VersionTooLow, VersionUnreachable, SealingChanges, StateReturnBroken;
            what parsers, the source, kept documents and openssl raise.
    """
    _refuse_blocked(host, image.digest)
    _require_signatures(host, image.digest, source.signatures())
    manifest_raw: bytes = source.manifest()
    if digest_of(manifest_raw) != image.digest:
        raise HostError("BundleDigestMismatch", part="manifest", got=digest_of(manifest_raw), want=image.digest)
    manifest = parse_manifest(manifest_raw)
    metadata_raw = _fetched(source, manifest)
    metadata = parse_metadata(metadata_raw)
    _refuse_unfit(host, image, metadata, running)
    return Admitted(manifest, metadata, manifest_raw, metadata_raw)


def check_boot(host: HostRoot, digest: str, metadata: Optional[Metadata]) -> None:
    """Whether what a slot holds may be switched to, also by a rollback. `metadata` is None for a plain tar, and for
    what the disk was built with.

    Raises:
        HostError: DigestBlocked, BlockListUnreadable, VersionTooLow, SealingChanges, KeptUnreadable.
    """
    _refuse_blocked(host, digest)
    metadata = metadata or installed.metadata_of(host, digest)
    if metadata is not None:
        _refuse_low(host, metadata.version)
        _refuse_other_sealing(host, metadata)


def broken_seal(host: HostRoot) -> str:
    """Words for a running root that is not under the seal which its signed metadata names; empty where all is well.

    The kernel line is in the boot image; nobody could see before the boot that it says what the metadata says.
    """
    metadata = record.metadata(host, host.active_slot())
    if metadata is None:
        return ""
    verity, want = metadata.images["root"].verity, {}
    if verity is not None:
        want = {"hostplane.verity": verity.root_hash, "hostplane.hashoffset": str(verity.hash_offset)}
    if {key: value for key, value in _kernel_line(host).items() if key in _SEAL} == want:
        return ""
    return "the image's metadata and its kernel line name different seals of the root"


def committed(host: HostRoot, metadata: Optional[Metadata]) -> None:
    """The running image is proven: raise the lowest version, move time's floor, take over its trusted keys. Repeatable.

    `metadata` is what its slot's record says; None for a plain tar, which settles nothing but the keys, and for what
    the disk was built with.

    Raises:
        HostError: KeptUnreadable, KeptWriteFailed; what the trust file's parser raises, SignatureToolMissing.
    """
    if metadata is None:
        built = installed.documents(host)
        metadata = None if built is None else built[2]
    before = _kept_floor(host)
    floor = before
    if metadata is not None:
        # An image that claims to come from tomorrow must not make every signature that ends look ended for good.
        is_past = metadata.created <= time.time() + _DAY
        past = max(before.past, metadata.created if is_past else 0)
        floor = _Floor(_higher(before.version, metadata.minimum_version or ""), past)
    if floor != before:
        kept.write(host, _FLOOR, {"minimumVersion": floor.version or None, "past": floor.past})
    truststore.reach(host, truststore.time_now(host, floor.past))
    if metadata is not None:
        statecheck.write_stamp(host, metadata.state_versions)


def floor_of(host: HostRoot) -> str:
    """The lowest version this host takes; empty for any. The running image's own rule counts as well.

    Raises:
        HostError: KeptUnreadable.
    """
    return _higher(_kept_floor(host).version, str(_about(host).get("minimumVersion") or ""))


def _kept_floor(host: HostRoot) -> _Floor:
    fields = kept.read(host, _FLOOR)
    if fields is None:
        return _Floor()
    return _Floor(fields.optional_text("minimumVersion") or "", fields.number("past", 0, 1 << 40))


def _higher(one: str, two: str) -> str:
    return two if not one or (two and is_below(one, two)) else one


def _refuse_blocked(host: HostRoot, digest: str) -> None:
    raw = kept.read_file(host.path(_BLOCKED), 1 << 20) or b""
    for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
        word = line.partition("#")[0].strip()
        if word and _DIGEST.match(word) is None:  # a slip of the pen must not let in what was meant to stay out
            raise HostError("BlockListUnreadable", line=number)
        if word == digest:
            raise HostError("DigestBlocked", digest=digest)


def _require_signatures(host: HostRoot, digest: str, lists: List[bytes]) -> None:
    now = truststore.time_now(host, _kept_floor(host).past)
    trust = truststore.trusted(host, now)
    good: Set[str] = set()
    told: List[str] = []
    for raw in lists[:_MOST_LISTS]:
        try:
            signatures = parse_signatures(raw)
        except HostError as fault:  # anybody can add a list
            told.append(fault.name)
            continue
        if signatures.subject != digest:
            told.append("for another digest")
            continue
        for verdict in judge(signatures, trust, now, openssl_verify):
            told.append("%s: %s" % (verdict.key_id, verdict.state))
            if verdict.state == "Good":
                good.add(verdict.key_id)
        if len(good) >= trust.threshold:
            return
    found = ", ".join(told[:16]) or "none"
    raise HostError("BundleUnsigned", digest=digest, threshold=trust.threshold, found=found)


def _fetched(source: Any, manifest: Manifest) -> bytes:
    """The metadata document, compared with its descriptor whatever the source did."""
    want, raw = manifest.metadata, b""
    for piece in source.blob(want):
        raw += piece
        if len(raw) > min(want.size, MAX_METADATA):
            break
    return check_blob("metadata", raw, want.size, want.digest)


def _refuse_unfit(host: HostRoot, image: Image, metadata: Metadata, running: str) -> None:
    about = _about(host)
    arch = str(about.get("arch") or os.uname().machine)
    if metadata.arch != arch:
        raise HostError("ArchitectureWrong", got=metadata.arch, want=arch)
    if image.version and image.version != metadata.version:
        raise HostError("VersionDiffers", got=metadata.version, want=image.version)
    _refuse_low(host, metadata.version)
    if not is_reachable(metadata, running):
        listed = ", ".join(metadata.reachable_from[:16])
        raise HostError("VersionUnreachable", version=metadata.version, running=running or "?", reachable=listed)
    _refuse_other_sealing(host, metadata)
    written, rules = dict(metadata.state_versions), statecheck.read_rules(host)
    for clash in statecheck.clashes(written, running_state(host), rules):
        if not clash.reset:
            raise HostError("StateReturnBroken", component=clash.component, writer=clash.writer, reader=clash.reader)
        _log.warning("a return would reset the state of %s %s for %s", clash.component, clash.writer, clash.reader)


def running_state(host: HostRoot) -> Mapping[str, str]:
    """State versions of the running image, as its slot's record or the disk's builder says; empty where nobody does."""
    known = record.metadata(host, host.active_slot())
    if known is None:
        built = installed.documents(host)
        return {} if built is None else built[2].state_versions
    return known.state_versions


def _refuse_low(host: HostRoot, version: str) -> None:
    floor = floor_of(host)
    if floor and is_below(version, floor):
        raise HostError("VersionTooLow", version=version, minimum=floor)


def _refuse_other_sealing(host: HostRoot, metadata: Metadata) -> None:
    """An unsealed image is a way around the seal; a sealed one may not fit the loader's and initramfs's habits."""
    is_sealed, was_sealed = metadata.images["root"].verity is not None, "hostplane.verity" in _kernel_line(host)
    if is_sealed != was_sealed and not host.config.allow_sealing_change:
        words = {True: "sealed", False: "not sealed"}
        raise HostError("SealingChanges", version=metadata.version, next=words[is_sealed], now=words[was_sealed])


def _kernel_line(host: HostRoot) -> Dict[str, str]:
    raw = kept.read_file(host.path("proc/cmdline")) or b""
    return {key: value for key, _, value in (word.partition("=") for word in raw.decode("utf-8", "replace").split())}


def _about(host: HostRoot) -> Dict[str, Any]:
    """What the running image says of itself; nothing where it was not built by Hostplane."""
    raw = kept.read_file(host.path("usr/lib/hostplane/image.json"))
    return {} if raw is None else parse_object("/usr/lib/hostplane/image.json", raw).values
