"""KubeOS's settings models: what each does to its file, row by row; a second time nothing, and comments stay."""

from __future__ import annotations

from typing import Any

import pytest

from hostplane.agent.settings import containerd, grubcmdline, kubelet, pamlimits, sysctl
from hostplane.agent.settings.wish import Wish
from hostplane.errors import HostError

GRUB = """menuentry 'A' {
  linux /boot/vmlinuz root=PARTUUID=1 ro quiet console=tty0 console=ttyS0 panic=3
}
menuentry 'B' {
  linux /boot/vmlinuz root=PARTUUID=2 ro quiet
}
"""
CRI = 'plugins."io.containerd.grpc.v1.cri"'


def edited(edit: Any, text: str, *wishes: tuple[Any, ...], **options: Any) -> tuple[str, int]:
    """(the file afterwards, number of warnings)."""
    warnings: list[str] = []
    made = [Wish(wish[0], wish[1] if len(wish) > 1 else None, wish[2] if len(wish) > 2 else "") for wish in wishes]
    return edit(text, made, warnings.append, **options), len(warnings)


@pytest.mark.parametrize(
    ("text", "wish", "after", "warnings"),
    [
        ("# c\n\na = 1\n", ("a", "2"), "# c\n\na=2\n", 0),
        ("a=1\n", ("a", 1), "a=1\n", 0),
        ("a = 1\n", ("a", 1), "a = 1\n", 0),
        ("a=1\nb=2\na=3\n", ("a", "4"), "a=4\nb=2\na=4\n", 0),
        ("a=1\n", ("b", True), "a=1\nb=true\n", 0),
        ("a=1\n", ("b", "2", "add"), "a=1\nb=2\n", 1),
        ("a=1\n", ("a", ""), "a=1\n", 1),
        ("a=1\n", ("a", None), "a=1\n", 1),
        ("a=1\n", ("a", [1]), "a=1\n", 1),
        ("a=1\n", ("", "1"), "a=1\n", 1),
        ("a=1\n", ("x=y", "1"), "a=1\n", 1),
        ("a=1\nb=2\n", ("a", "1", "delete"), "b=2\n", 0),
        ("a=1\n", ("a", "2", "delete"), "a=1\n", 1),
        ("  # indented\n ; too\na=1", ("b", "2"), "  # indented\n ; too\na=1\nb=2\n", 0),
        ("", ("b", "2"), "b=2\n", 0),
    ],
)
def test_sysctl_persist(text: str, wish: tuple[Any, ...], after: str, warnings: int) -> None:
    assert edited(sysctl.edit, text, wish) == (after, warnings)


def test_sysctl_persist_refuses_a_file_that_is_none_and_a_value_that_is_two_lines() -> None:
    with pytest.raises(ValueError, match="no key"):
        edited(sysctl.edit, "rubbish\n", ("a", "1"))
    with pytest.raises(HostError, match="line break"):
        edited(sysctl.edit, "", ("a", "1\nkernel.core_pattern=|/evil"))


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
    ],
)
def test_sysctl_names_a_parameter(key: str, path: str) -> None:
    assert sysctl.runtime_writes([Wish(key, 1, "")], lambda words: None) == [(path, "1")]


@pytest.mark.parametrize("key", ["", "a..b", "a.//.b", "../../etc/passwd", "a/../../b", ".a"])
def test_sysctl_refuses_what_is_no_parameter(key: str) -> None:
    with pytest.raises(HostError, match="no kernel parameter"):
        sysctl.runtime_writes([Wish(key, 1, "")], lambda words: None)


