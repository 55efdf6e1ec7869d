"""Every data file loads for every release and architecture it lists, and a wrong file says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.distros import listing, load
from hostplane.distros.profile import Profile
from hostplane.errors import RecipeError

EVERY = [profile for each in listing() for profile in each.profiles]
WANTED = {"openEuler", "centos", "bclinux", "kylin", "rocky", "almalinux", "anolis", "debian", "ubuntu"}


def _name(profile: Profile) -> str:
    return f"{profile.id}-{profile.release}-{profile.arch}"


def test_every_promised_distribution_is_there_for_both_architectures() -> None:
    assert {profile.id for profile in EVERY} == WANTED
    by_release = {(profile.id, profile.release): set[str]() for profile in EVERY}
    for profile in EVERY:
        by_release[profile.id, profile.release].add(profile.arch)
    assert all(arches == {"x86_64", "aarch64"} for arches in by_release.values())


@pytest.mark.parametrize("profile", EVERY, ids=_name)
def test_a_profile_answers_every_question(profile: Profile) -> None:
    wanted = (*profile.kernel_packages, *profile.boot_packages, *profile.base_packages)
    assert profile.kernel_packages
    assert profile.boot_packages
    assert len(wanted) == len(set(wanted))
    assert not set(wanted) & set(profile.manager_packages)
    assert any(name.startswith("python3") for name in profile.base_packages)
    assert "openssl" in profile.base_packages  # signatures are verified with it (design section 7)
    assert "machine-id" in profile.identity
    assert profile.runtime_packages["containerd"]
    assert profile.loader.grub_name.endswith(".efi")
    assert profile.page_sizes[0] in (4096, 65536)


@pytest.mark.parametrize("profile", EVERY, ids=_name)
def test_a_file_system_never_has_a_feature_that_the_oldest_boot_loader_cannot_read(profile: Profile) -> None:
    assert {"^metadata_csum", "^metadata_csum_seed", "^orphan_file"} <= set(profile.boot_ext4_features)
    assert profile.xfs_options[0::2] == ("-m", "-i")


@pytest.mark.parametrize("profile", [each for each in EVERY if each.package_format == "rpm"], ids=_name)
def test_an_rpm_distribution_names_its_first_packages_and_public_repositories(profile: Profile) -> None:
    assert profile.release_package in profile.bootstrap_packages
    assert profile.repositories
    assert f"EFI/{profile.efi_vendor}/" in str(profile.loader.shim)


def test_the_oldest_target_has_the_oldest_file_systems() -> None:
    profile = load("centos", "7", "x86_64")
    assert "^metadata_csum" in profile.ext4_features
    assert "crc=1,finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0" in profile.xfs_options
    assert "sparse=0,nrext64=0" in profile.xfs_options


def test_an_id_is_found_in_any_case_and_a_release_by_its_code_name() -> None:
    assert load("OPENEULER", "22.03", "x86_64").release == "22.03-LTS"
    assert load("Debian", "Bookworm", "aarch64").release == "12"


def test_a_release_like_another_has_its_overrides_too() -> None:
    assert load("openEuler", "20.03-LTS-SP4", "aarch64").page_sizes == (65536,)
    assert load("openEuler", "20.03-LTS-SP4", "x86_64").page_sizes == (4096,)


@pytest.mark.parametrize(
    ("wanted", "error", "says"),
    [
        (("slackware", "15", "x86_64"), "DistroUnknown", "openEuler"),
        (("debian", "9", "x86_64"), "DistroReleaseUnknown", "12"),
        (("debian", "12", "riscv64"), "DistroArchUnknown", "x86_64, aarch64"),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_known(wanted: tuple[str, str, str], error: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        load(*wanted)
    assert caught.value.name == error


def _own(directory: Path, text: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "own.toml").write_text(text, encoding="utf-8")
    return directory


BUILT_IN = Path(__file__).parents[3] / "src" / "hostplane" / "distros" / "data" / "debian.toml"


def test_a_file_beside_the_recipe_wins_over_the_environment_and_both_over_the_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = BUILT_IN.read_text(encoding="utf-8")
    environment = _own(tmp_path / "environment", text.replace('title = "Debian"', 'title = "From the environment"'))
    recipe = _own(tmp_path / "recipe", text.replace('title = "Debian"', 'title = "Beside the recipe"'))
    monkeypatch.setenv("HOSTPLANE_DISTROS", str(environment))
    assert load("debian", "12", "x86_64").title == "From the environment"
    assert load("debian", "12", "x86_64", extra=[recipe]).title == "Beside the recipe"
    assert len(listing(extra=[recipe])) == len(listing())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title =", "titel =", "titel"),
        ('backend = "deb"', 'backend = "pacman"', "pacman"),
        ('prefix = "grub"', 'prefix = "lilo"', "lilo"),
        ('release = "base-files"', 'release = "two words"', "packages.release"),
        ('vendor = "debian"', "vendor = 3", "efi.vendor"),
        ('level = "checked"', 'level = "certain"', "certain"),
        ("[release.12]", "[release.12]\nlike = 13", "leads nowhere"),
        ("[release.12]", '[release.12]\narches = ["mips"]', "mips"),
        ("[release.12]", "[release.12]\narches = []", "lists no architecture"),
        ('id = "debian"', "", "id"),
        ('id = "debian"', "id = ", "line 2"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = BUILT_IN.read_text(encoding="utf-8")
    assert old in text
    extra = _own(tmp_path, text.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        listing(extra=[extra])
    assert caught.value.name == "DistroFileWrong"
    assert says in str(caught.value)
    assert "own.toml" in str(caught.value)
