"""Packs what the recipe asks for: disks, tars, the bundle, and a report of all of it.

Nothing here decides what is in the image: slot, root and boot images come from seal, the loader's parts from boot.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import json, to_builtins

from hostplane.agent import firmware
from hostplane.distros.profile import Profile
from hostplane.errors import ImageError
from hostplane.image.bundle import bundle, signing
from hostplane.image.bundle.ocilayout import open_bundle
from hostplane.image.disk import disk, layout, outputs
from hostplane.image.recipe import Firmware, Output, Recipe, StageName
from hostplane.image.stage import Inputs, Work

__all__ = ["NAME", "inputs", "run"]

NAME = StageName.PACK


def inputs(recipe: Recipe, profile: Profile) -> Inputs:
    """The outputs' form, the rest of the disk and who signs; never a private key."""
    key = signing.key_path(recipe.signing) if Output.BUNDLE in recipe.image.outputs else None
    signer = key and [
        signing.default_key_id(signing.public_key(key)),
        recipe.signing.key_id,
        recipe.signing.expires_days,
    ]
    return {
        "image": to_builtins(recipe.image),
        "disk": to_builtins(recipe.disk),
        "boot": to_builtins(recipe.boot),
        "kubernetes": to_builtins(recipe.kubernetes),
        "signer": signer,
        "previous": None if recipe.image.previous is None else open_bundle(Path(recipe.image.previous)).manifest.digest,
        "ext4": [list(profile.ext4_features), list(profile.boot_ext4_features)],
        "xfs": list(profile.xfs_options),
        "evidence": to_builtins(profile.evidence),
        "efi": profile.efi_vendor,
    }


class _Packing:
    """One run: what was written so far, and how long it took."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.seal: dict[str, Any] = json.decode((work.earlier[StageName.SEAL] / "seal.json").read_bytes())
        self.files: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.bundle: bundle.BundleInfo | None = None

    def sealed(self, name: str) -> Path:
        return self.work.earlier[StageName.SEAL] / name

    def booted(self, name: str) -> Path:
        return self.work.earlier[StageName.BOOT] / name

    @contextmanager
    def timed(self, name: str) -> Iterator[Path]:
        """The path of an output that is written within; it is listed with its size and its time."""
        self.work.progress(len(self.seconds) / (len(self.work.recipe.image.outputs) + 1), name)
        begun, path = time.monotonic(), self.work.out / name
        yield path
        self.seconds[name] = round(time.monotonic() - begun, 2)
        if path.is_file():
            status = path.stat()
            self.files[name] = {"size": status.st_size, "onDisk": status.st_blocks * 512}


def run(work: Work) -> None:
    """Write the outputs and report.json.

    Raises:
        ImageError: OutputNeedsKernel, MachineFull; what making file systems, disks, tars and the bundle raises.
    """
    try:
        _write(work)
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ImageError("MachineFull", place=work.out, detail=fault.strerror) from fault


def _write(work: Work) -> None:
    packing, wanted = _Packing(work), work.recipe.image.outputs
    plan = layout.plan(work.recipe)
    if not packing.booted("vmlinuz").is_file():
        for output in wanted:
            if output is not Output.ROOT_TAR:
                raise ImageError("OutputNeedsKernel", output=output.value)
    if Output.BUNDLE in wanted:
        _bundle(packing)
    if Output.RAW in wanted or Output.QCOW2 in wanted:
        _disks(packing, plan, wanted)
    if Output.ROOT_TAR in wanted:
        with packing.timed("root.tar") as path:
            outputs.root_tar(work.root, path, epoch=work.epoch, run=work.run)
    if Output.OS_TAR in wanted:
        with packing.timed("os.tar") as path:
            kernel, initramfs = packing.booted("vmlinuz"), packing.booted("initrd.img")
            outputs.os_tar(
                work.root,
                path,
                kernel=kernel,
                initramfs=initramfs,
                epoch=work.epoch,
                scratch=work.scratch,
                run=work.run,
            )
    for name in ("root.tar", "os.tar", "disk.qcow2"):  # a sparse disk is told by its partitions
        if name in packing.files:
            with (work.out / name).open("rb") as file:
                packing.files[name]["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    (work.out / "report.json").write_bytes(json.format(json.encode(_report(packing, plan)), indent=1) + b"\n")


def _disks(packing: _Packing, plan: layout.Layout, wanted: tuple[Output, ...]) -> None:
    work = packing.work
    has_bios = Firmware.BIOS in work.recipe.boot.firmware and packing.booted("core.img").is_file()
    esp = packing.booted("esp")
    parts = disk.Parts(
        root=packing.sealed("root.img"),
        boot=packing.sealed("slot-boot.img"),
        esp=esp if esp.is_dir() else None,
        boot_img=packing.booted("boot.img") if has_bios else None,
        core_img=packing.booted("core.img") if has_bios else None,
        installed=_installed(packing),
    )
    with packing.timed("disk.raw") as path:
        raw = path if Output.RAW in wanted else work.scratch / "disk.raw"
        disk.assemble(raw, plan, parts, work)
    if Output.QCOW2 in wanted:
        with packing.timed("disk.qcow2") as path:
            outputs.qcow2(raw, path, run=work.run)


def _installed(packing: _Packing) -> dict[str, bytes]:
    """What a disk says of slot A and of its loader: no image can hold its own bundle's digest."""
    recipe, seal, files = packing.work.recipe, packing.seal, {}
    if packing.bundle is not None:
        packed = open_bundle(packing.bundle.path)
        files["manifest.json"] = packed.layout.path(packed.manifest.digest).read_bytes()
        files["metadata.json"] = packed.read("metadata", packed.manifest.metadata)
    else:
        images = {name: (seal[name]["size"], seal[name]["sha256"]) for name in ("boot", "root")}
        files["metadata.json"] = bundle.document(_described(packing), images)
    built: dict[str, Any] = json.decode(packing.booted("boot.json").read_bytes())
    programs = [path.read_bytes() for path in sorted(packing.booted("esp").glob("EFI/BOOT/*.*"))]
    versions = {"grub": built.get("grub", ""), "esp": f"{recipe.name} {recipe.version}", **firmware.found_in(programs)}
    return {**files, "firmware.json": json.encode({"schema": "1.0", **versions})}


