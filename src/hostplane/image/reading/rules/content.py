"""What is put into the root: files, units, scripts, and what slimming takes out again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from hostplane.agent.settings.lint import MODELS
from hostplane.errors import reason
from hostplane.image.reading.positions import KeyPath, written
from hostplane.image.reading.rules.accounts import OWNER
from hostplane.image.reading.rules.case import Case, Fault, Rule, error, existing, in_image, unique, warning
from hostplane.image.reading.rules.packages import is_set
from hostplane.image.recipe import ScriptPlace, StageName

__all__ = ["RULES"]

_PASSING = ("/dev", "/proc", "/sys", "/run", "/tmp")
"""Mounted over at boot: what lies below is never seen."""
_OURS = (
    "/usr/lib/hostplane",
    "/etc/machine-id",
    "/persist",
    "/boot",
    "/var/lib/dpkg",
    "/var/lib/rpm",
    "/usr/lib/sysimage/rpm",
)
_OUR_UNITS = re.compile(r"hostplane-[a-z-]+\.(service|socket)|boot-hostplane\.mount|persist\.mount")
_VITAL = (
    "/usr/bin/sh",
    "/usr/lib/systemd/systemd",
    "/usr/lib/hostplane/agent.pyz",
    "/usr/lib/hostplane/mounts",
    "/usr/lib/os-release",
    "/etc/hostplane",
    "/etc/passwd",
    "/etc/fstab",
    "/var/lib/dpkg/status",
    "/var/lib/rpm/Packages",
    "/var/lib/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
)
"""Not to be removed; nor anything that holds one of these."""
_SCRIPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOCALE = re.compile(r"\*|[A-Za-z]{1,8}(_[A-Z]{2})?(\.[A-Za-z0-9-]+)?(@[a-z]+)?")


def _one_of_two(path: KeyPath, content: str | None, source: str | None) -> Iterator[Fault]:
    if (content is None) == (source is None):
        yield error(path, reason("ContentOrSource", key=written(path)))


def files_have_one_content(case: Case) -> Iterator[Fault]:
    for index, file in enumerate(case.recipe.file):
        yield from _one_of_two(("file", index), file.content, file.source)


def file_sources_exist(case: Case) -> Iterator[Fault]:
    for index, file in enumerate(case.recipe.file):
        yield from existing(("file", index, "source"), file.source)


def file_paths_are_plain(case: Case) -> Iterator[Fault]:
    for index, file in enumerate(case.recipe.file):
        yield from in_image(("file", index, "path"), file.path)


def file_paths_are_unique(case: Case) -> Iterator[Fault]:
    yield from unique((("file", index, "path"), file.path) for index, file in enumerate(case.recipe.file))


def files_are_seen_at_run_time(case: Case) -> Iterator[Fault]:
    for index, file in enumerate(case.recipe.file):
        if _is_below(file.path, _PASSING):
            path = ("file", index, "path")
            yield error(path, reason("FileUnseen", key=written(path), value=file.path))


def files_leave_ours_alone(case: Case) -> Iterator[Fault]:
    for index, file in enumerate(case.recipe.file):
        if _is_below(file.path, _OURS):
            path = ("file", index, "path")
            yield error(path, reason("FileOurs", key=written(path), value=file.path))


def _is_below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def owners_are_names_or_numbers(case: Case) -> Iterator[Fault]:
    for index, file in enumerate(case.recipe.file):
        for field, value in (("owner", file.owner), ("group", file.group)):
            if not OWNER.fullmatch(value):
                path = ("file", index, field)
                yield error(path, reason("OwnerInvalid", key=written(path), value=value))


def modes_are_narrow(case: Case) -> Iterator[Fault]:
    for index, file in enumerate(case.recipe.file):
        bits = int(file.mode or "0", 8)
        if bits & 0o6000 or (bits & 0o002 and not bits & 0o1000):
            path = ("file", index, "mode")
            yield warning(path, reason("FileModeWide", key=written(path), value=file.mode, path=file.path))


def no_private_key_is_written_out(case: Case) -> Iterator[Fault]:
    for index, file in enumerate(case.recipe.file):
        if file.content is not None and "PRIVATE KEY-----" in file.content:
            path = ("file", index, "content")
            yield warning(path, reason("SecretInImage", key=written(path), path=file.path))


def units_are_unique(case: Case) -> Iterator[Fault]:
    yield from unique((("unit", index, "name"), unit.name) for index, unit in enumerate(case.recipe.unit))


def units_are_units(case: Case) -> Iterator[Fault]:
    for index, unit in enumerate(case.recipe.unit):
        if unit.content is not None and not _begins_with_a_section(unit.content):
            path = ("unit", index, "content")
            yield error(path, reason("UnitContentInvalid", key=written(path), unit=unit.name))


def _begins_with_a_section(content: str) -> bool:
    lines = (line.strip() for line in content.splitlines())
    first = next((line for line in lines if line and line[0] not in "#;"), "")
    return re.fullmatch(r"\[[A-Z][A-Za-z]*\]", first) is not None


def units_of_ours_stay(case: Case) -> Iterator[Fault]:
    for index, unit in enumerate(case.recipe.unit):
        if case.recipe.agent and _OUR_UNITS.fullmatch(unit.name):
            path = ("unit", index, "name")
            yield error(path, reason("UnitOurs", key=written(path), value=unit.name))


def masked_units_have_no_content(case: Case) -> Iterator[Fault]:
    for index, unit in enumerate(case.recipe.unit):
        if unit.state == "masked" and unit.content is not None:
            path = ("unit", index, "state")
            yield error(path, reason("UnitMasked", key=written(path), unit=unit.name))


def enabled_units_can_be_enabled(case: Case) -> Iterator[Fault]:
    for index, unit in enumerate(case.recipe.unit):
        if unit.state != "enabled" or unit.content is None:
            continue
        is_template = re.search(r"@\.[a-z]+$", unit.name) is not None
        if "[Install]" not in unit.content or (is_template and "DefaultInstance=" not in unit.content):
            path = ("unit", index, "state") if case.said(("unit", index, "state")) else ("unit", index, "name")
            yield error(path, reason("UnitStatic", key=written(path), unit=unit.name))


def scripts_have_one_content(case: Case) -> Iterator[Fault]:
    for index, script in enumerate(case.recipe.script):
        yield from _one_of_two(("script", index), script.content, script.source)


def script_sources_exist(case: Case) -> Iterator[Fault]:
    for index, script in enumerate(case.recipe.script):
        yield from existing(("script", index, "source"), script.source)


def script_names_are_unique(case: Case) -> Iterator[Fault]:
    yield from unique((("script", index, "name"), script.name) for index, script in enumerate(case.recipe.script))


def script_names_are_names(case: Case) -> Iterator[Fault]:
    for index, script in enumerate(case.recipe.script):
        if not _SCRIPT.fullmatch(script.name):
            path = ("script", index, "name")
            yield error(path, reason("PlainNameInvalid", key=written(path), value=script.name))


def script_secrets_are_set(case: Case) -> Iterator[Fault]:
    for index, script in enumerate(case.recipe.script):
        for number, name in enumerate(script.secrets):
            yield from is_set(case, ("script", index, "secrets", number), name)


def script_variables_are_names(case: Case) -> Iterator[Fault]:
    for index, script in enumerate(case.recipe.script):
        for name in script.environment:
            if not _VARIABLE.fullmatch(name):
                path = ("script", index, "environment", name)
                yield error(path, reason("VariableNameInvalid", key=written(path)))


def scripts_run_where_there_is_a_root(case: Case) -> Iterator[Fault]:
    for index, script in enumerate(case.recipe.script):
        if script.place is not ScriptPlace.CHROOT:
            continue
        path = ("script", index, "stage")
        step = f"{script.when} {script.stage}"
        if step == f"before {StageName.BOOTSTRAP}":
            yield error(path, reason("ScriptTooEarly", key=written(path), step=step, script=script.name))
        if script.stage is StageName.PACK or step == f"after {StageName.SEAL}":
            yield error(path, reason("ScriptTooLate", key=written(path), step=step, script=script.name))


def removals_are_absolute(case: Case) -> Iterator[Fault]:
    for index, pattern in enumerate(case.recipe.slim.remove):
        yield from in_image(("slim", "remove", index), pattern)


def removals_leave_what_is_vital(case: Case) -> Iterator[Fault]:
    for index, pattern in enumerate(case.recipe.slim.remove):
        hit = next((vital for vital in _VITAL if _takes(pattern, vital)), None)
        if hit is not None:
            path = ("slim", "remove", index)
            yield error(path, reason("RemovalVital", key=written(path), value=pattern, vital=hit))


def _takes(pattern: str, vital: str) -> bool:
    """Whether removing `pattern` takes `vital`, or what holds it, or what it holds."""
    held = [str(above) for above in (PurePosixPath(vital), *PurePosixPath(vital).parents)]
    return any(fnmatchcase(each, pattern.rstrip("/") or "/") for each in held) or pattern.startswith(f"{vital}/")


def allowed_paths_are_absolute(case: Case) -> Iterator[Fault]:
    for index, place in enumerate(case.recipe.settings.allowed_paths or ()):
        yield from in_image(("settings", "allowed_paths", index), place[:-1] if place.endswith("/") else place)


def signed_models_are_models(case: Case) -> Iterator[Fault]:
    for index, model in enumerate(case.recipe.settings.signed_models):
        if model not in MODELS and model != "*":
            path = ("settings", "signed_models", index)
            wanted = f"* or one of {', '.join(sorted(MODELS))}"
            yield error(path, reason("RecipeValueWrong", key=written(path), value=model, wanted=wanted))


def locales_are_names(case: Case) -> Iterator[Fault]:
    for index, locale in enumerate(case.recipe.slim.locales or ()):
        if not _LOCALE.fullmatch(locale):
            path = ("slim", "locales", index)
            yield error(path, reason("RecipeValueWrong", key=written(path), value=locale, wanted='"en_US"'))


RULES: tuple[Rule, ...] = (
    files_have_one_content,
    file_sources_exist,
    file_paths_are_plain,
    file_paths_are_unique,
    files_are_seen_at_run_time,
    files_leave_ours_alone,
    owners_are_names_or_numbers,
    modes_are_narrow,
    no_private_key_is_written_out,
    units_are_unique,
    units_are_units,
    units_of_ours_stay,
    masked_units_have_no_content,
    enabled_units_can_be_enabled,
    scripts_have_one_content,
    script_sources_exist,
    script_names_are_unique,
    script_names_are_names,
    script_secrets_are_set,
    script_variables_are_names,
    scripts_run_where_there_is_a_root,
    removals_are_absolute,
    removals_leave_what_is_vital,
    locales_are_names,
    allowed_paths_are_absolute,
    signed_models_are_models,
)
