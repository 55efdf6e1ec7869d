"""Takes one change of a text back out of a later version of it: what undo needs when a file has moved on since.

Lines that the change made are replaced by what was there before, as long as they are still there as it made them; what
others changed elsewhere stays. Where they changed the same lines, nothing is guessed.
"""

from difflib import SequenceMatcher
from typing import Dict, List, Optional

__all__ = ["take_back"]


def take_back(now: str, after: str, before: str) -> Optional[str]:
    """`now` without the change from `before` to `after`; None where its lines are not as the change left them."""
    if now == after:
        return before
    made, current, old = (text.splitlines(True) for text in (after, now, before))
    where = _places(made, current)
    result = list(current)
    for tag, low, high, old_low, old_high in reversed(SequenceMatcher(None, made, old, False).get_opcodes()):
        if tag == "equal":
            continue
        start = _start(where, low, high, len(made), len(current))
        if start is None:
            return None
        result[start : start + high - low] = old[old_low:old_high]
    return "".join(result)


def _places(made: List[str], current: List[str]) -> Dict[int, int]:
    """Index of each line of `made` that is still there -> its index in `current`."""
    blocks = SequenceMatcher(None, made, current, False).get_matching_blocks()
    return {block.a + offset: block.b + offset for block in blocks for offset in range(block.size)}


def _start(where: Dict[int, int], low: int, high: int, size: int, end: int) -> Optional[int]:
    """Where the lines low..high of `made` begin in the current text; None where they are not there as one piece."""
    if low < high:
        start = where.get(low)
        is_whole = start is not None and all(where.get(low + i) == start + i for i in range(high - low))
        return start if is_whole else None
    before = where.get(low - 1) if low else -1
    after = where.get(low) if low < size else end
    if before is None or after is None or after != before + 1:
        return None  # somebody wrote where lines were taken out
    return after
