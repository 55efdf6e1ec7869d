"""YAML by key, comments and order kept (the kubelet's configuration, crictl.yaml, netplan, cloud.cfg).

Refused, hence treated as a whole: several documents in one file, anchors and aliases, tags, keys that are no strings.
"""

import io
import re
from typing import Any, Dict

from hostplane.agent.etc.lines import Merged, NotMergeable
from hostplane.agent.etc.maps import ABSENT, is_equal, merge_maps

__all__ = ["merge"]

_REFERENCES = re.compile(r"(?m)(?:^|[\s\[{,])[&*!][^\s]")


def merge(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """Raises NotMergeable, and whatever the library makes of strange input."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 1 << 20

    def load(text: str) -> Any:
        if _REFERENCES.search(text):
            raise NotMergeable("it has anchors, aliases or tags")
        tree = yaml.load(text)
        if tree is None:
            tree = CommentedMap()
        if not isinstance(tree, dict):
            raise NotMergeable("it is not a map")
        return tree

    texts = [content.decode("utf-8") for content in (base, ours, theirs)]
    was, mine, new = (load(text) for text in texts)
    plan = merge_maps(_plain(was), _plain(mine), _plain(new))
    if not plan.edits:
        return Merged(ours, plan.conflicts)
    _indent_like(yaml, texts[1])
    for edit in plan.edits:
        goal, source = mine, new
        for part in edit.path[:-1]:
            goal, source = goal[part], source.get(part, {})
        if edit.value is ABSENT:
            del goal[edit.path[-1]]
        else:
            goal[edit.path[-1]] = source[edit.path[-1]]
    written = io.StringIO()
    yaml.dump(mine, written)
    if not is_equal(_plain(load(written.getvalue())), plan.merged):
        raise NotMergeable("its form does not allow the change")
    return Merged(written.getvalue().encode("utf-8"), plan.conflicts)


def _plain(value: Any) -> Any:
    """The same in plain maps and lists; scalars keep what tells them apart."""
    if isinstance(value, dict):
        plain: Dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise NotMergeable("a key is no string")
            plain[str(key)] = _plain(item)
        return plain
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def _indent_like(yaml: Any, text: str) -> None:
    """Lists indented as in `text`: an edited file should differ where it was edited."""
    if re.search(r"(?m)^(\s*)[^\s#-][^\n]*:[ \t]*\n(?:[ \t]*(?:#[^\n]*)?\n)*\1 +- ", text):
        yaml.indent(mapping=2, sequence=4, offset=2)
