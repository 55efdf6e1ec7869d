"""JSON by key (agent.json, daemon.json), written with two blanks of indentation where it has to change."""

import json
from typing import Any, Dict, List, Tuple

from hostplane.agent.etc.lines import Merged, NotMergeable
from hostplane.agent.etc.maps import merge_maps

__all__ = ["merge"]


def merge(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """Raises NotMergeable, ValueError."""
    plan = merge_maps(*(_load(content) for content in (base, ours, theirs)))
    if not plan.edits:
        return Merged(ours, plan.conflicts)
    text = json.dumps(plan.merged, indent=2, ensure_ascii=False) + "\n"
    return Merged(text.encode("utf-8"), plan.conflicts)


def _load(content: bytes) -> Dict[str, Any]:
    tree = json.loads(content.decode("utf-8"), object_pairs_hook=_unique) if content.strip() else {}
    if not isinstance(tree, dict):
        raise NotMergeable("it is not a map")
    return tree


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise NotMergeable("a key stands twice")
    return dict(pairs)
