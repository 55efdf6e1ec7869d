"""container.containerd: containerd's TOML configuration, its comments and order kept.

TOML has no null and its integers have 64 bits: such a value, and a map, is left out with a warning.
"""

from typing import Any, Dict, List

from .tree import change, plain
from .wish import Warn, Wish, key_path, scalar

__all__ = ["FILE", "MODEL", "edit"]

MODEL = "container.containerd"
FILE = "/etc/containerd/config.toml"


def _is_usable(value: Any) -> bool:
    return value is not None and scalar(value) is not None


def edit(text: str, wishes: List[Wish], warn: Warn) -> str:
    """The file after the wishes. Raises HostError SettingRefused, ValueError for a file that cannot be edited."""
    import tomlkit
    from tomlkit.exceptions import ParseError, TOMLKitError

    try:
        tree = tomlkit.parse(text)
        expected: Dict[str, Any] = plain(tree.unwrap())
        for wish in wishes:
            path, value = key_path(MODEL, wish), wish.value
            if isinstance(value, list):
                value = [item for item in value if _is_usable(item)]
                if len(value) < len(wish.value):
                    warn("%s: %s: members TOML cannot hold are dropped" % (MODEL, wish.key))
            elif not wish.is_delete and not _is_usable(value):
                warn("%s: %s is left as it is: TOML cannot hold the value" % (MODEL, wish.key))
                continue
            change(tree, path, wish, value, tomlkit.table, warn)
            change(expected, path, wish, plain(value), dict, lambda words: None)
        written = tomlkit.dumps(tree)
        if plain(tomlkit.parse(written).unwrap()) != plain(expected):
            raise ValueError("its form does not allow this change; give every table a header of its own")
    except (ParseError, TOMLKitError, RecursionError) as fault:
        raise ValueError(" ".join(str(fault).split())[:200]) from None
    return written
