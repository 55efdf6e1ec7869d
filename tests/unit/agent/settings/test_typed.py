"""The typed models: rows in, files out; what does not fit is refused, and a second time changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from hostplane.agent.settings import containerd, files, kubelet, lint, pamlimits, sysctl, typed
from hostplane.agent.settings.request import Request
from hostplane.agent.settings.wish import Wish
from hostplane.errors import HostError


def wishes(*rows: tuple[Any, ...]) -> list[Wish]:
    return [Wish(row[0], row[1] if len(row) > 1 else None, row[2] if len(row) > 2 else "") for row in rows]


def quiet(words: str) -> None:
    """Warnings are not what is asked here."""


@pytest.mark.parametrize(
    ("text", "row", "after"),
    [
        ("", ("vm.swappiness", 1), "vm.swappiness = 1\n"),
        ("# c\nvm.swappiness=3\nx = 1\n", ("vm.swappiness", 1), "# c\nvm.swappiness = 1\nx = 1\n"),
        ("a = 1\nb = 2\n", ("a", None, "delete"), "b = 2\n"),
        ("a = 1\n", ("b", None, "delete"), "a = 1\n"),
        ("a = 1\na = 2\n", ("a", 3), "a = 3\n"),
    ],
)
def test_sysctl(text: str, row: tuple[Any, ...], after: str) -> None:
    assert typed.edit_sysctl(text, wishes(row), quiet) == after


@pytest.mark.parametrize(
    ("text", "row", "after"),
    [
        ("", ("* hard nofile", 4096), "* hard nofile 4096\n"),
        (
            "* hard nofile 1\n* soft nofile 1\n",
            ("*  soft nofile", "unlimited"),
            "* hard nofile 1\n* soft nofile unlimited\n",
        ),
        ("@adm - nproc 5\n", ("@adm - nproc", None, "delete"), ""),
    ],
)
def test_limits(text: str, row: tuple[Any, ...], after: str) -> None:
    assert typed.edit_limits(text, wishes(row), quiet) == after


@pytest.mark.parametrize(
    ("form", "rows", "text", "after"),
    [
        (0, [("servers", ["a.example", "192.0.2.1"])], "", "server a.example iburst\nserver 192.0.2.1 iburst\n"),
        (
            1,
            [("servers", "new.example")],
            "# c\nserver old\npool p\n\nmakestep 1 3\n",
            "# c\npool p\n\nmakestep 1 3\nserver new.example iburst\n",
        ),
        (2, [("servers", ["a", "b"])], "old", "[Time]\nNTP=a b\n"),
        (2, [("servers", None, "delete")], "old", ""),
    ],
)
def test_ntp(form: int, rows: list[Any], text: str, after: str) -> None:
    assert typed.NTP_FORMS[form].edit("ntp", text, wishes(*rows)) == after


@pytest.mark.parametrize(
    ("form", "rows", "text", "after"),
    [
        (
            0,
            [("servers", ["192.0.2.1", "2001:db8::1"]), ("search", ["example", "cluster.local"])],
            "",
            "[Resolve]\nDNS=192.0.2.1 2001:db8::1\nDomains=example cluster.local\n",
        ),
        (
            1,
            [("servers", ["192.0.2.1", "192.0.2.2"])],
            "nameserver 9.9.9.9\noptions ndots:2\n",
            "options ndots:2\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n",
        ),
    ],
)
def test_dns(form: int, rows: list[Any], text: str, after: str) -> None:
    assert typed.DNS_FORMS[form].edit("dns", text, wishes(*rows)) == after


@pytest.mark.parametrize(
    ("edit", "text", "row", "after"),
    [
        (kubelet.edit_typed, "l:\n- x\n", ("l", ["z"]), "l:\n- z\n"),
        (kubelet.edit_typed, "l:\n  - x # one\nb: 1\n", ("b", 2), "l:\n  - x # one\nb: 2\n"),
        (kubelet.edit_typed, "a: 1\n", ("b", None, "delete"), "a: 1\n"),
        (containerd.edit_typed, "l = [1]\n", ("l", [2]), "l = [2]\n"),
        (containerd.edit_typed, "# c\na = 1 # one\n", ("a", 2), "# c\na = 2 # one\n"),
    ],
)
def test_yaml_and_toml(edit: Any, text: str, row: tuple[Any, ...], after: str) -> None:
    assert edit(text, wishes(row), quiet) == after


@pytest.mark.parametrize(
    "key", ["quiet", "hugepages", "systemd.unified_cgroup_hierarchy", "systemd.log-level", "mitigations"]
)
def test_arguments_that_a_host_boots_with_all_the_same_are_taken(key: str) -> None:
    lint.check(Request("s1", [("kernel.arguments", "", [(key, "1", "")])]))


UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=a.target b.target\nAlias=other.service\n"


def units(key: str, value: Any, operation: str = "", known: files.Known | None = None) -> dict[str, str | None]:
    """Path below the unit directory -> what shall be there."""
    found = files.unit_wanted(Wish(key, value, operation), lambda name: known or files.Known())
    return {
        one.path[len(files.UNIT_DIRECTORY) :]: None if one.entry is None else one.entry.data.decode() for one in found
    }


def test_units() -> None:
    here = "/etc/systemd/system/my.service"
    links = dict.fromkeys(("a.target.wants/my.service", "b.target.wants/my.service", "other.service"), here)
    assert units("my.service", {"content": UNIT}) == {"my.service": UNIT, **links}
    assert units("my.service", {"content": UNIT, "state": "disabled"}) == {"my.service": UNIT, **dict.fromkeys(links)}
    assert units("my.service", {"content": UNIT, "state": "present"}) == {"my.service": UNIT}
    assert units("my.service", {"state": "masked"}) == {"my.service": "/dev/null"}
    shipped = files.Known("/usr/lib/systemd/system/my.service", UNIT)
    assert units("my.service", {"state": "enabled"}, known=shipped) == dict.fromkeys(links, shipped.path)
    assert units("my.service", {"state": "disabled"}, known=shipped._replace(is_masked=True)) == {
        "my.service": None,
        **dict.fromkeys(links),
    }
    assert units("my.service", None, "delete", files.Known(here, UNIT)) == {"my.service": None, **dict.fromkeys(links)}
    assert units("my.service.d/10-x.conf", "[Service]\nNice=1\n") == {"my.service.d/10-x.conf": "[Service]\nNice=1\n"}


REFUSED: list[tuple[str, Any, Any, str]] = [
    *(("kernel.arguments", key, "1", "") for key in ("root", "ro", "rw", "init", "rdinit", "initrd", "rootfstype")),
    *(("grub.cmdline.next", key, "1", "") for key in ("hostplane.slot", "hostplane.persist", "rd.break", "oops")),
    *(("grub.cmdline.current", key, "", "") for key in ("single", "emergency", "systemd.debug-shell", "--")),
    # the kernel and systemd take - for _
    *(("kernel.arguments", key, "0", "") for key in ("nmi-watchdog", "systemd.crash-reboot", "dm_mod.create")),
    # what runs as root, or mounts, what it says
    *(("kernel.arguments", key, "x", "") for key in ("sysctl.kernel.core_pattern", "systemd.set_credential")),
    *(("kernel.arguments", key, "x", "") for key in ("systemd.setenv", "systemd.wants", "mount.usr", "systemd.mask")),
    # what the initramfs finds the root by
    *(("kernel.arguments", key, "x", "") for key in ("boot", "break", "modprobe.blacklist", "module_blacklist", "mem")),
    ("kernel.arguments", "root", "PARTUUID=1", "delete"),
    ("kernel.arguments", "panic", "0", ""),
    ("kernel.arguments", "panic", "-1", ""),
    ("kernel.arguments", "a", "b c", ""),
    ("kernel.arguments", "a", 'b"c', ""),
    ("kernel.arguments", "a", "b\\c", ""),
    ("kernel.sysctl", "../etc/passwd", "1", ""),
    ("sysctl", "a", {}, ""),
    ("sysctl", "a", "", ""),
    ("sysctl", "a", "1\nkernel.core_pattern=|/x", ""),
    ("sysctl", "a", "1", "add"),
    ("kubelet", "a..b", 1, ""),
    ("containerd", "a", None, ""),
    ("containerd", "a", {"b": 1}, ""),
    ("limits", "*", "1", ""),
    ("limits", "* both nofile", "1", ""),
    ("limits", "* hard nofile", "many", ""),
    ("hostname", "name", "Not_A_Name", ""),
    ("hostname", "name", "x", "delete"),
    ("hostname", "domain", "x", ""),
    ("ntp", "servers", ["a b"], ""),
    ("ntp", "servers", [], ""),
    ("ntp", "clocks", "a", ""),
    ("dns", "servers", "name.example", ""),
    ("dns", "servers", "1.2", ""),
    ("files", "etc/motd", "x", ""),
    ("files", "/etc/../x", "x", ""),
    ("files", "/etc/x", {"content": "x", "mode": "4755"}, ""),
    ("files", "/etc/x", {"content": "x", "mode": 420}, ""),
    ("files", "/etc/x", {"content": 1}, ""),
    ("files", "/etc/x", {"content": "x", "run": "y"}, ""),
    ("files", "/etc/x", {"content": "x", "restart": "a b"}, ""),
    ("units", "my", "x", ""),
    ("units", "../x.service", "x", ""),
    ("units", "my.service", {"content": "[Service]\n"}, ""),
    ("units", "my.service", {"state": "running"}, ""),
    ("units", "my.service.d/x", "x", ""),
    ("check", "../x", None, ""),
    ("check", "seconds", 0, ""),
    ("check", "seconds", "many", ""),
]


@pytest.mark.parametrize(("model", "key", "value", "operation"), REFUSED)
def test_what_no_host_could_take_is_refused_with_a_sentence(model: str, key: str, value: Any, operation: str) -> None:
    with pytest.raises(HostError, match=r"HP-6064: The setting .* is refused: \S") as caught:
        lint.check(Request("s1", [(model, "", [(key, value, operation)])]))
    assert "?" not in str(caught.value)


def test_settings_stay_small_and_known() -> None:
    with pytest.raises(HostError, match="HP-6420"):
        lint.check(Request("s1", [("files", "", [("/etc/motd", "x" * 9000, "")])]))
    with pytest.raises(HostError, match="HP-6060"):
        lint.check(Request("s1", [("kuberntes.kubelet", "", [])]))
    with pytest.raises(HostError, match="HP-6061"):
        lint.check(Request("s1", [("kernel.sysctl.persist", "etc/x.conf", [])]))
    lint.check(Request("s1", [("kernel.arguments", "", [("panic", 10, ""), ("quiet", "", "")])]))


# --- whatever is wished: a second time changes nothing

_KEYS = st.from_regex(r"[a-c](\.[a-c]){0,2}", fullmatch=True)
_PLAIN = st.one_of(st.integers(-5, 5), st.booleans(), st.text("abc:#' 1-", max_size=6), st.none())
_VALUES = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=2), max_leaves=5
)
_ROWS = st.lists(st.tuples(_KEYS, _VALUES, st.sampled_from(["", "", "", "delete"])), max_size=4)
_YAML = st.sampled_from(["", "# c\na: 1 # one\nb:\n  c: [x]\n", "a:\n- 1\n- 2\n", "a:\n    b:\n      - x # y\n"])
_TOML = st.sampled_from(["", "# c\na = 1 # one\n[b]\nc = ['x']\n", "a = [1, 2]\n"])
_LINES = st.sampled_from(["", "# c\na = 1\n\nb=2\na=3\n", "* hard nofile 1\n"])


@pytest.mark.parametrize(
    ("edit", "texts"),
    [
        (kubelet.edit, _YAML),
        (kubelet.edit_typed, _YAML),
        (containerd.edit, _TOML),
        (containerd.edit_typed, _TOML),
        (sysctl.edit, _LINES),
        (typed.edit_sysctl, _LINES),
        (pamlimits.edit, _LINES),
    ],
)
@effort(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_second_time_changes_nothing_and_comments_stay(edit: Any, texts: Any, data: Any) -> None:
    text = data.draw(texts)
    rows = {row[0]: row for row in data.draw(_ROWS)}  # one wish a key: of two, each would undo the other's
    if any(other.startswith(key + ".") for key in rows for other in rows):
        return  # a value and a part of it are two wishes for one place
    try:
        once = edit(text, wishes(*rows.values()), quiet)
    except (HostError, ValueError):
        return
    assert edit(once, wishes(*rows.values()), quiet) == once
    assert ("# c" in once) == ("# c" in text)
