"""key = value, with or without [sections]: sysctl.d, systemd's files, os-release, environment, default/*, most *.conf.

A key that stands several times (ExecStart=) is one thing with several values. A line that is none of comment, heading
and pair makes the file one of another kind: a script, or settings of an own grammar, is never edited by guessing.
"""

import re
from typing import List

from hostplane.agent.etc.lines import Entry, Merged, NotMergeable, merge_lines, split

__all__ = ["merge", "parse"]

_PAIR = re.compile(r"\s*(?:export\s+)?([\w.\-/:*@+%]+(?: [\w\-]+)*)\s*=[ \t]*(.*)\Z", re.DOTALL)
_HEADING = re.compile(r"\s*\[([^\[\]\n]+)\]\s*\Z")


def merge(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """Raises NotMergeable."""
    return merge_lines(base, ours, theirs, parse)


def parse(text: str) -> List[Entry]:
    """Raises NotMergeable."""
    entries: List[Entry] = []
    section, held = "", ""
    for line in split(text):
        held += line
        if line.rstrip("\n").endswith("\\") and not held.lstrip().startswith(("#", ";")):
            continue
        entry = _entry(held, section)
        section = entry.section
        entries.append(entry)
        held = ""
    if held:
        raise NotMergeable("its last line is continued")
    return entries


def _entry(text: str, section: str) -> Entry:
    words = text.strip()
    if not words or words[0] in "#;":
        return Entry(text, section=section)
    heading = _HEADING.match(text)
    if heading is not None:
        return Entry(text, section=heading.group(1).strip(), is_heading=True)
    pair = _PAIR.match(text)
    if pair is None:
        raise NotMergeable("a line has no key and value")
    value = " ".join(pair.group(2).replace("\\\n", " ").split())
    if value[:1] in ("'", '"') and value.count(value[0]) % 2:
        raise NotMergeable("a quoted value goes over several lines")
    return Entry(text, (" ".join(pair.group(1).split()),), value, section)
