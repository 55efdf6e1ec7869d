"""A request for settings: applied whole, once, or not at all; cut anywhere, taken back, looked after."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent import settings
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.settings import bootargs, carry, reactions
from hostplane.agent.settings.journal import Journal
from hostplane.errors import HostError
from tests.unit.agent.settings.test_models import GRUB

KUBELET = "# ours\nmaxPods: 110 # many\nstaticPodPath: /etc/kubernetes/manifests\n"
UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
ALL = (
    ("sysctl", "", [("vm.swappiness", 1, "")]),
    ("kubelet", "", [("maxPods", 50, ""), ("evictionHard", {"memory.available": "5%"}, "")]),
    ("pam.limits", "", [("*", "hard.nofile.1", "")]),
    ("kernel.arguments", "", [("quiet", "", ""), ("audit", 0, "")]),
    ("files", "", [("/etc/motd", {"content": "hello\n", "mode": "0600"}, "")]),
    ("units", "", [("my.service", {"content": UNIT}, "")]),
)


def apply(host: Any, *configs: Any, **how: Any) -> Any:
    boot = how.pop("boot", "boot-1")
    request = settings.Request(how.pop("version", "s1"), configs, **how)
    return settings.apply(HostRoot(str(host.root)), "A", boot, request)


def drift(host: Any) -> list[str]:
    root = HostRoot(str(host.root))
    return settings.drift(root, "A", Journal(root).record())


def furnish(host: Any) -> None:
    """A host with everything that ALL touches."""
    host.write("proc/sys/vm/swappiness", "60\n")
    host.write("var/lib/kubelet/config.yaml", KUBELET, 0o600)
    host.write("etc/security/limits.conf", "# limits\n")
    host.write("usr/lib/hostplane/policy.json", policy("/etc/motd", "/etc/systemd/system/"))
    host.write("etc/motd", "welcome\n")
    for name in ("args1", "args2"):
        host.write("boot/hostplane/" + name, bootargs.render(bootargs.BootArgs(1, "loglevel=3", "")))


def policy(*paths: str, signed: tuple[str, ...] = ()) -> str:
    return json.dumps({"schema": "1.0", "settings": {"allowedPaths": list(paths), "signedModels": list(signed)}})


def seen(host: Any) -> dict[str, Any]:
    """Everything that settings may change, by path."""
    found: dict[str, Any] = {}
    for top in ("etc", "var/lib/kubelet", "proc/sys"):
        for path in sorted((host.root / top).rglob("*")):
            name = str(path.relative_to(host.root))
            if path.is_symlink():
                found[name] = "-> " + os.readlink(path)
            elif path.is_file():
                found[name] = (path.read_text(), path.stat().st_mode & 0o777)
    found["args"] = arguments(host)
    return found


def arguments(host: Any) -> tuple[str, str]:
    files = bootargs.ArgsFiles(str(host.root / "boot/hostplane"), lambda: None).read()
    return files.a, files.b


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
    assert not [name for name in os.listdir(path.parent) if "hostplane-new" in name]


def test_a_missing_sysctl_file_is_made_where_its_directory_is(host: Any) -> None:
    config = ("kernel.sysctl.persist", "/etc/sysctl.d/90-x.conf", [("a", "2", "")])
    with pytest.raises(HostError, match="HP-6062"):
        apply(host, config)
    (host.root / "etc/sysctl.d").mkdir()
    apply(host, config)
    assert (host.root / "etc/sysctl.d/90-x.conf").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "path", ["/etc/../../x", "etc/x", "/etc/hostplane/agent.json", "/out/x", "/link", "/proc/sys/a", "/a\0b", "/run/x"]
)
def test_a_path_out_of_bounds_is_refused_on_either_socket(host: Any, path: str) -> None:
    (host.root / "out").symlink_to("/tmp")
    (host.root / "link").symlink_to("../../../../../../../etc/hosts")
    for is_kubeos in (True, False):
        with pytest.raises(HostError, match="HP-6061"):
            apply(host, ("kernel.sysctl.persist", path, [("a", "1", "")]), is_kubeos=is_kubeos)


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


# --- the typed models, end to end


def test_everything_is_applied_and_a_second_time_changes_nothing(host: Any) -> None:
    furnish(host)
    plan = apply(host, *ALL)
    assert plan.needs_reboot
    found = seen(host)
    assert found["proc/sys/vm/swappiness"][0] == "1\n"
    assert found["etc/sysctl.d/99-zz-hostplane.conf"][0] == "vm.swappiness = 1\n"
    assert found["var/lib/kubelet/config.yaml"] == (
        "# ours\nmaxPods: 50  # many\nstaticPodPath: /etc/kubernetes/manifests\n"
        "evictionHard:\n  memory.available: 5%\n",
        0o600,
    )
    assert found["etc/motd"] == ("hello\n", 0o600)
    assert found["etc/systemd/system/multi-user.target.wants/my.service"] == "-> /etc/systemd/system/my.service"
    assert found["args"] == ("loglevel=3 quiet audit=0", "quiet audit=0")
    told = (host.root / "run/hostplane/services").read_text().splitlines()
    assert told == ["daemon-reload", "try-restart kubelet.service", "settle my.service"]
    assert drift(host) == []
    again = apply(host, *ALL, version="s2")
    assert again.is_empty
    assert seen(host) == found
    assert (host.root / "run/hostplane/services").read_text().splitlines() == told


def test_a_parameter_with_several_words_is_the_same_whatever_blanks_the_kernel_shows(host: Any) -> None:
    host.write("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n")
    assert not apply(host, ("sysctl", "", [("net.ipv4.tcp_rmem", "4096 131072 6291456", "")])).parameters


def test_arguments_of_one_slot_leave_the_other_slots(host: Any) -> None:
    furnish(host)
    assert not apply(host, ("grub.cmdline.next", "", [("x", 1, "")])).needs_reboot
    assert arguments(host) == ("loglevel=3", "x=1")
    assert apply(host, ("grub.cmdline.current", "", [("loglevel", "3", "delete")]), version="s2").needs_reboot
    assert arguments(host) == ("", "x=1")


def test_arguments_that_do_not_fit_are_refused(host: Any) -> None:
    furnish(host)
    long = [(f"a{number}", "x" * 90, "") for number in range(8)]
    with pytest.raises(HostError, match="HP-6427"):
        apply(host, ("kernel.arguments", "", long))
    assert arguments(host) == ("loglevel=3", "")


# --- checks, and what is taken back


@pytest.mark.parametrize("how", ["kubelet", "program"])
def test_a_check_that_fails_takes_everything_back(host: Any, how: str) -> None:
    furnish(host)
    checks: tuple[Any, ...] = (("check", "", [("seconds", 1, "")]),)
    if how == "kubelet":
        host.write("run/hostplane/unhealthy/kubelet.service", "")
    else:
        host.check("echo no; false", "my-check")
        checks = (("check", "", [("my-check", None, "")]),)
    before = seen(host)
    with pytest.raises(HostError, match=r"HP-6423.*" + ("kubelet" if how == "kubelet" else "no")):
        apply(host, *ALL, *checks)
    assert seen(host) == before
    assert Journal(HostRoot(str(host.root))).pending() is None
    assert Journal(HostRoot(str(host.root))).record() is None
    told = (host.root / "run/hostplane/services").read_text().splitlines()
    assert told.count("try-restart kubelet.service") == 2


def test_a_parameter_that_the_kernel_does_not_take_takes_everything_back(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(host)
    before, real = seen(host), carry._write_parameter

    def write(root: HostRoot, path: str, value: str) -> None:
        if value == "1":
            raise HostError("SettingWriteFailed", path=path, detail="Invalid argument")
        real(root, path, value)

    monkeypatch.setattr(carry, "_write_parameter", write)
    with pytest.raises(HostError, match="HP-6065"):
        apply(host, *ALL)
    assert seen(host) == before
    assert Journal(HostRoot(str(host.root))).pending() is None


def test_undo_gives_back_what_was_there_before_the_first_settings(host: Any) -> None:
    furnish(host)
    before = seen(host)
    apply(host, *ALL)
    apply(host, ("kubelet", "", [("maxPods", 20, "")]), version="s2")
    apply(host, undo=True, version="")
    assert seen(host) == before


def test_undo_with_settings_leaves_these_alone(host: Any) -> None:
    furnish(host)
    before = seen(host)
    apply(host, *ALL)
    apply(host, ("kubelet", "", [("maxPods", 50, "")]), version="s2", undo=True)
    found = seen(host)
    assert found.pop("var/lib/kubelet/config.yaml")[0] == KUBELET.replace("110", "50 ")
    expected = dict(before)
    expected.pop("var/lib/kubelet/config.yaml")
    assert found == expected
    apply(host, undo=True, version="")
    assert seen(host) == before


def test_undo_leaves_what_others_changed_elsewhere_in_a_file(host: Any) -> None:
    furnish(host)
    apply(host, ("kubelet", "", [("maxPods", 50, "")]))
    path = host.root / "var/lib/kubelet/config.yaml"
    path.write_text(path.read_text() + "clusterDomain: example\n")
    apply(host, undo=True, version="")
    assert path.read_text() == KUBELET + "clusterDomain: example\n"


def test_undo_refuses_where_somebody_changed_the_same_lines(host: Any) -> None:
    furnish(host)
    apply(host, ("kubelet", "", [("maxPods", 50, "")]), ("sysctl", "", [("vm.swappiness", 1, "")]))
    path = host.root / "var/lib/kubelet/config.yaml"
    path.write_text(path.read_text().replace("50", "51"))
    before = seen(host)
    with pytest.raises(HostError, match=r"HP-6425.*kubelet"):
        apply(host, undo=True, version="")
    assert seen(host) == before


# --- drift


def test_a_unit_that_the_image_enables_can_only_be_masked(host: Any) -> None:
    furnish(host)
    host.write("usr/lib/systemd/system/theirs.service", UNIT)
    (host.root / "usr/lib/systemd/system/multi-user.target.wants").mkdir()
    (host.root / "usr/lib/systemd/system/multi-user.target.wants/theirs.service").symlink_to("../theirs.service")
    with pytest.raises(HostError, match="only state masked"):
        apply(host, ("units", "", [("theirs.service", {"state": "disabled"}, "")]))
    apply(host, ("units", "", [("theirs.service", {"state": "masked"}, "")]))
    assert os.readlink(host.root / "etc/systemd/system/theirs.service") == "/dev/null"
    apply(host, ("units", "", [("theirs.service", {"state": "enabled"}, "")]), version="s2")
    assert not os.path.lexists(host.root / "etc/systemd/system/theirs.service")
    assert drift(host) == []


def test_drift_names_file_and_setting(host: Any) -> None:
    furnish(host)
    apply(host, *ALL)
    host.write("proc/sys/vm/swappiness", "60\n")
    path = host.root / "var/lib/kubelet/config.yaml"
    path.write_text(path.read_text().replace("50", "60"))
    (host.root / "etc/systemd/system/multi-user.target.wants/my.service").unlink()
    (host.root / "etc/motd").chmod(0o644)
    assert sorted(drift(host)) == [
        "/etc/motd: files /etc/motd",
        "/etc/systemd/system/multi-user.target.wants/my.service: units my.service",
        "/proc/sys/vm/swappiness: sysctl vm.swappiness",
        "/var/lib/kubelet/config.yaml: kubelet maxPods",
    ]


def test_reformatting_is_no_drift(host: Any) -> None:
    furnish(host)
    apply(host, *ALL)
    path = host.root / "var/lib/kubelet/config.yaml"
    path.write_text("{maxPods: 50, evictionHard: {memory.available: '5%'}}\n")
    assert drift(host) == []


# --- a cut at every write

WRITES = ("replace", "pwrite", "unlink", "symlink", "fsync", "fdatasync", "makedirs", "fchmod")


def fail(*_: object) -> None:
    """Services.check, at once."""
    raise HostError("SettingsCheckFailed", check="kubelet.service", detail="it is not healthy")


class Dead(BaseException):
    """The process is no more."""


class Power:
    """Lets a number of writes happen and then nothing more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = float("inf")
        for name in WRITES:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name), name))

    def _wrapped(self, real: Any, name: str) -> Any:
        def write(*arguments: Any, **options: Any) -> Any:
            if self.left <= 0:
                raise Dead
            self.left -= 1
            return None if "sync" in name else real(*arguments, **options)

        return write


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
@pytest.mark.parametrize("how", ["applied", "check fails", "undone"])
def test_whatever_write_is_the_last_one_all_is_old_or_all_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, boot: str
) -> None:
    from tests.unit.agent.conftest import HostDir

    made = HostDir(tmp_path / "new")
    furnish(made)
    old = seen(made)
    apply(made, *ALL)
    new = seen(made)
    power, cuts = Power(monkeypatch), 0
    for cut in range(1, 400):
        host = HostDir(tmp_path / str(cut))
        furnish(host)
        root = HostRoot(str(host.root))
        before, after, request = old, new, {}
        if how == "undone":
            apply(host, *ALL)
            before, after, request = new, old, {"undo": True, "version": ""}
        wished = () if how == "undone" else ALL
        if how == "check fails":
            after = old
            monkeypatch.setattr(reactions.Services, "check", fail)
        power.left = cut
        was_cut = False
        try:
            apply(host, *wished, **request)
        except Dead:
            was_cut = True
        except HostError:
            if how != "check fails":
                raise
        power.left = float("inf")
        pending = Journal(root).pending()
        if was_cut:
            cuts += 1
            assert pending is not None or seen(host) in (before, after)
            try:
                carry.resume(root, boot)
            except HostError:
                if how != "check fails":
                    raise
        if how == "check fails" and boot == "boot-2":
            assert seen(host) in (old, new)  # after a reboot the boot's own checks judge
        else:
            assert seen(host) in (before, after)
        if pending is not None and how != "check fails":
            assert seen(host) == after
        assert Journal(root).pending() is None
        left = [path for path in host.root.rglob("*hostplane-new") if was_cut is False or pending is not None]
        assert not left
        if not was_cut:
            break
    assert cuts > 20
