"""Finds the programs a control plane and its nodes are made of, and gets them when this machine has none.

Order: the directory in HOSTPLANE_ASSETS or KUBEBUILDER_ASSETS, PATH (only versions new enough: a distribution's old
etcd is passed over), the per-user cache, the official release download, last a Go build of the same version from the
wrapper modules in `gobuild/`. The versions are pinned here and in those modules' go.mod, nowhere else.

A download is checked against the checksum file that the release publishes beside it, over verified TLS (no digest is
pinned here); a Go build is checked by the committed go.sum. What fails its check is thrown away, never used.
HOSTPLANE_OFFLINE=1 skips the download.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from hostplane.errors import LocalError

__all__ = ["ETCD_VERSION", "KUBERNETES_VERSION", "PROGRAMS", "Program", "cache_directory", "locate"]

KUBERNETES_VERSION = "v1.34.2"
ETCD_VERSION = "v3.6.5"
_CONNECT_SECONDS = 5.0
_DOWNLOAD_SECONDS = 60.0
_PROGRESS_SECONDS = 20.0

Say = Callable[[str], None]


class Program(NamedTuple):
    """One program: where it comes from, and from which version on one found in PATH is good enough."""

    name: str
    version: str
    module: str  # the directory below gobuild/
    package: str
    minimum: tuple[int, int]

    @property
    def cached(self) -> Path:
        """Where the cache keeps this version of it."""
        return cache_directory() / self.version / self.name


PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (
        Program("etcd", ETCD_VERSION, "etcd", "go.etcd.io/etcd/server/v3", (3, 5)),
        Program("kube-apiserver", KUBERNETES_VERSION, "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", (1, 30)),
        Program(
            "kube-controller-manager",
            KUBERNETES_VERSION,
            "kubernetes",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            (1, 30),
        ),
        Program("kubectl", KUBERNETES_VERSION, "kubernetes", "k8s.io/kubernetes/cmd/kubectl", (1, 28)),
        Program("kubelet", KUBERNETES_VERSION, "kubernetes", "k8s.io/kubernetes/cmd/kubelet", (1, 30)),
    )
}


def cache_directory() -> Path:
    """The per-user cache: one directory per version below it."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hostplane" / "controlplane"


def tell(line: str) -> None:
    """The usual `say`: one line on standard error."""
    sys.stderr.write(f"hostplane: {line}\n")
    sys.stderr.flush()


def locate(names: Iterable[str], say: Say = tell) -> dict[str, Path]:
    """The path of each named program, downloading or building what is missing; `say` gets the progress lines.

    Raises:
        LocalError: nothing on this machine has it and nothing could bring it; the remedy says what to install.
    """
    found: dict[str, Path] = {}
    missing: list[Program] = []
    for name in names:
        program = PROGRAMS[name]
        path = _present(program)
        if path:
            found[name] = path
        else:
            missing.append(program)
    if not missing:
        return found
    reachable = os.environ.get("HOSTPLANE_OFFLINE", "") in ("", "0")
    for version in dict.fromkeys(program.version for program in missing):
        with _locked(version, say):
            for program in [p for p in missing if p.version == version]:
                if program.cached.is_file():  # another process was quicker
                    continue
                reachable = reachable and _download(program, say)
                if not program.cached.is_file():
                    _build(program, say)
    found.update({program.name: program.cached for program in missing})
    return found


def _present(program: Program) -> Path | None:
    for variable in ("HOSTPLANE_ASSETS", "KUBEBUILDER_ASSETS"):
        if os.environ.get(variable):
            path = Path(os.environ[variable]) / program.name
            if os.access(path, os.X_OK):
                return path
    in_path = shutil.which(program.name)
    if in_path and _is_new_enough(program, in_path):
        return Path(in_path)
    return program.cached if os.access(program.cached, os.X_OK) else None


def _is_new_enough(program: Program, path: str) -> bool:
    command = [path, "version", "--client"] if program.name == "kubectl" else [path, "--version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return read_version(answer.stdout) >= program.minimum


def read_version(output: str) -> tuple[int, int]:
    """(major, minor) of the first version in what a program prints about itself; (0, 0) when there is none."""
    match = re.search(r"\bv?(\d+)\.(\d+)\.\d+", output)
    return (int(match[1]), int(match[2])) if match else (0, 0)


@contextmanager
def _locked(version: str, say: Say) -> Iterator[None]:
    """Holds the version's lock, so that two processes never fill the cache at once."""
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / f"{version}.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is fetching {version}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in directory.glob(f"{version}.work-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _install(program: Program, source: Path) -> None:
    source.chmod(0o755)
    program.cached.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, program.cached)


