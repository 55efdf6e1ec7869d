"""Which path below /etc is of which kind: data, first match wins. A path without a row is merged as a whole file.

Patterns are paths below /etc; `*` and `?` stay within one name. A pattern also covers everything below what it matches.

    image       the image's where it has one, or had: generated from what it has, or bound to its programs
    fresh       the image's, and nothing where it has none: made anew by the system when it is missing
    local       always the host's where it has one: state of this machine, or made by programs of it
    users       the user databases, merged together (users.py)
    links       links that say what is on or off; the host's own on, off and masked stay
    choices     links that choose a program; the host's choice stays while the image has that program
    runlevels   links whose name carries a number: S20NAME and K80NAME are the same link
    others      ways of reading a file's lines or keys (kinds/)
"""

import re
from typing import Iterable, Pattern, Tuple

__all__ = ["CONTAINERS", "NOT_CARRIED", "NO_COPY_BESIDE", "PLACES", "RULES", "Paths", "kind_of"]

RULES: Tuple[Tuple[str, str], ...] = (
    ("passwd", "users"),
    ("group", "users"),
    ("shadow", "users"),
    ("gshadow", "users"),
    ("subuid", "users"),
    ("subgid", "users"),
    ("passwd-", "local"),
    ("group-", "local"),
    ("shadow-", "local"),
    ("gshadow-", "local"),
    ("subuid-", "local"),
    ("subgid-", "local"),
    (".pwd.lock", "local"),
    ("adjtime", "local"),
    ("resolv.conf", "local"),
    ("blkid.tab", "local"),
    ("lvm/cache", "local"),
    ("lvm/archive", "local"),
    ("lvm/backup", "local"),
    ("multipath/bindings", "local"),
    ("multipath/wwids", "local"),
    ("iscsi/initiatorname.iscsi", "local"),
    ("nvme/hostid", "local"),
    ("nvme/hostnqn", "local"),
    (".updated", "fresh"),
    ("ld.so.cache", "fresh"),
    ("mtab", "image"),
    ("os-release", "image"),
    ("system-release", "image"),
    ("system-release-cpe", "image"),
    ("redhat-release", "image"),
    ("debian_version", "image"),
    ("*-release", "image"),
    ("udev/hwdb.bin", "fresh"),
    ("selinux/*/policy", "image"),
    ("selinux/*/contexts/files/*.bin", "image"),
    ("selinux/*/contexts/files/file_contexts", "image"),
    ("systemd/system/*.wants", "links"),
    ("systemd/system/*.requires", "links"),
    ("systemd/user/*.wants", "links"),
    ("systemd/user/*.requires", "links"),
    ("alternatives", "choices"),
    ("rc?.d", "runlevels"),
    ("rc.d/rc?.d", "runlevels"),
    ("ssl/certs/ca-certificates.crt", "certificates"),
    ("ssl/certs", "links"),
    ("pki/ca-trust/extracted/pem/directory-hash", "links"),
    ("pki/ca-trust/extracted/pem/*.pem", "certificates"),
    ("pki/ca-trust/extracted/openssl/*.crt", "certificates"),
    ("fstab", "fstab"),
    ("hosts", "hosts"),
    ("security/limits.conf", "limits"),
    ("security/limits.d/*.conf", "limits"),
    ("services", "services"),
    ("nsswitch.conf", "switch"),
    ("aliases", "switch"),
    ("login.defs", "table"),
    ("crypttab", "table"),
    ("networks", "table"),
    ("protocols", "table"),
    ("rpc", "table"),
    ("ethertypes", "table"),
    ("shells", "words"),
    ("modules", "words"),
    ("modules-load.d/*.conf", "words"),
    ("ld.so.conf.d/*.conf", "words"),
    ("hostplane/blocked", "words"),
    ("environment", "pairs"),
    ("environment.d/*", "pairs"),
    ("default/*", "pairs"),
    ("sysconfig/*", "pairs"),
    ("systemd/*/*.service", "pairs"),
    ("systemd/*/*.socket", "pairs"),
    ("systemd/*/*.timer", "pairs"),
    ("systemd/*/*.mount", "pairs"),
    ("systemd/*/*.path", "pairs"),
    ("systemd/*/*.slice", "pairs"),
    ("systemd/*/*.target", "pairs"),
    ("systemd/network/*", "pairs"),
    ("kubelet/config.yaml", "yaml"),
    ("*.yaml", "yaml"),
    ("*.yml", "yaml"),
    ("*/*.yaml", "yaml"),
    ("*/*.yml", "yaml"),
    ("*/*/*.yaml", "yaml"),
    ("cloud/cloud.cfg", "yaml"),
    ("*.toml", "toml"),
    ("*/*.toml", "toml"),
    ("*/*/*.toml", "toml"),
    ("*/*/*/*.toml", "toml"),
    ("*.json", "json"),
    ("*/*.json", "json"),
    ("*/*/*.json", "json"),
    ("*.conf", "pairs"),
    ("*/*.conf", "pairs"),
    ("*/*/*.conf", "pairs"),
    ("*/*/*/*.conf", "pairs"),
    ("*/*.ini", "pairs"),
    ("*/*.repo", "pairs"),
)

