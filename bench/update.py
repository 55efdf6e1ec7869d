"""What an upgrade costs: bytes fetched and written, the agent's time, beside casync's and whole images' figures.

Two pairs of the Debian recipe: as the distribution last released it and as its security archive has it today, once with
the old kernel kept and once with the new one. A host that runs the old version stages the new one; the plain figures
(blocks of 4 KiB that the old image does not have, packed with zstd -12; casync's chunks; the whole image) are of the
same files in the same run. `quick` does it with two small trees of files and no recipe.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench.figures import Figure, save
from hostplane.agent import bootstate
from hostplane.agent.bundle.limits import BLOCK
from hostplane.errors import HostError
from hostplane.image.building.store import default_store
from hostplane.image.bundle import bundle, signing, trust
from hostplane.image.bundle.ocilayout import open_bundle
from hostplane.image.bundle.unpack import read_image
from hostplane.image.packages.sources import machine_sources
from hostplane.rpc.client import AgentClient

__all__ = ["run"]

_RECIPE = Path(__file__).parents[1] / "examples/debian-12/recipe.toml"
_MORE = ["bind9-host", "rsync", "unzip", "xz-utils"]
"""Put into every version: with them and what they need, 21 packages differ (2026-11)."""
_IMAGES = ("boot", "root")
_SECONDS = 1200.0
_ROOT_BYTES = 1_500_000_000
_GROWTH = 1.05
_STAGE = """
import json, os, resource, sys, threading
from hostplane.agent.disk.partitions import find
from hostplane.agent.fetch import open_bundle
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import install
from hostplane.agent.payload.pace import Pace
from hostplane.agent.state import Image
host = HostRoot(sys.argv[1])
image = Image(format="bundle", ref=sys.argv[2], digest=sys.argv[3])
peak, over = [0], threading.Event()
def watch():
    while not over.wait(0.02):
        own = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
        peak[0] = max(peak[0], int(own.split()[1]) << 10)
watcher = threading.Thread(target=watch)
watcher.start()
plans = []
bundle = install.Bundle(host, find(host), "B", image, open_bundle(host, image, threading.Event()), Pace())
bundle.stage(install.Steps(plans.append, lambda: None, lambda size: None))
bundle.close()
over.set()
watcher.join()
spent = os.times()
said = {"written": bundle.written, "download": plans[0].download, "cpu": spent.user + spent.system, "peak": peak[0]}
print(json.dumps(said))
"""


class _Version(NamedTuple):
    """One version: its bundle, and its two images as files."""

    bundle: Path
    images: dict[str, Path]

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.images.values())


class _Staged(NamedTuple):
    """What one upgrade came to; bytes, and seconds of the agent's processor time."""

    download: int
    written: int
    differing: int
    stage_cpu: float
    switch_cpu: float
    peak_anonymous: int


# --- versions


def _recipe(here: Path, name: str, suites_end: tuple[str, ...], include: list[str]) -> Path:
    """A copy of the recipe that installs from the machine's archives, as far as their suites end in one of these."""
    lines = [_RECIPE.read_text("utf-8").replace("include = []", f"include = {json.dumps(include)}")]
    for at, source in enumerate(machine_sources("debian", "bookworm")):
        suites = [suite for suite in source.suites if suite.endswith(suites_end)]
        if suites:
            lines.append(f'\n[[packages.repositories]]\nname = "archive{at}"\nurl = {json.dumps(source.url)}')
            lines.append(f"suites = {json.dumps(suites)}\ncomponents = {json.dumps(list(source.components))}")
    path = here / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _build(here: Path, name: str, recipe: Path, *sets: str) -> _Version:
    out = here / name
    words = [sys.executable, "-m", "hostplane.cli", "image", "build", str(recipe), "-o", str(out)]
    words += [word for each in (f'version="{name}"', 'image.outputs=["bundle"]', *sets) for word in ("--set", each)]
    subprocess.run(words, check=True, stdout=sys.stderr)
    return _unpacked(here, out / "bundle", name)


def _unpacked(here: Path, directory: Path, name: str) -> _Version:
    opened = open_bundle(directory)
    images = {}
    for image in _IMAGES:
        images[image] = here / f"{name}-{image}.img"
        with images[image].open("wb") as file:
            for piece in read_image(opened, image):
                file.write(piece)
    return _Version(directory, images)


