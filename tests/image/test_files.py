"""What a recipe says in so many words is what the root has."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.image.tiny import Tiny

_UNIT = "[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n"
RECIPE = f"""
[[user]]
name = "ann"
groups = ["wheel"]
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ ann@example"]
[[user]]
name = "root"
password_hash = "$6$rounds=5000$saltsalt$0123456789abcdef"
[[file]]
path = "/etc/motd"
content = "hello"
mode = "0600"
owner = "ann"
group = "ann"
[[file]]
path = "/opt/tree"
source = "tree"
[[file]]
path = "/etc/passwd"
content = "never"
replace = false
[[file]]
path = "/var/run/through-a-link"
content = "inside"
[[unit]]
name = "a.service"
content = "{_UNIT}"
[[unit]]
name = "b.service"
state = "masked"
[kubernetes]
kubelet = "kubelet"
cni_plugins = "cni.tar"
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files layer of a build with a little of everything."""
    tiny = Tiny(tmp_path_factory.mktemp("files"))
    (tiny.here / "tree/below").mkdir(parents=True)
    (tiny.here / "tree/program").write_text("#!/bin/sh\n")
    (tiny.here / "tree/program").chmod(0o755)
    (tiny.here / "tree/below/link").symlink_to("../program")
    shutil.copy(tiny.here / "root/bin/busybox", tiny.here / "kubelet")
    with tarfile.open(tiny.here / "cni.tar", "w") as archive:
        archive.add(tiny.here / "tree/program", "./deep/bridge")
        archive.add(tiny.here / "tree/program", "../../escape")
    root = tiny.here / "root"
    (root / "etc/group").write_text("root:x:0:\nwheel:x:10:\n")
    (root / "etc/skel").mkdir()
    (root / "etc/skel/.profile").write_text("x")
    (root / "usr/share/zoneinfo/Asia").mkdir(parents=True)
    (root / "usr/share/zoneinfo/Asia/Shanghai").write_text("TZif")
    (root / "var/run").symlink_to("/run")
    head = (
        'hostname = "node"\ntimezone = "Asia/Shanghai"\nmodules_load = ["overlay"]\nmodules_block = ["usb_storage"]\n'
    )
    tiny.write('[sysctl]\n"net.ipv4.ip_forward" = 1\n' + RECIPE)
    tiny.recipe.write_text(head + tiny.recipe.read_text())
    tiny.build("--until", "files")
    said = json.loads((tiny.store / "recipes/tiny/files.json").read_text())
    return tiny.store / "layers" / said["key"] / "tree"


def test_everything_is_where_it_belongs(tree: Path) -> None:
    texts = {
        "etc/hostname": "node\n",
        "etc/motd": "hello",
        "etc/modules-load.d/50-image.conf": "overlay\n",
        "etc/modprobe.d/50-image.conf": "blacklist usb_storage\ninstall usb_storage /bin/false\n",
        "etc/sysctl.d/50-image.conf": "net.ipv4.ip_forward = 1\n",
        "etc/systemd/system-preset/10-image.preset": "enable a.service\n",
        "run/through-a-link": "inside",
        "usr/libexec/cni/bridge": "#!/bin/sh\n",
        "usr/libexec/cni/escape": "#!/bin/sh\n",
        "home/ann/.profile": "x",
    }
    assert {name: (tree / name).read_text() for name in texts} == texts
    links = {
        "etc/localtime": "../usr/share/zoneinfo/Asia/Shanghai",
        "etc/systemd/system/multi-user.target.wants/a.service": "/etc/systemd/system/a.service",
        "etc/systemd/system/multi-user.target.wants/kubelet.service": "/usr/lib/systemd/system/kubelet.service",
        "etc/systemd/system/b.service": "/dev/null",
        "opt/tree/below/link": "../program",
    }
    assert {name: os.readlink(tree / name) for name in links} == links
    assert (
        "L+ /opt/cni/bin/bridge - - - - /usr/libexec/cni/bridge"
        in (tree / "usr/lib/tmpfiles.d/hostplane-cni.conf").read_text()
    )


def test_owners_and_modes_are_right(tree: Path) -> None:
    seen = {
        name: (oct(status.st_mode & 0o7777), status.st_uid, status.st_gid)
        for name in ("etc/motd", "home/ann", "home/ann/.ssh", "home/ann/.ssh/authorized_keys", "opt/tree/program")
        if (status := (tree / name).stat())
    }
    assert seen == {
        "etc/motd": ("0o600", 1000, 1000),
        "home/ann": ("0o700", 1000, 1000),
        "home/ann/.ssh": ("0o700", 1000, 1000),
        "home/ann/.ssh/authorized_keys": ("0o600", 1000, 1000),
        "opt/tree/program": ("0o755", 0, 0),
    }
    assert (tree / "usr/bin/kubelet").stat().st_mode & 0o777 == 0o755


def test_accounts_are_there_and_an_existing_file_stayed(tree: Path) -> None:
    assert "ann:x:1000:1000:ann:/home/ann:/bin/bash" in (tree / "etc/passwd").read_text().splitlines()
    assert "wheel:x:10:ann" in (tree / "etc/group").read_text().splitlines()
    shadow = (tree / "etc/shadow").read_text()
    assert "root:$6$rounds=5000$saltsalt$0123456789abcdef:" in shadow
    assert "ann:*:" in shadow


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ('[[unit]]\nname = "nowhere.service"\n', "HP-8099"),
        ('[[user]]\nname = "ann"\ngroups = ["nogroup"]\n', "HP-8098"),
        ('[[user]]\nname = "ann"\nuid = 1\n', "HP-8097"),
        ('[[file]]\npath = "/usr/lib"\ncontent = "x"\n', "HP-8103"),
        ('[[file]]\npath = "/etc/x"\ncontent = "x"\nowner = "who"\n', "HP-8098"),
        ('[kubernetes]\ncni_plugins = "recipe.toml"\n', "HP-8102"),
    ],
)
def test_what_cannot_be_done_is_said(tiny: Tiny, more: str, code: str) -> None:
    tiny.write(more)
    assert code in tiny.build("--until", "files", expect=1).stderr
