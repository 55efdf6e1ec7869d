"""One stage in a process of its own: mounts the layers, runs the stage between the user's scripts, tells the builder.

It is process 1 of its namespaces (`namespace.py`), so nothing it mounts or starts outlives it, and it may be killed at
any moment. It writes only below its directory in the store's tmp/; the builder renames that directory when all is done.
Events go to the builder as lines of JSON; everything else that is written to standard output or error is the log.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hostplane.distros.profile import Profile
from hostplane.errors import HostplaneError, ImageError
from hostplane.image.building import mounts, namespace
from hostplane.image.building.changes import initramfs_digest
from hostplane.image.building.process import Redactor, Runner
from hostplane.image.building.userscripts import run_scripts, secret_values
from hostplane.image.recipe import Recipe, StageName
from hostplane.image.stage import Work

__all__ = ["Job", "Removal", "Said", "StageJob", "main"]

_BETWEEN_SECONDS = 0.05
# The hooks of packages that would make an initramfs while they are installed know these two.
_NO_INITRAMFS = {"INITRD": "No", "KERNEL_INSTALL_BYPASS": "1"}
_OVERLAY = "index=off,metacopy=off,redirect_dir=off,xino=off"
_OVERLAY_ROOTLESS = "userxattr"


class StageJob(Struct, frozen=True, kw_only=True, tag="stage"):
    """One stage to run. Paths are absolute."""

    store: str
    directory: str
    """The held directory in tmp/."""
    log: str
    stage: StageName
    recipe: Recipe
    profile: Profile
    layers: list[str]
    """Keys of the layers below, the lowest first."""
    earlier: dict[StageName, str]
    keeps_tree: bool
    """False: what the stage changed in the root is thrown away; only its results count."""
    epoch: int
    rootless: bool
    environment: dict[str, str]
    """The builder's own: the worker needs its secrets and proxies, and starts without them."""
    processors: int | None = None


class Removal(Struct, frozen=True, kw_only=True, tag="remove"):
    """Trees to delete that may belong to the user's subordinate ids."""

    paths: list[str]


Job = StageJob | Removal


class Said(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event: progress, then done or error as the last."""

    event: str
    fraction: float = 0.0
    text: str = ""
    size: int = 0
    initramfs: str = ""
    kind: str = ""
    name: str = ""
    params: dict[str, Any] = {}


Say = Callable[[Said], None]


def main() -> None:
    """`python -m hostplane.image.building.worker PARENT` with a job on standard input."""
    namespace.enter(_work)


def _work(raw: bytes) -> int:
    events = os.dup(1)
    os.dup2(2, 1)
    job = msgspec.json.decode(raw, type=Job)
    redact = Redactor()

    def say(said: Said) -> None:
        with suppress(BrokenPipeError):
            os.write(events, msgspec.json.encode(said) + b"\n")

    try:
        if isinstance(job, Removal):
            for path in job.paths:
                shutil.rmtree(path, ignore_errors=True)
            say(Said(event="done"))
            return 0
        os.environ.update(job.environment)
        redact = Redactor(secret_values(job.recipe))
        say(_run_stage(job, redact, say))
        return 0
    except HostplaneError as error:
        params = {name: _plain(value, redact) for name, value in error.reason.params.items()}
        say(Said(event="error", kind=type(error).__name__, name=error.name, params=params))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _crash(error, redact, say)
        say(Said(event="error", kind="ImageError", name="StoreFull", params={"error": error.strerror}))
    except Exception as error:
        return _crash(error, redact, say)
    return 1


def _crash(error: Exception, redact: Redactor, say: Say) -> int:
    """A fault of ours: the builder says so, and the log has the rest."""
    os.write(2, redact(traceback.format_exc().encode()))
    text = redact(f"{type(error).__name__}: {error}".encode()).decode("utf-8", "replace")
    say(Said(event="crash", text=text))
    return 1


def _run_stage(job: StageJob, redact: Redactor, say: Say) -> Said:
    from hostplane.image.stages import stage_for

    if job.processors:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.processors])
    os.umask(0o022)
    here = Path(job.directory)
    for name in ("tree", "out", "scratch", "work", "root"):
        (here / name).mkdir(mode=0o755)
    _mount_root(job, here)
    last = 0.0

    def progress(fraction: float, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _BETWEEN_SECONDS:
            last = time.monotonic()
            say(Said(event="progress", fraction=fraction, text=redact(text.encode()).decode("utf-8", "replace")))

    environment = {"SOURCE_DATE_EPOCH": str(job.epoch), "TZ": "UTC"}
    if job.stage in (StageName.BOOTSTRAP, StageName.PACKAGES):
        environment |= _NO_INITRAMFS
    with Path(job.log).open("ab", buffering=0) as log:
        runner = Runner(here / "root", log, Path(job.log), environment=environment, redact=redact)
        work = Work(
            recipe=job.recipe,
            profile=job.profile,
            root=here / "root",
            out=here / "out",
            scratch=here / "scratch",
            cache=Path(job.store, "cache"),
            epoch=job.epoch,
            rootless=job.rootless,
            earlier={stage: Path(job.store, "layers", key, "out") for stage, key in job.earlier.items()},
            run=runner,
            log=runner.note,
            progress=progress,
        )
        stage = stage_for(job.stage)
        run_scripts(work, job.stage, "before")
        stage.run(work)
        run_scripts(work, job.stage, "after")
    _end_others()
    os.chdir("/")
    mounts.umount(here / "root")
    (here / "root").rmdir()
    for name in ("scratch", "work", *(() if job.keeps_tree else ("tree",))):
        shutil.rmtree(here / name)
    (here / "tree").mkdir(exist_ok=True)
    needs_digest = job.stage in (StageName.FILES, StageName.SCRIPTS)
    digest = initramfs_digest(here / "tree") if needs_digest else ""
    return Said(event="done", size=_size(here), initramfs=digest)


def _mount_root(job: StageJob, here: Path) -> None:
    """The root: the layers with `tree` on top, or `tree` itself where there is nothing below."""
    if not job.layers:
        mounts.mount(str(here / "tree"), here / "root", "", mounts.MS_BIND)
        return
    os.chdir(job.store)  # names relative to it keep the options short, and free of its own commas and colons
    shutil.copystat(Path("layers", job.layers[-1], "tree"), here / "tree")
    mine = here.relative_to(job.store)
    lower = ":".join(f"layers/{key}/tree" for key in reversed(job.layers))
    options = [f"lowerdir={lower},upperdir={mine}/tree,workdir={mine}/work"]
    options.append(_OVERLAY_ROOTLESS if job.rootless else _OVERLAY)
    try:
        mounts.mount("hostplane", here / "root", "overlay", 0, ",".join(options))
    except OSError as error:
        raise ImageError("OverlayRefused", store=job.store, error=error.strerror) from error


def _end_others() -> None:
    """Nothing that a step left running may change the root any more: this is process 1, so -1 is all of them."""
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _size(directory: Path) -> int:
    """Bytes on disk; a file of several names counts once."""
    seen: set[int] = set()
    total = 0
    waiting = [str(directory)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif status.st_nlink > 1:
                    if status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                total += status.st_blocks * 512
    return total


def _plain(value: object, redact: Redactor) -> object:
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(entry, redact) for entry in value]
    return redact(str(value).encode()).decode("utf-8", "replace")


if __name__ == "__main__":
    main()
    sys.exit(1)