def _packages(version: _Version) -> dict[str, str]:
    opened = open_bundle(version.bundle)
    listed = json.loads(opened.read("sbom", opened.manifest.sbom))["components"]
    return {one["name"]: one.get("version", "") for one in listed}


def _small(here: Path, name: str, previous: Path | None) -> _Version:
    """A tree of the interpreter's own library; the later version has some files changed and some more."""
    tree = here / f"{name}-tree"
    library = Path(sysconfig.get_path("stdlib"))
    skip = shutil.ignore_patterns("site-packages", "__pycache__", "config-*", "test", "*.a")
    shutil.copytree(library, tree, ignore=skip, symlinks=True)
    if previous is not None:
        for number, path in enumerate(sorted(tree.rglob("*.py"))):
            if number % 25 == 0:
                path.write_bytes(b"# changed\n" + path.read_bytes())
    images = {}
    for image, content, mib in (("root", tree, 160), ("boot", tree / "encodings", 8)):
        images[image] = here / f"{name}-{image}.img"
        words = ["mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum,^has_journal", "-U", "clear"]
        words += ["-E", "hash_seed=12345678-1234-1234-1234-123456789abc", "-d", str(content), str(images[image])]
        subprocess.run([*words, f"{mib}M"], check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1"})
    for extra in ("sbom", "licences"):
        (here / extra).write_text('{"components": []}')
    metadata = bundle.Metadata(
        name="node", version=name, distro="some", release="1", arch=os.uname().machine, created=1, root_fs="ext4"
    )
    where = here / name / "bundle"
    bundle.write(
        where,
        root=images["root"],
        boot=images["boot"],
        metadata=metadata,
        sbom=here / "sbom",
        licences=here / "licences",
        previous=previous,
    )
    return _Version(where, images)


# --- the upgrade


def _host(root: Path, old: _Version, key: Path, trusted: Path) -> None:
    """A host whose disk was made with `old` in slot A, and whose slot B holds it too."""
    places = "dev/hostplane boot/hostplane/installed var/lib/hostplane etc/hostplane run/hostplane proc"
    for directory in places.split():
        (root / directory).mkdir(parents=True)
    for image, path in old.images.items():
        for slot in "AB":
            shutil.copyfile(path, root / f"dev/hostplane/{image.upper()}-{slot}")
    (root / "usr/lib/hostplane/keys").mkdir(parents=True)
    shutil.copyfile(trusted, root / "usr/lib/hostplane/keys/trusted.json")
    opened = open_bundle(old.bundle)
    (root / "etc/os-release").write_text(f"VERSION_ID={opened.metadata.version}\n")
    running = {"name": opened.metadata.name, "version": opened.metadata.version}
    (root / "usr/lib/hostplane/image.json").write_text(json.dumps(running))
    shutil.copyfile(opened.layout.path(opened.manifest.digest), root / "boot/hostplane/installed/manifest.json")
    shutil.copyfile(opened.path(opened.manifest.metadata), root / "boot/hostplane/installed/metadata.json")
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "etc/hostplane/agent.json").write_text(json.dumps({"ioIdle": False}))
    for name in ("env2", "env1"):
        (root / "boot/hostplane" / name).write_bytes(bootstate.render(bootstate.BootState(1, "A", True, 0, True, 0)))
    _boot(root, "A", 0)


def _boot(root: Path, slot: str, count: int) -> None:
    (root / "proc/cmdline").write_text(f"hostplane.slot={slot}\n")
    (root / "proc/sys/kernel/random/boot_id").write_text(f"boot-{count}\n")
    (root / "run/hostplane/reboot").unlink(missing_ok=True)