def _described(packing: _Packing) -> bundle.Metadata:
    work, recipe = packing.work, packing.work.recipe
    packages = json.decode(packing.sealed("packages.json").read_bytes())
    return bundle.describe(
        recipe,
        work.profile,
        packing.seal,
        created=work.epoch,
        packages={each["name"]: each["version"] for each in packages},
        facts={"kernel": packing.seal["kernel"]} if packing.seal["kernel"] else {},
    )


def _bundle(packing: _Packing) -> None:
    work, recipe = packing.work, packing.work.recipe
    with packing.timed("bundle") as path:
        packing.bundle = bundle.write(
            path,
            root=packing.sealed("root.img"),
            boot=packing.sealed("slot-boot.img"),
            metadata=_described(packing),
            sbom=packing.sealed("sbom.cdx.json"),
            licences=packing.sealed("licences.json"),
            inventory=packing.sealed("inventory.json"),
            sizes=packing.sealed("sizes.json"),
            codec=recipe.image.codec,
            frame_bytes=recipe.image.frame_kib << 10,
            previous=Path(recipe.image.previous) if recipe.image.previous else None,
            cache=work.cache / "frames",
            progress=work.progress,
        )
        signing.sign_by_recipe(path, recipe.signing)


def _report(packing: _Packing, plan: layout.Layout) -> dict[str, Any]:
    work, recipe, seal = packing.work, packing.work.recipe, packing.seal
    used = {"ROOT": seal["root"]["size"], "BOOT": seal["boot"]["size"]}
    return {
        "schema": "1.0",
        "name": recipe.name,
        "version": recipe.version,
        "distro": work.profile.id,
        "release": work.profile.release,
        "arch": recipe.arch,
        "epoch": work.epoch,
        "kernel": seal["kernel"],
        "images": {name: seal[name] for name in ("root", "boot")},
        "disk": {
            "size": plan.size,
            "guid": plan.disk_guid,
            "partitions": [
                {
                    **to_builtins(region),
                    "used": used.get(region.label[:4]) if region.label.endswith("-A") else None,
                }
                for region in plan.regions
            ],
        },
        "growthLeft": {name: plan[f"{name}-A"].size - size for name, size in used.items()},
        "outputs": packing.files,
        "bundle": None if packing.bundle is None else {**to_builtins(packing.bundle, enc_hook=str), "path": "bundle"},
        "warnings": seal["warnings"],
        "evidence": to_builtins(work.profile.evidence),
        "seconds": packing.seconds,
    }
