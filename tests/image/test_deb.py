"""Roots of real Debian packages: what is in them, what is not, and that the same packages give the same root.

The root is a small one and comes out of the shared store, so that only the first run on a machine pays for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from hostplane.image.building.engine import Built
from hostplane.image.building.store import Store
from hostplane.image.packages import debdb
from hostplane.image.recipe import StageName
from tests.image.conftest import Build

RECIPE = """\
name = "small-debian"
version = "1"
distro = "debian"
release = "12"
agent = false
source_date_epoch = 1717200000

[packages]
defaults = false
kernel = false
include = ["kmod", "systemd", "man-db"]

[kubernetes]
runtime = "none"

[disk]
size_gib = 8
root_mib = 1024

[image]
outputs = ["root-tar"]
"""
DAY = 1717200000 // 86400

Layer = Callable[[Built, StageName], Path]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def trees(build_shared: Build, recipe: Path, tmp_path: Path) -> list[Path]:
    """What bootstrap and packages put into the root."""
    return _trees(build_shared(recipe, out=tmp_path / "out", until="packages"))


def _trees(built: Built) -> list[Path]:
    return [Path(row.layer) / "tree" for row in built.stages]


def _find(trees: Sequence[Path], name: str) -> Path:
    """A file of the merged root: the uppermost layer's."""
    return next(tree / name for tree in reversed(trees) if os.path.lexists(tree / name))


def _is_there(trees: Sequence[Path], name: str) -> bool:
    for tree in reversed(trees):
        if os.path.lexists(tree / name):
            status = (tree / name).lstat()
            return not (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0)
    return False


