"""kubernetes.kubelet: the kubelet's YAML configuration, its comments and order kept.

The kubelet reads YAML 1.1, where `on`, `1:30` and `012` are no strings; strings that it would take for something else
are quoted.
"""

import io
import re
from typing import Any, Dict, List

from .tree import change, plain
from .wish import Warn, Wish, key_path

__all__ = ["FILE", "MODEL", "edit"]

MODEL = "kubernetes.kubelet"
FILE = "/var/lib/kubelet/config.yaml"
_WORDS = ("", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n")
_NUMBER_LIKE = re.compile(r"[-+.]?[0-9][-+._:0-9a-fA-FxXoO]*\Z")


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


def edit(text: str, wishes: List[Wish], warn: Warn) -> str:
    """The file after the wishes. Raises HostError SettingRefused, ValueError for a file that cannot be edited."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    try:
        tree = yaml.load(text)
        if tree is None:
            tree = CommentedMap()
        if not isinstance(tree, dict):
            raise ValueError("it is not a map")
        expected: Dict[str, Any] = plain(tree)
        for wish in wishes:
            path = key_path(MODEL, wish)
            change(tree, path, wish, _written(wish.value), CommentedMap, warn)
            change(expected, path, wish, plain(wish.value), dict, lambda words: None)
        written = io.StringIO()
        yaml.dump(tree, written)
        if plain(yaml.load(written.getvalue())) != plain(expected):
            raise ValueError("its form does not allow this change; rewrite it in block style")
    except (YAMLError, RecursionError) as fault:
        raise ValueError(" ".join(str(fault).split())[:200]) from None
    return written.getvalue()
