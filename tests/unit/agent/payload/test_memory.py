"""Memory while staging, of a process of its own: bounded, whatever the size of the image."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.agent.payload.bundle_host import BundleHost
from tests.unit.image.bundle_play import blocks

LIMIT = 64 << 20
SECONDS = 240


def measured(*words: object) -> int:
    """Peak of anonymous memory in bytes."""
    command = [sys.executable, "-m", "tests.unit.agent.payload.measured", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[0]) if done.stdout else 0


@pytest.mark.parametrize("mib", [256, 1024])
def test_a_plan_needs_the_same_memory_for_any_size(tmp_path: Path, mib: int) -> None:
    """One byte a block apart: 4 MiB at 16 GiB. `measured plan DIRECTORY 16384` gives the figure of the docs."""
    measured("make", tmp_path, mib)
    assert measured("plan", tmp_path, mib) < LIMIT - (4 << 20) - (20 << 20)


@pytest.mark.parametrize("codec", ["xz", "deflate", "none"])
def test_the_largest_frames_fit_into_the_memory_of_a_staging(tmp_path: Path, codec: str) -> None:
    host = BundleHost(tmp_path)
    root = blocks(range(1, 5000))
    image = host.bundle("v1", root, frame_bytes=8 << 20, codec=codec)
    assert measured("stage", tmp_path, image.ref, image.digest) < LIMIT
    assert host.slot("ROOT-B") == root


def test_patches_fit_into_the_memory_of_a_staging(tmp_path: Path) -> None:
    host = BundleHost(tmp_path)
    old = random.Random(1).randbytes(12 << 20)
    host.install_in_a(host.bundle("v1", old, frame_bytes=1 << 20, codec="none"))
    image = host.bundle("v2", b"put in" + old[:-6], previous=host.layout("v1"), frame_bytes=1 << 20, codec="none")
    assert measured("stage", tmp_path, image.ref, image.digest) < LIMIT
    assert host.slot("ROOT-B") == b"put in" + old[:-6]