def _machine() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}.get(platform.machine(), "")


def _download(program: Program, say: Say) -> bool:
    """Tries the official release; False when it cannot be reached, so that the next program need not try again."""
    machine = _machine()
    if not machine or sys.platform != "linux":
        return False
    archive = f"etcd-{program.version}-linux-{machine}.tar.gz"
    if program.module == "etcd":
        base = f"https://github.com/etcd-io/etcd/releases/download/{program.version}/"
        url, sums = base + archive, base + "SHA256SUMS"
    else:
        url = f"https://dl.k8s.io/release/{program.version}/bin/linux/{machine}/{program.name}"
        sums = url + ".sha256"
    try:
        want = wanted_digest(_fetch(sums, _CONNECT_SECONDS).decode("ascii", "replace"), url.rsplit("/", 1)[1])
        say(f"downloading {program.name} {program.version}")
        payload = _fetch(url, _DOWNLOAD_SECONDS)
    except (OSError, urllib.error.URLError) as error:
        say(f"no download of {program.name} {program.version} ({getattr(error, 'reason', error)})")
        return False
    got = hashlib.sha256(payload).hexdigest()
    if got != want:
        raise LocalError("DownloadDigestMismatch", program=program.name, url=url, got=got, want=want or "none")
    if program.module == "etcd":
        with tarfile.open(fileobj=io.BytesIO(payload)) as tar:
            member = tar.extractfile(archive.removesuffix(".tar.gz") + "/etcd")
            payload = member.read() if member else b""
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=f"{program.version}.work-") as work:
        file = Path(work) / program.name
        file.write_bytes(payload)
        _install(program, file)
    return True


def wanted_digest(sums: str, filename: str) -> str:
    """The sha256 for `filename` in a checksum file: a lone digest, or `digest  name` lines; "" when it is not there."""
    for line in sums.splitlines():
        fields = line.split()
        if fields and re.fullmatch(r"[0-9a-f]{64}", fields[0]) and (len(fields) == 1 or fields[-1] == filename):
            return fields[0]
    return ""


def _fetch(url: str, timeout: float) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        body: bytes = answer.read()
        return body


def version_flags(program: Program) -> str:
    """The linker flags that make a Kubernetes program answer its version; clients cannot parse the answer without."""
    if program.module != "kubernetes":
        return "-s -w"
    major, minor = program.version.lstrip("v").split(".")[:2]
    stamps = {"gitVersion": program.version, "gitMajor": major, "gitMinor": minor, "gitCommit": "unknown"}
    stamps["gitTreeState"] = "archive"
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())])


def _build(program: Program, say: Say) -> None:
    """Builds from the wrapper module in a directory of its own and moves the result into the cache in one step."""
    go = shutil.which("go")
    if not go:
        raise LocalError("ProgramMissing", program=program.name, version=program.version)
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=f"{program.version}.work-") as work:
        module = Path(work) / "module"
        module.mkdir()
        for entry in resources.files("hostplane.local").joinpath("gobuild", program.module).iterdir():
            (module / entry.name).write_bytes(entry.read_bytes())
        output, log = Path(work) / program.name, Path(work) / "log"
        command = [go, "build", "-buildvcs=false", "-ldflags", version_flags(program), "-o", str(output)]
        environment = dict(os.environ, CGO_ENABLED="0", GO111MODULE="on", GOWORK="off")
        started = time.monotonic()
        say(f"building {program.name} {program.version} from source, once for this user (some minutes)")
        with open(log, "wb") as sink:
            process = subprocess.Popen(
                [*command, program.package], cwd=module, env=environment, stdout=sink, stderr=subprocess.STDOUT
            )
            try:
                while process.poll() is None:
                    try:
                        process.wait(_PROGRESS_SECONDS)
                    except subprocess.TimeoutExpired:
                        say(f"still building {program.name} ({time.monotonic() - started:.0f} s)")
            except BaseException:
                process.kill()
                process.wait()
                raise
        if process.returncode != 0:
            tail = " / ".join(log.read_text("utf-8", "replace").split("\n")[-4:]).strip(" /")
            raise LocalError("ProgramBuildFailed", program=program.name, version=program.version, tail=tail[-400:])
        say(f"built {program.name} {program.version} in {time.monotonic() - started:.0f} s")
        _install(program, output)
