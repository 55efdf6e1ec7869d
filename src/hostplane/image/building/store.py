"""The store: finished results by key, work in progress, downloads; shared by all builds of one user.

    layers/<key>/{tree/, out/, log, done.json}   a finished result; it appears by one rename and never changes
    tmp/<key>-<random>/                          work in progress, or something on its way out
    recipes/<name>/<stage>.json                  what a recipe's stage was made of the last time, for `--explain`
    logs/<name>-<stage>-<key>.log                the log of a stage that has not finished
    locks/<key>, cache/                          who makes a key; downloaded packages

Locks are flock(2) on open files, so they end with their holders. A user of a layer holds its directory shared; removing
one takes it exclusively, or leaves it. A directory in tmp/ that nobody holds is what a killed build left: the next
build removes it. A layer made shortly before the machine lost its power is not trusted unless it was flushed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgspec
from msgspec import Struct

from hostplane.errors import LocalError
from hostplane.image.building.delivery import Files
from hostplane.image.building.keys import Made
from hostplane.image.recipe import StageName

__all__ = ["Done", "Held", "Layer", "Pruned", "Store", "default_store"]

ENVIRONMENT = "HOSTPLANE_IMAGE_STORE"
_DIRECTORIES = ("layers", "tmp", "cache", "locks", "logs", "recipes")
_LOG_SECONDS = 14 * 86400
_MAX_BYTES = 40 << 30


class Done(Struct, frozen=True, kw_only=True):
    """A finished result's own account of itself (done.json)."""

    schema: int = 1
    key: str
    recipe: str
    made: Made
    at: float
    """When it was finished, seconds since 1970."""
    seconds: float
    size: int
    """Bytes on disk."""
    boot: str
    """The machine's boot in which it was made."""
    initramfs: str
    """Digest of what the stage changed that an initramfs can hold."""
    outputs: Files = {}
    """pack only: what was made, so that a disk that was booted and changed is not taken for it."""


class Layer(Struct, frozen=True, kw_only=True):
    """A row of `store list`."""

    key: str
    recipe: str
    stage: StageName
    size: int
    at: float
    used: float
    in_use: bool


class Pruned(Struct, frozen=True, kw_only=True):
    """What pruning did."""

    removed: int
    bytes: int
    in_use: int
    """Layers that should have gone and were in use."""


class Held:
    """A lock, by an open file; given up by `release` or by the process's end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def release(self) -> None:
        """Give it up; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def default_store() -> Path:
    """HOSTPLANE_IMAGE_STORE, or a directory of the user's cache."""
    told = os.environ.get(ENVIRONMENT)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(told) if told else Path(cache) / "hostplane" / "images"


