"""Layers, overrides, paths and places."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.errors import RecipeError
from hostplane.image.reading.findings import RecipeRefusedError
from hostplane.image.reading.read import Loaded, profile_names, read_recipe
from hostplane.image.recipe import Firmware, Output

BASE = 'name = "node"\nversion = "1"\ndistro = "debian"\nrelease = "12"\n'


def write(path: Path, text: str) -> Path:
    """A file with that text, in a directory made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def read(directory: Path, text: str, *overrides: str) -> Loaded:
    """The recipe BASE + text."""
    return read_recipe(write(directory / "recipe.toml", BASE + text), overrides)


def test_the_recipe_lies_over_its_includes_and_these_over_its_profiles(tmp_path: Path) -> None:
    write(tmp_path / "lower.toml", '[disk]\nroot_mib = 1000\nsize_gib = 9\n[slim]\nmodules = "all"\n')
    write(tmp_path / "upper.toml", "[disk]\nroot_mib = 2000\nboot_mib = 300\n")
    text = 'profiles = ["vm"]\ninclude = ["lower.toml", "upper.toml"]\n[disk]\nboot_mib = 400\n'
    recipe = read(tmp_path, text).recipe
    assert (recipe.disk.root_mib, recipe.disk.size_gib, recipe.disk.boot_mib) == (2000, 9, 400)
    assert recipe.slim.modules == "all"
    assert recipe.slim.firmware == "none", "the profile's word, which nobody changed"


def test_tables_merge_lists_of_tables_follow_and_wishes_grow(tmp_path: Path) -> None:
    below = """
modules_load = ["overlay", "nf_conntrack"]
[packages]
include = ["vim", "curl"]
[boot]
console = ["tty0"]
[[file]]
path = "/etc/a"
content = "a"
[sysctl]
"vm.swappiness" = 1
"""
    write(tmp_path / "below.toml", below)
    text = """
include = ["below.toml"]
modules_load = ["br_netfilter", "overlay"]
[packages]
include = ["curl", "jq"]
[boot]
console = ["ttyS0"]
[[file]]
path = "/etc/b"
content = "b"
[sysctl]
"vm.overcommit_memory" = 1
"""
    recipe = read(tmp_path, text).recipe
    assert recipe.packages.include == ("vim", "curl", "jq")
    assert recipe.modules_load == ("overlay", "nf_conntrack", "br_netfilter")
    assert recipe.boot.console == ("ttyS0",)
    assert [file.path for file in recipe.file] == ["/etc/a", "/etc/b"]
    assert recipe.sysctl == {"vm.swappiness": 1, "vm.overcommit_memory": 1}


def test_a_file_reached_twice_counts_once_and_a_circle_ends(tmp_path: Path) -> None:
    write(tmp_path / "shared.toml", 'include = ["left.toml"]\n[[unit]]\nname = "shared.service"\n')
    write(tmp_path / "left.toml", 'include = ["shared.toml"]\n[[unit]]\nname = "left.service"\n')
    write(tmp_path / "right.toml", 'include = ["shared.toml"]\n[[unit]]\nname = "right.service"\n')
    loaded = read(tmp_path, 'include = ["left.toml", "right.toml"]\n')
    assert [unit.name for unit in loaded.recipe.unit] == ["shared.service", "left.service", "right.service"]
    assert [file.name for file in loaded.files] == ["shared.toml", "left.toml", "right.toml", "recipe.toml"]


def test_a_relative_path_starts_from_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "shared" / "base.toml", '[[file]]\npath = "/etc/a"\nsource = "a"\n')
    text = (
        'include = ["../shared/base.toml"]\n[[file]]\npath = "/etc/b"\nsource = "./x/../b"\n[packages]\nlock = "/l"\n'
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "recipe.toml").write_text(BASE + text, "utf-8")
    recipe = read_recipe(Path("team/recipe.toml"), ["kubernetes.kubelet=bin/kubelet"]).recipe
    assert [file.source for file in recipe.file] == [f"{tmp_path}/shared/a", f"{tmp_path}/team/b"]
    assert recipe.packages.lock == "/l"
    assert recipe.kubernetes.kubelet == f"{tmp_path}/bin/kubelet", "an override's, from the working directory"