NOT_CARRIED: Tuple[str, ...] = (
    "apt",
    "dpkg",
    "yum",
    "yum.conf",
    "yum.repos.d",
    "dnf",
    "rpm",
    "zypp",
    "dracut.conf",
    "dracut.conf.d",
    "initramfs-tools",
    "mkinitcpio.conf",
    "grub.d",
    "grub2.cfg",
    "grub2-efi.cfg",
    "default/grub",
    "kernel/postinst.d",
    "kernel/postrm.d",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.cache",
    "selinux",
    "apparmor",
    "apparmor.d",
    "pam.conf",
    "pam.d",
    "authselect",
    "crypto-policies",
    "alternatives",
    "rc?.d",
    "rc.d",
    "init.d",
    "profile",
    "bash.bashrc",
    "bashrc",
    "nsswitch.conf",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "pki/rpm-gpg",
    "python3*",
    "perl",
    "terminfo",
    "tmpfiles.d",
    "udev/rules.d",
)
"""What never goes from one distribution to another: bound to a distribution's tools, libraries and paths."""

NO_COPY_BESIDE: Tuple[str, ...] = ("logrotate.d", "cron.d", "NetworkManager/dispatcher.d")
"""Directories whose every file is read or run: the image's version of a conflict is not laid beside the local one."""

PLACES: Tuple[str, ...] = (
    "var/log",
    "var/spool",
    "var/mail",
    "var/cache",
    "var/crash",
    "var/lib/systemd",
)
"""Where, besides their homes and what an image's own /var says, the files of renumbered users are looked for."""

CONTAINERS: Tuple[str, ...] = (
    "var/lib/cni",
    "var/lib/containerd",
    "var/lib/containers",
    "var/lib/cri-dockerd",
    "var/lib/crio",
    "var/lib/docker",
    "var/lib/dockershim",
    "var/lib/etcd",
    "var/lib/kubelet",
    "var/lib/longhorn",
    "var/lib/rancher",
    "var/lib/rook",
    "var/local",
    "var/log/containers",
    "var/log/pods",
    "var/openebs",
)
"""Where numbers are those of containers, not of the host's users: never touched."""


class Paths(object):
    """Patterns, as a shell reads them, and everything below what they match."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def covers(self, path: str) -> bool:
        """Whether `path` is matched, or lies below what is."""
        return any(pattern.match(path) for pattern in self._patterns)


def _compiled(pattern: str) -> Pattern[str]:
    names = [_name(name) for name in pattern.strip("/").split("/")]
    return re.compile("(?s)" + "/".join(names) + r"(?:/|\Z)")


def _name(pattern: str) -> str:
    words = [r"(?!\.)"] if pattern[:1] in ("*", "?", "[") else []
    for part in re.split(r"(\*|\?|\[[^]]+\])", pattern):
        if part in ("*", "?"):
            words.append("[^/]*" if part == "*" else "[^/]")
        elif part.startswith("[") and part.endswith("]"):
            words.append("[" + part[1:-1].replace("!", "^", 1) + "]" if part[1] == "!" else part)
        else:
            words.append(re.escape(part))
    return "".join(words)


_COMPILED = [(Paths([pattern]), kind) for pattern, kind in RULES]


def kind_of(path: str) -> str:
    """The kind of `path`, a path below /etc; "file" without a row."""
    for pattern, kind in _COMPILED:
        if pattern.covers(path):
            return kind
    return "file"
