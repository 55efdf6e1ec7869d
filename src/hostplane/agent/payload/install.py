"""A bundle into the passive slot: {BOOT-x, ROOT-x}, by one way for both. The order of steps is the point.

    documents, judged   ->  block indexes  ->  a plan for both images; until here nothing of the slot has changed
    the slot loses its name, its proof and its record  ->  writing  ->  both images read back whole  ->  its new record

A reboot anywhere leaves a slot that cannot be booted or one that is whole; the next attempt keeps the indexes, reads
the passive slot and goes on with the blocks that are not right yet. What the slot holds already is judged again from
its record, without the network, and read back.
"""

import logging
import os
import shutil
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple

from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.bundle.manifest import digest_of
from hostplane.agent.disk.partitions import IMAGES, Partitions, check
from hostplane.agent.disk.volume import Volume
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.state import Image
from hostplane.errors import HostError

from . import installed, record
from .pace import Pace
from .plan import Held, ImagePlan, Plan
from .write import ImageWriter, Patching, reads_back

__all__ = ["Bundle", "Steps", "estimate", "held_size"]

_log = logging.getLogger("hostplane.agent")
_ORDER = ("root", "boot")
"""The root first: an initramfs is made of files that the root has too."""
_NOTED = 64 << 20
_SCRATCH = "var/lib/hostplane/scratch"
_PLAN = "plan-"


class Steps(NamedTuple):
    """What a staging tells its owner: the plan; that the slot's first byte comes next; bytes that are on the medium."""

    planned: Callable[[Plan], None]
    begin: Callable[[], None]
    note: Callable[[int], None]


def _running(host: HostRoot) -> str:
    return host.image().version or host.os_version()


def _held_bundle(host: HostRoot) -> str:
    """The digest of the bundle that the running slot came from; empty where nobody knows."""
    found = record.load(host, host.active_slot())
    if found is not None:
        return found.manifest.digest
    built = installed.documents(host)
    return digest_of(built[0]) if built is not None and built[0] else ""


def scratch_of(host: HostRoot) -> str:
    """Where sorted files lie while they are needed; on PERSIST, so that they cost no memory. Raises HostError."""
    path = host.path(_SCRATCH)
    try:
        os.makedirs(path, exist_ok=True)
        for name in os.listdir(path):
            if name.startswith(_PLAN) and not os.path.exists("/proc/" + name.split("-")[1]):
                shutil.rmtree(os.path.join(path, name), ignore_errors=True)  # it was killed
    except OSError as fault:
        raise HostError("ScratchFailed", path=path, detail=fault.strerror or str(fault)) from fault
    return path


def held_size(host: HostRoot, partitions: Partitions, slot: str, image: Image, pace: Pace) -> int:
    """Bytes of `image` when `slot` holds it, proven by its record, judged again and read back; 0 when it does not.

    Raises:
        HostError: why the host does not let it in any more; SlotReadFailed.
    """
    from .admission import admit

    found = record.load(host, slot)
    if found is None or found.manifest.digest != image.digest:
        return 0
    admit(host, image, record.RecordedSource(found), _running(host))
    facts = found.metadata.images
    pace.expect(sum(one.size for one in facts.values()))
    for name in IMAGES:
        volume = Volume(partitions.of(name, slot), host.refuse_if_vetoed, pace.step)
        try:
            if not reads_back(volume, facts[name].size, facts[name].sha256):
                return 0
        finally:
            volume.close()
    return sum(one.size for one in facts.values())


def estimate(host: HostRoot, partitions: Partitions, slot: str, image: Image, source: Any, pace: Pace) -> Plan:
    """What staging `image` into `slot` would cost. Reads the passive slot and changes nothing.

    Raises:
        HostError: as `Bundle`.
    """
    with tempfile.TemporaryDirectory(prefix="%s%d-" % (_PLAN, os.getpid()), dir=scratch_of(host)) as directory:
        bundle = Bundle(host, partitions, slot, image, source, pace)
        try:
            return bundle.plan(record.Fresh(os.path.join(directory, "bundle"), image.digest))
        finally:
            bundle.close()


class _Asked(object):
    """A source whose signatures were asked for already: a registry may take several requests for them."""

    def __init__(self, source: Any, signatures: List[bytes]) -> None:
        self.manifest, self.blob = source.manifest, source.blob
        self._signatures = signatures

    def signatures(self) -> List[bytes]:
        return self._signatures


