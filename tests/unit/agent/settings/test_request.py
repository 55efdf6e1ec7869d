"""A request for settings: applied whole, once, or not at all; cut anywhere, taken back, looked after."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hostplane.agent import settings
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError
from tests.unit.agent.settings.test_models import GRUB

# --- a whole request


def apply(host: Any, *configs: Any, **how: Any) -> Any:
    request = settings.Request(how.pop("version", "s1"), configs, **how)
    return settings.apply(HostRoot(str(host.root)), "A", "boot-1", request)


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


