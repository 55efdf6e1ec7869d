"""Two leaders never overlap, whatever their wall clocks say and however long one was stopped."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from hostplane.errors import ClusterError, ConflictError, NotFoundError, UnreachableError
from hostplane.kube.lease import LEASE, Leader, Lease
from hostplane.kube.session import Session


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class LeaseServer(Session):
    """Just the one Lease, with conditional updates. `fail` raises before a request, `lose` after it took effect."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.fail = self.lose = False

    def _answer(self) -> Any:
        if self.lose:
            raise UnreachableError("ServerUnreachable", url="u", why="cut")
        if self.lease is None:
            raise NotFoundError("ObjectNotFound", message="no lease")
        return msgspec.convert({**self.lease, "metadata": {"resourceVersion": str(self.version)}}, Lease)

    def _enter(self) -> None:
        if self.fail:
            raise UnreachableError("ServerUnreachable", url="u", why="cut")

    async def get(self, *_: Any, **__: Any) -> Any:
        self._enter()
        return self._answer()

    async def create(self, resource: Any, body: dict[str, Any], *_: Any, **__: Any) -> Any:
        self._enter()
        assert resource is LEASE
        if self.lease is not None:
            raise ConflictError("ObjectExists", message="lease")
        self.lease = {"spec": body["spec"]}
        self.version += 1
        return self._answer()

    async def patch(self, resource: Any, name: str, body: Any, *_: Any, **__: Any) -> Any:
        self._enter()
        if self.lease is None:
            raise NotFoundError("ObjectNotFound", message="no lease")
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError("WriteConflict", message="lease")
        self.lease["spec"] |= body["spec"]
        self.version += 1
        return self._answer()

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


class World:
    """A Lease server, and candidates that sleep on one virtual clock, each seeing it with its own offset."""

    def __init__(self) -> None:
        self.server = LeaseServer()
        self.clock = Clock()

    def leader(self, identity: str, offset: float = 0.0, **options: Any) -> Leader:
        async def sleep(seconds: float) -> None:
            self.clock.now += seconds
            await asyncio.sleep(0)

        return Leader(
            self.server, "ns", "lease", identity, clock=lambda: self.clock.now + offset, sleep=sleep, **options
        )


def test_the_first_one_leads_at_once() -> None:
    world = World()
    leader = world.leader("a")
    assert not leader.is_leader
    asyncio.run(leader.acquire())
    assert leader.is_leader
    assert world.server.holder == "a"
    leader.fence()


def test_a_leader_that_cannot_renew_stops_before_another_may_begin() -> None:
    world = World()
    first, second = world.leader("a"), world.leader("b", offset=-5000)

    async def main() -> None:
        await first.acquire()
        await second.acquire()  # sleeps until a's record has not changed for 15 seconds

    asyncio.run(main())
    assert world.server.holder == "b"
    assert second.is_leader
    assert not first.is_leader
    assert world.clock.now >= 15
    with pytest.raises(ClusterError, match="not the leader"):
        first.fence()


def test_leadership_ends_by_the_clock_alone() -> None:
    """A stopped process runs no code: the next question it asks must be answered with no."""
    world = World()
    leader = world.leader("a")
    asyncio.run(leader.acquire())
    world.clock.now += 9.99
    assert leader.is_leader
    world.clock.now += 0.01
    assert not leader.is_leader
    assert leader.remaining == 0


def test_time_counts_from_before_the_request() -> None:
    world = World()
    leader = world.leader("a")
    create = world.server.create

    async def slow(*args: Any, **options: Any) -> Any:
        world.clock.now += 6
        return await create(*args, **options)

    world.server.create = slow  # type: ignore[method-assign]  # the slow network of this test
    asyncio.run(leader.acquire())
    assert leader.remaining == 4


def test_an_answer_after_the_deadline_does_not_make_a_leader() -> None:
    world = World()
    leader = world.leader("a")
    create = world.server.create

    async def slow(*args: Any, **options: Any) -> Any:
        world.clock.now += 11
        return await create(*args, **options)

    world.server.create = slow  # type: ignore[method-assign]  # the slow network of this test
    asyncio.run(leader.acquire())
    assert leader.is_leader  # by a second look, which found its own record
    assert world.server.lease is not None
    assert world.server.lease["spec"]["leaseTransitions"] == 1


