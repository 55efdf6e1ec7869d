"""What YAML and TOML settings have in common: one value at a path of keys, in whatever map a library parsed.

The same edit is made on the library's own objects, which keep comments, and on plain copies; a file is written only
where both come out the same. A list grows by an update with a list; anything else for a list is left alone, with a
warning.
"""

from typing import Any, Callable, Dict, List

from .wish import DELETE, Warn, Wish

__all__ = ["change", "plain"]


def plain(value: Any) -> Any:
    """A copy in plain maps, lists and scalars, for comparing."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def change(
    tree: Any, path: List[str], wish: Wish, value: Any, new_map: Callable[[], Dict[str, Any]], warn: Warn
) -> None:
    """Set or delete the value at `path` in `tree`, in place."""
    if wish.operation not in ("", DELETE):
        warn("%s: unknown operation %s, taken as an update" % (wish.key, wish.operation))
    for part in path[:-1]:
        if not isinstance(tree.get(part), dict):
            if wish.is_delete or part in tree:
                warn("%s: %s is not a map, left as it is" % (wish.key, part))
                return
            tree[part] = new_map()
        tree = tree[part]
    last = path[-1]
    if wish.is_delete:
        if last in tree:
            del tree[last]
        else:
            warn("%s is not in the file, nothing is deleted" % wish.key)
    elif isinstance(tree.get(last), list):
        if isinstance(value, list):
            for item in value:
                tree[last].append(item)
        else:
            warn("%s is a list and takes only a list" % wish.key)
    else:
        tree[last] = value
