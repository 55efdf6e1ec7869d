"""grub.cmdline.current and .next: the kernel arguments of the running and of the other slot in KubeOS's grub.cfg.

The first line that loads a kernel with root= is slot A's, later ones are B's. The word linux, the kernel's path and
root= are what a host boots by: they cannot be touched. Values are quoted where the boot loader needs it and refused
where no quoting helps.
"""

import re
from typing import List, NamedTuple

from .wish import DELETE, Warn, Wish, refuse, scalar, single_line

__all__ = ["CURRENT", "FILE", "NEXT", "edit"]

CURRENT, NEXT = "grub.cmdline.current", "grub.cmdline.next"
FILE = "/boot/efi/EFI/openEuler/grub.cfg"
_KERNEL_LINE = re.compile(r"\s*linux(?:efi|16)?\s.*?\broot=\S")
_TOKEN = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""")
_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@%+=\-]*\Z")
_UNQUOTABLE = re.compile(r'["$\\`]')
_KEPT = ("root", "hostplane.slot")


class _Token(NamedTuple):
    key: str
    value: str
    is_bare: bool
    text: str


def _read(text: str) -> _Token:
    plain = re.sub(r"""\\(.)|["']""", lambda found: found.group(1) or "", text)
    key, equals, value = plain.partition("=")
    return _Token(key, value, not equals, text)


def edit(text: str, wishes: List[Wish], warn: Warn, slot: str, model: str) -> str:
    """The file after the wishes for `slot`. Raises HostError SettingRefused, ValueError for an unusable file."""
    lines = text.split("\n")
    found = [index for index, line in enumerate(lines) if _KERNEL_LINE.match(line)]
    mine = found[:1] if slot == "A" else found[1:]
    if not mine:
        raise ValueError("it has no kernel line with root= for slot %s" % slot)
    for index in mine:
        lines[index] = _line(lines[index], wishes, warn, model)
    return "\n".join(lines)


def _line(line: str, wishes: List[Wish], warn: Warn, model: str) -> str:
    texts = _TOKEN.findall(line)
    if _TOKEN.sub("", line).strip():
        raise ValueError("a quote in a kernel line is not closed")
    head, tokens = texts[:2], [_read(text) for text in texts[2:]]
    for wish in wishes:
        tokens = _change(tokens, wish, warn, model)
    indent = line[: len(line) - len(line.lstrip())]
    return indent + " ".join(head + [token.text for token in tokens])


def _change(tokens: List[_Token], wish: Wish, warn: Warn, model: str) -> List[_Token]:
    key, value = single_line(model, wish, wish.key.strip()), scalar(wish.value)
    if value is None:
        warn("%s: %s is left as it is: its value is not plain" % (model, key))
        return tokens
    value = single_line(model, wish, value.strip())
    if key in _KEPT:
        raise refuse(model, wish, "the host could not boot without it as it is")
    if not key or "=" in key or not _PLAIN.match(key):
        warn("%s: %r is not the name of a kernel argument" % (model, key))
        return tokens
    if wish.is_delete:
        for index, token in enumerate(tokens):
            if (token.key, token.value, token.is_bare) == (key, value, not value):
                return tokens[:index] + tokens[index + 1 :]
        warn("%s: %s with this value is not there, nothing is deleted" % (model, key))
        return tokens
    if wish.operation not in ("", DELETE):
        warn("%s: %s: unknown operation %s, taken as an update" % (model, key, wish.operation))
    if _UNQUOTABLE.search(value):
        raise refuse(model, wish, "the boot loader cannot be given such a value")
    quoted = value if _PLAIN.match(value) else '"%s"' % value
    fresh = _read("%s=%s" % (key, quoted) if value else key)
    for index, token in enumerate(tokens):
        if token.key != key:
            continue
        if not value and not token.is_bare:
            warn("%s: %s has a value; delete it first to make it a bare argument" % (model, key))
            return tokens
        return tokens if token[:3] == fresh[:3] else tokens[:index] + [fresh] + tokens[index + 1 :]
    return tokens + [fresh]
