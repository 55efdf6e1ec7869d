"""kubernetes.kubelet and kubelet: the kubelet's YAML configuration, its comments and order kept.

The kubelet reads YAML 1.1, where `on`, `1:30` and `012` are no strings; strings that it would take for something else
are quoted. A file whose values stay the same stays the same to the byte.
"""

import io
import re
from typing import Any, Dict, List

from .tree import change, plain
from .wish import Warn, Wish, key_path

__all__ = ["FILE", "MODEL", "TYPED", "edit", "edit_typed"]

MODEL, TYPED = "kubernetes.kubelet", "kubelet"
FILE = "/var/lib/kubelet/config.yaml"
_WORDS = ("", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n")
_NUMBER_LIKE = re.compile(r"[-+.]?[0-9][-+._:0-9a-fA-FxXoO]*\Z")
_INDENTED_LIST = re.compile(r"^( *)[^\s#-][^\n]*:[ \t]*\n\1  - ", re.MULTILINE)


def _written(value: Any) -> Any:
    """`value` with quotes asked for where plain text would be read as something else."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, str) and (value.lower() in _WORDS or _NUMBER_LIKE.match(value)):
        return DoubleQuotedScalarString(value)
    return value


def edit_typed(text: str, wishes: List[Wish], warn: Warn) -> str:
    """As `edit`, for the typed model: a list is what the wish says, and what does not fit is refused."""
    return edit(text, wishes, warn, TYPED)


def edit(text: str, wishes: List[Wish], warn: Warn, typed: str = "") -> str:
    """The file after the wishes. Raises HostError SettingRefused, ValueError for a file that cannot be edited."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    if _INDENTED_LIST.search(text):
        yaml.indent(mapping=2, sequence=4, offset=2)
    try:
        tree = yaml.load(text)
        if tree is None:
            tree = CommentedMap()
        if not isinstance(tree, dict):
            raise ValueError("it is not a map")
        before = plain(tree)
        expected: Dict[str, Any] = plain(tree)
        for wish in wishes:
            path = key_path(typed or MODEL, wish)
            change(tree, path, wish, _written(wish.value), CommentedMap, warn, typed)
            change(expected, path, wish, plain(wish.value), dict, lambda words: None, typed)
        if expected == before:
            return text
        written = io.StringIO()
        yaml.dump(tree, written)
        if plain(yaml.load(written.getvalue())) != plain(expected):
            raise ValueError("its form does not allow this change; rewrite it in block style")
    except (YAMLError, RecursionError) as fault:
        raise ValueError(" ".join(str(fault).split())[:200]) from None
    return written.getvalue()
