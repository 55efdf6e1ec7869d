"""grub.cmdline.current and .next: the kernel arguments of the running and of the other slot.

On a host that we built they are the slot's extra arguments beside the boot state (bootargs.py); where KubeOS built it,
those of KubeOS's grub.cfg, whose first line that loads a kernel with root= is slot A's, later ones B's. What a host
boots by, or comes back by when a boot fails, cannot be touched, nor what would run or mount what it says. Values are
quoted where the boot loader needs it and refused where no quoting helps.
"""

import re
from typing import List, NamedTuple

from .wish import DELETE, Warn, Wish, refuse, scalar, single_line

__all__ = ["CURRENT", "FILE", "NEXT", "edit", "edit_words"]

CURRENT, NEXT = "grub.cmdline.current", "grub.cmdline.next"
FILE = "/boot/efi/EFI/openEuler/grub.cfg"
_KERNEL_LINE = re.compile(r"\s*linux(?:efi|16)?\s.*?\broot=\S")
_TOKEN = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""")
_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@%+=\-]*\Z")
_UNQUOTABLE = re.compile(r'["$\\`]')
_NAME = re.compile(r"[A-Za-z0-9_.,:/@%+\-]+\Z")
_ONE_WORD = re.compile(r"[!#-&(-\[\]-~]*\Z")  # what GRUB hands over as it is: no blank, quote or backslash
_KEPT = frozenset(
    "root rootfstype rootflags ro rw init rdinit initrd noinitrd BOOT_IMAGE oops nmi_watchdog emergency rescue single "
    "s S b _b 1 2 3 4 5 __ roothash usrhash boot break rdbreak rdshell netboot nfsroot netroot overlayroot resume "
    "resume_offset fstab mem module_blacklist modprobe.blacklist blacklist initcall_blacklist "
    "firmware_class.path".split()
)
_KEPT_PREFIXES = ("hostplane.", "rd.", "dm_mod.", "mount.", "sysctl.", "systemd.")
_FREE = frozenset(
    "systemd.unified_cgroup_hierarchy systemd.legacy_systemd_cgroup_controller systemd.log_level systemd.log_target "
    "systemd.log_color systemd.log_location systemd.log_time systemd.show_status systemd.status_unit_format".split()
)
"""Names with _ for -, as the kernel and systemd compare them."""
_PANIC_SECONDS = 60


class _Token(NamedTuple):
    key: str
    value: str
    is_bare: bool
    text: str


def _read(text: str) -> _Token:
    plain = re.sub(r"""\\(.)|["']""", lambda found: found.group(1) or "", text)
    key, equals, value = plain.partition("=")
    return _Token(key, value, not equals, text)


def _refuse_unbooting(model: str, wish: Wish, key: str, value: str) -> None:
    name = key.replace("-", "_")
    if name in _KEPT or (name.startswith(_KEPT_PREFIXES) and name not in _FREE):
        raise refuse(model, wish, "the host could not boot, or not come back, without it as it is")
    is_reboot = value.isdecimal() and len(value) < 4 and 1 <= int(value) <= _PANIC_SECONDS
    if name == "panic" and value and not wish.is_delete and not is_reboot:
        raise refuse(model, wish, "a kernel that fails must reboot: give 1 to %d seconds" % _PANIC_SECONDS)


def edit(text: str, wishes: List[Wish], warn: Warn, slot: str, model: str) -> str:
    """KubeOS's grub.cfg after the wishes for `slot`. Raises HostError SettingRefused, ValueError: unusable file."""
    lines = text.split("\n")
    found = [index for index, line in enumerate(lines) if _KERNEL_LINE.match(line)]
    mine = found[:1] if slot == "A" else found[1:]
    if not mine:
        raise ValueError("it has no kernel line with root= for slot %s" % slot)
    for index in mine:
        lines[index] = _line(lines[index], wishes, warn, model)
    return "\n".join(lines)


def edit_words(text: str, wishes: List[Wish], warn: Warn, model: str) -> str:
    """Extra arguments, one a line, after the wishes. Raises HostError SettingRefused."""
    tokens = [_read(word) for word in text.split("\n") if word]
    for wish in wishes:
        tokens = _change(tokens, wish, warn, model, True)
    return "".join(token.text + "\n" for token in tokens)


def _line(line: str, wishes: List[Wish], warn: Warn, model: str) -> str:
    texts = _TOKEN.findall(line)
    if _TOKEN.sub("", line).strip():
        raise ValueError("a quote in a kernel line is not closed")
    head, tokens = texts[:2], [_read(text) for text in texts[2:]]
    before = list(tokens)
    for wish in wishes:
        tokens = _change(tokens, wish, warn, model, False)
    if tokens == before:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return indent + " ".join(head + [token.text for token in tokens])


def _change(tokens: List[_Token], wish: Wish, warn: Warn, model: str, one_word: bool) -> List[_Token]:
    key, value = single_line(model, wish, wish.key.strip()), scalar(wish.value)
    if value is None:
        warn("%s: %s is left as it is: its value is not plain" % (model, key))
        return tokens
    value = single_line(model, wish, value.strip())
    _refuse_unbooting(model, wish, key, value)
    if not _NAME.match(key):
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
    if _UNQUOTABLE.search(value) or (one_word and not _ONE_WORD.match(value)):
        raise refuse(model, wish, "the boot loader cannot be given such a value")
    quoted = value if one_word or _PLAIN.match(value) else '"%s"' % value
    fresh = _read("%s=%s" % (key, quoted) if value else key)
    for index, token in enumerate(tokens):
        if token.key != key:
            continue
        if not value and not token.is_bare:
            warn("%s: %s has a value; delete it first to make it a bare argument" % (model, key))
            return tokens
        return tokens if token[:3] == fresh[:3] else tokens[:index] + [fresh] + tokens[index + 1 :]
    return tokens + [fresh]
