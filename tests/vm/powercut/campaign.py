"""Judges every disk that a recording could have left, and counts.

Two passes over one log. The first looks at the disk as of each flush: what /etc of the old slot held all the time, and
what /etc of the new slot held from the moment the loader would choose it, must be there in every state of the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.vm.powercut.bootmodel import Known, Model, Tree, boot_state_of
from tests.vm.powercut.replay import Cut, Image, Replay, Sample
from tests.vm.powercut.writelog import WriteLog

__all__ = ["Counts", "Recording", "Wanted", "judge", "rebuilt", "steady"]

_SHOWN = 20


class Recording(NamedTuple):
    """A disk, what was written to it, and what its slots may hold: the old image and the new one."""

    base: Path
    log: Path
    known: tuple[Known, Known]


class Wanted(NamedTuple):
    """What must be in /etc, by image; and the paths left out because the host itself rewrites them."""

    trees: Mapping[str, Tree]
    rewritten: tuple[str, ...]


class Counts(NamedTuple):
    """What a campaign saw."""

    flushes: int
    writes: int
    states: Mapping[str, int]
    """By kind (`replay`)."""
    distinct: int
    """States that differ in what decides: boot state, slots, PERSIST."""
    repaired: int
    """Different PERSIST that went through e2fsck."""
    first: Mapping[str, int]
    """How many states lead to which slot first."""
    wrong: tuple[tuple[Cut, tuple[str, ...]], ...]
    """The first ones with a problem."""
    wrongs: int
    total: int
    """States there are, judged or not."""


@contextmanager
def _followed(recording: Recording, scratch: Path, sample: Sample) -> Iterator[tuple[Model, Replay]]:
    scratch.mkdir(parents=True, exist_ok=True)
    shown, durable = Image(recording.base), Image(recording.base)
    with WriteLog(recording.log) as log:
        model = Model(shown, list(recording.known), scratch)
        yield model, Replay(shown, durable, log, sample=sample, thorough=boot_state_of(shown))
    shown.close()
    durable.close()


def steady(recording: Recording, scratch: Path) -> Wanted:
    """What /etc of both slots must hold from the moment that it counts."""
    old, new = (image.name for image in recording.known)
    with _followed(recording, scratch, Sample()) as (model, replay):
        before, chosen = model.etc("A"), None
        for _ in replay.durable_states():
            if chosen is None and "B" in model.way():
                chosen = model.etc("B")
        after, last = model.etc("A"), model.etc("B")
    assert before is not None
    assert after is not None
    assert chosen is not None, "the recording never switches"
    assert last is not None
    trees: dict[str, Tree] = {old: _common(before, after), new: _common(chosen, last)}
    rewritten = sorted({*(set(before) - set(trees[old])), *(set(chosen) - set(trees[new]))})
    return Wanted(trees, tuple(rewritten))


def _common(one: Tree, two: Tree) -> Tree:
    return {path: fact for path, fact in one.items() if two.get(path) == fact}


def judge(
    recording: Recording,
    wanted: Wanted,
    scratch: Path,
    sample: Sample = Sample(),  # noqa: B008  # a tuple of numbers
    *,
    share: tuple[int, int] = (0, 1),
    only: Callable[[Cut], bool] = lambda cut: True,
) -> Counts:
    """Ask the model about every state.

    Args:
        share: (which, of how many): judges every nth state, so that several processes share the work.
        only: which states are judged at all.
    """
    kinds: Counter[str] = Counter()
    first: Counter[str] = Counter()
    wrong: list[tuple[Cut, tuple[str, ...]]] = []
    wrongs = number = total = 0
    with _followed(recording, scratch, sample) as (model, replay):
        model.wanted = dict(wanted.trees)
        for cut in replay.states():
            total += 1
            if not only(cut):
                continue
            number += 1
            if number % share[1] != share[0]:
                continue
            kinds[cut.kind] += 1
            problems = model.problems()
            first[next(iter(model.way()), "none")] += 1
            if problems:
                wrongs += 1
                if len(wrong) < _SHOWN:
                    wrong.append((cut, tuple(problems)))
        return Counts(
            flushes=replay.flushes,
            writes=replay.writes,
            states=kinds,
            distinct=model.distinct,
            repaired=model.repaired,
            first=first,
            wrong=tuple(wrong),
            wrongs=wrongs,
            total=total,
        )


def rebuilt(
    recording: Recording,
    target: Path,
    chosen: Callable[[int, Cut], bool],
    sample: Sample = Sample(),  # noqa: B008
) -> Iterator[tuple[int, Cut]]:
    """`target` becomes the disk of each chosen (number, state) in turn; the caller may write to it."""
    shown, durable = Image(recording.base), Image(recording.base)
    with WriteLog(recording.log) as log:
        replay = Replay(shown, durable, log, sample=sample, thorough=boot_state_of(shown))
        for number, cut in enumerate(replay.states()):
            if chosen(number, cut):
                shown.dump(target)
                yield number, cut
    shown.close()
    durable.close()
