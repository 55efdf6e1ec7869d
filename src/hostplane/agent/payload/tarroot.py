"""A root's tar (rootTar, KubeOS's os.tar) onto the partitions of a slot: the way in for images that are no bundles.

A tar proves nothing but its digest, so it is taken only where the host's configuration says so, and never beside a
sealed root. The order is the proof against a cut: BOOT-x is made anew first, which takes the old slot.cfg and with it
the slot away from the loader; ROOT-x is made, unpacked and read back; only when the last byte gave the right digest are
kernel and initramfs copied to BOOT-x, and slot.cfg comes last of all. File systems are made by the host's own tools at
the floor that the running image names, each with an UUID and a label of its slot, so that two slots never clash.

Mounting and unpacking is the work of a process of its own (tarchild.py), in a mount namespace that nobody else sees.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from itertools import chain
from typing import IO, Any, Callable, Dict, Iterable, Iterator, List, Optional

import hostplane
from hostplane.agent.disk.partitions import Partition, Partitions, check
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import kept
from hostplane.agent.state import Image
from hostplane.errors import HostError

__all__ = ["install"]

_SPACE = uuid.UUID("6b8f0d3c-6a3f-4a57-9a6e-0c1d5b2e7f41")
_TOOLS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_COMMON = ["sparse_super", "large_file", "filetype", "ext_attr", "extent", "extra_isize"]
_FLOOR: Dict[str, List[str]] = {"ext4": [*_COMMON, "dir_index", "huge_file", "flex_bg"], "boot": _COMMON, "xfs": []}
"""For an image that names no floor: what every kernel and every GRUB since 2.02 reads."""
_MKFS_SECONDS = 600
_SMALL = 1 << 30
_CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); from hostplane.agent.payload import tarchild; "
    "sys.exit(tarchild.main(sys.argv[2]))"
)


def install(
    host: HostRoot,
    partitions: Partitions,
    slot: str,
    stream: Iterable[bytes],
    image: Image,
    begin: Callable[[], None] = lambda: None,
) -> int:
    """Make `slot` the root that the tar in `stream` holds; give the tar's bytes. Whatever the slot held is gone.

    `begin` is called before the slot's first byte changes: when the first byte of the tar is here, and all is there
    that it takes. The slot is complete, read back and on the medium when this returns, and nothing a loader would boot
    otherwise.

    Raises:
        HostError: UnsignedRefused, TarNeedsOtherRoot, MkfsMissing, MkfsFailed, SlotUnfit, TarUnfit, SlotFull,
            TarReadBackMismatch, PayloadDigestMismatch, TarFailed, VetoedByHost. What `stream` raises.
    """
    if not host.config.allow_unsigned_tar:
        raise HostError("UnsignedRefused")
    kind = _root_kind(host)
    root, boot = partitions.of("root", slot), partitions.of("boot", slot)
    for partition in (boot, root):
        check(host, partition, partitions.active, 0)
    floor = _floor(host)
    for each in ("ext4", kind):
        _tool(each)
    pieces = iter(_guarded(host, stream))
    first = next(pieces, b"")
    begin()
    _make(boot, "ext4", floor["boot"])
    _make(root, kind, floor[kind])
    plan = {
        "slot": slot,
        "kind": kind,
        "root": root.path,
        "boot": boot.path,
        "active": partitions.of("boot", partitions.active).path,
        "scratch": host.path("run/hostplane/tar"),
        "version": image.version,
        "digest": image.digest,
    }
    # A container image's digest is not its tar's: there `stream` proves every byte before it ends.
    return _Child(plan).feed(chain((first,), pieces), "" if image.ref.startswith("oci://") else image.digest)


def _guarded(host: HostRoot, stream: Iterable[bytes]) -> Iterator[bytes]:
    for piece in stream:
        host.refuse_if_vetoed()
        yield piece


def _root_kind(host: HostRoot) -> str:
    """The file system of the running root, as the loader told the kernel."""
    words = (kept.read_file(host.path("proc/cmdline")) or b"").decode("utf-8", "replace").split()
    if any(word.startswith("hostplane.verity=") for word in words):
        raise HostError("TarNeedsOtherRoot", kind="sealed")
    kind = next((word.partition("=")[2] for word in reversed(words) if word.startswith("rootfstype=")), "ext4")
    if kind not in ("ext4", "xfs"):
        raise HostError("TarNeedsOtherRoot", kind=kind)
    return kind


def _floor(host: HostRoot) -> Dict[str, List[str]]:
    """What the running image's distribution can read, by file system."""
    raw = kept.read_file(host.path("usr/lib/hostplane/image.json")) or b"{}"
    try:
        said = json.loads(raw.decode("utf-8"))["mkfs"]
        return {name: [str(word) for word in said[name]] for name in _FLOOR}
    except (ValueError, KeyError, TypeError):
        return dict(_FLOOR)


