"""Staging: an image from its source into the passive slot, hashed on the way in and again from the medium.

The order of writes is the point. Before the first byte the slot is marked Writing in the state, then loses its proof in
the boot state (the boot order stays): from then on no power cut can boot a half-written slot. What was written is
flushed and noted every 64 MiB. Only bytes read back with the right digest become Staged.

A bundle is signed and goes block by block (payload.install). A tar's only proof is its digest, which needs the host's
consent; it lies in a directory host's slot as it is, and goes on after a reboot where it was, and is unpacked where the
slots are partitions (payload.tarroot).
"""

import hashlib
import threading
import time
from typing import Callable, Iterator, Optional

from hostplane.errors import HostError

from .bootstate import BootFiles
from .fetch import Cancelled, TarSource, check_source, is_in_image
from .hostroot import HostRoot
from .payload import record
from .payload.pace import IdleDisk, Pace, Progress
from .payload.plan import Plan
from .slots import SlotPort, SlotWriter
from .state import Image, Partial

__all__ = ["Progress", "Stage", "check_image"]

CHECKPOINT = 64 << 20
_REPORT_SECONDS = 0.5


def check_image(host: HostRoot, image: Image) -> None:
    """Refuse before anything is written what could never be used.

    Raises:
        HostError: FormatUnsupported, UnsignedRefused, CertificateRefused, PayloadSourceRefused.
    """
    if image.format == "bundle":
        return  # judged when its documents are here
    if image.format not in ("rootTar", "osTar"):
        raise HostError("FormatUnsupported", format=image.format)
    if not host.config.allow_unsigned_tar:
        raise HostError("UnsignedRefused")
    check_source(host, image)


def _paced(source: TarSource, pace: Pace) -> Iterator[bytes]:
    """The tar's bytes, at most as fast as the disk is to be used."""
    is_known = False
    for piece in source.pieces():
        if not is_known:
            pace.expect(source.total)
            is_known = True
        pace.step(len(piece))
        yield piece


