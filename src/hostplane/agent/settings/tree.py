"""What YAML and TOML settings have in common: one value at a path of keys, in whatever map a library parsed.

The same edit is made on the library's own objects, which keep comments, and on plain copies; a file is written only
where both come out the same. KubeOS's models let a list grow by what it does not hold yet and warn of what does not
fit; the typed ones put the value there as it is and refuse what does not fit. Either way a second time changes nothing.
"""

from typing import Any, Callable, Dict, List

from .wish import DELETE, Warn, Wish, refuse

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
    tree: Any,
    path: List[str],
    wish: Wish,
    value: Any,
    new_map: Callable[[], Dict[str, Any]],
    warn: Warn,
    typed: str = "",
) -> None:
    """Set or delete the value at `path` in `tree`, in place. `typed` names a typed model, which refuses.

    Raises:
        HostError: SettingRefused, for a typed model.
    """
    if not typed and wish.operation not in ("", DELETE):
        warn("%s: unknown operation %s, taken as an update" % (wish.key, wish.operation))
    for part in path[:-1]:
        if not isinstance(tree.get(part), dict):
            if wish.is_delete and part not in tree:
                if not typed:
                    warn("%s is not in the file, nothing is deleted" % wish.key)
                return
            if part in tree:
                if typed:
                    raise refuse(typed, wish, "%s is not a map in the file" % part)
                warn("%s: %s is not a map, left as it is" % (wish.key, part))
                return
            tree[part] = new_map()
        tree = tree[part]
    last = path[-1]
    if wish.is_delete:
        if last in tree:
            del tree[last]
        elif not typed:
            warn("%s is not in the file, nothing is deleted" % wish.key)
    elif not typed and isinstance(tree.get(last), list):
        if isinstance(value, list):
            known = [plain(item) for item in tree[last]]
            for item in value:
                if plain(item) not in known:
                    known.append(plain(item))
                    tree[last].append(item)
        else:
            warn("%s is a list and takes only a list" % wish.key)
    elif last not in tree or plain(tree[last]) != plain(value):
        tree[last] = value
