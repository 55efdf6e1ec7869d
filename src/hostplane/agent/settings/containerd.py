"""container.containerd and containerd: containerd's TOML configuration, its comments and order kept.

TOML has no null and its integers have 64 bits: KubeOS's model leaves such a value, and a map, out with a warning; the
typed one refuses them. A file whose values stay the same stays the same to the byte.
"""

from typing import Any, Dict, List

from .tree import change, plain
from .wish import Warn, Wish, key_path, refuse, scalar

__all__ = ["FILE", "MODEL", "TYPED", "edit", "edit_typed"]

MODEL, TYPED = "container.containerd", "containerd"
FILE = "/etc/containerd/config.toml"


def _is_usable(value: Any) -> bool:
    return value is not None and scalar(value) is not None


def edit_typed(text: str, wishes: List[Wish], warn: Warn) -> str:
    """As `edit`, for the typed model: a list is what the wish says, and what TOML cannot hold is refused."""
    return edit(text, wishes, warn, TYPED)


def edit(text: str, wishes: List[Wish], warn: Warn, typed: str = "") -> str:
    """The file after the wishes. Raises HostError SettingRefused, ValueError for a file that cannot be edited."""
    import tomlkit
    from tomlkit.exceptions import ParseError, TOMLKitError

    model = typed or MODEL
    try:
        tree = tomlkit.parse(text)
        before = plain(tree.unwrap())
        expected: Dict[str, Any] = plain(tree.unwrap())
        for wish in wishes:
            path, value = key_path(model, wish), wish.value
            if isinstance(value, list):
                value = [item for item in value if _is_usable(item)]
                if len(value) < len(wish.value):
                    if typed:
                        raise refuse(model, wish, "TOML cannot hold a member of the list")
                    warn("%s: %s: members TOML cannot hold are dropped" % (model, wish.key))
            elif not wish.is_delete and not _is_usable(value):
                if typed:
                    raise refuse(model, wish, "TOML cannot hold the value; give each key of a table a path of its own")
                warn("%s: %s is left as it is: TOML cannot hold the value" % (model, wish.key))
                continue
            change(tree, path, wish, value, tomlkit.table, warn, typed)
            change(expected, path, wish, plain(value), dict, lambda words: None, typed)
        if expected == before:
            return text
        written = tomlkit.dumps(tree)
        if plain(tomlkit.parse(written).unwrap()) != plain(expected):
            raise ValueError("its form does not allow this change; give every table a header of its own")
    except (ParseError, TOMLKitError, RecursionError) as fault:
        raise ValueError(" ".join(str(fault).split())[:200]) from None
    return written
