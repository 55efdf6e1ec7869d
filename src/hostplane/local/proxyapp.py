"""The proxy as a directory that the Python of a virtual machine runs: `python3 DIRECTORY --node … --kubeconfig …`.

Only what one node's proxy imports goes in, with its three libraries. One of them (msgspec) is compiled, so the
directory is made for one Python and one processor: the guest's, Debian 12's 3.11 on x86_64. Where this process runs on
the same, its own libraries are copied; elsewhere uv brings the same versions for the guest. The same sources give the
same bytes, so that an image made of them is found in the store again.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hostplane
from hostplane.errors import LocalError

__all__ = ["LIBRARIES", "build_proxy"]

LIBRARIES = {"msgspec": "msgspec", "h11": "h11", "pyyaml": "yaml"}
"""Distribution and package. YAML's compiled part stays out: a kubeconfig is small."""
_GUEST = ((3, 11), "x86_64")
_PLATFORM = "x86_64-manylinux_2_28"
_OWN = ("__init__.py", "errors.py", "py.typed")
_ROOMS = ("api", "kube", "proxy", "rpc")
_CATALOGUES = ("agent", "kube", "local", "proxy", "rpc")
_KEPT = (".py", ".so")
_SECONDS = 120.0
_MAIN = '''"""One node's proxy, until it is told to stop."""

import argparse
import sys

from hostplane.proxy.main import ProxyConfig, run

parser = argparse.ArgumentParser(prog="hostplane-proxy", description=__doc__)
parser.add_argument("--node", required=True)
parser.add_argument("--kubeconfig", required=True)
arguments = parser.parse_args()
sys.exit(run(ProxyConfig(node=arguments.node, kubeconfig=arguments.kubeconfig)))
'''


def build_proxy(target: Path) -> Path:
    """Write the directory `target`, which must not exist; gives `target`.

    Raises:
        LocalError: GuestLibrariesMissing, where this Python is another than the guest's and uv brought nothing.
    """
    target.mkdir(parents=True)
    is_alike = (sys.version_info[:2], platform.machine()) == _GUEST and sys.platform == "linux"
    (target / "__main__.py").write_text(_MAIN, "utf-8")
    for name, source in _own():
        _copy(source, target / "hostplane" / name)
    if is_alike:
        for distribution, package in LIBRARIES.items():
            _copy_library(distribution, package, target)
    else:
        _fetch_libraries(target)
    if is_alike:  # the guest's root is read-only: what is not compiled here is compiled at every start
        for source in sorted(target.rglob("*.py")):
            shown = source.relative_to(target).as_posix()
            py_compile.compile(
                str(source), dfile=shown, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
    return target


def _own() -> Iterator[tuple[str, Path]]:
    home = Path(hostplane.__file__).parent
    for name in (*_OWN, *(f"catalogue/{room}.json" for room in _CATALOGUES)):
        yield name, home / name
    for room in _ROOMS:
        for source in (home / room).rglob("*.py"):
            yield source.relative_to(home).as_posix(), source


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _copy_library(distribution: str, package: str, target: Path) -> None:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise LocalError("GuestLibrariesMissing", library=distribution, detail=error) from error
    for entry in files:
        name = entry.as_posix()
        if name.startswith(f"{package}/") and name.endswith(_KEPT) and "/_yaml." not in name:
            _copy(Path(str(entry.locate())), target / name)


def _fetch_libraries(target: Path) -> None:
    """The wheels of the same versions for the guest's Python, by uv: the one in PATH or the one tools/setup made."""
    checkout = Path(__file__).parents[3] / ".tools" / "uv" / "bin"
    uv = shutil.which("uv", path=f"{os.environ.get('PATH', '')}:{checkout}")
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in LIBRARIES]
    if uv is None:
        raise LocalError("GuestLibrariesMissing", library=", ".join(LIBRARIES), detail="no uv")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(target)]
    version = ".".join(map(str, _GUEST[0]))
    done = subprocess.run(
        [*command, "--python-version", version, "--python-platform", _PLATFORM, *wanted],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise LocalError("GuestLibrariesMissing", library=", ".join(LIBRARIES), detail=done.stderr.strip()[-400:])
    for place in (*target.glob("*.dist-info"), *target.glob("bin"), *target.glob("_yaml")):
        shutil.rmtree(place)
