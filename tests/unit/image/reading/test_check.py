"""Checking as a whole; each single rule has its recipe in test_bad_recipes.py."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path

import jsonschema
import msgspec
import pytest

from hostplane.cli.main import ExitCode, main
from hostplane.errors import translate
from hostplane.image.reading import schema
from hostplane.image.reading.check import check
from hostplane.image.reading.findings import Finding, RecipeRefusedError
from tests.unit.image.reading.test_read import BASE, write

DOCS = Path(__file__).parents[4] / "docs" / "reference"
EXAMPLES = sorted((DOCS.parents[1] / "examples").glob("*/recipe.toml"))
GOOD = """
hostname = "node-1.example"
timezone = "Asia/Shanghai"
profiles = ["vm", "kubernetes"]
modules_load = ["overlay"]
[packages]
include = ["vim", "tzdata=2024a-0+deb12u1"]
[[packages.repositories]]
name = "site"
url = "https://mirror.example/$release"
[disk]
verity = true
fs = "erofs"
persist_dirs = ["data", "data2/logs"]
[[disk.partitions]]
label = "CONTAINERD"
size_mib = 1024
fs = "xfs"
mount = "/var/lib/containerd"
[boot]
arguments = ["quiet", "systemd.unified_cgroup_hierarchy=1", "isolcpus=2,3", "dm-mod.create=a,,1,rw", "net.ifnames=0"]
console = ["tty0", "ttyS0,115200n8", "hvc0"]
[[user]]
name = "root"
password_hash = "$6$saltsalt$abcdefghijklmnopqrstuvwxyz./ABCDEFGHIJ"
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEhCCKhEnS0a3S6GZq9z7ZJ5QmZ1dW5uYmxhYmxhYmxhYmxh a b"]
[[user]]
name = "ops"
password_hash = "!"
groups = ["adm", "ssl-cert"]
uid = 1000
[[file]]
path = "/etc/motd"
content = "hello"
mode = "0644"
[[unit]]
name = "mine@.service"
content = "# mine\\n[Unit]\\n[Install]\\nDefaultInstance=one\\nWantedBy=multi-user.target\\n"
[[script]]
name = "mine"
content = "true"
secrets = ["HOSTPLANE_TEST_SECRET"]
environment = { LANG = "C" }
[slim]
remove = ["/usr/share/games", "/usr/lib/python3/dist-packages/*/tests"]
locales = ["C", "zh_CN.UTF-8", "*"]
"""


def test_a_rich_recipe_is_found_good(tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.toml", BASE + GOOD)
    checked = check(path, environment={"HOSTPLANE_TEST_SECRET": "x"})
    assert [finding.reason.name for finding in checked.warnings] == ["RecipeUnsigned"]
    assert checked.profile.id == "debian"


def test_errors_and_warnings_come_together_sorted_by_line(tmp_path: Path) -> None:
    text = 'distro = "plan9"\ntimezone = "Mars"\nagent = false\n[disk]\nroot_mib = 10\n'
    path = write(tmp_path / "recipe.toml", 'name = "a"\nversion = "1"\nrelease = "1"\n' + text)
    with pytest.raises(RecipeRefusedError) as caught:
        check(path)
    found = [(finding.place.line, finding.key) for finding in caught.value.findings]
    assert found == [(1, "signing"), (1, "user"), (4, "distro"), (5, "timezone"), (6, "agent"), (8, "disk.root_mib")]
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [f"{path}:{n}" for n in (4, 5, 8)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_lacks_at_most_what_its_reader_brings(path: Path) -> None:
    refused: tuple[Finding, ...] = ()
    try:
        check(path, environment={})
    except RecipeRefusedError as error:
        refused = error.errors
    assert {finding.reason.name for finding in refused} <= {"PathMissing", "NoRpmFiles", "VariableUnset"}


def test_a_codec_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "recipe.toml", BASE + '[image]\ncodec = "zstd"\n')
    check(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeRefusedError, match=r"recipe\.toml:6: image\.codec is zstd"):
        check(path)


def test_a_distribution_of_ones_own_lies_beside_the_recipe(tmp_path: Path) -> None:
    data = Path(schema.__file__).parents[2] / "distros" / "data" / "debian.toml"
    write(tmp_path / "distros" / "mine.toml", data.read_text("utf-8").replace('id = "debian"', 'id = "mine"', 1))
    path = write(tmp_path / "recipe.toml", BASE.replace("debian", "mine"))
    assert check(path).profile.id == "mine"


def test_findings_come_in_the_readers_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOSTPLANE_LANG", "zh_CN")
    path = write(tmp_path / "recipe.toml", BASE + 'timezone = "Mars"\n')
    assert main(["image", "check", str(path)]) == ExitCode.USAGE
    wanted = translate("TimezoneUnknown", {"key": "timezone", "value": "Mars"}, "zh_CN")[1]
    assert f"{path}:5: {wanted}" in capsys.readouterr().err


def test_an_override_can_heal_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "recipe.toml", BASE + 'timezone = "Mars"\n')
    assert main(["image", "check", str(path), "--set", "timezone=UTC"]) == ExitCode.OK
    assert "node 1" in capsys.readouterr().out


def test_the_schema_is_fresh_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert (DOCS / "recipe.schema.json").read_text("utf-8") == schema.schema(), "run: make docs"
    assert main(["image", "schema"]) == ExitCode.OK
    assert capsys.readouterr().out == schema.schema()


def test_the_reference_page_is_fresh() -> None:
    assert (DOCS / "recipe.md").read_text("utf-8") == schema.page(), "run: make docs"


def test_the_schema_accepts_a_good_recipe_and_refuses_a_typo() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema.schema()))
    recipe = tomllib.loads(BASE + GOOD)
    assert list(validator.iter_errors(recipe)) == []
    recipe["disk"]["sise_gib"] = 3
    [error] = validator.iter_errors(recipe)
    assert "sise_gib" in error.message


def test_the_schema_describes_every_key_and_refuses_unknown_ones() -> None:
    definitions = json.loads(schema.schema())["$defs"]
    tables = [each for each in definitions.values() if each.get("type") == "object"]
    assert len(tables) > 12
    assert all(table["additionalProperties"] is False for table in tables)
    assert set(definitions["Recipe"]["required"]) == {"name", "version", "distro", "release"}
    recipe_fields = {field.name for field in msgspec.structs.fields(schema.Recipe)}
    assert set(definitions["Recipe"]["properties"]) == recipe_fields
    assert "crypt(3)" in definitions["User"]["properties"]["password_hash"]["description"]