class _Agent:
    """An agent process that serves `root`."""

    def __init__(self, root: Path) -> None:
        path = str(root / "run/hostplane/agent.sock")
        words = [sys.executable, "-m", "hostplane.agent.main", "serve", "--root", str(root), "--socket", path]
        self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client = AgentClient(path, timeout=90, host_uid="bench").__enter__()
                return
            except Exception:
                if time.monotonic() > deadline:
                    self.process.kill()
                    raise
                time.sleep(0.02)

    def cpu(self) -> float:
        """Seconds so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def until(self, *phases: str) -> dict[str, Any]:
        """The first status in one of `phases`."""
        deadline = time.monotonic() + _SECONDS
        status: dict[str, Any] = self.client.call("status")
        while status["phase"] not in phases:
            if time.monotonic() > deadline:
                raise SystemExit(f"the agent stays in {status['phase']}")
            status = self.client.call("wait", revision=status["revision"], timeoutSeconds=1)
        if status["phase"] == "Failed":
            raise SystemExit(status["lastError"]["message"])
        return status

    def ended(self) -> float:
        """Seconds of processor time of the whole process, which ends by itself."""
        before = os.times()
        self.client.close()
        if self.process.wait(60):
            raise SystemExit("the agent failed")
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    def close(self) -> None:
        """End it."""
        self.client.close()
        self.process.terminate()
        self.process.wait(30)


def _upgrade(here: Path, old: _Version, new: _Version, key: Path, trusted: Path) -> _Staged:
    root = here / "host"
    _host(root, old, key, trusted)
    shutil.copytree(new.bundle, root / "bundle")
    signing.sign_bundle(root / "bundle", key, key_id="bench")
    opened = open_bundle(new.bundle)
    ref, digest = "file:///bundle", opened.manifest.digest
    image: dict[str, Any] = {"format": "bundle", "ref": ref, "digest": digest, "size": new.size}
    words = [sys.executable, "-c", _STAGE, str(root), ref, digest]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    staged = json.loads(done.stdout)
    agent = _Agent(root)
    try:
        agent.client.call("stage", image={**image, "version": opened.metadata.version})
        agent.until("Staged", "Failed")
        before = agent.cpu()
        agent.client.call("switch", seq=1, operation="upgrade", digest=digest, trialSeconds=600)
        switched = agent.ended() - before
        _boot(root, "B", 1)
        agent = _Agent(root)
        agent.until("Trial")
        while not _confirmed(agent):
            time.sleep(0.1)
        switched += agent.cpu()
    finally:
        agent.close()
    differing = sum(_differing(new.images[name], old.images[name]) for name in _IMAGES)
    for name in _IMAGES:
        _require_equal(root / f"dev/hostplane/{name.upper()}-B", new.images[name])
    shutil.rmtree(root)
    return _Staged(staged["download"], staged["written"], differing, staged["cpu"], switched, staged["peak"])


def _confirmed(agent: _Agent) -> bool:
    try:
        return bool(agent.client.call("confirm", seq=1)["phase"] == "Idle")
    except HostError as fault:
        if fault.name != "ChecksRunning":
            raise
        return False


def _require_equal(slot: Path, image: Path) -> None:
    with slot.open("rb") as one, image.open("rb") as other:
        while piece := other.read(1 << 20):
            if one.read(len(piece)) != piece:
                raise SystemExit(f"{slot.name} does not hold the image")


# --- what it is compared with


def _blocks(path: Path) -> Any:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _differing(new: Path, old: Path) -> int:
    """Bytes of the blocks in which `old`'s partition has to be changed."""
    with new.open("rb") as one, old.open("rb") as other:
        count = 0
        while block := one.read(BLOCK):
            count += block != other.read(BLOCK).ljust(len(block), b"\0")
    return count * BLOCK


def _plain(here: Path, old: _Version, new: _Version) -> int:
    """The blocks of the new images that the old ones do not have, packed together by zstd -12."""
    held = {hashlib.sha256(block).digest() for path in old.images.values() for block in _blocks(path)}
    held.add(hashlib.sha256(bytes(BLOCK)).digest())
    lost = here / "lost"
    with lost.open("wb") as file:
        for path in new.images.values():
            for block in _blocks(path):
                if hashlib.sha256(block).digest() not in held:
                    file.write(block)
    return _zstd(lost)


def _zstd(path: Path) -> int:
    packed = path.with_name(path.name + ".zst")
    subprocess.run(["zstd", "-q", "-f", "-12", "-T0", str(path), "-o", str(packed)], check=True)
    size = packed.stat().st_size
    packed.unlink()
    return size


