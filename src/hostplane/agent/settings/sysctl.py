"""kernel.sysctl and kernel.sysctl.persist: kernel parameters, now and at every boot.

A key's dots are slashes below /proc/sys. As in sysctl(8), a slash in a key is a literal dot (a VLAN interface), and a
key whose first separator is a slash is a path already. In a file every line of a key is brought to the wished value,
because the kernel takes the last one; comments, blank lines and the order of the rest stay.
"""

from typing import List, Tuple

from .wish import DELETE, Warn, Wish, refuse, scalar, single_line

__all__ = ["PERSISTENT", "RUNTIME", "edit", "parameter_path", "runtime_writes"]

RUNTIME, PERSISTENT = "kernel.sysctl", "kernel.sysctl.persist"


def runtime_writes(wishes: List[Wish], warn: Warn) -> List[Tuple[str, str]]:
    """(path below /proc/sys, value) of each parameter to set. Raises HostError SettingRefused."""
    writes = []
    for wish in wishes:
        value = scalar(wish.value)
        if wish.operation or not value:
            warn("%s: %s is left as it is: only setting a plain value is possible" % (RUNTIME, wish.key))
            continue
        writes.append((parameter_path(RUNTIME, wish), single_line(RUNTIME, wish, value)))
    return writes


def parameter_path(model: str, wish: Wish) -> str:
    """The path below /proc/sys that the wish's key names. Raises HostError SettingRefused."""
    key = single_line(model, wish, wish.key.strip())
    first = next((mark for mark in key if mark in "./"), ".")
    if first == ".":
        key = key.translate({ord("."): "/", ord("/"): "."})
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise refuse(model, wish, "it names no kernel parameter")
    return key


def _entry(line: str) -> Tuple[str, str]:
    """(key, value) of a line; the key of a comment or a blank line is empty."""
    text = line.strip()
    if not text or text[0] in "#;":
        return "", ""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError("the line %r has no key and value" % text[:80])
    return key.strip(), value.strip()


def edit(text: str, wishes: List[Wish], warn: Warn) -> str:
    """The file after the wishes. Raises HostError SettingRefused, ValueError for a file that is none of the kind."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    entries = [(_entry(line), line) for line in lines]
    for wish in wishes:
        value = scalar(wish.value)
        if value is None:
            warn("%s: %s is left as it is: its value is not plain" % (PERSISTENT, wish.key))
            continue
        key, value = single_line(PERSISTENT, wish, wish.key.strip()), single_line(PERSISTENT, wish, value.strip())
        if wish.operation not in ("", DELETE):
            warn("%s: %s: unknown operation %s, taken as an update" % (PERSISTENT, key, wish.operation))
        is_there = bool(key) and any(found == key for (found, _), _ in entries)
        if wish.is_delete:
            kept = [item for item in entries if item[0] != (key, value)]
            if not key or len(kept) == len(entries):
                warn("%s: %s=%s is not in the file, nothing is deleted" % (PERSISTENT, key, value))
            else:
                entries = kept
        elif not value or not key or "=" in key or key[0] in "#;":
            warn("%s: %s is left as it is: it has no value or no usable key" % (PERSISTENT, key))
        elif is_there:
            changed = ((key, value), "%s=%s" % (key, value))
            entries = [changed if item[0][0] == key and item[0][1] != value else item for item in entries]
        else:
            entries.append(((key, value), "%s=%s" % (key, value)))
    return "".join(line + "\n" for _, line in entries)
