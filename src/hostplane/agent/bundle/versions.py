"""Which of two versions is the later one, for `minimumVersion`: one rule for every distribution's way of writing them.

A version is runs of digits and runs of letters; what stands between only separates. Runs are compared from the left:
digits as numbers, letters as text, digits later than letters, a run later than none. A `~` before a run makes the
version earlier than one that ends there: 1.2~rc1 < 1.2 < 1.2.1 < 1.10.
"""

import re
from typing import List, Tuple

__all__ = ["compare", "is_below"]

_RUN = re.compile(r"~|[0-9]+|[A-Za-z]+")
_Run = Tuple[int, int, str]
_TILDE, _END, _LETTERS, _DIGITS = 0, 1, 2, 3


def _runs(version: str) -> List[_Run]:
    runs = []  # type: List[_Run]
    for text in _RUN.findall(version):
        if text == "~":
            runs.append((_TILDE, 0, ""))
        else:
            runs.append((_DIGITS, int(text), "") if text.isdecimal() else (_LETTERS, 0, text))
    return runs + [(_END, 0, "")]


def compare(one: str, two: str) -> int:
    """-1, 0 or 1: whether `one` is earlier than, as late as, or later than `two`."""
    first, second = _runs(one), _runs(two)
    return (first > second) - (first < second)


def is_below(version: str, minimum: str) -> bool:
    """Whether `version` is earlier than `minimum`."""
    return compare(version, minimum) < 0
