"""The build: stage after stage, each taken from the store when what decides it is there, else made by a worker.

The engine decides and keeps the books; it mounts nothing and changes no root, so it may be killed at any moment: its
worker dies with it, and the next build goes on after the last result that was finished. Two builds at once share
results and make each one only once. Keys know nothing of time or place, hence neither do builds.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Lock
from typing import Any

import msgspec
from msgspec import Struct

from hostplane.distros.profile import Profile
from hostplane.errors import HostplaneError, ImageError, LocalError, RecipeError
from hostplane.image.building import keys, namespace
from hostplane.image.building.code import code_version
from hostplane.image.building.delivery import Delivered, deliver, files_of
from hostplane.image.building.keys import Made
from hostplane.image.building.process import Redactor
from hostplane.image.building.progress import Event as Told
from hostplane.image.building.store import Done, Held, Store
from hostplane.image.building.userscripts import script_inputs
from hostplane.image.building.worker import Job, Removal, Said, StageJob
from hostplane.image.recipe import Recipe, StageName
from hostplane.image.stages import STAGES, stage_for

__all__ = ["Built", "Ran", "Wish", "build", "open_store"]

FIXED_EPOCH = 1_704_067_200
"""The time stamp of images whose recipe and lock name none: 2024-01-01 00:00 UTC."""
_TAIL_LINES = 12
_LOCK_SECONDS = 0.1
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS: dict[str, type[HostplaneError]] = {kind.__name__: kind for kind in (ImageError, RecipeError, LocalError)}


class Wish(Struct, frozen=True, kw_only=True):
    """What is asked of one build, besides the recipe."""

    first: StageName | None = None
    """Begin here: the stages before are taken as they were built last, whatever changed since."""
    until: StageName = StageName.PACK
    """End here."""
    force: frozenset[StageName] = frozenset()
    """Make these again, and all that builds on them."""
    processors: int | None = None
    """How many processors the tools may use; none: all."""


class Ran(Struct, frozen=True, kw_only=True):
    """How one stage came about."""

    stage: StageName
    how: str
    """cached, made, or kept (taken as it was, before `Wish.first`)."""
    seconds: float
    key: str
    layer: str
    """Path of the result in the store."""


class Built(Struct, frozen=True, kw_only=True):
    """A build that is done."""

    stages: list[Ran]
    outputs: list[Delivered]


def open_store(path: Path) -> Store:
    """The store at `path`, able to remove what belongs to this user's subordinate ids."""
    return Store(path, None if os.geteuid() == 0 else _remove_in_namespace)


def build(
    recipe: Recipe, profile: Profile, *, store: Store, out: Path, wish: Wish, show: Callable[[Told], None]
) -> Built:
    """Make `recipe` and, where the last stage was reached, put its outputs into `out`.

    Raises:
        ImageError: a stage failed; its log is named. StageNotBuilt for `Wish.first`.
        RecipeError: an input that the recipe names is not there.
    """
    with ExitStack() as held:
        flusher = held.enter_context(ThreadPoolExecutor(1, "flush"))
        run = _Build(recipe, profile, store, wish, show, held)
        stages = STAGES[: STAGES.index(wish.until) + 1]
        show(Told(event="plan", lines=[stage.value for stage in stages]))
        ran: list[Ran] = []
        for group in run.groups(stages):
            rows = run.together(group) if len(group) > 1 else [run.stage(group[0])]
            made = [row.key for row in rows if row.how == "made"]
            if made:
                flusher.submit(store.flush, made)
            ran += rows
        outputs = []
        if wish.until is StageName.PACK:
            outputs = deliver(Path(ran[-1].layer, "out"), out, ran[-1].key)
        for output in outputs:
            show(Told(event="delivered", text=output.path))
    if any(row.how == "made" for row in ran):
        store.prune(max_bytes=store.room())
    return Built(stages=ran, outputs=outputs)