def test_a_failing_server_costs_the_leadership_after_the_deadline() -> None:
    world = World()
    leader = world.leader("a")

    async def main() -> None:
        await leader.acquire()
        world.server.fail = True
        await leader.lost()

    asyncio.run(main())
    assert not leader.is_leader
    assert 10 <= world.clock.now < 15


def test_a_renewal_whose_answer_was_lost_is_found_out() -> None:
    world = World()
    leader = world.leader("a")

    async def main() -> None:
        await leader.acquire()
        world.server.lose = True  # the server takes it, we do not hear of it
        await leader._sleep(2)
        with pytest.raises(UnreachableError):
            await leader._renew_once()
        world.server.lose = False
        await leader._renew_once()  # conflict: reads the version
        await leader._renew_once()
        assert leader.remaining == 10

    asyncio.run(main())


@pytest.mark.parametrize("event", ["stolen", "deleted"])
def test_a_lease_in_other_hands_ends_it_at_once(event: str) -> None:
    world = World()
    leader = world.leader("a")

    async def main() -> None:
        await leader.acquire()
        if event == "stolen":
            assert world.server.lease is not None
            world.server.lease["spec"]["holderIdentity"] = "b"
            world.server.version += 1
        else:
            world.server.lease = None
        await leader.lost()

    asyncio.run(main())
    assert not leader.is_leader
    assert world.clock.now <= 2


def test_a_lease_deleted_under_a_leader_is_not_taken_at_once() -> None:
    world = World()
    first, second = world.leader("a"), world.leader("b")

    async def main() -> None:
        await first.acquire()
        await second._try_to_take()
        world.server.lease = None
        await second._try_to_take()
        assert not second.is_leader
        await second.acquire()

    asyncio.run(main())
    assert second.is_leader
    assert not first.is_leader


def test_a_released_lease_is_taken_at_once() -> None:
    world = World()
    first, second = world.leader("a"), world.leader("b")

    async def main() -> None:
        await first.acquire()
        await first.release()
        assert not first.is_leader
        await second.acquire()

    asyncio.run(main())
    assert second.is_leader
    assert world.clock.now == 0


def test_a_release_is_not_overtaken_by_a_renewal_under_way() -> None:
    world = World()
    leader = world.leader("a")

    async def main() -> None:
        await leader.acquire()
        patch, begun, go_on = world.server.patch, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any, **options: Any) -> Any:
            begun.set()
            await go_on.wait()
            return await patch(*args, **options)

        world.server.patch = slow  # type: ignore[method-assign]  # the slow network of this test
        keeping = asyncio.create_task(leader.lost())
        await begun.wait()
        releasing = asyncio.create_task(leader.release())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(keeping, releasing)

    asyncio.run(main())
    assert not leader.is_leader
    assert world.server.holder == ""


def test_the_records_own_duration_is_respected() -> None:
    world = World()
    first, second = world.leader("a", duration=40, renew=30), world.leader("b")

    async def main() -> None:
        await first.acquire()
        await second.acquire()

    asyncio.run(main())
    assert world.clock.now >= 40


@pytest.mark.parametrize("bad", [{"renew": 15.0}, {"retry": 10.0}, {"retry": 0.0}])
def test_unsafe_times_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        World().leader("a", **bad)


@pytest.mark.parametrize("seed", range(30))
def test_never_two_leaders_in_a_random_history(seed: int) -> None:
    """Three candidates step in random order under random outages, pauses and offsets."""
    chance = random.Random(seed)
    world = World()
    leaders = [world.leader(name, offset=chance.uniform(-1e6, 1e6)) for name in "abc"]

    async def main() -> int:
        reigns = set()
        for _ in range(400):
            world.server.fail, world.server.lose = chance.random() < 0.2, chance.random() < 0.2
            world.clock.now += chance.choice([0, 0.5, 1, 2, 2, 9])
            leader = chance.choice(leaders)
            try:
                if leader.is_leader:
                    await leader._renew_once()
                else:
                    await leader._try_to_take()
            except ClusterError:
                pass
            leading = [each.identity for each in leaders if each.is_leader]
            assert len(leading) <= 1
            reigns.update(leading)
        return len(reigns)

    assert asyncio.run(main()) >= 1
