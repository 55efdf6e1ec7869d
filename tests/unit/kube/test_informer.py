"""The copy stays true through everything that can happen to a watch, and reports each difference once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest

from hostplane.api.meta import ApiStruct, ObjectMeta, Resource
from hostplane.errors import ClusterError, GoneError, ThrottledError, UnreachableError
from hostplane.kube.informer import Informer
from hostplane.kube.pace import Backoff
from hostplane.kube.session import Session
from hostplane.kube.wire import Change, Page, Undecodable


class Thing(ApiStruct, frozen=True, kw_only=True, gc=False):
    metadata: ObjectMeta
    group: str = ""


THING = Resource(Thing, "example.com", "v1", "Thing", "things")


def thing(name: str, version: int, group: str = "") -> Thing:
    return Thing(metadata=ObjectMeta(name=name, resource_version=str(version)), group=group)


def put(name: str, version: int, group: str = "") -> Change[Thing]:
    return Change(str(version), thing(name, version, group))


def gone(name: str, version: int) -> Change[Thing]:
    return Change(str(version), thing(name, version), gone=True)


def listed(version: int, *items: Thing, bad: tuple[str, ...] = ()) -> Page[Thing]:
    return Page(list(items), [Undecodable(key, "1", "why") for key in bad], str(version), "")


class ScriptedSession(Session):
    """Plays a list of steps: a Page answers a list, a list of changes a watch; an error in either is raised."""

    informer: Informer[Thing]

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.watched_from: list[str] = []
        self.finished = asyncio.Event()

    def _next(self) -> Any:
        return self.steps.pop(0) if self.steps else None

    async def pages(self, *_: Any, **__: Any) -> AsyncGenerator[Page[Any], None]:
        step = self._next()
        if isinstance(step, ClusterError):
            raise step
        assert isinstance(step, Page), step
        yield step

    @contextlib.asynccontextmanager
    async def watch(self, resource: Any, resource_version: str, **_: Any) -> AsyncIterator[AsyncIterator[Change[Any]]]:
        self.watched_from.append(resource_version)
        step = self._next()
        if isinstance(step, ClusterError):
            raise step
        yield self._play(step)

    async def _play(self, step: list[Any] | None) -> AsyncGenerator[Change[Any], None]:
        if step is None:
            self.finished.set()
            await asyncio.Event().wait()
        for each in step or []:
            if isinstance(each, ClusterError):
                raise each
            if isinstance(each, Thing):  # the answer to a write of our own arrives at this moment
                self.informer.put(each)
            else:
                yield each


class Play(msgspec.Struct):
    informer: Informer[Thing]
    session: ScriptedSession
    changes: list[tuple[str | None, str | None]]
    failures: list[ClusterError]


async def play(*steps: Any, **options: Any) -> Play:
    """Run an informer through the steps, until it rests in a watch that says nothing."""
    session = ScriptedSession(*steps)
    changes: list[tuple[str | None, str | None]] = []
    failures: list[ClusterError] = []

    def show(item: Thing | None) -> str | None:
        return None if item is None else f"{item.metadata.name}{item.metadata.resource_version}"

    informer = Informer(
        session,
        THING,
        on_change=lambda old, new: changes.append((show(old), show(new))),
        on_failure=failures.append,
        backoff=Backoff(0.0, 0.0),
        **options,
    )
    session.informer = informer
    running = asyncio.create_task(informer.run())
    finished = asyncio.create_task(session.finished.wait())
    try:
        async with asyncio.timeout(5):
            await asyncio.wait({running, finished}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
    finally:
        running.cancel()
        finished.cancel()
        await asyncio.gather(running, finished, return_exceptions=True)
    return Play(informer, session, changes, failures)


LOST = UnreachableError("ServerUnreachable", url="u", why="cut")
EXPIRED = GoneError("VersionExpired", message="old")
BROKEN = ClusterError("ServerFailed", status=500, message="etcd")


def test_a_list_and_its_watch_are_one_copy() -> None:
    done = asyncio.run(
        play(listed(5, thing("a", 1), thing("b", 2)), [put("a", 6), gone("b", 7), put("c", 8), Change("9")])
    )
    assert sorted(done.informer.items()) == ["a", "c"]
    assert done.changes == [(None, "a1"), (None, "b2"), ("a1", "a6"), ("b2", None), (None, "c8")]
    assert done.session.watched_from == ["5", "9"]
    assert done.informer.is_synced


@pytest.mark.parametrize("trouble", [LOST, ThrottledError("ServerBusy", message="x"), BROKEN])
def test_a_broken_watch_goes_on_from_the_last_version(trouble: ClusterError) -> None:
    done = asyncio.run(play(listed(5), [put("a", 6), trouble], trouble, [put("b", 7)]))
    assert done.session.watched_from == ["5", "6", "6", "7"]
    assert sorted(done.informer.items()) == ["a", "b"]
    assert done.failures == [trouble, trouble]


def test_an_expired_version_is_a_relist_that_notices_deletions() -> None:
    steps = listed(5, thing("a", 1), thing("b", 2), thing("c", 3)), EXPIRED, listed(50, thing("b", 2), thing("c", 40))
    done = asyncio.run(play(*steps))
    assert done.changes[3:] == [("a1", None), ("c3", "c40")]
    assert done.session.watched_from == ["5", "50"]


def test_versions_that_go_back_are_a_relist() -> None:
    """A restored etcd: the server would go on silently from a version it has not reached yet."""
    done = asyncio.run(play(listed(500, thing("a", 1)), [Change("30")], listed(31)))
    assert done.session.watched_from == ["500", "31"]
    assert not done.informer.items()


def test_a_server_that_keeps_refusing_is_listed_again() -> None:
    done = asyncio.run(play(listed(5), BROKEN, BROKEN, BROKEN, listed(9)))
    assert done.session.watched_from == ["5", "5", "5", "9"]


def test_an_unreachable_server_is_not_listed_again() -> None:
    done = asyncio.run(play(LOST, listed(5), LOST, LOST, LOST, LOST, LOST))
    assert done.session.watched_from == ["5"] * 6


def test_what_the_transform_makes_equal_is_no_change() -> None:
    def trim(item: Thing) -> Thing:
        return msgspec.structs.replace(item, metadata=ObjectMeta(name=item.metadata.name))

    done = asyncio.run(
        play(listed(5, thing("a", 1)), [put("a", 6), put("a", 7, "x"), put("a", 8, "x")], transform=trim)
    )
    assert done.changes == [(None, "a"), ("a", "a")]
    assert done.session.watched_from == ["5", "8"]


def test_indexes_follow_their_objects() -> None:
    steps = listed(5, thing("a", 1, "x"), thing("b", 2, "x")), [put("a", 6, "y"), put("c", 7, "x"), gone("b", 8)]
    informer = asyncio.run(play(*steps, indexes={"group": lambda item: [item.group]})).informer
    assert [item.metadata.name for item in informer.by("group", "x")] == ["c"]
    assert [item.metadata.name for item in informer.by("group", "y")] == ["a"]
    assert informer.by("group", "z") == []


def test_an_undecodable_object_keeps_its_last_good_copy() -> None:
    bad = Change("6", undecodable=Undecodable("a", "6", "why"))
    done = asyncio.run(play(listed(5, thing("a", 1)), [bad], EXPIRED, listed(9, bad=("a", "z"))))
    assert done.informer.get("a") == thing("a", 1)
    assert done.informer.undecodable == {"a": "why", "z": "why"}


def test_an_undecodable_object_can_heal_or_be_deleted() -> None:
    broken = Undecodable("a", "6", "why"), Undecodable("b", "7", "why")
    steps = [
        listed(5, thing("a", 1), thing("b", 2)),
        [
            Change("6", undecodable=broken[0]),
            Change("7", undecodable=broken[1]),
            put("a", 8),
            Change("9", gone=True, undecodable=broken[1]),
        ],
    ]
    done = asyncio.run(play(*steps))
    assert dict(done.informer.items()) == {"a": thing("a", 8)}
    assert not done.informer.undecodable


def test_a_writer_reads_its_own_write_before_the_watch_brings_it() -> None:
    done = asyncio.run(play(listed(5, thing("a", 1)), [thing("a", 9), put("a", 7), put("a", 9), put("a", 11)]))
    assert done.changes == [(None, "a1"), ("a1", "a9"), ("a9", "a11")]


def test_an_answer_that_the_watch_has_overtaken_is_ignored() -> None:
    done = asyncio.run(play(listed(5, thing("a", 1)), [put("a", 8), gone("a", 9), thing("a", 7), thing("a", 8)]))
    assert not done.informer.items()
    done = asyncio.run(play(listed(5, thing("a", 1)), [put("a", 8), thing("a", 7)]))
    assert done.informer.get("a") == thing("a", 8)


def test_a_deletion_after_our_write_still_counts() -> None:
    done = asyncio.run(play(listed(5, thing("a", 1)), [thing("a", 9), put("a", 7), gone("a", 10)]))
    assert not done.informer.items()


def test_a_relist_overrules_what_was_put() -> None:
    done = asyncio.run(play(listed(500), [thing("a", 900), EXPIRED], listed(31, thing("a", 30)), [put("a", 32)]))
    assert done.informer.get("a") == thing("a", 32)


def test_an_exception_of_the_listener_ends_the_run() -> None:
    async def main() -> None:
        def fail(old: Thing | None, new: Thing | None) -> None:
            raise RuntimeError("a bug")

        informer = Informer(ScriptedSession(listed(5, thing("a", 1))), THING, on_change=fail)
        with pytest.raises(RuntimeError, match="a bug"):
            await informer.run()

    asyncio.run(main())


def test_staleness_counts_from_the_loss_of_the_watch() -> None:
    async def main() -> None:
        session = ScriptedSession(listed(5))
        informer = Informer(session, THING, backoff=Backoff(0, 0))
        running = asyncio.create_task(informer.run())
        async with asyncio.timeout(5):
            await session.finished.wait()
        assert informer.stale_seconds == 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert informer.stale_seconds > 0

    asyncio.run(main())
