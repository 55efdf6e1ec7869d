"""What an image costs to build: against mmdebstrap alone with the same packages, and again after a small change.

Both sides install from package files that are on this machine already, onto the same disk. The recipe is the one that
users begin with, examples/debian-12; its boot with the idle memory is measured on a copy with one unit more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from bench.figures import Figure, save
from hostplane.image.backends import wanted
from hostplane.image.building.store import default_store
from hostplane.image.packages.lock import read as read_lock
from hostplane.image.reading.check import check
from hostplane.image.recipe import Firmware
from hostplane.local.qemu import Machine

__all__ = ["run"]

_RECIPE = Path(__file__).parents[1] / "examples/debian-12/recipe.toml"
_RAW = 'image.outputs=["raw"]'
_SAMPLE_SECONDS = 0.05
_IDLE_SECONDS = 60
_BOOT_SECONDS = 420
_METER = f"""
[[unit]]
name = "meter.service"
content = '''
[Unit]
After=multi-user.target
[Service]
ExecStart=/bin/sh -c "sleep {_IDLE_SECONDS}; (echo; cat /proc/meminfo; echo METER) > /dev/ttyS0"
[Install]
WantedBy=multi-user.target
'''
"""


class _Built(NamedTuple):
    """One run of `hostplane image build`."""

    seconds: float
    peak_mib: float
    """Of our own processes together: the builder and its workers, without the tools they call."""
    stages: dict[str, float]


class _Ours:
    """Samples what our processes hold, until it is told to end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.peak_mib = 0.0
        self._end = threading.Event()
        self._process = psutil.Process(process.pid)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(_SAMPLE_SECONDS):
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.peak_mib = max(self.peak_mib, sum(map(_own_bytes, family)) / (1 << 20))

    def close(self) -> None:
        """End and join."""
        self._end.set()
        self._thread.join()


def _own_bytes(process: psutil.Process) -> int:
    """Resident bytes of a process of ours, 0 of a tool's."""
    try:
        return int(process.memory_info().rss) if "hostplane" in " ".join(process.cmdline()[:4]) else 0
    except psutil.Error:
        return 0


def _build(store: Path, out: Path, *sets: str, recipe: Path = _RECIPE) -> _Built:
    words = [sys.executable, "-m", "hostplane.cli", "image", "build", str(recipe), "--json"]
    words += ["--store", str(store), "-o", str(out), *(word for each in sets for word in ("--set", each))]
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT) as process:
            ours = _Ours(process)
            process.wait()
            ours.close()
        seconds = time.perf_counter() - begun
        said.seek(0)
        lines = said.read().decode().splitlines()
    if process.returncode != 0:
        raise SystemExit("the build failed: " + "\n".join(lines[-3:]))
    built = next(json.loads(line) for line in reversed(lines) if line.startswith('{"event":"built"'))
    stages = {row["stage"]: row["seconds"] for row in built["stages"]}
    return _Built(seconds, ours.peak_mib, stages)


def _store(here: Path, name: str, downloads: Path) -> Path:
    """An empty store that shares the downloads."""
    store = here / name
    store.mkdir()
    (store / "cache").symlink_to(downloads)
    return store


def _mmdebstrap(here: Path, downloads: Path) -> float:
    """Seconds of mmdebstrap alone, into a directory, from the same package files; it makes its own initramfs."""
    checked = check(_RECIPE)
    archives = here / "archives"
    if not archives.exists():
        archives.mkdir()
        lock = here / "recipe.lock"
        subprocess.run([sys.executable, "-m", "hostplane.cli", "image", "lock", str(_copied(here))], check=True)
        for package in read_lock(lock).packages:
            name = f"{package.name}_{package.version.replace(':', '%3a')}_{package.arch}.deb"
            os.link(downloads / "deb/files" / f"{package.sha256}.deb", archives / name)
    root = here / "mmdebstrap"
    words = ["mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", "--skip=essential/unlink"]
    words += [f"--include={','.join(wanted(checked.recipe, checked.profile))}"]
    inside = "/var/cache/apt/archives"
    words += [f'--setup-hook=mkdir -p "$1"{inside}', f"--setup-hook=sync-in {archives} {inside}"]
    begun = time.perf_counter()
    subprocess.run([*words, checked.profile.codename, str(root)], check=True, capture_output=True)
    seconds = time.perf_counter() - begun
    shutil.rmtree(root)
    return seconds


def _copied(here: Path) -> Path:
    return Path(shutil.copy(_RECIPE, here / "recipe.toml"))