def _tool(kind: str) -> str:
    tool = "mke2fs" if kind == "ext4" else "mkfs.xfs"
    found = shutil.which(tool, path=os.pathsep.join(_TOOLS))
    if found is None:
        raise HostError("MkfsMissing", kind=kind, tool=tool)
    return found


def _make(partition: Partition, kind: str, floor: List[str]) -> None:
    """A new file system in `partition`.

    Raises:
        HostError: MkfsMissing, MkfsFailed.
    """
    found = _tool(kind)
    label, own = partition.label, str(uuid.uuid5(_SPACE, partition.guid + partition.label))
    if kind == "ext4":
        words = [
            found,
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            ",".join(["none", *floor]),
            "-b",
            "4096",
            "-I",
            "256",
            "-m",
            "0",
        ]
        words += ["-i", "4096" if partition.size < _SMALL else "8192"]  # nobody knows yet how many files will come
        words += ["-U", own, "-L", label, "-E", "lazy_itable_init=0,nodiscard", partition.path]
    else:
        words = [found, "-q", "-f", "-K", "-L", label, *floor, "-m", "uuid=" + own, partition.path]
    environment = {"PATH": os.pathsep.join(_TOOLS), "LC_ALL": "C", "MKE2FS_CONFIG": os.devnull}
    try:
        done = subprocess.run(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_MKFS_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise HostError("MkfsFailed", label=label, kind=kind, detail=str(fault)) from fault
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["exit code %d" % done.returncode]
        raise HostError("MkfsFailed", label=label, kind=kind, detail=said[-1][:300])


class _Child(object):
    """The process that unpacks: it gets the tar, then the word that its digest was right, and answers once."""

    def __init__(self, plan: Dict[str, str]) -> None:
        self._slot = plan["slot"]
        ours = os.path.dirname(os.path.dirname(os.path.abspath(hostplane.__file__)))
        verdict, self._verdict = os.pipe()
        words = [sys.executable, "-I", "-X", "utf8", "-c", _CHILD, ours, json.dumps(dict(plan, verdict=str(verdict)))]
        environment = {"PATH": os.pathsep.join(_TOOLS), "LC_ALL": "C.UTF-8"}  # Python 3.6 asks the locale
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd="/", pass_fds=(verdict,)
            )
        except OSError as fault:
            os.close(self._verdict)
            raise HostError("TarFailed", slot=self._slot, detail=str(fault)) from fault
        finally:
            os.close(verdict)

    def feed(self, stream: Iterable[bytes], want: str) -> int:
        """Hand over `stream`; bytes of it. Raises what `install` says."""
        target: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        digest, size = hashlib.sha256(), 0
        try:
            for piece in stream:
                digest.update(piece)
                size += len(piece)
                try:
                    target.write(piece)
                except BrokenPipeError:
                    self._answer()  # it has given up and says why
            got = "sha256:" + digest.hexdigest()
            if want and got != want:
                raise HostError("PayloadDigestMismatch", got=got, want=want)
            os.write(self._verdict, b"right")
            try:
                target.close()
            except BrokenPipeError:
                pass
            self._answer()
            return size
        finally:
            self._end()

    def _answer(self) -> Dict[str, Any]:
        raw = self._process.stdout.read(1 << 16)  # type: ignore[union-attr]
        code = self._process.wait()
        answer: Optional[Dict[str, Any]] = None
        try:
            answer = json.loads(raw.decode("utf-8"))
        except ValueError:
            pass
        if answer is not None and "error" in answer:
            raise HostError(str(answer["error"]), **answer["params"])
        if code or answer is None:
            raise HostError("TarFailed", slot=self._slot, detail="the unpacking process ended with %d" % code)
        return answer

    def _end(self) -> None:
        os.close(self._verdict)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass
