"""What a disk was built with: BOOTSTATE's directory `installed` says which image slot A was written from.

The digest of a bundle cannot be inside the root it describes, so the disk's builder puts the bundle's manifest and
metadata beside the boot state. They count for a slot that nobody has written since: on the agent's first start, and
only while the running image is the one they describe.
"""

from typing import Optional, Tuple

from hostplane.agent.bundle.manifest import Metadata, check_blob, digest_of, parse_manifest, parse_metadata
from hostplane.agent.hostroot import HostRoot, Installed
from hostplane.agent.payload import kept
from hostplane.errors import HostError

__all__ = ["DIRECTORY", "documents", "metadata_of", "read"]

DIRECTORY = "boot/hostplane/installed"


def documents(host: HostRoot) -> Optional[Tuple[bytes, bytes, Metadata]]:
    """(manifest, or nothing where the disk was built without a bundle; metadata; the same parsed) of the running slot;
    None where nobody wrote them, where they make no sense, or where they tell of another image."""
    found = _read(host)
    running = host.image()
    if found is None or host.active_slot() != "A":
        return None
    return found if (running.name, running.version) == (found[2].name, found[2].version) else None


def metadata_of(host: HostRoot, digest: str) -> Optional[Metadata]:
    """The metadata of the bundle with this digest, when it is the one the disk was built from."""
    found = _read(host)
    return found[2] if found is not None and found[0] and digest_of(found[0]) == digest else None


def _read(host: HostRoot) -> Optional[Tuple[bytes, bytes, Metadata]]:
    try:
        manifest = kept.read_file(host.path(DIRECTORY + "/manifest.json")) or b""
        raw = kept.read_file(host.path(DIRECTORY + "/metadata.json"))
        if raw is None:
            return None
        metadata = parse_metadata(raw)
        if manifest:
            want = parse_manifest(manifest).metadata
            check_blob("metadata", raw, want.size, want.digest)
    except HostError:
        return None  # only worth a line in a report
    return manifest, raw, metadata


def read(host: HostRoot) -> Installed:
    """The running slot's image for the first report; its fields are empty as far as nothing is known."""
    found = documents(host)
    if found is None:
        return Installed()
    manifest, _, metadata = found
    size = sum(image.size for image in metadata.images.values())
    if manifest:
        size = sum(layer.size for layer in parse_manifest(manifest).layers)
    return Installed(digest_of(manifest) if manifest else "", metadata.version, size)
