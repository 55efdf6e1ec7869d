"""pam.limits: /etc/security/limits.conf, a line being domain, type, item and value.

The key is the domain, the value `type.item.value`. `_` keeps a part on update. A limit is known by its domain, type
and item together, so that `* soft nofile` and `* hard nofile` can both be set. Blanks and tabs separate; lines of
another shape are left alone.
"""

from typing import List, Optional

from .wish import DELETE, Warn, Wish, scalar, single_line

__all__ = ["FILE", "MODEL", "edit"]

MODEL = "pam.limits"
FILE = "/etc/security/limits.conf"
_KEEP = "_"


def _fields(line: str) -> Optional[List[str]]:
    fields = line.split()
    return fields if len(fields) == 4 and not line.lstrip().startswith("#") else None


def edit(text: str, wishes: List[Wish], warn: Warn) -> str:
    """The file after the wishes. Raises HostError SettingRefused for a key or value with a line break."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    for wish in wishes:
        value = scalar(wish.value)
        parts = [part.strip() for part in (value or "").split(".", 2)]
        domain = single_line(MODEL, wish, wish.key.strip())
        is_usable = len(domain.split()) == 1 and not domain.startswith("#")
        if value is None or len(parts) != 3 or any(len(part.split()) != 1 for part in parts) or not is_usable:
            warn("%s: %s is left as it is: a domain and a value like hard.nofile.4096 are needed" % (MODEL, domain))
            continue
        single_line(MODEL, wish, value)
        if wish.operation not in ("", DELETE):
            warn("%s: %s: unknown operation %s, taken as an update" % (MODEL, domain, wish.operation))
        lines = _change(lines, domain, parts, wish.is_delete, warn)
    return "".join(line + "\n" for line in lines)


def _change(lines: List[str], domain: str, parts: List[str], is_delete: bool, warn: Warn) -> List[str]:
    for index, line in enumerate(lines):
        found = _fields(line)
        if found is None or found[0] != domain:
            continue
        if is_delete:
            if found[1:] == parts:
                return lines[:index] + lines[index + 1 :]
        elif parts[0] in (_KEEP, found[1]) and parts[1] in (_KEEP, found[2]):
            fresh = found[:3] + [found[3] if parts[2] == _KEEP else parts[2]]
            return lines if fresh == found else lines[:index] + [" ".join(fresh)] + lines[index + 1 :]
    if is_delete:
        warn("%s: %s %s is not in the file, nothing is deleted" % (MODEL, domain, ".".join(parts)))
        return lines
    if _KEEP in parts:
        warn("%s: %s has no line whose parts could be kept" % (MODEL, domain))
        return lines
    return lines + [" ".join([domain] + parts)]
