"""One wished setting, and what the models share: values as text, keys as paths, what never belongs in a line."""

import json
from typing import Any, Callable, List, NamedTuple, Optional

from hostplane.errors import HostError

__all__ = ["DELETE", "Edit", "Warn", "Wish", "key_path", "refuse", "scalar", "single_line"]

DELETE = "delete"
_INT_BOUNDS = (-(1 << 63), (1 << 63) - 1)

Warn = Callable[[str], None]


class Wish(NamedTuple):
    """A key, any JSON value, and an operation: empty or `delete`; any other word counts as empty, with a warning."""

    key: str
    value: Any
    operation: str

    @property
    def is_delete(self) -> bool:
        """Whether the key is to go."""
        return self.operation == DELETE


Edit = Callable[[str, List[Wish], Warn], str]


def refuse(model: str, wish: Wish, detail: str) -> HostError:
    """The error that stops a request because of one setting."""
    return HostError("SettingRefused", model=model, key=wish.key[:100] or '""', detail=detail)


def scalar(value: Any) -> Optional[str]:
    """The text of a plain value: null is empty; None for a list, a map or a number no kernel takes."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and not _INT_BOUNDS[0] <= value <= _INT_BOUNDS[1]:
        return None
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def single_line(model: str, wish: Wish, text: str) -> str:
    """`text`, which goes into a line of a file.

    Raises:
        HostError: SettingRefused where it would end the line, or cannot be written as UTF-8.
    """
    if any(mark in text for mark in "\n\r\0\v\f\x1c\x1d\x1e\x85\u2028\u2029"):
        raise refuse(model, wish, "it contains a line break")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise refuse(model, wish, "it is not valid Unicode") from None
    return text


def key_path(model: str, wish: Wish) -> List[str]:
    """The parts of `a."b.c".d`: a, b.c, d.

    Raises:
        HostError: SettingRefused for an empty part or an open quote.
    """
    parts: List[str] = []
    rest = single_line(model, wish, wish.key)
    while True:
        if rest.startswith('"'):
            part, quote, rest = rest[1:].partition('"')
            if not quote or (rest and not rest.startswith(".")):
                raise refuse(model, wish, "a quoted part must end with a quote and a dot")
            is_last, rest = not rest, rest[1:]
        else:
            part, dot, rest = rest.partition(".")
            is_last = not dot
        if not part or (is_last is False and not rest):
            raise refuse(model, wish, "a part of the key is empty")
        parts.append(part)
        if is_last:
            return parts
