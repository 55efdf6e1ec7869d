"""The ESP's tree: what each firmware finds, whoever signed it, and the stub in every directory that a GRUB reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane import distros
from hostplane.distros.profile import Profile
from hostplane.errors import ImageError
from hostplane.image.boot import esp
from hostplane.image.recipe import Arch


def _no_run(*_: object, **__: object) -> bytes:
    raise AssertionError("nothing is run where everything is signed")


def _signed(root: Path, profile: Profile) -> None:
    for path, content in ((profile.loader.shim, b"shim"), (profile.loader.grub, b"grub")):
        assert path is not None
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _tree(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("distro", "release", "arch", "removable", "shim", "grub", "vendor"),
    [
        ("debian", "12", Arch.X86_64, "BOOTX64.EFI", "shimx64.efi", "grubx64.efi", "debian"),
        ("debian", "12", Arch.AARCH64, "BOOTAA64.EFI", "shimaa64.efi", "grubaa64.efi", "debian"),
        ("openEuler", "24.03", Arch.X86_64, "BOOTX64.EFI", "shimx64.efi", "grubx64.efi", "openEuler"),
    ],
)
def test_a_signed_chain_is_taken_whole(
    tmp_path: Path, distro: str, release: str, arch: Arch, removable: str, shim: str, grub: str, vendor: str
) -> None:
    profile = distros.load(distro, release, arch)
    root, target = tmp_path / "root", tmp_path / "esp"
    _signed(root, profile)
    assert profile.loader.shim is not None
    mok = f"mm{shim[4:]}"
    (root / profile.loader.shim.lstrip("/")).with_name(f"{mok}.signed").write_bytes(b"mok")
    esp.make(target, arch=arch, root=root, profile=profile, run=_no_run, scratch=tmp_path)
    tree = _tree(target)
    stub = tree.pop("EFI/BOOT/grub.cfg")
    assert stub == tree.pop(f"EFI/{vendor}/grub.cfg")
    assert b"gpt3)/grub/grub.cfg" in stub
    assert tree == {
        f"EFI/BOOT/{removable}": b"shim",
        f"EFI/BOOT/{grub}": b"grub",
        f"EFI/BOOT/{mok}": b"mok",
        f"EFI/{vendor}/{shim}": b"shim",
        f"EFI/{vendor}/{grub}": b"grub",
        f"EFI/{vendor}/{mok}": b"mok",
    }


def test_a_link_of_the_root_is_followed_inside_it(tmp_path: Path) -> None:
    profile = distros.load("debian", "12", Arch.X86_64)
    _signed(tmp_path / "root", profile)
    assert profile.loader.shim is not None
    shim = tmp_path / "root" / profile.loader.shim.lstrip("/")
    shim.rename(shim.with_name("latest"))
    shim.symlink_to(f"{Path(profile.loader.shim).parent}/latest")
    esp.make(tmp_path / "esp", arch=Arch.X86_64, root=tmp_path / "root", profile=profile, run=_no_run, scratch=tmp_path)
    assert (tmp_path / "esp/EFI/BOOT/BOOTX64.EFI").read_bytes() == b"shim"


def test_without_a_signed_chain_and_without_grub_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    profile = distros.load("debian", "12", Arch.AARCH64)
    with pytest.raises(ImageError) as caught:
        esp.make(tmp_path / "esp", arch=Arch.AARCH64, root=tmp_path, profile=profile, run=_no_run, scratch=tmp_path)
    assert caught.value.reason.name == "GrubMissing"
    assert "grub-efi-arm64-bin" in caught.value.reason.remedy
