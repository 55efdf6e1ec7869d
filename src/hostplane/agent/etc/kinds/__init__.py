"""The kinds of files that are merged by what they say; each file of this package is one kind, and pure.

`merge` is the only way in. A kind refuses content that is not plainly of its kind, and a library that stumbles over
some input has refused it too: the caller then treats the file as a whole.
"""

from typing import Callable, Dict

from hostplane.agent.etc.lines import Merged, NotMergeable

from . import certificates, json_tree, keyed, pairs, toml_tree, yaml_tree

__all__ = ["LIMIT", "merge"]

LIMIT = 2 << 20
"""Bytes: a file larger than this is no settings file."""
_TREE_LIMIT = 256 << 10  # bytes: pure Python reads no more of YAML or TOML in an acceptable time
_TREES = ("toml", "yaml")

_Merge = Callable[[bytes, bytes, bytes], Merged]
_MERGES: Dict[str, _Merge] = {
    "certificates": certificates.merge,
    "fstab": keyed.merge_fstab,
    "hosts": keyed.merge_hosts,
    "json": json_tree.merge,
    "limits": keyed.merge_limits,
    "pairs": pairs.merge,
    "services": keyed.merge_services,
    "switch": keyed.merge_colons,
    "table": keyed.merge_table,
    "toml": toml_tree.merge,
    "words": keyed.merge_words,
    "yaml": yaml_tree.merge,
}


def merge(kind: str, base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """`ours` with what the image changed from `base` to `theirs`.

    Raises:
        NotMergeable: for a kind that is not merged, and for content that is not of the kind.
    """
    found = _MERGES.get(kind)
    if found is None or (kind in _TREES and max(len(base), len(ours), len(theirs)) > _TREE_LIMIT):
        raise NotMergeable("it is merged as a whole")
    try:
        return found(base, ours, theirs)
    except NotMergeable:
        raise
    except Exception as fault:  # whatever a parser makes of arbitrary bytes, the file is then one of no known form
        raise NotMergeable(" ".join(str(fault).split())[:200]) from None
