"""The proxy's directory holds all it imports, needs nothing of this installation, and is the same each time."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hostplane.errors import LocalError
from hostplane.local import proxyapp


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return proxyapp.build_proxy(tmp_path_factory.mktemp("proxy") / "proxy")


def digest(directory: Path) -> str:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(directory)).encode() + p.read_bytes() for p in files)).hexdigest()


needs_the_guests_python = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the directory is for Python 3.11; this one is another"
)


@needs_the_guests_python
def test_it_starts_without_this_installations_libraries(proxy: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "kubeconfig")
    script = (
        f"import sys, runpy; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; "
        f"sys.argv = ['proxy', '--node', 'n', '--kubeconfig', {missing!r}]; runpy.run_path({str(proxy)!r}, "
        f"run_name='__main__')"
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert missing in done.stderr.splitlines()[-1], done.stderr


def test_only_what_the_proxy_needs_goes_in(proxy: Path) -> None:
    assert {path.name for path in proxy.iterdir()} - {"__pycache__"} == {
        *("__main__.py", "h11", "hostplane", "msgspec", "yaml"),
    }
    rooms = {path.name for path in (proxy / "hostplane").iterdir() if path.is_dir()} - {"__pycache__"}
    assert rooms == {"api", "catalogue", "kube", "proxy", "rpc"}


def test_the_same_sources_give_the_same_bytes(proxy: Path, tmp_path: Path) -> None:
    assert digest(proxyapp.build_proxy(tmp_path / "again")) == digest(proxy)


def test_another_python_without_uv_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proxyapp, "_GUEST", ((3, 10), "x86_64"))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(LocalError) as refused:
        proxyapp.build_proxy(tmp_path / "proxy")
    assert refused.value.name == "GuestLibrariesMissing"
