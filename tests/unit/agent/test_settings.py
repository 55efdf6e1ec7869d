"""Settings: what each model does to its file, row by row; and that a request is applied whole, once, or not at all."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hostplane.agent import settings
from hostplane.agent.hostroot import HostRoot
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


# --- a whole request


def apply(host: Any, *configs: Any, journal: dict[str, str] | None = None) -> list[dict[str, str]]:
    noted: list[dict[str, str]] = []
    settings.apply(HostRoot(str(host.root)), "A", configs, journal or {}, noted.append)
    return noted


def test_an_unknown_model_stops_everything_before_anything(host: Any) -> None:
    host.write("etc/sysctl.conf", "a=1\n")
    with pytest.raises(HostError, match=r"kuberntes\.kubelet"):
        apply(host, ("kernel.sysctl.persist", "", [("a", "2", "")]), ("kuberntes.kubelet", "", []))
    assert (host.root / "etc/sysctl.conf").read_text() == "a=1\n"


def test_a_bad_file_stops_everything_before_anything(host: Any) -> None:
    host.write("etc/sysctl.conf", "a=1\n")
    host.write("var/lib/kubelet/config.yaml", "a: [\n")
    with pytest.raises(HostError, match="HP-6063"):
        apply(host, ("kernel.sysctl.persist", "", [("a", "2", "")]), ("kubernetes.kubelet", "", [("b", 1, "")]))
    assert (host.root / "etc/sysctl.conf").read_text() == "a=1\n"


def test_several_models_of_one_file_see_each_other(host: Any) -> None:
    host.write("boot/efi/EFI/openEuler/grub.cfg", GRUB)
    apply(host, ("grub.cmdline.current", "", [("x", 1, "")]), ("grub.cmdline.next", "", [("y", 2, "")]))
    text = (host.root / "boot/efi/EFI/openEuler/grub.cfg").read_text()
    assert "panic=3 x=1\n" in text
    assert "ro quiet y=2\n" in text


def test_a_replaced_file_keeps_its_mode_and_leaves_nothing_beside_it(host: Any) -> None:
    path = host.write("etc/sysctl.conf", "a=1\n", 0o600)
    apply(host, ("kernel.sysctl.persist", "", [("a", "2", "")]))
    assert path.read_text() == "a=2\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [name for name in os.listdir(path.parent) if "hostplane-new" not in name]


def test_a_missing_sysctl_file_is_made_where_its_directory_is(host: Any) -> None:
    config = ("kernel.sysctl.persist", "/etc/sysctl.d/90-x.conf", [("a", "2", "")])
    with pytest.raises(HostError, match="HP-6062"):
        apply(host, config)
    (host.root / "etc/sysctl.d").mkdir()
    apply(host, config)
    assert (host.root / "etc/sysctl.d/90-x.conf").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "path", ["/etc/../../x", "etc/x", "/etc/hostplane/agent.json", "/out/x", "/link", "/proc/sys/a", "/a\0b"]
)
def test_a_path_out_of_bounds_is_refused(host: Any, path: str) -> None:
    (host.root / "out").symlink_to("/tmp")
    (host.root / "link").symlink_to("../../../../../../../etc/hosts")
    with pytest.raises(HostError, match="HP-6061"):
        apply(host, ("kernel.sysctl.persist", path, [("a", "1", "")]))


def test_a_link_within_the_host_is_followed(host: Any) -> None:
    target = host.write("etc/real.conf", "a=1\n")
    (host.root / "etc/sysctl.conf").symlink_to("real.conf")
    apply(host, ("kernel.sysctl.persist", "", [("a", "2", "")]))
    assert target.read_text() == "a=2\n"
    assert (host.root / "etc/sysctl.conf").is_symlink()


def test_a_parameter_the_kernel_does_not_have_is_refused_before_anything(host: Any) -> None:
    host.write("proc/sys/vm/swappiness", "60\n")
    with pytest.raises(HostError, match="does not offer"):
        apply(host, ("kernel.sysctl", "", [("vm.swappiness", 1, ""), ("vm.nonsense", 1, "")]))
    assert (host.root / "proc/sys/vm/swappiness").read_text() == "60\n"
    apply(host, ("kernel.sysctl", "", [("vm.swappiness", 1, "")]))
    assert (host.root / "proc/sys/vm/swappiness").read_text() == "1\n"


def test_the_veto_beats_every_setting(host: Any) -> None:
    path = host.write("etc/sysctl.conf", "a=1\n")
    host.write("etc/hostplane/never", "")
    with pytest.raises(HostError, match="HP-6020"):
        apply(host, ("kernel.sysctl.persist", "", [("a", "2", "")]))
    assert path.read_text() == "a=1\n"


def test_a_request_cut_off_after_its_first_file_grows_no_list_twice(host: Any) -> None:
    kubelet_file = host.write("var/lib/kubelet/config.yaml", "l:\n- x\n")
    limits = host.write("etc/security/limits.conf", "")
    configs = (("kubernetes.kubelet", "", [("l", ["z"], "")]), ("pam.limits", "", [("*", "hard.nofile.1", "")]))
    journal = apply(host, *configs)[0]
    limits.write_text("")  # as if the power had gone between the two files
    apply(host, *configs, journal=journal)
    assert kubelet_file.read_text() == "l:\n- x\n- z\n"
    assert limits.read_text() == "* hard nofile 1\n"
    apply(host, *configs)
    assert kubelet_file.read_text() == "l:\n- x\n- z\n- z\n"