class _Build:
    """One build's books: which results it holds, and which of them were made anew."""

    def __init__(
        self,
        recipe: Recipe,
        profile: Profile,
        store: Store,
        wish: Wish,
        show: Callable[[Told], None],
        held: ExitStack,
    ) -> None:
        self._recipe, self._profile, self._store, self._wish = recipe, profile, store, wish
        self._told, self._telling = show, Lock()
        self._held = held
        self._stopped = Event()
        self._workers: set[subprocess.Popen[bytes]] = set()
        self._done: dict[StageName, Done] = {}
        self._fds: list[int] = []
        self._anew: set[StageName] = set()
        self._boot_in_tree = any(script.stage is StageName.BOOT for script in recipe.script)
        self._epoch = _epoch(recipe)

    def groups(self, stages: Sequence[StageName]) -> list[tuple[StageName, ...]]:
        """What is made at the same time: boot and slim, which know nothing of each other; else one after the other."""
        pair = (StageName.BOOT, StageName.SLIM)
        if self._boot_in_tree or pair[1] not in stages:
            return [(stage,) for stage in stages]
        return [pair if stage is pair[0] else (stage,) for stage in stages if stage is not pair[1]]

    def together(self, group: Sequence[StageName]) -> list[Ran]:
        """Several stages at once; when one fails, or the user has had enough, the others are ended."""
        with ThreadPoolExecutor(len(group)) as pool:
            jobs = [pool.submit(self.stage, stage) for stage in group]
            try:
                wait(jobs, return_when=FIRST_EXCEPTION)
                for job in jobs:
                    if job.done():
                        job.result()
                return [job.result() for job in jobs]
            except BaseException:
                self._stopped.set()
                for worker in list(self._workers):
                    worker.kill()
                raise

    def stage(self, stage: StageName) -> Ran:
        """Take the stage's result from the store, or make it."""
        first = self._wish.first
        if first is not None and STAGES.index(stage) < STAGES.index(first):
            return self._kept(stage)
        made = self._made(stage)
        key = keys.key_of(made)
        last = self._store.remembered(self._recipe.name, stage)
        builds_on = [name for name in keys.before(stage, boot_in_tree=self._boot_in_tree) if name in self._anew]
        if stage in self._wish.force or builds_on:
            self._anew.add(stage)
            reasons = ["--force"] if stage in self._wish.force else [f"{name} was made again" for name in builds_on]
            return self._make(stage, key, made, reasons)
        if (ran := self._take(stage, key, "cached")) is not None:
            return ran
        if stage in self._anew:
            return self._make(stage, key, made, ["an output was changed where it was delivered"])
        reasons = keys.why(last.made if last else None, made) or ["its result is no longer in the store"]
        return self._make(stage, key, made, reasons)

    def _kept(self, stage: StageName) -> Ran:
        last = self._store.remembered(self._recipe.name, stage)
        ran = self._take(stage, last.key, "kept") if last else None
        if ran is None:
            raise ImageError("StageNotBuilt", stage=stage.value, first=self._wish.first, recipe=self._recipe.name)
        return ran

    def _take(self, stage: StageName, key: str, how: str) -> Ran | None:
        used = self._store.use(key)
        if used is None:
            return None
        held, done = used
        if done.outputs and done.outputs != files_of(self._store.layer(key) / "out"):
            held.release()
            self._anew.add(stage)
            return None
        self._hold(held)
        self._done[stage] = done
        if how != "kept":
            self._store.remember(self._recipe.name, done)
        if how != "made":
            self._show(Told(event=how, stage=stage.value))
        seconds = done.seconds if how == "made" else 0.0
        return Ran(stage=stage, how=how, seconds=seconds, key=key, layer=str(self._store.layer(key)))

    def _hold(self, held: Held) -> None:
        self._held.enter_context(held)
        self._fds.append(held.fd)

    def _made(self, stage: StageName) -> Made:
        """Everything that decides the stage's result."""
        module = stage_for(stage)
        inputs: dict[str, Any] = {"epoch": self._epoch, **module.inputs(self._recipe, self._profile)}
        scripts = script_inputs(self._recipe, stage)
        if scripts:
            inputs["script"] = scripts
        below = {name.value: self._done[name].key for name in keys.before(stage, boot_in_tree=self._boot_in_tree)}
        if stage is StageName.BOOT and not self._boot_in_tree:
            for name in (StageName.FILES, StageName.SCRIPTS):
                below[f"what an initramfs can hold of {name.value}"] = self._done[name].initramfs
        return Made(
            stage=stage,
            code=code_version(f"hostplane.image.stages.{stage.value}", "hostplane.image.building.changes"),
            inputs=_public(inputs),
            before=below,
        )

    def _make(self, stage: StageName, key: str, made: Made, reasons: list[str]) -> Ran:
        """Run the stage in a worker, unless another build just did."""

        with self._store.make(key, self._waiting(stage)) as right:
            if stage not in self._anew and (ran := self._take(stage, key, "cached")) is not None:
                return ran
            self._store.sweep()
            self._show(Told(event="started", stage=stage.value, lines=reasons))
            began = time.monotonic()
            directory, held = self._store.begin(key)
            log = self._store.log(self._recipe.name, stage, key)
            with held:
                try:
                    said = self._work(stage, directory, log, [right.fd, held.fd])
                    done = Done(
                        key=key,
                        recipe=self._recipe.name,
                        made=made,
                        at=time.time(),
                        seconds=round(time.monotonic() - began, 3),
                        size=said.size,
                        boot=self._store.boot,
                        initramfs=said.initramfs,
                        outputs=files_of(directory / "out") if stage is StageName.PACK else {},
                    )
                    with suppress(FileNotFoundError):
                        os.rename(log, directory / "log")
                    self._store.finish(directory, done)
                except BaseException:
                    self._store.discard(directory)
                    raise
            ran_now = self._take(stage, key, "made")
            assert ran_now is not None  # nobody else may remove it while its right is held
        self._show(Told(event="made", stage=stage.value, seconds=ran_now.seconds))
        return ran_now

    def _waiting(self, stage: StageName) -> Callable[[], None]:
        """Says once that another build is at it, and lets a moment pass each time."""
        said = False

        def waiting() -> None:
            nonlocal said
            if not said:
                self._show(Told(event="waiting", stage=stage.value))
                said = True
            if self._stopped.wait(_LOCK_SECONDS):
                raise ImageError("WorkerLost", log="")

        return waiting

    def _show(self, told: Told) -> None:
        with self._telling:
            self._told(told)

    def _work(self, stage: StageName, directory: Path, log: Path, locks: list[int]) -> Said:
        before = [
            name
            for name in STAGES[: STAGES.index(stage)]
            if self._boot_in_tree or (stage, name) != (StageName.SLIM, StageName.BOOT)
        ]
        job = StageJob(
            store=str(self._store.path),
            directory=str(directory),
            log=str(log),
            stage=stage,
            recipe=self._recipe,
            profile=self._profile,
            layers=[self._done[name].key for name in before if self._keeps_tree(name)],
            earlier={name: self._done[name].key for name in before},
            keeps_tree=self._keeps_tree(stage),
            epoch=self._epoch,
            rootless=os.geteuid() != 0,
            environment=_environment(),
            processors=self._wish.processors,
        )
        log.unlink(missing_ok=True)

        def progress(said: Said) -> None:
            self._show(Told(event="progress", stage=stage.value, fraction=said.fraction, text=said.text))

        try:
            return self._run_worker(job, log, [*locks, *self._fds], progress)
        except HostplaneError as error:
            if self._stopped.is_set():
                raise  # ended because of another one's failure, which tells its own story
            tail = error.reason.params.get("tail")
            lines = [str(line) for line in tail] if isinstance(tail, list) else _tail(log)
            self._show(Told(event="failed", stage=stage.value, lines=lines))
            raise

    def _run_worker(self, job: Job, log: Path, keep: Collection[int], progress: Callable[[Said], None]) -> Said:
        """Have a worker do `job`; whatever happens to this call, the worker is gone when it returns."""
        with log.open("ab", buffering=0) as errors:
            process = namespace.start(msgspec.json.encode(job), stderr=errors, keep=list(keep))
        assert process.stdout is not None
        last = Said(event="")
        self._workers.add(process)
        try:
            if self._stopped.is_set():
                process.kill()
            for line in process.stdout:
                last = msgspec.json.decode(line, type=Said)
                if last.event == "progress":
                    progress(last)
        finally:
            if last.event not in ("done", "error", "crash"):
                process.kill()
            process.communicate()
            self._workers.discard(process)
        if last.event == "done" and process.returncode == 0:
            return last
        if last.event == "error":
            raise _KINDS.get(last.kind, ImageError)(last.name, **last.params)
        if last.event == "crash":
            raise ImageError("StageCrashed", error=last.text, log=log)
        raise ImageError("WorkerLost", log=log)

    def _keeps_tree(self, stage: StageName) -> bool:
        return stage is not StageName.BOOT or self._boot_in_tree