def _idle_mib(here: Path, store: Path) -> dict[str, float]:
    """/proc/meminfo, in MiB, of the booted host a minute after it has come up."""
    out = here / "metered"
    recipe = here / "metered.toml"
    recipe.write_text(_RECIPE.read_text("utf-8") + _METER, "utf-8")
    _build(store, out, _RAW, recipe=recipe)
    with Machine(out / "disk.raw", Firmware.BIOS, memory_mib=1024) as machine:
        machine.wait_for("METER", _BOOT_SECONDS)
        return {name: int(kib) / 1024 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", machine.console)}


def run(quick: bool) -> list[Figure]:
    """About ten minutes; `quick`, one turn of each and no boot, five. Needs root, as mmdebstrap alone does."""
    turns = 1 if quick else 3
    with tempfile.TemporaryDirectory(prefix="hp-bench-image-", dir=_spacious()) as made:
        here = Path(made)
        downloads = here / "downloads"
        downloads.mkdir()
        first = _store(here, "first", downloads)
        _build(first, here / "o-first", _RAW)  # fills the downloads
        alone, raw, bundle = [], [], []
        for turn in range(turns):
            alone.append(_mmdebstrap(here, downloads))
            raw.append(_build(_store(here, f"raw{turn}", downloads), here / f"o-raw{turn}", _RAW))
            shutil.rmtree(downloads / "frames", ignore_errors=True)  # a full build packs every frame itself
            bundle.append(_build(_store(here, f"bundle{turn}", downloads), here / f"o-bundle{turn}"))
        last = here / f"bundle{turns - 1}"
        out = here / f"o-bundle{turns - 1}"
        again = [_build(last, out) for _ in range(3)]
        changed = _build(last, out, 'file.0.content="changed\\n"')
        changed_raw = _build(here / f"raw{turns - 1}", here / "o-changed", _RAW, 'file.0.content="changed\\n"')
        sizes = {path.name: path.stat().st_blocks * 512 for path in out.iterdir() if path.is_file()}
        images = json.loads((out / "report.json").read_text("utf-8"))["images"]
        root = images["root"]["size"] / (1 << 20)
        idle = None if quick else _idle_mib(here, first)
    base, full, whole = median(alone), median(b.seconds for b in raw), median(b.seconds for b in bundle)
    figures = [
        _ratio("image: full build to a raw disk / mmdebstrap alone", full, base, 1.3),
        _ratio("image: full build with bundle / mmdebstrap alone", whole, base, 1.8),
        Figure(name="image: nothing changed", measured=median(b.seconds for b in again), target=2, unit="s"),
        _ratio("image: one file changed / full build, raw disk", changed_raw.seconds, full, 0.25),
        _ratio("image: one file changed / full build, with bundle", changed.seconds, whole, 0.25),
        Figure(
            name="image: peak memory of our own processes",
            measured=max(b.peak_mib for b in (*raw, *bundle, changed)),
            target=500,
            unit="MiB",
            note="builder and workers, without the tools they call",
        ),
    ]
    if idle is not None:
        reclaimable = idle["Buffers"] + idle["Cached"] + idle["SReclaimable"]
        note = (
            f"total - free - buffers and caches; {idle['MemTotal'] - idle['MemAvailable']:.0f} MiB by MemAvailable, "
            f"with the kernel's reserve; {_IDLE_SECONDS} s after start; root image {root:.0f} MiB"
        )
        used = idle["MemTotal"] - idle["MemFree"] - reclaimable
        name = "image: idle memory of the booted host"
        figures.append(Figure(name=name, measured=used, target=150, unit="MiB", note=note))
    detail = {
        "mmdebstrap": alone,
        "raw": [b._asdict() for b in raw],
        "bundle": [b._asdict() for b in bundle],
        "nothing": [b.seconds for b in again],
        "changed": changed._asdict(),
        "changed_raw": changed_raw._asdict(),
        "on_disk": sizes,
        "images": images,
        "idle": idle,
    }
    save("image", figures, detail)
    return figures


def _ratio(name: str, seconds: float, base: float, target: float) -> Figure:
    return Figure(name=name, measured=seconds / base, target=target, note=f"{seconds:.1f} s / {base:.1f} s")


def _spacious() -> str:
    """Where the user's store is: the same disk for both sides, and room for several roots."""
    place = default_store().parent
    place.mkdir(parents=True, exist_ok=True)
    return str(place)