@pytest.mark.parametrize("wish", [("a", ""), ("a", None), ("a", 1, "delete"), ("a", 1, "add"), ("a", {})])
def test_sysctl_only_sets(wish: tuple[Any, ...]) -> None:
    warnings: list[str] = []
    made = Wish(wish[0], wish[1], wish[2] if len(wish) > 2 else "")
    assert sysctl.runtime_writes([made], warnings.append) == []
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("wish", "old", "new", "warnings"),
    [
        (("panic", "5"), "panic=3", "panic=5", 0),
        (("debug",), "panic=3", "panic=3 debug", 0),
        (("a", "1"), "panic=3", "panic=3 a=1", 0),
        (("quiet", "yes"), " quiet ", " quiet=yes ", 0),
        (("panic", ""), "panic=3", "panic=3", 1),
        (("quiet", None, "delete"), " quiet ", " ", 0),
        (("panic", "3", "delete"), " panic=3", "", 0),
        (("panic", "4", "delete"), "panic=3", "panic=3", 1),
        (("panic", "", "delete"), "panic=3", "panic=3", 1),
        (("console", "ttyS0", "delete"), " console=ttyS0", "", 0),
        (("console", "hvc0"), "console=tty0", "console=hvc0", 0),
        (("", "1"), "panic=3", "panic=3", 1),
        (("a=b", "1"), "panic=3", "panic=3", 1),
        (("linux", "", "delete"), "linux", "linux", 1),
        (("words", "a b"), "panic=3", 'panic=3 words="a b"', 0),
        (("x", "1", "add"), "panic=3", "panic=3 x=1", 1),
    ],
)
def test_grub_cmdline(wish: tuple[Any, ...], old: str, new: str, warnings: int) -> None:
    after, told = edited(grubcmdline.edit, GRUB, wish, slot="A", model="grub.cmdline.current")
    assert after == GRUB.replace(old, new, 1)
    assert told == warnings


def test_grub_cmdline_of_the_other_slot_leaves_this_one() -> None:
    after, _ = edited(grubcmdline.edit, GRUB, ("debug",), slot="B", model="grub.cmdline.next")
    assert after == GRUB.replace("PARTUUID=2 ro quiet", "PARTUUID=2 ro quiet debug")


def test_grub_cmdline_reads_its_own_quotes() -> None:
    once, _ = edited(grubcmdline.edit, GRUB, ("words", "a b"), slot="A", model="m")
    assert edited(grubcmdline.edit, once, ("words", "a b"), slot="A", model="m") == (once, 0)
    assert edited(grubcmdline.edit, once, ("words", "a b", "delete"), slot="A", model="m")[0] == GRUB


@pytest.mark.parametrize("wish", [("root", "/dev/sda1"), ("root", "PARTUUID=1", "delete"), ("a", "b$c"), ("a", 'b"c')])
def test_grub_cmdline_refuses_what_would_not_boot(wish: tuple[Any, ...]) -> None:
    with pytest.raises(HostError):
        edited(grubcmdline.edit, GRUB, wish, slot="A", model="grub.cmdline.current")


def test_grub_cmdline_needs_a_line_for_the_slot() -> None:
    with pytest.raises(ValueError, match="slot B"):
        edited(grubcmdline.edit, GRUB.split("menuentry 'B'")[0], ("debug",), slot="B", model="m")


@pytest.mark.parametrize(
    ("text", "wish", "after", "warnings"),
    [
        ("* soft nofile 1\n", ("*", "hard.nofile.2"), "* soft nofile 1\n* hard nofile 2\n", 0),
        ("*\tsoft\tnofile\t1\n", ("*", "soft.nofile.2"), "* soft nofile 2\n", 0),
        ("* soft nofile 1\n", ("*", "_.nofile.2"), "* soft nofile 2\n", 0),
        ("* soft nofile 1\n", ("*", "soft._.2"), "* soft nofile 2\n", 0),
        ("* soft nofile 1\n", ("*", "soft.nofile._"), "* soft nofile 1\n", 0),
        ("", ("ftp", "hard._.2"), "", 1),
        ("# c\n", ("ftp", "hard.nproc.2"), "# c\nftp hard nproc 2\n", 0),
        ("* soft nofile 1\n", ("*", "soft.nofile.1", "delete"), "", 0),
        ("* soft nofile 1\n", ("*", "soft.nofile.2", "delete"), "* soft nofile 1\n", 1),
        ("", ("*", "soft.nofile"), "", 1),
        ("", ("*", "soft.no file.1"), "", 1),
        ("", ("a b", "soft.nofile.1"), "", 1),
        ("odd line\n", ("*", "soft.nofile.1"), "odd line\n* soft nofile 1\n", 0),
    ],
)
def test_pam_limits(text: str, wish: tuple[Any, ...], after: str, warnings: int) -> None:
    assert edited(pamlimits.edit, text, wish) == (after, warnings)


