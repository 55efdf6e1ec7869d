"""Why an operation ended, told again later: of a reason only its name is kept on the objects, not what filled its text.

A name whose text can be filled anew is used as it is; any other, also one of a newer program, is named inside a
sentence of its own. So no reason is ever shown with holes.
"""

from __future__ import annotations

from functools import lru_cache
from string import Formatter
from typing import Any

from hostplane.errors import Reason, catalogue, reason

__all__ = ["past"]


@lru_cache(maxsize=1024)
def _needs(name: str) -> frozenset[str] | None:
    """What the entry's text and remedy must be filled with; None where there is no such entry."""
    entry: Any = catalogue().get(name)
    if entry is None:
        return None
    words = "".join(entry[language][part] for language in ("en", "zh_CN") for part in ("text", "remedy"))
    return frozenset(field for _, field, _, _ in Formatter().parse(words) if field)


def past(name: str, node: str, detail: str = "", **known: object) -> Reason:
    """The reason `name` of a former operation of `node`; `detail` is its sentence, where somebody kept it."""
    needs = _needs(name)
    if needs is not None and needs <= known.keys() | {"node"}:
        return reason(name, node=node, **known)
    return reason("OperationEnded", node=node, why=detail or (str(reason(name)).partition(":")[0] + " " + name))
