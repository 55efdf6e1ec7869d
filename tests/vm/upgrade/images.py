"""The images that upgrades are tested with: v1 as a disk, v2 as a bundle, and v2 with one fault each.

v1 and v2 are built of `small.toml`, once, in the shared store. A fault is put into v2's sealed images by hand and
packed as a bundle of its own, signed by the same key: a signed image may still be a bad one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hostplane.distros.profile import Profile
from hostplane.image.bundle import bundle, signing, trust
from hostplane.image.bundle.ocilayout import open_bundle
from hostplane.image.reading.check import check
from hostplane.image.recipe import Recipe
from tests.image.conftest import Build

__all__ = ["FAULTS", "RECIPE", "V2", "Fault", "Images", "Keys", "Made", "digest_of", "repacked"]

RECIPE = Path(__file__).parent / "small.toml"
V2 = (
    "version=2.0.0",
    'packages.include+=["tree", "dmsetup", "tini"]',
    r'file.2.content="colour = blue\nsize = 1\n"',
    r'file.3.content="two\n"',
    r'file+={path="/etc/new-in-two.conf", content="new\n"}',
    r'file+={path="/usr/share/two", content="two\n"}',
    'user+={name="two", uid=1500}',
)
"""What makes v2 of v1: packages, changed and new files of /etc, a new account."""
_SECONDS = 120


class Fault(NamedTuple):
    """How v2 is broken. `boot` and `root` are commands of debugfs; FILE:NAME in them is a file with `files[NAME]`."""

    boot: tuple[str, ...] = ()
    root: tuple[str, ...] = ()
    files: Mapping[str, str] = {}
    arguments: str = ""
    """More kernel arguments."""
    renamed: tuple[bytes, bytes] | None = None
    """Bytes of the boot image that become others of the same length, wherever they are."""


def _unit(name: str, text: str, wanted_by: str) -> Fault:
    units = "/usr/lib/systemd/system"
    root = (
        f"cd {units}",
        f"write FILE:unit {name}",
        f"sif {name} mode 0100644",
        f"cd {units}/{wanted_by}",
        f"symlink {name} ../{name}",
    )
    return Fault(root=root, files={"unit": text})


def _agent(script: str) -> Fault:
    root = ("cd /usr/bin", "rm hostplane-agent", "write FILE:agent hostplane-agent", "sif hostplane-agent mode 0100755")
    return Fault(root=root, files={"agent": f"#!/bin/sh\n{script}\n"})


_HANGING = """[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sleep infinity
"""
_FAILING = """[Service]
Type=oneshot
ExecStart=/bin/false
"""
_SICK_KUBELET = """[Service]
ExecStart=/usr/bin/python3 -c "import http.server as h; H = type('H', (h.BaseHTTPRequestHandler,), \
{'do_GET': lambda s: s.send_error(500)}); h.HTTPServer(('127.0.0.1', 10248), H).serve_forever()"
"""
FAULTS: Mapping[str, Fault] = {
    "no-kernel": Fault(boot=("rm vmlinuz",)),
    "panic": Fault(arguments="rdinit=/nothing"),
    "no-root-driver": Fault(renamed=(b"virtio_blk.ko\0", b"virtio_gone.k\0")),
    "hang": _unit("hang.service", _HANGING, "sysinit.target.wants"),
    "failed-unit": _unit("required.service", _FAILING, "multi-user.target.wants"),
    "kubelet": _unit("kubelet.service", _SICK_KUBELET, "multi-user.target.wants"),
    "no-network": Fault(arguments="modprobe.blacklist=virtio_net"),
    "init-crash": _unit("crash.service", "[Service]\nExecStart=/bin/kill -SEGV 1\n", "sysinit.target.wants"),
    "agent": _agent('[ "$1" != serve ] || kill -SEGV $$\nexec python3 /usr/lib/hostplane/agent.pyz "$@"'),
    "all-of-the-agent": _agent("kill -SEGV $$"),
}


class Keys:
    """A signing key and the trusted set made of it, the same in every run, since images hold the set."""

    def __init__(self, directory: Path) -> None:
        self.private, self.trusted = directory / "key", directory / "trusted"
        if self.trusted.exists():
            return
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".keys-", dir=directory.parent))
        for name in ("key", "spare"):
            signing.generate(fresh / name, fresh / f"{name}.pub")
        trust.create(fresh / "trusted", [("test", fresh / "key.pub"), ("spare", fresh / "spare.pub")])
        trust.sign_newest(fresh / "trusted", fresh / "key")
        try:
            fresh.rename(directory)
        except OSError:  # another run was faster
            shutil.rmtree(fresh)


class Made(NamedTuple):
    """An image that a host can be given."""

    bundle: Path
    digest: str
    version: str
    size: int
    root: Path
    boot: Path
    disk: Path | None = None


def digest_of(directory: Path) -> str:
    return open_bundle(directory).manifest.digest


class Images:
    """Makes each image when it is first asked for; `directory` keeps them."""

    def __init__(self, build: Build, directory: Path, keys: Keys) -> None:
        self._build, self._directory, self._keys = build, directory, keys
        self._made: dict[tuple[str, ...], Made] = {}
        self._sealed: dict[tuple[str, ...], Path] = {}

    def made(self, *overrides: str) -> Made:
        """The image of small.toml with these overrides: disk and signed bundle."""
        if overrides not in self._made:
            out = self._directory / f"image-{len(self._made)}"
            built = self._build(RECIPE, out=out, overrides=self._signed(overrides))
            sealed = next(Path(ran.layer) / "out" for ran in built.stages if ran.stage == "seal")
            self._sealed[overrides] = sealed
            report = json.loads((out / "report.json").read_bytes())
            self._made[overrides] = Made(
                bundle=out / "bundle",
                digest=digest_of(out / "bundle"),
                version=report["version"],
                size=report["bundle"]["size"],
                root=sealed / "root.img",
                boot=sealed / "slot-boot.img",
                disk=out / "disk.raw",
            )
        return self._made[overrides]

    def faulty(self, name: str, *overrides: str) -> Made:
        """v2 (ext4) with the fault `name`."""
        key = ("fault", name, *overrides)
        if key not in self._made:
            good = (*V2, *overrides)
            self.made(*good)
            recipe = check(RECIPE, (*self._signed(good), f"version=2.0.0-{name}"))
            out = self._directory / f"fault-{name}-{len(self._made)}"
            self._made[key] = repacked(self._sealed[good], out, FAULTS[name], recipe.recipe, recipe.profile)
        return self._made[key]

    def _signed(self, overrides: Sequence[str]) -> tuple[str, ...]:
        keys = self._keys
        return (
            f"signing.key={keys.private}",
            "signing.key_id=test",
            f"signing.trusted_keys={keys.trusted}",
            *overrides,
        )


def repacked(sealed: Path, out: Path, fault: Fault, recipe: Recipe, profile: Profile) -> Made:
    """A bundle of the sealed images with `fault` in them."""
    out.mkdir()
    root, boot = out / "root.img", out / "slot-boot.img"
    for image in (root, boot):
        shutil.copyfile(sealed / image.name, image)
        image.chmod(0o644)
    for name, text in fault.files.items():
        (out / name).write_text(text)
    if fault.arguments:
        (out / "slot.cfg").write_text(_more_arguments(_cat(boot, "slot.cfg"), fault.arguments))
        _debugfs(boot, ("rm slot.cfg", f"write {out / 'slot.cfg'} slot.cfg"))
    for image, commands in ((boot, fault.boot), (root, fault.root)):
        _debugfs(image, [command.replace("FILE:", f"{out}/") for command in commands])
    if fault.renamed is not None:
        old, new = fault.renamed
        raw = boot.read_bytes()
        assert raw.count(old), f"{old!r} is not in the boot image: is the initramfs compressed?"
        assert len(old) == len(new)
        boot.write_bytes(raw.replace(old, new))
    seal = msgspec.json.decode((sealed / "seal.json").read_bytes())
    info = bundle.write(
        out / "bundle",
        root=root,
        boot=boot,
        metadata=bundle.describe(recipe, profile, seal, created=1_704_067_200),
        sbom=sealed / "sbom.cdx.json",
        licences=sealed / "licences.json",
        codec=recipe.image.codec,
    )
    signing.sign_by_recipe(out / "bundle", recipe.signing)
    return Made(out / "bundle", info.digest, recipe.version, info.size, root, boot)


def _more_arguments(config: str, arguments: str) -> str:
    lines = [
        line.removesuffix("'") + f" {arguments}'" if line.startswith("set hp_args=") else line
        for line in config.splitlines()
    ]
    assert any(arguments in line for line in lines)
    return "\n".join((*lines, ""))


def _cat(image: Path, name: str) -> str:
    command = ["debugfs", "-R", f"cat /{name}", str(image)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS).stdout


def _debugfs(image: Path, commands: Sequence[str]) -> None:
    """Change an ext4 image. Raises: AssertionError with what debugfs says of a command that failed."""
    if not commands:
        return
    script = image.with_suffix(".commands")
    script.write_text("".join(f"{command}\n" for command in commands))
    command = ["debugfs", "-w", "-f", str(script), str(image)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("debugfs ")]
    assert not complaints, complaints