class Store:
    """One store; `remove_trees` deletes directories whose files may belong to the user's subordinate ids."""

    def __init__(self, path: Path, remove_trees: Callable[[list[Path]], None] | None = None) -> None:
        """Make the directories that are missing.

        Raises:
            LocalError: StoreOfAnother when the store belongs to another user, whose layers this one could not read.
        """
        self.path = path.absolute()
        self._remove_trees = remove_trees or _remove_plainly
        for name in _DIRECTORIES:
            (self.path / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        if (self.path / "layers").stat().st_uid != os.geteuid():
            raise LocalError("StoreOfAnother", path=self.path)
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()

    @property
    def cache(self) -> Path:
        """Downloads, shared by all builds."""
        return self.path / "cache"

    def layer(self, key: str) -> Path:
        """Where the result of `key` is, or would be."""
        return self.path / "layers" / key

    def log(self, recipe: str, stage: StageName, key: str) -> Path:
        """The log of a stage while it runs, and afterwards where it failed."""
        return self.path / "logs" / f"{recipe}-{stage.value}-{key[:12]}.log"

    def use(self, key: str) -> tuple[Held, Done] | None:
        """Hold the finished result of `key` and note its use; None: there is none that can be trusted."""
        held = self._hold(self.layer(key), fcntl.LOCK_SH)
        if held is None:
            return None
        done = self._done(key)
        if done is None or (done.boot != self.boot and not (self.layer(key) / "flushed").exists()):
            held.release()
            return None
        with suppress(OSError):
            os.utime(self.layer(key) / "done.json")
        return held, done

    def make(self, key: str, waiting: Callable[[], None]) -> Held:
        """The right to make `key`, alone; `waiting` is called again and again while another build has it."""
        path = self.path / "locks" / key
        while True:
            path.touch()
            held = self._hold(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if held is not None:
                return held
            waiting()

    def begin(self, key: str) -> tuple[Path, Held]:
        """A fresh, held directory in tmp/."""
        while True:
            path = self.path / "tmp" / f"{key}-{token_hex(4)}"
            path.mkdir(mode=0o755)
            held = self._hold(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if held is not None:
                return path, held

    def finish(self, path: Path, done: Done) -> None:
        """Turn the directory of `begin` into the layer of `done.key`; a former one makes way."""
        (path / "done.json").write_bytes(msgspec.json.format(msgspec.json.encode(done)))
        target = self.layer(done.key)
        if target.exists():  # made anew on request, or not trusted; whoever uses it still holds what they have
            os.rename(target, self.path / "tmp" / f"{done.key}-{token_hex(4)}")
        os.rename(path, target)

    def discard(self, path: Path) -> None:
        """Remove what `begin` gave and nobody will finish; what cannot be removed now, the next sweep will."""
        if path.exists():
            self._remove_trees([path])

    def flush(self, keys: list[str]) -> None:
        """Have the disk hold these layers, so that they outlive a power cut; blocks."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            ctypes.CDLL(None).syncfs(fd)
        finally:
            os.close(fd)
        for key in keys:
            with suppress(OSError):  # pruned meanwhile
                (self.layer(key) / "flushed").touch()

    def remember(self, recipe: str, done: Done) -> None:
        """Note what the recipe's stage is made of now."""
        path = self.path / "recipes" / recipe / f"{done.made.stage.value}.json"
        path.parent.mkdir(exist_ok=True)
        fresh = path.with_name(f".{path.name}-{token_hex(4)}")
        fresh.write_bytes(msgspec.json.encode(done))
        os.replace(fresh, path)

    def remembered(self, recipe: str, stage: StageName) -> Done | None:
        """What `remember` noted last."""
        return _read(self.path / "recipes" / recipe / f"{stage.value}.json")

    def layers(self) -> list[Layer]:
        """Every finished result, the one used longest ago first."""
        rows = []
        for path in (self.path / "layers").iterdir():
            done = _read(path / "done.json")
            with suppress(OSError):
                used = (path / "done.json").stat().st_mtime
                held = self._hold(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if held is not None:
                    held.release()
                if done is not None:
                    rows.append(
                        Layer(
                            key=done.key,
                            recipe=done.recipe,
                            stage=done.made.stage,
                            size=done.size,
                            at=done.at,
                            used=used,
                            in_use=held is None,
                        )
                    )
        return sorted(rows, key=lambda row: row.used)

    def room(self) -> int:
        """The bytes that results may take here: 40 GiB, but half of the disk's room at most, the rest being others'."""
        taken = sum(row.size for row in self.layers())
        return min(_MAX_BYTES, (taken + shutil.disk_usage(self.path).free) // 2)

    def prune(self, *, max_bytes: int | None = None, max_age: float | None = None) -> Pruned:
        """Remove what was not used for `max_age` seconds, then the longest unused until `max_bytes` are left.

        A layer in use stays. What killed builds left in tmp/ goes as well, and old logs and locks.
        """
        rows, now = self.layers(), time.time()
        total = sum(row.size for row in rows)
        removed = freed = in_use = 0
        for row in rows:
            is_old = max_age is not None and now - row.used > max_age
            is_over = max_bytes is not None and total > max_bytes
            if not (is_old or is_over):
                continue
            held = self._hold(self.layer(row.key), fcntl.LOCK_EX | fcntl.LOCK_NB)
            if held is None:
                in_use += 1
                continue
            with held:
                os.rename(self.layer(row.key), self.path / "tmp" / f"{row.key}-{token_hex(4)}")
            removed, freed, total = removed + 1, freed + row.size, total - row.size
        self.sweep()
        self._drop_old(now)
        return Pruned(removed=removed, bytes=freed, in_use=in_use)

    def sweep(self) -> None:
        """Remove what nobody holds in tmp/: the remains of killed builds."""
        with self._sweeping(list((self.path / "tmp").iterdir())) as free:
            if free:
                self._remove_trees(free)

    @contextmanager
    def _sweeping(self, paths: list[Path]) -> Iterator[list[Path]]:
        holds = [(path, self._hold(path, fcntl.LOCK_EX | fcntl.LOCK_NB)) for path in paths]
        try:
            yield [path for path, held in holds if held is not None]
        finally:
            for _, held in holds:
                if held is not None:
                    held.release()

    def _drop_old(self, now: float) -> None:
        for path in (self.path / "logs").iterdir():
            with suppress(OSError):
                if now - path.stat().st_mtime > _LOG_SECONDS:
                    path.unlink()
        for path in (self.path / "locks").iterdir():
            held = self._hold(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if held is not None:
                with held, suppress(OSError):
                    path.unlink()

    def _done(self, key: str) -> Done | None:
        return _read(self.layer(key) / "done.json")

    @staticmethod
    def _hold(path: Path, operation: int) -> Held | None:
        """A lock on the directory or file that is at `path` when it is got; None: none there, or not to be had."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, operation)
        except OSError:
            os.close(fd)
            return None
        if not _is(path, fd):
            os.close(fd)
            return None
        return Held(fd)


def _is(path: Path, fd: int) -> bool:
    """Whether `path` still names what is open: a lock on something that was removed is worth nothing."""
    try:
        there, here = os.stat(path), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _read(path: Path) -> Done | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Done)
    except (OSError, msgspec.MsgspecError):  # absent, or of another version: made again
        return None


def _remove_plainly(paths: list[Path]) -> None:
    for path in paths:
        for _ in range(5):  # a worker that is being killed may still write

            def keep_on(_function: Any, _path: str, info: Any) -> None:
                if info[1].errno not in (errno.ENOENT, errno.ENOTEMPTY):
                    raise info[1]

            shutil.rmtree(path, onerror=keep_on)
            if not path.exists():
                break
