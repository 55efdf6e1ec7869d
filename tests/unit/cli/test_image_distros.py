"""`hostplane image distros` says what is known and how well."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from hostplane.cli.image.distros import command
from hostplane.distros import BUILT_IN, listing


def test_the_table_has_every_release_once_and_says_what_was_only_checked() -> None:
    shown = CliRunner().invoke(command).output
    assert "openEuler     22.03-LTS, -SP1, -SP2, -SP3, -SP4" in shown
    assert "V10, SP1, SP2, SP3" in shown
    assert next(line for line in shown.splitlines() if line.startswith("centos        7")).endswith("checked")
    assert "finobt reflink bigtime inobtcount sparse nrext64" in shown


def test_the_json_has_every_release_and_architecture() -> None:
    rows = json.loads(CliRunner().invoke(command, ["--json"]).output)
    assert len(rows) == sum(len(each.profiles) for each in listing())
    assert {row["evidence"]["level"] for row in rows} <= {"booted", "built", "checked"}


def test_a_directory_of_ones_own_is_listed_too(tmp_path: Path) -> None:
    text = (BUILT_IN / "rocky.toml").read_text(encoding="utf-8").replace('id = "rocky"', 'id = "pebble"')
    (tmp_path / "pebble.toml").write_text(text, encoding="utf-8")
    assert "pebble" in CliRunner().invoke(command, ["--directory", str(tmp_path)]).output