@pytest.mark.parametrize(
    ("text", "wish", "after", "warnings"),
    [
        ("# top\na: 1 # one\nb: 2\n", ("a", 5), "# top\na: 5 # one\nb: 2\n", 0),
        ("a: 1\n", ('evictionHard."memory.available"', "500Mi"), "a: 1\nevictionHard:\n  memory.available: 500Mi\n", 0),
        ("l:\n- x\n", ("l", ["z"]), "l:\n- x\n- z\n", 0),
        ("l:\n- x\n", ("l", "y"), "l:\n- x\n", 1),
        ("a: 1\n", ("a", ["z"]), "a:\n- z\n", 0),
        ("a: 1\n", ("a.b", 2), "a: 1\n", 1),
        ("a: 1\n", ("m", {"x": None}), "a: 1\nm:\n  x:\n", 0),
        ("a: 1\n", ("s", "on"), 'a: 1\ns: "on"\n', 0),
        ("a: 1\n", ("s", "012"), 'a: 1\ns: "012"\n', 0),
        ("a:\n  y: 1\n  z: 2\n", ("a.y", "ignored", "delete"), "a:\n  z: 2\n", 0),
        ("a:\n  y: 1\n", ("a.x.y", None, "delete"), "a:\n  y: 1\n", 1),
        ("a: 1\n", ("b", None, "delete"), "a: 1\n", 1),
        ("", ("a", 1), "a: 1\n", 0),
    ],
)
def test_kubelet(text: str, wish: tuple[Any, ...], after: str, warnings: int) -> None:
    assert edited(kubelet.edit, text, wish) == (after, warnings)


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "a: 1\na: 2\n", "&a [*a]\n"])
def test_kubelet_refuses_a_file_it_cannot_edit(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        edited(kubelet.edit, text, ("b", 1))


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", '"a', '"a"b', 'a."b', "a\nb"])
def test_a_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(HostError, match="HP-6064"):
        edited(kubelet.edit, "a: 1\n", (key, 1))


@pytest.mark.parametrize(
    ("text", "wish", "after", "warnings"),
    [
        ("# top\nversion = 2 # two\n", ("version", 3), "# top\nversion = 3 # two\n", 0),
        (f'[{CRI}]\nx = "a"\n', (f"{CRI}.x", "b"), f'[{CRI}]\nx = "b"\n', 0),
        (f"[{CRI}]\nx = 1\n", (f"{CRI}.y", True), f"[{CRI}]\nx = 1\ny = true\n", 0),
        ("l = [1]\n", ("l", [2, None, {}]), "l = [1, 2]\n", 1),
        ("l = [1]\n", ("l", 2), "l = [1]\n", 1),
        ("a = 1\n", ("a", None), "a = 1\n", 1),
        ("a = 1\n", ("a", {}), "a = 1\n", 1),
        ("a = 1\n", ("a", 1 << 64), "a = 1\n", 1),
        ("a = 1\nb = 2\n", ("a", None, "delete"), "b = 2\n", 0),
        ("a = 1\n", ("b.c", None, "delete"), "a = 1\n", 1),
        ("", ("a.b", 1), "[a]\nb = 1\n", 0),
    ],
)
def test_containerd(text: str, wish: tuple[Any, ...], after: str, warnings: int) -> None:
    assert edited(containerd.edit, text, wish) == (after, warnings)


def test_containerd_refuses_a_file_it_cannot_read() -> None:
    with pytest.raises(ValueError, match=r"\w"):
        edited(containerd.edit, "a = \n", ("b", 1))
