"""TOML by key, comments and order kept (containerd's configuration)."""

from typing import Any, Dict

from hostplane.agent.etc.lines import Merged, NotMergeable
from hostplane.agent.etc.maps import ABSENT, is_equal, merge_maps

__all__ = ["merge"]


def merge(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """Raises NotMergeable, and whatever the library makes of strange input."""
    import tomlkit

    was, mine, new = (tomlkit.parse(content.decode("utf-8")) for content in (base, ours, theirs))
    plan = merge_maps(_plain(was.unwrap()), _plain(mine.unwrap()), _plain(new.unwrap()))
    if not plan.edits:
        return Merged(ours, plan.conflicts)
    for edit in plan.edits:
        goal: Any = mine
        for part in edit.path[:-1]:
            goal = goal[part]
        if edit.value is ABSENT:
            del goal[edit.path[-1]]
        else:
            goal[edit.path[-1]] = edit.value
    written = tomlkit.dumps(mine)
    if not is_equal(_plain(tomlkit.parse(written).unwrap()), plan.merged):
        raise NotMergeable("its form does not allow the change")
    return Merged(written.encode("utf-8"), plan.conflicts)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        plain: Dict[str, Any] = {str(key): _plain(item) for key, item in value.items()}
        return plain
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise NotMergeable("it has dates")
