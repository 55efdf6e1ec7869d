"""Slimming takes what the policy names and leaves licences, links out of the root, and everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hostplane.distros import load
from hostplane.image.recipe import Packages, Recipe, Slim
from hostplane.image.stage import Work
from hostplane.image.stages import slim

Slimmed = Callable[..., dict[str, int]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    return root


def _put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("12345")


@pytest.fixture
def slimmed(root: Path, tmp_path: Path) -> Slimmed:
    def run(**rules: object) -> dict[str, int]:
        chosen = Slim(**{"modules": "all", "firmware": "all", **rules})  # type: ignore[arg-type]
        recipe = Recipe(
            name="t", version="1", distro="debian", release="12", slim=chosen, packages=Packages(keep_manager=True)
        )
        out = tmp_path / "out"
        out.mkdir()

        def nothing_runs(argv: object, **options: object) -> bytes:
            raise AssertionError(f"no program is needed: {argv}")

        work = Work(
            recipe=recipe,
            profile=load("debian", "12", "x86_64"),
            root=root,
            out=out,
            scratch=tmp_path,
            cache=tmp_path,
            epoch=0,
            rootless=False,
            earlier={},
            run=nothing_runs,
            log=lambda text: None,
            progress=lambda fraction, text: None,
        )
        slim.run(work)
        found: dict[str, int] = json.loads((out / "slim.json").read_text())["removed_bytes"]
        return found

    return run


def _left(root: Path, name: str) -> list[str]:
    return sorted(str(path.relative_to(root / name)) for path in (root / name).rglob("*") if path.is_file())


def test_documents_go_and_licences_stay(root: Path, slimmed: Slimmed) -> None:
    doc = "usr/share/doc"
    _put(
        root,
        f"{doc}/a/copyright",
        f"{doc}/a/changelog.gz",
        f"{doc}/a/html/x",
        f"{doc}/b/README",
        f"{doc}/c/LICENSE.txt",
    )
    _put(root, f"{doc}/d/COPYING", "usr/share/man/man1/a.1.gz", "usr/share/licenses/a/GPL", "usr/share/info/x")
    (root / doc / "e").symlink_to("a")
    (root / doc / "f").symlink_to("b")
    removed = slimmed()
    assert _left(root, doc) == ["a/copyright", "c/LICENSE.txt", "d/COPYING"]
    assert sorted(os.listdir(root / doc)) == ["a", "c", "d", "e"], "no empty directory and no link to nothing"
    assert (root / "usr/share/licenses/a/GPL").exists()
    assert (root / "usr/share/man").is_dir()
    assert not list((root / "usr/share/man").iterdir())
    assert removed["documentation"] == 5 * 5


def test_documents_stay_when_they_are_wanted(root: Path, slimmed: Slimmed) -> None:
    _put(root, "usr/share/doc/a/README", "usr/share/man/man1/a.1.gz")
    assert "documentation" not in slimmed(documentation=False)
    assert (root / "usr/share/man/man1/a.1.gz").exists()


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("en", True),
        ("en_US", True),
        ("en_GB", False),
        ("de", False),
        ("zh_CN", False),
        ("sr@latin", False),
        ("C.utf8", True),
        ("en_US.utf8", True),
        ("locale.alias", True),
        ("l10n", True),
        ("be@tarask", False),
        ("zh_Hans", False),
        ("ast", False),
    ],
)
def test_locales_that_stay(name: str, stays: bool) -> None:
    assert slim.locale_stays(name, ["C", "en_US"]) is stays


def test_locales_go_or_all_stay(root: Path, slimmed: Slimmed) -> None:
    _put(
        root, "usr/share/locale/de/LC_MESSAGES/x.mo", "usr/share/locale/en/LC_MESSAGES/x.mo", "usr/share/locale/l.alias"
    )
    assert slimmed()["locales"] == 5
    assert _left(root, "usr/share/locale") == ["en/LC_MESSAGES/x.mo", "l.alias"]


def test_every_locale_stays_for_a_star(root: Path, slimmed: Slimmed) -> None:
    _put(root, "usr/share/locale/de/LC_MESSAGES/x.mo")
    assert slimmed(locales=("*",))["locales"] == 0


def test_boot_is_emptied_but_for_the_mount_point_of_the_boot_state(root: Path, slimmed: Slimmed) -> None:
    _put(
        root,
        "boot/vmlinuz-6",
        "boot/grub/grub.cfg",
        "boot/.vmlinuz.hmac",
        "lib/modules/6/vmlinuz",
        "lib/modules/6/k.ko",
    )
    (root / "vmlinuz").symlink_to("boot/vmlinuz-6")
    slimmed()
    assert [path.name for path in (root / "boot").iterdir()] == ["hostplane"], "where the host mounts its boot state"
    assert not (root / "vmlinuz").is_symlink()
    assert _left(root, "usr/lib/modules") == ["6/k.ko"]


def test_firmware_that_the_kernel_asks_for_stays(root: Path, slimmed: Slimmed) -> None:
    _put(root, "lib/modules/6/modules.dep", "lib/firmware/tigon/tg3.bin.xz", "lib/firmware/other.bin")
    _put(root, "lib/firmware/real/target.bin", "lib/firmware/intel-ucode/06-01")
    (root / "lib/firmware/linked.bin").symlink_to("real/target.bin")
    asked = b"tg3.firmware=tigon/tg3.bin\0x.firmware=linked.bin\0"
    (root / "lib/modules/6/modules.builtin.modinfo").write_bytes(asked)
    removed = slimmed(firmware="modules")
    left = ["intel-ucode/06-01", "linked.bin", "real/target.bin", "tigon/tg3.bin.xz"]
    assert _left(root, "usr/lib/firmware") == left
    assert removed["firmware"] == 5


def test_no_firmware_but_the_processors(root: Path, slimmed: Slimmed) -> None:
    _put(root, "lib/firmware/other.bin", "lib/firmware/amd-ucode/x.bin")
    slimmed(firmware="none")
    assert _left(root, "usr/lib/firmware") == ["amd-ucode/x.bin"]


def test_what_the_recipe_names_goes_and_nothing_outside(root: Path, tmp_path: Path, slimmed: Slimmed) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (root / "opt").mkdir()
    (root / "opt/link").symlink_to(outside)
    _put(root, "usr/share/x/a", "usr/share/x/b", "srv/keep")
    assert slimmed(remove=("/usr/share/x/*", "/opt/link/precious", "/opt/*/*"))["recipe"] == 10
    assert (outside / "precious").exists()
    assert (root / "srv/keep").exists()


def test_caches_go_and_the_directories_of_logs_stay(root: Path, slimmed: Slimmed) -> None:
    _put(root, "var/log/dpkg.log", "var/log/deep/x.log", "var/log/keep", "var/cache/apt/pkgcache.bin", "root/.cache/x")
    slimmed()
    assert _left(root, "var/log") == ["keep"]
    assert (root / "var/log/deep").is_dir()
    assert not (root / "root/.cache").exists()


def test_files_with_more_rights_are_listed(root: Path) -> None:
    _put(root, "usr/bin/su", "usr/bin/wall", "usr/bin/ls")
    (root / "usr/bin/su").chmod(0o4755)
    (root / "usr/bin/wall").chmod(0o2755)
    found = list(slim.privileged(root))
    assert [(each["path"], each["mode"]) for each in found] == [("/usr/bin/su", "4755"), ("/usr/bin/wall", "2755")]
