"""A whole upgrade from a server with faults: the new image in the end, or the slot as it was and the reason told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hostplane.agent.bundle.limits import BLOCK
from hostplane.errors import HostError
from tests.unit.agent.fetch.faulty import Faulty, Handler, send
from tests.unit.agent.payload.bundle_host import BundleHost
from tests.unit.image.bundle_play import blocks

OLD = [*range(1, 200)]
NEW = [*range(1, 30), *range(-60, 0), *range(50, 199), 0, *range(-90, -60)]


class Upgrade:
    """A host on the old image, and a server that has the new one."""

    def __init__(self, root: Path, serve: Callable[..., Faulty]) -> None:
        self.host = BundleHost(root, stallSeconds=0.5, fetchAttempts=3)
        self.host.install_in_a(self.host.bundle("old", blocks(OLD)))
        self.image = self.host.bundle("new", blocks(NEW), frame_bytes=4 * BLOCK, codec="none")
        self.frames = self.host.opened("new").manifest.images["root"][1]
        self.web = serve(self.host.layout("new"))

    def run(self) -> int:
        """Stage; bytes that came over the network."""
        source = self.host.source(self.image._replace(ref=self.web.url))
        self.host.stage(self.image._replace(ref=self.web.url), source)
        return int(source._source.received)

    def is_there(self) -> bool:
        return self.host.slot("ROOT-B", len(blocks(NEW))) == blocks(NEW)

    def is_frames(self, handler: Handler) -> bool:
        return handler.path.endswith(self.frames.digest[7:])

    def answer(self, handler: Handler, change: Callable[[bytearray], None], cut: int | None = None) -> bool:
        """What was asked for, spoiled, and broken off after `cut` bytes."""
        content = self.web.file(handler.path)
        assert content is not None
        first, _, last = (handler.headers["Range"] or "bytes=0-")[6:].partition("-")
        start, end = int(first), int(last) + 1 if last else len(content)
        body = bytearray(content[start:end])
        change(body)
        handler.send_response(206 if handler.headers["Range"] else 200)
        handler.send_header("Content-Length", str(end - start))
        if handler.headers["Range"]:
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(body[:cut])
        handler.close_connection = cut is not None
        return True


@pytest.fixture
def upgrade(tmp_path: Path, serve: Callable[..., Faulty]) -> Upgrade:
    return Upgrade(tmp_path / "up", serve)


def test_only_what_is_new_is_fetched(upgrade: Upgrade) -> None:
    received = upgrade.run()
    assert upgrade.is_there()
    assert received < upgrade.frames.size * 0.75


def test_wrong_bytes_in_a_range_cost_that_range_only(upgrade: Upgrade) -> None:
    spoiled: list[str] = []

    def flip(body: bytearray) -> None:
        body[len(body) // 2] ^= 0x40

    def before(handler: Handler, number: int) -> bool:
        if not upgrade.is_frames(handler) or spoiled:
            return False
        spoiled.append(handler.path)
        return upgrade.answer(handler, flip)

    upgrade.web.before = before
    received = upgrade.run()
    assert upgrade.is_there()
    assert spoiled
    assert received < upgrade.frames.size


def test_ranges_that_are_always_wrong_are_given_up_for_the_whole(upgrade: Upgrade) -> None:
    def zero(body: bytearray) -> None:
        body[:] = bytes(len(body))

    def before(handler: Handler, number: int) -> bool:
        return bool(handler.headers["Range"]) and upgrade.answer(handler, zero)

    upgrade.web.before = before
    upgrade.run()
    assert upgrade.is_there()


def test_a_server_that_breaks_off_every_few_blocks_is_gone_on_from(upgrade: Upgrade) -> None:
    upgrade.web.before = lambda handler, number: (
        upgrade.is_frames(handler) and upgrade.answer(handler, lambda body: None, cut=6 * BLOCK + 7)
    )
    upgrade.run()
    assert upgrade.is_there()


def test_a_server_that_is_busy_between_any_two_answers_is_waited_for(
    upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("hostplane.agent.fetch.pace.Pace.back_off", lambda pace, count, after: waited.append(after))

    def before(handler: Handler, number: int) -> bool:
        if number % 2 == 0:
            send(handler, (429, 500, 503)[number % 3], Retry_After="9")
        return number % 2 == 0

    upgrade.web.before = before
    upgrade.run()
    assert upgrade.is_there()
    assert set(waited) == {9.0}


@pytest.mark.parametrize(
    "fault",
    [
        lambda handler: send(handler, 404),
        lambda handler: send(handler, 403),
        lambda handler: send(handler, 302, Location=handler.path),
        lambda handler: send(handler, 200, b"x"),
        lambda handler: send(handler, 206, b"x", Content_Range="bytes 0-0/1"),
    ],
    ids=["missing", "forbidden", "loop", "short", "another"],
)
@pytest.mark.parametrize("place", ["manifest", "index"])
def test_what_cannot_be_had_leaves_the_slot_as_it_was(
    upgrade: Upgrade, place: str, fault: Callable[[Handler], None]
) -> None:
    index = upgrade.host.opened("new").manifest.images["root"][0].digest
    asked = (upgrade.image.digest if place == "manifest" else index)[7:]

    def before(handler: Handler, number: int) -> bool:
        is_it = handler.path.endswith(asked)
        if is_it:
            fault(handler)
        return is_it

    upgrade.web.before = before
    with pytest.raises(HostError):
        upgrade.run()
    assert upgrade.host.slot("ROOT-B") == b""
    assert upgrade.host.begun == 1  # by the old image, before