def _casync(here: Path, old: _Version, new: _Version) -> int | None:
    """Bytes of the chunks that a store of the old version lacks, and of the indexes; None without the program."""
    if shutil.which("casync") is None:
        return None
    store, total = here / "store", 0
    for version in (old, new):
        before = _stored(store)
        total = 0
        for name, path in version.images.items():
            index = here / f"{name}.caibx"
            subprocess.run(
                ["casync", "make", f"--store={store}", str(index), str(path)], check=True, capture_output=True
            )
            total += index.stat().st_size
        total += _stored(store) - before
    shutil.rmtree(store)
    return total


def _stored(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) if store.exists() else 0


# --- figures


def _pair(here: Path, name: str, old: _Version, new: _Version, most: float, keys: tuple[Path, Path]) -> _Result:
    staged = _upgrade(here, old, new, *keys)
    plain, whole = _plain(here, old, new), sum(_zstd(path) for path in new.images.values())
    chunks = _casync(here, old, new)
    mb = 1_000_000
    beside = f"casync {chunks / mb:.1f} MB" if chunks is not None else "casync is not installed"
    indexes = sum(index.size for index, _ in open_bundle(new.bundle).manifest.images.values())
    note = f"{staged.download / mb:.1f} MB, {indexes / mb:.1f} of it block indexes; plain blocks {plain / mb:.1f} MB, "
    note += f"{beside}, whole image {whole / mb:.1f} MB"
    cpu = staged.stage_cpu * _ROOT_BYTES / new.size
    figures = [
        Figure(
            name=f"update, {name}: download / plain 4 KiB blocks",
            measured=staged.download / plain,
            target=most,
            note=note,
        ),
        Figure(
            name=f"update, {name}: agent CPU to stage 1.5 GB",
            measured=cpu,
            target=25,
            unit="s",
            note=f"{staged.stage_cpu:.1f} s for {new.size / mb:.0f} MB",
        ),
        Figure(
            name=f"update, {name}: bytes written / bytes that differ",
            measured=staged.written / staged.differing,
            target=_GROWTH,
            note=f"{staged.written / mb:.1f} / {staged.differing / mb:.1f} MB",
        ),
        Figure(
            name=f"update, {name}: agent CPU of switch, trial and commit",
            measured=staged.switch_cpu,
            target=3,
            unit="s",
        ),
    ]
    peak = staged.peak_anonymous / (1 << 20)
    figures.append(Figure(name=f"update, {name}: peak anonymous memory", measured=peak, target=64, unit="MiB"))
    return _Result(figures, {**staged._asdict(), "plain": plain, "whole": whole, "casync": chunks, "size": new.size})


class _Result(NamedTuple):
    figures: list[Figure]
    detail: dict[str, Any]


def run(quick: bool) -> list[Figure]:
    """About ten minutes; `quick`, a small pair, one. Needs root, as mmdebstrap does, and the program zstd."""
    with tempfile.TemporaryDirectory(prefix="hp-bench-update-", dir=_spacious()) as made:
        here = Path(made)
        key, trusted = here / "key", here / "trusted"
        signing.generate(key, here / "key.pub")
        trust.create(trusted, [("bench", here / "key.pub")])
        trust.sign_newest(trusted, key)
        results = {}
        if quick:
            old = _small(here, "1.0.0", None)
            new = _small(here, "1.1.0", old.bundle)
            results["small"] = _pair(here, "small pair", old, new, 1.0, (key, trusted))
        else:
            old = _build(here, "1.0.0", _recipe(here, "old", ("bookworm", "-updates"), _MORE))
            before = _packages(old)
            upon = f'image.previous="{old.bundle}"'
            kept = [f"linux-image-amd64={before['linux-image-amd64']}"]
            every = ("bookworm", "-updates", "-security")
            for version, name, include, most in (
                ("1.1.0", "same kernel", kept, 1.0),
                ("1.2.0", "new kernel", [], 0.8),
            ):
                new = _build(here, version, _recipe(here, version, every, _MORE + include), upon)
                after = _packages(new)
                changed = sum(after.get(package) != number for package, number in before.items())
                results[name] = _pair(here, f"{name}, {changed} packages", old, new, most, (key, trusted))
                for path in new.images.values():
                    path.unlink()
    figures = [figure for result in results.values() for figure in result.figures]
    save("update", figures, {name: result.detail for name, result in results.items()})
    return figures


def _spacious() -> str:
    place = default_store().parent
    place.mkdir(parents=True, exist_ok=True)
    return str(place)
