"""A bundle of PEM blocks (ca-certificates.crt, tls-ca-bundle.pem): certificates come and go one by one.

So an authority that the host added outlives the image's new list, and one that the image has dropped is gone, unless
the host itself added it. Text between the blocks belongs to the block behind it.
"""

import re
from typing import List

from hostplane.agent.etc.lines import Entry, Merged, NotMergeable, merge_lines

__all__ = ["merge"]

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n([A-Za-z0-9+/=\s]+?)-----END \1-----(?:\n|\Z)")


def merge(base: bytes, ours: bytes, theirs: bytes) -> Merged:
    """Raises NotMergeable."""
    return merge_lines(base, ours, theirs, _parse)


def _parse(text: str) -> List[Entry]:
    entries: List[Entry] = []
    end = 0
    for block in _BLOCK.finditer(text):
        between = text[end : block.start()]
        if "-----" in between:
            raise NotMergeable("a block is broken")
        entries.append(Entry(text[end : block.end()], (block.group(1), "".join(block.group(2).split()))))
        end = block.end()
    if "-----" in text[end:]:
        raise NotMergeable("a block is broken")
    return entries + ([Entry(text[end:])] if text[end:] else [])