class Stage(object):
    """One staging. `run` does the work in the caller's thread; `cancel` ends it from another.

    `note` persists a checkpoint; `begin` marks the slot as being written and is called only when it will be;
    `report` says that the progress changed.
    """

    def __init__(
        self,
        host: HostRoot,
        slots: SlotPort,
        boot: BootFiles,
        slot: str,
        image: Image,
        begin: Callable[[Image], None],
        note: Callable[[Optional[Partial]], None],
        report: Callable[[Progress], None],
    ) -> None:
        self._host, self._slots, self._boot = host, slots, boot
        self._slot, self.image = slot, image
        self._begin, self._note, self._report = begin, note, report
        self._cancelled = threading.Event()
        self._tar_digest = "" if is_in_image(image) else image.digest
        self._plan: Optional[Plan] = None

    def cancel(self) -> None:
        """End it soon: `run` raises Cancelled."""
        self._cancelled.set()

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled()

    def run(self, partial: Optional[Partial], held_size: int) -> int:
        """Bytes of the image, which is in the slot and proven when this returns.

        `held_size` is the size of this very image if the slot holds it already: then it is only read back.

        Raises:
            HostError: why it failed. Cancelled.
        """
        self._host.refuse_if_vetoed()
        check_image(self._host, self.image)
        if self.image.format == "bundle":
            with IdleDisk(self._host.config.io_idle):
                return self._stage_bundle(bool(held_size))
        if not self._slots.holds_bytes:
            return self._unpack()
        if held_size and self._tar_digest and self._reads_back(held_size):
            return held_size
        offset = 0
        if (
            partial is not None
            and (partial.slot, partial.digest) == (self._slot, self.image.digest)
            and self._tar_digest
        ):
            offset = partial.offset
        self._begin_writing()
        try:
            size = self._write(offset)
        except HostError as fault:
            if not offset or fault.name not in ("PayloadDigestMismatch", "PayloadRefused"):
                raise
            self._note(None)  # what was there before may have been the wrong part: once more, from the start
            size = self._write(0)
        if not self._reads_back(size):
            raise HostError("SlotReadBackMismatch", slot=self._slot)
        return size

    def _stage_bundle(self, is_held: bool) -> int:
        from .disk import partitions
        from .fetch import open_bundle
        from .payload import install

        host, slot = self._host, self._slot
        found = partitions.find(host)
        pace = Pace(host.config.io_bytes_per_second, self._cancelled, self._show)
        if is_held:
            size = install.held_size(host, found, slot, self.image, pace)
            if size:
                return size
        source = open_bundle(host, self.image, self._cancelled)
        try:
            bundle = install.Bundle(host, found, slot, self.image, source, pace)
            try:
                bundle.stage(install.Steps(self._planned, self._begin_writing, self._wrote))
                return bundle.size
            finally:
                bundle.close()
        finally:
            source.close()

    def _planned(self, plan: Plan) -> None:
        self._plan = plan

    def _show(self, progress: Progress) -> None:
        self._report(progress._replace(plan=self._plan))

    def _wrote(self, size: int) -> None:
        self._note(Partial(self._slot, self.image.digest, size))

    def _unpack(self) -> int:
        """A tar onto the partitions of the slot."""
        from .disk import partitions
        from .payload import tarroot

        host, slot = self._host, self._slot
        found = partitions.find(host)
        source = TarSource(host, self.image, self._slots.room(slot), self._cancelled)
        pace = Pace(host.config.io_bytes_per_second, self._cancelled, self._report)
        try:
            with IdleDisk(host.config.io_idle):
                return tarroot.install(host, found, slot, _paced(source, pace), self.image, self._begin_writing)
        finally:
            source.close()

    def _begin_writing(self) -> None:
        """The slot's first byte comes next: it is marked so, loses its proof, and what is on record of it."""
        self._begin(self.image)
        self._make_unbootable()
        record.clear(self._host, self._slot)

    def _make_unbootable(self) -> None:
        state = self._boot.read()
        if state.is_ok(self._slot) or state.left(self._slot):
            self._boot.write(state.with_slot(self._slot, False, 0))

    def _write(self, offset: int) -> int:
        room = self._slots.room(self._slot)
        if self.image.size > room:
            raise HostError("PayloadTooLarge", size=self.image.size, room=room)
        digest = hashlib.sha256()
        if offset:
            found = 0
            for piece in self._slots.read(self._slot, offset):
                self._check()
                digest.update(piece)
                found += len(piece)
            if found != offset:
                offset, digest = 0, hashlib.sha256()
        tar = TarSource(self._host, self.image, room, self._cancelled, offset)
        writer = self._slots.writer(self._slot, offset)
        try:
            size = self._copy(tar, writer, digest, offset)
            got = "sha256:" + digest.hexdigest()
            if self._tar_digest not in ("", got):
                raise HostError("PayloadDigestMismatch", got=got, want=self._tar_digest)
            self._tar_digest = got
            writer.finish()
        except HostError as fault:
            if fault.name == "PayloadDigestMismatch":
                self._note(None)
            raise
        finally:
            writer.close()
            tar.close()
        return size

    def _copy(self, tar: TarSource, writer: SlotWriter, digest: "hashlib._Hash", offset: int) -> int:
        flushed, began, reported = offset, time.monotonic(), 0.0
        done, start = offset, offset
        try:
            self._check()
            for piece in tar.pieces():
                writer.write(piece)
                digest.update(piece)
                done += len(piece)
                now = time.monotonic()
                if now - reported >= _REPORT_SECONDS:
                    reported = now
                    self._report(Progress(done, tar.total, int((done - start) / max(0.001, now - began))))
                if done - flushed >= CHECKPOINT:
                    writer.sync()
                    self._note(Partial(self._slot, self.image.digest, done))
                    flushed = done
        except HostError as fault:
            if done > flushed and fault.name in ("PayloadTruncated", "PayloadUnreachable", "PayloadTooSlow"):
                writer.sync()
                self._note(Partial(self._slot, self.image.digest, done))
            raise
        return done

    def _reads_back(self, size: int) -> bool:
        """Whether the slot's first `size` bytes, read from the medium, have the tar's digest."""
        digest = hashlib.sha256()
        for piece in self._slots.read(self._slot, size):
            self._check()
            digest.update(piece)
        return "sha256:" + digest.hexdigest() == self._tar_digest
