"""Three-way merge of files made of lines that have keys; every such kind is one way of parsing.

The local file is the one that is edited: its comments, its order and the lines only it has stay where they are. What
the image changed since (a value, a new key, a key dropped) is done to it where the host left that key alone. A key
that both changed to different values keeps the local one and is named. Pure; the result is parsed again and compared
with what it has to say, and a text that cannot be edited without doubt is refused, never guessed at.
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

__all__ = ["Entry", "Merged", "NotMergeable", "Parse", "merge_lines", "split"]

Key = Tuple[str, ...]
_MOST_WORK = 20000000  # lines to look at: a file that takes more is no settings file


class NotMergeable(ValueError):
    """This content is not of the kind, or its form leaves doubt: it is treated as a plain file."""


class Merged(NamedTuple):
    """The merged content, and the names of what both sides changed and the host kept its own of."""

    content: bytes
    conflicts: Tuple[str, ...] = ()


class Entry(NamedTuple):
    """A line, with its continuations: `text` as it stands. Without a key it is a comment, a blank or a heading."""

    text: str
    key: Optional[Key] = None
    value: str = ""
    section: str = ""
    is_heading: bool = False

    @property
    def place(self) -> Optional[Key]:
        """Section and key; None for what has no key."""
        return None if self.key is None else (self.section,) + self.key

    @property
    def is_comment(self) -> bool:
        return self.key is None and not self.is_heading and bool(self.text.strip())


Parse = Callable[[str], List[Entry]]
_Values = Dict[Key, Tuple[str, ...]]


def split(text: str) -> List[str]:
    """The lines of `text` with their ends; the last one may have none."""
    parts = text.split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _values(entries: List[Entry]) -> _Values:
    found: Dict[Key, List[str]] = {}
    for entry in entries:
        if entry.place is not None:
            found.setdefault(entry.place, []).append(entry.value)
    return {place: tuple(values) for place, values in found.items()}


def merge_lines(base: bytes, ours: bytes, theirs: bytes, parse: Parse) -> Merged:
    """`ours` with what the image changed from `base` to `theirs`. Raises NotMergeable."""
    was, mine, new = (parse(_text(content)) for content in (base, ours, theirs))
    values_was, values_mine, values_new = _values(was), _values(mine), _values(new)
    expected, conflicts = dict(values_mine), []
    places = list(values_new) + [place for place in values_was if place not in values_new]
    changed = sum(1 for place in places if values_was.get(place) != values_new.get(place))
    if changed * (len(mine) + len(new)) > _MOST_WORK:
        raise NotMergeable("too much of it has changed")
    for place in places:
        before, local, image = values_was.get(place), values_mine.get(place), values_new.get(place)
        if local == image or image == before:
            continue
        if local != before:
            if local is not None and image is not None:
                conflicts.append(" ".join(part for part in place if part))
            continue
        if image is None:
            mine = [entry for entry in mine if entry.place != place]
            del expected[place]
            continue
        texts = [entry for entry in new if entry.place == place]
        mine = _inserted(mine, new, place, texts) if local is None else _replaced(mine, place, texts)
        expected[place] = image
    content = "".join(entry.text for entry in _ended(mine))
    if _values(parse(content)) != expected:
        raise NotMergeable("its form does not allow the change")
    return Merged(content.encode("utf-8", "surrogateescape"), tuple(conflicts))


def _text(content: bytes) -> str:
    if b"\0" in content:
        raise NotMergeable("it is no text")
    return content.decode("utf-8", "surrogateescape")


def _ended(entries: List[Entry]) -> List[Entry]:
    """Every line with an end, but for the last one."""
    return [
        entry if entry.text.endswith("\n") or index == len(entries) - 1 else entry._replace(text=entry.text + "\n")
        for index, entry in enumerate(entries)
    ]


def _replaced(mine: List[Entry], place: Key, texts: List[Entry]) -> List[Entry]:
    """`texts` where the entries of `place` stand, one for one as far as they go; what is over follows the last."""
    left, out, last = list(texts), [], 0
    for entry in mine:
        if entry.place != place:
            out.append(entry)
        elif left:
            out.append(left.pop(0))
            last = len(out)
    return out[:last] + left + out[last:]


def _inserted(mine: List[Entry], new: List[Entry], place: Key, texts: List[Entry]) -> List[Entry]:
    """`texts`, with the comment above the first, behind the key that precedes them in the image's file."""
    section = texts[0].section
    first = new.index(texts[0])
    lead = first
    while lead and new[lead - 1].is_comment and new[lead - 1].section == section:
        lead -= 1
    block = new[lead:first] + texts
    for entry in reversed(new[:lead]):
        if entry.section == section and entry.place is not None:
            at = [index for index, found in enumerate(mine) if found.place == entry.place]
            if at:
                return mine[: at[-1] + 1] + block + mine[at[-1] + 1 :]
    inside = [index for index, found in enumerate(mine) if found.section == section and found.text.strip()]
    if inside:
        return mine[: inside[-1] + 1] + block + mine[inside[-1] + 1 :]
    if not section:
        return block + mine
    heading = next(entry for entry in new if entry.is_heading and entry.section == section)
    gap = [Entry("\n", section=mine[-1].section)] if mine else []
    return mine + gap + [heading] + block
