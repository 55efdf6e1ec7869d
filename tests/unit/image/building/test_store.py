"""The store gives away only finished results, and removes nothing that somebody holds."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from hostplane.image.building.keys import Made
from hostplane.image.building.store import Done, Layer, Store
from hostplane.image.recipe import StageName


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def done(store: Store, key: str, *, size: int = 1000, boot: str | None = None, recipe: str = "r") -> Done:
    made = Made(stage=StageName.FILES, code="c", inputs={"n": key}, before={})
    return Done(
        key=key, recipe=recipe, made=made, at=1.0, seconds=2.0, size=size, boot=boot or store.boot, initramfs="i"
    )


def make(store: Store, key: str, *, used: float | None = None, size: int = 1000, boot: str | None = None) -> None:
    path, held = store.begin(key)
    with held:
        (path / "tree").mkdir()
        (path / "tree/file").write_text(key)
        store.finish(path, done(store, key, size=size, boot=boot))
    if used is not None:
        os.utime(store.layer(key) / "done.json", (used, used))


def keys(rows: list[Layer]) -> list[str]:
    return [row.key for row in rows]


def test_what_was_finished_can_be_used(store: Store) -> None:
    assert store.use("a") is None
    make(store, "a")
    used = store.use("a")
    assert used is not None
    held, said = used
    with held:
        assert said.made.inputs == {"n": "a"}


def test_what_was_not_finished_is_swept_unless_held(store: Store) -> None:
    path, held = store.begin("a")
    (path / "half").write_text("x")
    store.sweep()
    assert path.exists()
    held.release()
    store.sweep()
    assert not path.exists()
    assert store.use("a") is None


def test_what_the_power_cut_off_is_not_trusted_unless_it_was_flushed(store: Store) -> None:
    make(store, "a", boot="another boot")
    assert store.use("a") is None
    make(store, "b", boot="another boot")
    store.flush(["b", "gone"])
    used = store.use("b")
    assert used is not None
    used[0].release()


def test_a_result_made_again_replaces_the_old_one_and_leaves_its_user_in_peace(store: Store) -> None:
    make(store, "a")
    used = store.use("a")
    assert used is not None
    old = os.open(store.layer("a"), os.O_RDONLY)
    make(store, "a")
    store.sweep()
    assert os.listdir(old)  # still there for whoever held it
    os.close(old)
    used[0].release()
    store.sweep()
    assert list((store.path / "tmp").iterdir()) == []


def test_prune_takes_the_longest_unused_first_and_never_what_is_in_use(store: Store) -> None:
    for number, key in enumerate("abcd"):
        make(store, key, used=1000.0 + number)
    used = store.use("a")  # also makes it the one used last
    assert used is not None
    os.utime(store.layer("a") / "done.json", (1.0, 1.0))
    pruned = store.prune(max_bytes=2000)
    assert keys(store.layers()) == ["a", "d"]
    assert (pruned.removed, pruned.bytes, pruned.in_use) == (2, 2000, 1)
    used[0].release()
    assert store.prune(max_age=3600.0).removed == 2
    assert list((store.path / "tmp").iterdir()) == []


@pytest.mark.parametrize(("taken", "free", "room"), [(100, 20, 60), (0, 7, 3), (8 << 30, 90 << 30, 40 << 30)])
def test_its_room_leaves_half_of_a_small_disk_to_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, taken: int, free: int, room: int
) -> None:
    make(store, "a", size=taken)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert store.room() == room


def test_only_one_at_a_time_makes_a_key(store: Store) -> None:
    right = store.make("a", lambda: None)
    told, order = threading.Event(), list[str]()

    def wait() -> None:
        told.set()
        threading.Event().wait(0.01)

    def second() -> None:
        with store.make("a", wait):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    assert told.wait(5)
    order.append("first")
    right.release()
    other.join(5)
    assert order == ["first", "second"]
    with store.make("b", lambda: pytest.fail("another key waits for nobody")):
        pass


def test_a_pruned_lock_is_not_mistaken_for_the_right(store: Store) -> None:
    store.make("a", lambda: None).release()
    store.prune(max_bytes=0)
    assert list((store.path / "locks").iterdir()) == []
    with store.make("a", lambda: pytest.fail("nobody has it")):
        store.prune(max_bytes=0)
        assert (store.path / "locks/a").exists()


def test_what_a_recipe_was_made_of_outlives_its_result(store: Store) -> None:
    make(store, "a")
    store.remember("r", done(store, "a"))
    store.prune(max_bytes=0)
    said = store.remembered("r", StageName.FILES)
    assert said is not None
    assert said.key == "a"
    assert store.remembered("r", StageName.PACK) is None
    assert store.remembered("other", StageName.FILES) is None
