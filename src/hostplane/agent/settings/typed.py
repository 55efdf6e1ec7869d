"""The typed models that are lines of a file of our own: sysctl, limits, hostname, ntp, dns.

Each owns its file, so that what an image or an administrator wrote elsewhere stays as it is and is only outranked. They
refuse what KubeOS's models would leave alone with a warning: a value of another type, an operation other than delete, a
word that would be two.
"""

import re
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from .sysctl import parameter_path
from .wish import Warn, Wish, refuse, scalar, single_line

__all__ = [
    "DNS",
    "DNS_FORMS",
    "HOSTNAME",
    "HOSTNAME_FILE",
    "LIMITS",
    "LIMITS_FILE",
    "NTP",
    "NTP_FORMS",
    "SYSCTL",
    "SYSCTL_FILE",
    "Form",
    "edit_hostname",
    "edit_limits",
    "edit_sysctl",
    "host_name",
    "names_program",
    "parameters",
    "typed_text",
]

SYSCTL, LIMITS, HOSTNAME, NTP, DNS = "sysctl", "limits", "hostname", "ntp", "dns"
SYSCTL_FILE, LIMITS_FILE = "/etc/sysctl.d/99-zz-hostplane.conf", "/etc/security/limits.d/95-hostplane.conf"
HOSTNAME_FILE = "/etc/hostname"
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?)*\Z")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+(%[0-9A-Za-z_.-]+)?\Z")
_LIMIT_TYPES = ("soft", "hard", "-")
_PROGRAMS = ("kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "kernel/poweroff_cmd")
_PROGRAM_PREFIXES = ("kernel/usermodehelper/", "fs/binfmt_misc/")


def typed_text(model: str, wish: Wish) -> str:
    """The wish's value as one line; empty for a delete. Raises HostError SettingRefused."""
    if wish.operation not in ("", "delete"):
        raise refuse(model, wish, "the operation %s is unknown; leave it out, or use delete" % wish.operation[:32])
    value = scalar(wish.value)
    if value is None or (not value.strip() and not wish.is_delete):
        raise refuse(model, wish, "it needs a plain value")
    return single_line(model, wish, value.strip())


# --- key = value and words in lines


def _set_lines(text: str, key_of: Callable[[str], Any], wished: Dict[Any, str]) -> str:
    """`text` with the lines of the wished keys as wished (an empty one: gone), new ones at the end."""
    lines, left = [], dict(wished)
    for line in text.split("\n")[: -1 if text.endswith("\n") or not text else None]:
        key = key_of(line)
        if key not in wished:
            lines.append(line)
        elif left.pop(key, ""):
            lines.append(wished[key])
    return "".join(line + "\n" for line in lines + [line for line in left.values() if line])


def _sysctl_key(line: str) -> str:
    key, equals, _ = line.partition("=")
    return key.strip().lstrip("-") if equals and not line.lstrip().startswith(("#", ";")) else ""


def parameters(model: str, wishes: List[Wish]) -> List[Tuple[str, str]]:
    """(path below /proc/sys, value) of what is to hold now. Raises HostError SettingRefused."""
    return [(parameter_path(model, wish), typed_text(model, wish)) for wish in wishes if not wish.is_delete]


def names_program(path: str) -> bool:
    """Whether the kernel would run what this parameter (a path below /proc/sys) says, as root."""
    return path in _PROGRAMS or path.startswith(_PROGRAM_PREFIXES)


def edit_sysctl(text: str, wishes: List[Wish], warn: Warn) -> str:
    """sysctl: the file that sets the parameters at every boot. Raises HostError SettingRefused."""
    wished = {}
    for wish in wishes:
        parameter_path(SYSCTL, wish)
        key, value = single_line(SYSCTL, wish, wish.key.strip()), typed_text(SYSCTL, wish)
        wished[key] = "" if wish.is_delete else "%s = %s" % (key, value)
    return _set_lines(text, _sysctl_key, wished)


def edit_limits(text: str, wishes: List[Wish], warn: Warn) -> str:
    """limits: the key is `DOMAIN TYPE ITEM`, the value a number or unlimited. Raises HostError SettingRefused."""
    wished = {}
    for wish in wishes:
        words, value = single_line(LIMITS, wish, wish.key).split(), typed_text(LIMITS, wish)
        if len(words) != 3 or words[1] not in _LIMIT_TYPES or words[0].startswith("#"):
            raise refuse(LIMITS, wish, "the key is a domain, one of soft, hard and -, and an item: * hard nofile")
        if not wish.is_delete and not re.match(r"(-?[0-9]+|unlimited|infinity)\Z", value):
            raise refuse(LIMITS, wish, "the value is a number or unlimited")
        wished[tuple(words)] = "" if wish.is_delete else " ".join(words + [value])
    return _set_lines(text, lambda line: tuple(line.split()[:3]) if not line.startswith("#") else (), wished)


def host_name(wishes: List[Wish]) -> str:
    """hostname: the name; empty where it is only given up. Raises HostError SettingRefused."""
    name = ""
    for wish in wishes:
        if wish.key != "name":
            raise refuse(HOSTNAME, wish, "the only key is name")
        name = typed_text(HOSTNAME, wish)
        if wish.is_delete:
            raise refuse(HOSTNAME, wish, "a host has a name; set another one")
        if len(name) > 64 or not _HOST_NAME.match(name):
            raise refuse(HOSTNAME, wish, "it is no host name in lower case of at most 64 characters")
    return name


def edit_hostname(text: str, wishes: List[Wish], warn: Warn) -> str:
    """The file with the host's name."""
    name = host_name(wishes)
    return name + "\n" if name and text.strip() != name else text


# --- time and name servers: who is there decides the form


class Form(NamedTuple):
    """How one program takes its servers; meant where one of `signs` exists on the host, or where there are none.

    `lines` maps a key to its line, whose words come in {}; `repeated` keys give every word a line of its own. Where
    the file is not ours alone, only the lines that begin as the wished ones are replaced.
    """

    signs: Tuple[str, ...]
    file: str
    is_ours: bool
    head: str
    lines: Dict[str, str]
    repeated: Tuple[str, ...]
    service: str

    def edit(self, model: str, text: str, wishes: List[Wish]) -> str:
        """The file after the wishes; empty where nothing is left to say. Raises HostError SettingRefused."""
        found: Dict[str, List[str]] = {}
        for wish in wishes:
            if wish.key not in self.lines:
                raise refuse(model, wish, "the keys are %s" % ", ".join(sorted(self.lines)))
            found[wish.key] = [] if wish.is_delete else _words(model, wish)
        body = []
        for key, words in found.items():
            for part in words if key in self.repeated else [" ".join(words)] if words else []:
                body.append(self.lines[key].format(part))
        if self.is_ours:
            return "".join(line + "\n" for line in ([self.head] if body else []) + body if line)
        gone = {self.lines[key].split()[0] for key in found}
        kept = [line for line in text.splitlines() if line.split()[:1] and line.split()[0] not in gone or not line]
        return "".join(line + "\n" for line in kept + body)


def _words(model: str, wish: Wish) -> List[str]:
    given = wish.value if isinstance(wish.value, list) else [wish.value]
    words = [item.strip() if isinstance(item, str) else "" for item in given]
    if wish.operation or not words or len(words) > 16:
        raise refuse(model, wish, "it needs one to 16 names or addresses, and no operation but delete")
    for word in words:
        is_address = bool(_ADDRESS.match(word)) and (":" in word or word.count(".") == 3)
        if not is_address and not (_HOST_NAME.match(word) and not (model == DNS and wish.key == "servers")):
            raise refuse(model, wish, "%r is no %s" % (word[:80], "address" if model == DNS else "name or address"))
    return words


_CHRONY = {"servers": "server {} iburst", "pools": "pool {} iburst"}
NTP_FORMS = (
    Form(
        ("/etc/chrony/chrony.conf",),
        "/etc/chrony/sources.d/95-hostplane.sources",
        True,
        "",
        _CHRONY,
        ("servers", "pools"),
        "chrony.service",
    ),
    Form(("/etc/chrony.conf",), "/etc/chrony.conf", False, "", _CHRONY, ("servers", "pools"), "chronyd.service"),
    Form(
        ("/usr/lib/systemd/systemd-timesyncd", "/lib/systemd/systemd-timesyncd"),
        "/etc/systemd/timesyncd.conf.d/95-hostplane.conf",
        True,
        "[Time]",
        {"servers": "NTP={}"},
        (),
        "systemd-timesyncd.service",
    ),
)
DNS_FORMS = (
    Form(
        ("/usr/lib/systemd/systemd-resolved", "/lib/systemd/systemd-resolved"),
        "/etc/systemd/resolved.conf.d/95-hostplane.conf",
        True,
        "[Resolve]",
        {"servers": "DNS={}", "search": "Domains={}"},
        (),
        "systemd-resolved.service",
    ),
    Form((), "/etc/resolv.conf", False, "", {"servers": "nameserver {}", "search": "search {}"}, ("servers",), ""),
)
