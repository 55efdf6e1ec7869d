"""A machine's disk is the image's, with an identity in PERSIST and nothing else changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hostplane.agent import gpt
from hostplane.errors import LocalError
from hostplane.local.vmdisk import prepare_disk

MIB = 1 << 20
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
FILES = {
    "hostname": "vm-1\n",
    "kubernetes/apiserver.crt": "a certificate\n",
    "kubernetes/kubelet.conf": "users: [{user: {token: secret}}]\n",
}


def a_disk(path: Path, label: str = "PERSIST") -> Path:
    """32 MiB with one ext4 partition at 1 MiB."""
    content = path.with_suffix(".fs")
    content.touch()
    os.truncate(content, 16 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", content], check=True, timeout=60)
    part = gpt.Partition(8, LINUX, "11111111-2222-3333-4444-555555555555", 2048, 2048 + 16 * 2048 - 1, label)
    path.touch()
    os.truncate(path, 32 * MIB)
    with path.open("r+b") as disk:
        gpt.write_disk(disk.fileno(), gpt.make("99999999-2222-3333-4444-555555555555", 32 * MIB, (part,)))
        disk.seek(MIB)
        disk.write(content.read_bytes())
    return path


def debugfs(disk: Path, command: str) -> str:
    place = f"{disk}?offset={MIB}"
    return subprocess.run(["debugfs", "-R", command, place], capture_output=True, text=True, check=True).stdout


def test_each_file_is_in_identity_and_secrets_are_roots_alone(tmp_path: Path) -> None:
    image = a_disk(tmp_path / "image.raw")
    before = image.read_bytes()
    disk = prepare_disk(image, tmp_path / "vm-1.raw", FILES)
    for name, text in FILES.items():
        assert debugfs(disk, f"cat /identity/{name}") == text
    modes = {name: debugfs(disk, f"stat /identity/{name}").split("Mode:")[1].split()[0] for name in FILES}
    assert modes == {"hostname": "0644", "kubernetes/apiserver.crt": "0644", "kubernetes/kubelet.conf": "0600"}
    assert all("User:     0" in debugfs(disk, f"stat /identity/{name}") for name in FILES)
    assert image.read_bytes() == before


def test_a_disk_that_could_not_take_it_is_refused(tmp_path: Path) -> None:
    image = a_disk(tmp_path / "image.raw")
    with pytest.raises(LocalError) as refused:
        prepare_disk(image, tmp_path / "vm-1.raw", {"hostname": "x" * 20 * MIB})
    assert refused.value.name == "DiskNotPrepared"


def test_a_disk_without_persist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as refused:
        prepare_disk(a_disk(tmp_path / "image.raw", "ELSE"), tmp_path / "vm-1.raw", FILES)
    assert refused.value.name == "DiskNotPrepared"