class Bundle(object):
    """One bundle on its way into `slot`. `close` in any case."""

    def __init__(
        self, host: HostRoot, partitions: Partitions, slot: str, image: Image, source: Any, pace: Pace
    ) -> None:
        """Judges the bundle. Raises HostError: what `admission.admit`, `partitions.check` and the source raise."""
        from .admission import admit

        self._host, self._partitions, self._slot, self._image = host, partitions, slot, image
        self._source, self._pace = source, pace
        self._signatures: List[bytes] = source.signatures()
        self._admitted = admit(host, image, _Asked(source, self._signatures), _running(host))
        self._facts = self._admitted.metadata.images
        for name in IMAGES:
            check(host, partitions.of(name, slot), partitions.active, self._facts[name].size)
        self._scratch = scratch_of(host)
        self._volumes: List[Volume] = []
        self._plans: Dict[str, ImagePlan] = {}
        self._running: List[Volume] = []
        self._base = ""

    @property
    def size(self) -> int:
        """Bytes of both images."""
        return sum(self._facts[name].size for name in IMAGES)

    @property
    def written(self) -> int:
        """Bytes written to the slot so far."""
        return sum(volume.written for volume in self._volumes)

    def stage(self, steps: Steps) -> None:
        """Put it into the slot, prove it and keep its record. Safe to cut at any instant and to repeat.

        Raises:
            HostError: why it failed; SlotReadBackMismatch when the medium does not keep what is written.
        """
        fresh = record.Fresh.of(self._host, self._slot, self._image.digest)
        steps.planned(self.plan(fresh))
        steps.begin()
        for name in _ORDER:
            self._write(name, steps)
        fresh.settle()

    def plan(self, fresh: record.Fresh) -> Plan:
        """Fetch the indexes into `fresh`, read the passive slot, decide. Raises HostError."""
        admitted, source = self._admitted, self._source
        manifest = admitted.manifest
        fixed = len(admitted.manifest_raw) + len(admitted.metadata_raw)
        fixed += sum(manifest.images[name][0].size for name in IMAGES if not fresh.has_index(manifest, name))
        fresh.keep(admitted.manifest_raw, admitted.metadata_raw, self._signatures)
        indexes = {name: fresh.index(source, manifest, admitted.metadata, name) for name in IMAGES}
        self._pace.expect(2 * self.size)
        self._base = _held_bundle(self._host)
        held: List[Held] = []
        for name in IMAGES:
            volume = self._volume(name, self._partitions.active)
            active = self._partitions.active
            held.append(Held(volume, record.held_entries(self._host, active, name, volume, self._scratch)))
        self._running = [one.volume for one in held]
        download = reused = 0
        before = record.load(self._host, self._slot)
        for name in _ORDER:
            volume = self._volume(name, self._slot)
            one = self._plans[name] = ImagePlan(name, indexes[name], volume, list(held), self._scratch)
            if one.full.blob_size != manifest.images[name][1].size:
                raise HostError("BundleInvalid", part="%s frames" % name, detail="their sizes do not add up")
            known = 0 if before is None else before.metadata.images[name].size
            one.make(max(self._facts[name].size, min(known, volume.scan_bytes)))
            fixed += self._add_patches(one, fresh)
            cost = one.cost()
            download, reused = download + cost.download, reused + cost.reused
            self._pace.expect(BLOCK * (one.header.blocks - one.map.count(1)))
            held.append(Held(volume, indexes[name].entries))  # what it will hold by the time the next one is written
        return Plan(download + fixed, reused, self.size)

    def _add_patches(self, plan: ImagePlan, fresh: record.Fresh) -> int:
        """Let `plan` use the bundle's patches when the running slot holds what they are made for; bytes of their index.

        Patches that make no sense are passed over: the frames have every block too.
        """
        manifest = self._admitted.manifest
        patches = manifest.patches
        if not plan.missing or patches is None or plan.name not in patches.images or self._base != patches.base:
            return 0
        index, blob = patches.images[plan.name]
        try:
            plan.use_patches(fresh.patches(self._source, manifest, self._admitted.metadata, plan.name))
            if plan.patches is None or plan.patches.blob_size != blob.size:
                raise HostError("BundleInvalid", part="%s patches" % plan.name, detail="their sizes do not add up")
            plan.patches.read(lambda reader: reader.check())
            self._pace.expect(BLOCK * plan.patches.take(bytearray(plan.map))[1])
        except HostError as fault:
            if not fault.name.startswith("Bundle"):
                raise
            _log.warning("the patches of the %s image are passed over: %s", plan.name, fault)
            plan.patches = None
        return index.size

    def _volume(self, name: str, slot: str) -> Volume:
        volume = Volume(self._partitions.of(name, slot), self._host.refuse_if_vetoed, self._pace.step)
        self._volumes.append(volume)
        return volume

    def _write(self, name: str, steps: Steps) -> None:
        plan, facts = self._plans[name], self._facts[name]
        volume = plan.volume
        volume.open_writer(facts.size)
        noted = volume.written

        def fetched(size: int) -> None:
            nonlocal noted
            if volume.written - noted >= _NOTED:
                volume.sync()
                noted = volume.written
                steps.note(noted)

        manifest, patching = self._admitted.manifest, None
        if plan.patches is not None and manifest.patches is not None:
            patching = Patching(manifest.patches.images[name][1], self._running)
        writer = ImageWriter(plan, self._source, manifest.images[name][1], fetched, patching)
        writer.write()
        steps.note(volume.written)
        if not reads_back(volume, facts.size, facts.sha256):
            _log.warning("slot %s: the %s image read back wrong; looking for the bad blocks", self._slot, name)
            writer.repair()
            if not reads_back(volume, facts.size, facts.sha256):
                raise HostError("SlotReadBackMismatch", slot=self._slot)

    def close(self) -> None:
        """Let go of partitions, scratch and the source; safe to repeat."""
        for plan in self._plans.values():
            plan.close()
        for volume in self._volumes:
            volume.close()
        self._source.close()