def test_addresses_are_left_as_they_are_and_mounted_discs_are_paths(tmp_path: Path) -> None:
    text = '[[packages.repositories]]\nname = "a"\nurl = "{}"\n'
    addresses = ["https://mirror.example/$release", "file:///mnt/dvd", "dvd"]
    recipe = read(tmp_path, "".join(text.format(address) for address in addresses)).recipe
    assert [each.url for each in recipe.packages.repositories] == [*addresses[:2], f"{tmp_path}/dvd"]


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("disk.size_gib=40", "disk.size_gib", 40),
        ("disk.size_gib = 40", "disk.size_gib", 40),
        ("hostname=node-7", "hostname", "node-7"),
        ('hostname="node-7"', "hostname", "node-7"),
        ("agent=false", "agent", False),
        ("packages.include=[]", "packages.include", ()),
        ("packages.include+=jq", "packages.include", ("vim", "jq")),
        ('packages.include+=["jq", "curl"]', "packages.include", ("vim", "jq", "curl")),
        ("packages.exclude+=nano", "packages.exclude", ("nano",)),
        ('packages.include=["a"]', "packages.include", ("a",)),
        ('sysctl."vm.swappiness"=10', "sysctl", {"vm.swappiness": 10}),
        ("image.outputs=['raw']", "image.outputs", (Output.RAW,)),
        ("file.0.content=hello = there", "file.0.content", "hello = there"),
        ('user+={name = "ops"}', "user.0.name", "ops"),
        ("version=1.2", "version", None),
    ],
)
def test_overrides_have_the_last_word(tmp_path: Path, override: str, get: str, value: object) -> None:
    text = '[packages]\ninclude = ["vim"]\n[[file]]\npath = "/etc/a"\ncontent = "a"\n'
    if value is None:  # a number where a text is wanted: said, not guessed
        with pytest.raises(RecipeRefusedError, match=r"--set version=1\.2: version is 1\.2"):
            read(tmp_path, text, override)
        return
    found: object = read(tmp_path, text, override).recipe
    for part in get.split("."):
        found = found[int(part)] if isinstance(found, tuple) else getattr(found, part)
    assert found == value


def test_overrides_apply_in_order_and_may_choose_profiles(tmp_path: Path) -> None:
    recipe = read(tmp_path, "", "profiles+=vm", "disk.size_gib=30", "disk.size_gib=31").recipe
    assert recipe.slim.modules == "virtual"
    assert recipe.profiles == ("vm",)
    assert recipe.disk.size_gib == 31


@pytest.mark.parametrize(
    "override", ["disk.size_gib", "=3", "", "disk..x=1", "hostname.x=1", "file.7.path=/x", "timezone+=UTC", "disk+=1"]
)
def test_an_override_that_leads_nowhere_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, 'timezone = "UTC"\nhostname = "a"\n[disk]\n[[file]]\npath = "/a"\n', override)
    assert caught.value.name in ("OverrideNotKeyValue", "OverrideMisplaced")
    assert override in str(caught.value)


def test_a_wrong_value_of_an_override_is_told_by_the_override(tmp_path: Path) -> None:
    with pytest.raises(RecipeRefusedError, match=r"^--set disk\.size_gib=big: disk\.size_gib is \"big\""):
        read(tmp_path, "", "disk.size_gib=big")


def test_all_mistakes_are_told_at_once_by_file_and_line(tmp_path: Path) -> None:
    write(tmp_path / "below.toml", '[disk]\n\nsize = 3\nfs = "zfs"\n')
    with pytest.raises(RecipeRefusedError) as caught:
        read(tmp_path, 'include = ["below.toml"]\narch = "vax"\n[[user]]\n')
    where = [(f.place.file.name, f.place.line, f.reason.name) for f in caught.value.findings]
    assert where == [
        ("below.toml", 3, "RecipeKeyUnknown"),
        ("below.toml", 4, "RecipeValueWrong"),
        ("recipe.toml", 6, "RecipeValueWrong"),
        ("recipe.toml", 7, "RecipeKeyMissing"),
    ]


def test_the_place_of_a_default_is_its_tables(tmp_path: Path) -> None:
    loaded = read(tmp_path, "[disk]\nsize_gib = 20\n")
    assert loaded.place(("disk", "root_mib")).line == 5
    assert loaded.place(("boot", "tries")).line == 1


def test_a_last_line_break_does_not_slip_through_a_pattern(tmp_path: Path) -> None:
    with pytest.raises(RecipeRefusedError, match=r'name is "node'):
        read(tmp_path, "", 'name="node\\n"')


@pytest.mark.parametrize(("arch", "firmware"), [("x86_64", 2), ("aarch64", 1)])
def test_the_default_firmware_is_what_the_processor_has(tmp_path: Path, arch: str, firmware: int) -> None:
    found = read(tmp_path, f'arch = "{arch}"\n[boot]\ntries = 2\n').recipe.boot.firmware
    assert found == (Firmware.BIOS, Firmware.UEFI)[-firmware:]


@pytest.mark.parametrize("profile", profile_names())
def test_a_built_in_profile_makes_a_valid_recipe(tmp_path: Path, profile: str) -> None:
    assert read(tmp_path, f'profiles = ["{profile}"]\n').recipe.name == "node"


def test_the_promised_profiles_exist() -> None:
    assert {"slim-host", "vm", "bare-metal", "kubernetes"} <= set(profile_names())


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_an_error_of_the_recipe(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert caught.value.name == "RecipeUnreadable"


def test_text_that_is_not_toml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.toml:6: .*column 9"):
        read(tmp_path, "\nagent = yes\n")
