"""A distribution of RPMs boots: dnf made its root, dracut its initramfs, and its vendor directory is openEuler's.

The packages are the stand-in's (`tests/image/rpm_distro.py`). What is proved is the way, from dnf to a login and over a
reboot; not the package names of a real openEuler.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hostplane.image.building.engine import Built
from hostplane.image.recipe import Firmware, StageName
from tests.image.rpm_distro import EPOCH, RELEASE, rpm_distro, write_distro_file
from tests.vm.guest import TEST_SECONDS, Guest
from tests.vm.restarting import rebooting

pytestmark = pytest.mark.timeout(TEST_SECONDS)
_RECIPE = """
name = "rpm-vm"
version = "1.0.0"
distro = "openEuler"
release = "{release}"
hostname = "rpm-vm"
source_date_epoch = {epoch}

[packages]
include = ["hello"]

[[packages.repositories]]
name = "mirror"
url = "{repository}"
key = "{key}"

[disk]
size_gib = 4
root_mib = 900
boot_mib = 160

[boot]
console = ["ttyS0"]

[[user]]
name = "root"
password_hash = "$6$hostplane$uMnwHO/WY2szvg/oS65utJAA3qNu6YivNv2euhYNi9Tkth5SRLlUGS8GV6YrUiaK21MA6pjTjKBYMs0Zylk7L1"

[kubernetes]
runtime = "none"

[slim]
modules = "virtual"
firmware = "none"

[image]
outputs = ["raw"]
"""


@pytest.fixture(scope="module")
def built(build_shared: Callable[..., Built], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The disk, and the packages of its bill of materials as NAME VERSION."""
    place = tmp_path_factory.mktemp("rpm-vm")
    distro = rpm_distro()
    write_distro_file(place / "distros")
    text = _RECIPE.format(release=RELEASE, epoch=EPOCH, repository=distro.repository, key=distro.key)
    (place / "recipe.toml").write_text(text, encoding="utf-8")
    made = build_shared(place / "recipe.toml", out=place / "out")
    sealed = next(Path(row.layer) for row in made.stages if row.stage is StageName.SEAL)
    components = json.loads((sealed / "out/sbom.cdx.json").read_bytes())["components"]
    packages = [f"{each['name']} {each['version']}" for each in components if each["purl"].startswith("pkg:rpm/")]
    return place / "out" / "disk.raw", sorted(packages)


@pytest.mark.parametrize("firmware", [Firmware.UEFI, pytest.param(Firmware.BIOS, marks=pytest.mark.long)])
def test_it_boots_healthy_and_keeps_etc_over_a_reboot(built: tuple[Path, list[str]], firmware: Firmware) -> None:
    with rebooting(built[0], firmware) as machine:
        host = Guest(machine)
        assert host.banner() == ("A", "healthy")
        host.log_in()
        assert host.run(". /etc/os-release; echo $ID").strip() == "openEuler"
        assert "ro" in host.run("findmnt -no OPTIONS /").strip().split(",")
        said = host.run("rpm -qa --qf '%{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\n'")
        assert sorted(said.splitlines()) == built[1], "a scanner on the host sees what the bill of materials has"
        assert host.run("command -v dnf", fails=True) == ""
        host.run("cp /etc/machine-id /etc/kept; sync")
        host.reboot()
        assert host.banner() == ("A", "healthy")
        host.log_in()
        host.run("cmp /etc/machine-id /etc/kept")


def test_the_esp_has_the_vendors_directory(built: tuple[Path, list[str]]) -> None:
    """The signed GRUB of a distribution reads its configuration from there."""
    disk = built[0]
    table = subprocess.run(["sfdisk", "--json", str(disk)], capture_output=True, text=True, check=True).stdout
    start = int(table.split('"name": "ESP"')[0].rpartition('"start": ')[2].split(",")[0])
    argv = ["mdir", "-b", "-/", "-i", f"{disk}@@{start * 512}", "::/EFI"]
    names = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert {"::/EFI/openEuler/grub.cfg", "::/EFI/openEuler/grubx64.efi", "::/EFI/openEuler/shimx64.efi"} <= set(names)
    assert "::/EFI/BOOT/BOOTX64.EFI" in names