def test_the_database_lists_what_dpkg_query_lists(trees: list[Path]) -> None:
    status = _find(trees, "var/lib/dpkg/status")
    answer = subprocess.run(
        ["dpkg-query", f"--admindir={status.parent}", "-W", "-f", "${Package} ${Version} ${Architecture}\n"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    listed = debdb.installed(trees[-1])
    assert [f"{p.name} {p.version} {p.arch}" for p in listed] == sorted(answer.stdout.splitlines())
    assert {"kmod", "systemd", "apt", "libc6"} <= {package.name for package in listed}


def test_nothing_of_the_moment_or_the_machine_is_in_a_root(trees: list[Path]) -> None:
    assert _find(trees, "etc/machine-id").read_bytes() == b""
    days = {line.split(":")[2] for line in _find(trees, "etc/shadow").read_text().splitlines()}
    assert days == {str(DAY)}
    for gone in (
        "etc/hostname",
        "etc/apt/sources.list",
        "usr/sbin/policy-rc.d",
        "var/lib/dpkg/status-old",
        "etc/passwd-",
    ):
        assert not _is_there(trees, gone), gone
    for tree in trees:
        assert not [path for path in (tree / "var/log").rglob("*.log") if path.is_file()]
        assert not list(tree.glob("var/cache/apt/*.bin")) + list(tree.glob("var/cache/apt/archives/*"))
        assert not list(tree.glob("etc/*/*.d/99mmdebstrap")) + list(tree.glob("dev/*")) + list(tree.glob("tmp/*"))


def test_what_was_kept_idle_while_installing_works_again(trees: list[Path]) -> None:
    assert "hostplane" not in _find(trees, "var/lib/dpkg/diversions").read_text()
    assert os.access(_find(trees, "usr/bin/mandb"), os.X_OK)
    assert not _find(trees, "usr/bin/mandb").is_symlink()
    assert not list(trees[-1].glob("var/cache/man/*/*")), "the index of manuals was made"


def test_the_same_packages_give_the_same_root(
    trees: list[Path], recipe: Path, shared_store: Store, tmp_path: Path
) -> None:
    from hostplane.image.building.engine import Wish, build, open_store
    from hostplane.image.reading.check import check

    checked = check(recipe)
    store = open_store(tmp_path / "store")
    (store.cache).rmdir()
    store.cache.symlink_to(shared_store.cache)
    wish = Wish(until=StageName.PACKAGES)
    again = build(
        checked.recipe, checked.profile, store=store, out=tmp_path / "out2", wish=wish, show=lambda event: None
    )
    for first, second in zip(trees, _trees(again), strict=True):
        was, now = dict(_digests(first)), dict(_digests(second))
        assert sorted(was) == sorted(now)
        assert {path for path in was if was[path] != now[path]} == set()


def _digests(tree: Path) -> Iterator[tuple[str, str]]:
    for place, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(place, name)
            status = path.lstat()
            facts = f"{status.st_mode:o} {status.st_uid} {status.st_gid} "
            if stat.S_ISREG(status.st_mode):
                facts += hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                facts += os.readlink(path)
            yield str(path.relative_to(tree)), facts


def test_a_manager_that_stays_has_sources_without_a_password(build_shared: Build, recipe: Path, tmp_path: Path) -> None:
    built = build_shared(recipe, out=tmp_path / "out", overrides=["packages.keep_manager=true"], until="packages")
    text = _find(_trees(built), "etc/apt/sources.list.d/image.sources").read_text()
    assert "Suites: bookworm" in text
    assert "Signed-By: /usr/share/keyrings/debian-archive" in text
    assert "@" not in text


def test_a_script_may_install_with_the_image_s_own_apt_and_leaves_nothing_of_it(
    build_shared: Build, recipe: Path, tmp_path: Path
) -> None:
    script = """
[[script]]
name = "install"
network = true
content = "apt-get -qq update && apt-get -qq -y --no-install-recommends install netbase"
"""
    recipe.write_text(RECIPE + script, encoding="utf-8")
    built = build_shared(recipe, out=tmp_path / "out", until="slim")
    slim = _row(built, StageName.SLIM) / "tree"
    assert "netbase" in {package.name for package in debdb.installed(slim)}
    trees = [Path(row.layer) / "tree" for row in built.stages if row.stage is not StageName.BOOT]
    for gone in ("etc/apt", "var/lib/apt", "var/cache/apt", "usr/bin/apt-get"):
        assert not _is_there(trees, gone), gone


@pytest.fixture
def sealed(build_shared: Build, recipe: Path, tmp_path: Path) -> Built:
    """The whole root, slimmed, with what is said about it."""
    return build_shared(recipe, out=tmp_path / "out", until="seal")


def _row(built: Built, stage: StageName) -> Path:
    return next(Path(row.layer) for row in built.stages if row.stage is stage)


def test_the_slimmed_root_answers_for_its_packages_and_so_does_the_bill(sealed: Built) -> None:
    slim, seal = _row(sealed, StageName.SLIM), _row(sealed, StageName.SEAL)
    database = slim / "tree/usr/lib/sysimage/dpkg"
    answer = subprocess.run(
        ["dpkg-query", f"--admindir={database}", "-W", "-f", "${Package} ${Version}\n"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    bill = (seal / "out/sbom.cdx.json").read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    components = json.loads(bill)["components"]
    assert sorted(f"{each['name']} {each['version']}" for each in components) == sorted(answer.stdout.splitlines())
    names = {each["name"] for each in components}
    assert "dpkg" in names, "who answers stays"
    assert not names & {"apt", "libapt-pkg6.0"}, "the manager went, and what came with it"
    licences = {each["name"]: each.get("licenses") for each in components}
    assert sum(1 for each in licences.values() if each) > len(licences) * 0.7
    assert (slim / "tree/var/lib/dpkg").readlink() == Path("../../usr/lib/sysimage/dpkg")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts the layers")
def test_the_database_answers_inside_a_root_that_cannot_be_written(sealed: Built, tmp_path: Path) -> None:
    done = [row for row in sealed.stages if row.stage not in (StageName.BOOT, StageName.SEAL, StageName.PACK)]
    lower = ":".join(str(Path(row.layer) / "tree") for row in reversed(done))
    (tmp_path / "root").mkdir()
    script = 'mount -t overlay overlay -o "lowerdir=$1" "$2" && chroot "$2" dpkg-query -W && chroot "$2" dpkg --audit'
    command = ["unshare", "-m", "sh", "-c", script, "sh", lower, str(tmp_path / "root")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    listed = [package.name for package in debdb.installed(_row(sealed, StageName.SLIM) / "tree")] or [
        line.split("\t")[0] for line in answer.stdout.splitlines()
    ]
    assert len(answer.stdout.splitlines()) == len(listed) > 80
    assert answer.stderr == ""


def test_the_report_says_what_weighs_and_what_went(sealed: Built) -> None:
    sizes = json.loads((_row(sealed, StageName.SEAL) / "out/sizes.json").read_text("utf-8"))
    assert sizes["packages"] == sorted(sizes["packages"], key=lambda each: (-each["size"], each["name"]))
    assert sizes["total"] == sum(each["size"] for each in sizes["packages"]) + sum(sizes["unowned"].values())
    assert sizes["removed"]["documentation"] > 1_000_000
    assert sizes["removed"]["managers"] > 1_000_000
    found = {each["path"] for each in json.loads((_row(sealed, StageName.SLIM) / "out/privileged.json").read_text())}
    assert {"/usr/bin/su", "/usr/bin/mount"} <= found