def _remove_in_namespace(paths: list[Path]) -> None:
    """Delete trees with the rights that made them."""
    process = namespace.start(
        msgspec.json.encode(Removal(paths=[str(path) for path in paths])), stderr=subprocess.DEVNULL
    )
    process.communicate()


def _environment() -> dict[str, str]:
    """The caller's, without what is no UTF-8 and so cannot be sent."""
    return {name: value for name, value in os.environ.items() if not _SURROGATE.search(name + value)}


def _public(inputs: dict[str, Any]) -> dict[str, Any]:
    """As JSON has them, and without a password that an address may carry: inputs are written down."""
    public: dict[str, Any] = msgspec.json.decode(Redactor()(msgspec.json.encode(inputs)))
    return public


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - (16 << 10)))
            return list(deque(file.read().decode("utf-8", "replace").splitlines(), _TAIL_LINES))
    except OSError:
        return []


def _epoch(recipe: Recipe) -> int:
    """SOURCE_DATE_EPOCH in seconds: the recipe's, else the newest locked package's, else a fixed one."""
    if recipe.source_date_epoch is not None:
        return recipe.source_date_epoch
    if recipe.packages.lock:
        from hostplane.image.packages import lock

        return lock.read(Path(recipe.packages.lock)).epoch or FIXED_EPOCH
    return FIXED_EPOCH
