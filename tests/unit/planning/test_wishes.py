"""Which Rollout is in force: one at a time for a group, oldest first, and the last complete one for ever after."""

from __future__ import annotations

from typing import Any

from hostplane.api.rollout import Rollout
from hostplane.planning.wishes import GroupWish, Wishes, is_complete, tag, wishes

from . import build

GROUPS = {name: build.group(name) for name in ("web", "db")}
SETTINGS: dict[str, Any] = {"operation": "configure", "settings": build.settings("s1")}


def of(*rollouts: Rollout) -> Wishes:
    return wishes(GROUPS, {r.metadata.name: r for r in rollouts})


def names(wish: GroupWish) -> tuple[str | None, str | None, str | None]:
    """(active, image, settings)"""
    found = (wish.active, wish.image, wish.settings)
    return tuple(r.metadata.name if r else None for r in found)  # type: ignore[return-value]  # three of them


def day(number: int) -> str:
    return f"2026-01-{number:02}T00:00:00Z"


def test_without_rollouts_nothing_is_wished() -> None:
    assert names(of().groups["web"]) == (None, None, None)


def test_the_oldest_unfinished_one_is_in_force_and_the_others_wait() -> None:
    found = of(build.rollout("b", born=day(2)), build.rollout("a", born=day(3)), build.rollout("c", born=day(1)))
    assert names(found.groups["web"]) == ("c", "c", None)
    assert {name: (why.name, why.params["before"]) for name, why in found.queued.items()} == {
        "b": ("RolloutQueued", "c"),
        "a": ("RolloutQueued", "c"),
    }


def test_settings_that_become_unfinished_again_bring_back_no_older_image() -> None:
    """An edit of a complete configure Rollout would have undone the rollback that came after it."""
    found = of(
        build.rollout("up", born=day(1), complete=True),
        build.rollout("conf", born=day(2), **SETTINGS),
        build.rollout("undo", born=day(3), complete=True, operation="rollback"),
    )
    assert names(found.groups["web"]) == ("conf", "undo", "conf")


def test_of_the_same_age_the_name_decides() -> None:
    found = of(build.rollout("b"), build.rollout("a"))
    assert names(found.groups["web"]) == ("a", "a", None)


def test_other_groups_do_not_wait() -> None:
    found = of(build.rollout("a", born=day(1)), build.rollout("b", born=day(2), groups=["db"]))
    assert names(found.groups["db"]) == ("b", "b", None)
    assert found.queued == {}


def test_one_that_waits_for_one_group_keeps_its_turn_in_the_other() -> None:
    """Else a younger one would overtake it there for ever."""
    found = of(
        build.rollout("a", born=day(1)),
        build.rollout("b", born=day(2), groups=["web", "db"]),
        build.rollout("c", born=day(3), groups=["db"]),
    )
    assert names(found.groups["db"]) == (None, None, None)
    assert {name: why.params["before"] for name, why in found.queued.items()} == {"b": "a", "c": "b"}


def test_a_complete_one_stays_the_wish_until_a_younger_one_is_there() -> None:
    old = build.rollout("a", born=day(1), complete=True)
    assert names(of(old).groups["web"]) == (None, "a", None)
    assert names(of(old, build.rollout("b", born=day(2))).groups["web"]) == ("b", "b", None)
    assert names(of(old, build.rollout("b", born=day(2), complete=True)).groups["web"]) == (None, "b", None)


def test_one_whose_spec_changed_since_is_not_complete() -> None:
    done = build.rollout("a", complete=True)
    assert is_complete(done)
    changed = build.rollout("a", complete=True, generation=2)
    assert is_complete(changed)
    stale = Rollout(metadata=changed.metadata, spec=changed.spec, status=done.status)
    assert not is_complete(stale)
    assert names(of(stale).groups["web"]) == ("a", "a", None)


def test_settings_do_not_end_an_images_wish() -> None:
    found = of(
        build.rollout("a", born=day(1), complete=True),
        build.rollout("s", born=day(2), complete=True, **SETTINGS),
        build.rollout("t", born=day(3), **SETTINGS),
    )
    assert names(found.groups["web"]) == ("t", "a", "t")


def test_settings_wait_for_an_image_under_way() -> None:
    found = of(build.rollout("a", born=day(1)), build.rollout("s", born=day(2), **SETTINGS))
    assert names(found.groups["web"]) == ("a", "a", None)
    assert set(found.queued) == {"s"}


def test_touching_one_that_was_superseded_does_not_bring_it_back() -> None:
    """Its group would go to the old image, and to the new one again as soon as it was there."""
    touched = build.rollout("a", born=day(1), generation=2)
    younger = build.rollout("b", born=day(2), complete=True)
    found = of(touched, younger)
    assert names(found.groups["web"]) == (None, "b", None)
    why = found.queued["a"]
    assert (why.name, why.params) == ("RolloutSuperseded", {"rollout": "a", "by": "b"})


def test_it_is_superseded_only_where_the_younger_one_is() -> None:
    touched = build.rollout("a", born=day(1), generation=2, groups=["web", "db"])
    found = of(touched, build.rollout("b", born=day(2), complete=True))
    assert names(found.groups["web"]) == (None, "b", None)
    assert names(found.groups["db"]) == ("a", "a", None)
    assert found.queued == {}


def test_settings_do_not_supersede_an_image() -> None:
    found = of(build.rollout("a", born=day(1)), build.rollout("s", born=day(2), complete=True, **SETTINGS))
    assert names(found.groups["web"]) == ("a", "a", "s")


def test_a_rollout_for_groups_that_do_not_exist_says_so() -> None:
    found = of(build.rollout("a", groups=["moon"]))
    assert (found.queued["a"].name, found.queued["a"].params["groups"]) == ("GroupMissing", "moon")
    assert of(build.rollout("a", groups=["moon", "web"])).queued == {}


def test_one_that_is_refused_neither_works_nor_stands_in_the_way() -> None:
    first, second = build.rollout("a", born=day(1)), build.rollout("b", born=day(2))
    why = of(first, second).queued["b"]
    found = wishes(GROUPS, {"a": first, "b": second}, {"a": why})
    assert names(found.groups["web"]) == ("b", "b", None)
    assert found.refused == {"a": why}


def test_a_tag_names_the_rollout_and_its_generation() -> None:
    assert tag(build.rollout("a", generation=3)) == "uid-a/3"
