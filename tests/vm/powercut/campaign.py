"""Judges every disk that a recording could have left, and counts.

Two passes over one log. The first looks at the disk as of each flush: what /etc of the old slot held all the time, and
what /etc of the new slot held from the moment the loader would choose it, must be there in every state of the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from tests.vm.powercut.bootmodel import Known, Model, Tree, boot_state_of
from tests.vm.powercut.replay import Cut, Image, Replay, Sample
from tests.vm.powercut.writelog import WriteLog

__all__ = ["Counts", "Recording", "Wanted", "judge", "judge_all", "rebuilt", "steady", "table"]

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
    """States that differ in what decides: boot state, slots, PERSIST; every process that judges counts its own."""
    repaired: int
    """Different PERSIST that went through e2fsck, counted alike."""
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


def steady(recording: Recording, scratch: Path, identity: tuple[str, ...] = ()) -> Wanted:
    """What /etc of both slots must hold from the moment that it counts.

    Args:
        identity: paths that the initramfs hands out anew at every boot of another slot than the last one, from the
            old slot's /etc; so they must be in that, and may be missing in the new one's while it does so.
    """
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
    trees: dict[str, Tree] = {
        old: _common(before, after),
        new: {path: fact for path, fact in _common(chosen, last).items() if path not in identity},
    }
    assert set(identity) <= set(trees[old])
    rewritten = sorted({*(set(before) - set(trees[old])), *(set(chosen) - set(trees[new]) - set(identity))})
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
            states=dict(kinds),
            distinct=model.distinct,
            repaired=model.repaired,
            first=dict(first),
            wrong=tuple(wrong),
            wrongs=wrongs,
            total=total,
        )


def judge_all(recording: Recording, wanted: Wanted, scratch: Path, sample: Sample, processes: int) -> Counts:
    """`judge` every state, by several processes."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        shares = [
            pool.submit(judge, recording, wanted, scratch / str(number), sample, share=(number, processes))
            for number in range(processes)
        ]
        parts = [share.result() for share in shares]
    return parts[0]._replace(
        states=dict(sum((Counter(part.states) for part in parts), Counter())),
        first=dict(sum((Counter(part.first) for part in parts), Counter())),
        distinct=sum(part.distinct for part in parts),
        repaired=sum(part.repaired for part in parts),
        wrong=tuple(wrong for part in parts for wrong in part.wrong),
        wrongs=sum(part.wrongs for part in parts),
    )


def table(counts: Counts, wanted: Wanted, sample: Sample) -> str:
    """What docs/reference/power-cuts.md says of a campaign."""
    kinds = " + ".join(f"{count} {kind}" for kind, count in sorted(counts.states.items()))
    rows = (
        ("writes, flushes recorded", f"{counts.writes}, {counts.flushes}"),
        ("states judged", f"{sum(counts.states.values())}: {kinds}"),
        (
            "of them, that lead to slot A first, to slot B first",
            f"{counts.first.get('A', 0)}, {counts.first.get('B', 0)}",
        ),
        ("different in what decides; PERSIST repaired and read", f"{counts.distinct}; {counts.repaired}"),
        (
            "files and directories of /etc held against each",
            ", ".join(f"{k} {len(v)}" for k, v in wanted.trees.items()),
        ),
        ("left out there, since the host rewrites them", ", ".join(wanted.rewritten) or "none"),
        ("seed", str(sample.seed)),
        ("**states that lead to no whole slot**", f"**{counts.wrongs}**"),
    )
    return "\n".join(("| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)))


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
