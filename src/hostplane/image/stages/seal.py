"""Seals the root: the two block images of a slot, and what is known about them.

From here on nothing changes: root.img (with its hash tree when the recipe asks for dm-verity) and slot-boot.img are
what a disk's slot A gets, what the bundle carries and what every host writes. Both are fitted to their content, take
their times from the recipe's epoch, and come out the same from the same tree.

One thing is brought in line in the tree first: compiled Python remembers its source's time. Where that is later than
the epoch, to which every file system made here brings it back, the memory is brought back too; else Python would
compile again at every start of every program, since the root cannot be written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from pathlib import Path
from uuid import UUID

from msgspec import json

from hostplane.distros.profile import Profile
from hostplane.image.backends import backend_for, backend_module
from hostplane.image.boot import grub
from hostplane.image.building.code import code_version
from hostplane.image.disk import layout, verity
from hostplane.image.disk.filesystems import ext4
from hostplane.image.disk.layout import fs_uuid
from hostplane.image.packages import licences, sbom, sizes
from hostplane.image.recipe import Recipe, RootFs, StageName
from hostplane.image.root import hostfiles, inventory, precompiled
from hostplane.image.stage import Inputs, Work

__all__ = ["NAME", "inputs", "run"]

NAME = StageName.SEAL
_PYC = struct.Struct("<4sIII")


def inputs(recipe: Recipe, profile: Profile) -> Inputs:
    """The images' form and what they say about themselves; their content is the root's and the boot stage's."""
    disk = recipe.disk
    return {
        "name": recipe.name,
        "version": recipe.version,
        "identity": list(profile.identity) if recipe.agent else None,
        "root": [disk.fs, disk.root_mib, disk.block_size, disk.verity],
        "boot": [disk.boot_mib, list(recipe.boot.arguments), list(recipe.boot.console)],
        "ext4": list(profile.ext4_features),
        "boot_ext4": list(profile.boot_ext4_features),
        "xfs": list(profile.xfs_options),
        "packages": code_version(backend_module(recipe, profile)),  # which packages the SBOM lists is its word
    }


def run(work: Work) -> None:
    """Write root.img, slot-boot.img, seal.json and the reports."""
    recipe, out = work.recipe, work.out
    plan = layout.plan(recipe)
    if recipe.agent:  # a script may have made what only one host may have
        hostfiles.remove_identity(work.root, work.profile)
    work.progress(0.0, "compiled Python")
    if recipe.agent:
        precompiled.compile_agent(work)
    _rewind_compiled(work.root, work.epoch)
    work.progress(0.02, f"{recipe.disk.fs} image of the root")
    sealed = None
    _root_image(work, out / "root.img")
    if recipe.disk.verity:
        work.progress(0.6, "hash tree")
        uuid = fs_uuid(recipe, "VERITY")
        sealed = verity.append(out / "root.img", uuid=uuid, salt=UUID(uuid).bytes + UUID(fs_uuid(recipe, "ROOT")).bytes)
    work.progress(0.7, "boot image")
    about: dict[str, object] = {
        "schema": "1.0",
        "name": recipe.name,
        "version": recipe.version,
        "distro": work.profile.id,
        "release": work.profile.release,
        "arch": recipe.arch,
        "kernel": _kernel(work),
        "root": {"fs": recipe.disk.fs, "size": (out / "root.img").stat().st_size, "verity": sealed},
    }
    _boot_image(work, out / "slot-boot.img", about, sealed)
    images = {"root": out / "root.img", "boot": out / "slot-boot.img"}
    used = {"ROOT-A": images["root"].stat().st_size, "BOOT-A": images["boot"].stat().st_size}
    warnings = layout.room_left(plan, used)
    for warning in warnings:
        work.log(f"warning: {warning}")
    work.progress(0.75, "digests")
    facts = {name: {"size": path.stat().st_size, "sha256": _sha256(path)} for name, path in images.items()}
    _reports(work)
    seal = {
        "schema": "1.0",
        "kernel": about["kernel"],
        "root": {**facts["root"], "fs": recipe.disk.fs, "verity": sealed},
        "boot": {**facts["boot"], "fs": "ext4"},
        "warnings": [{"code": each.code, "text": each.text, "remedy": each.remedy} for each in warnings],
    }
    (out / "seal.json").write_bytes(json.format(json.encode(seal), indent=1) + b"\n")


def _kernel(work: Work) -> str | None:
    """The kernel's version; None where the root has none."""
    said = work.earlier[StageName.BOOT] / "boot.json"
    return str(json.decode(said.read_bytes())["kernel"]) if said.is_file() else None


def _sha256(path: Path) -> str:
    with path.open("rb") as image:
        return hashlib.file_digest(image, "sha256").hexdigest()


def _root_image(work: Work, target: Path) -> None:
    recipe, profile = work.recipe, work.profile
    uuid, epoch, run = fs_uuid(recipe, "ROOT"), work.epoch, work.run
    match recipe.disk.fs:
        case RootFs.EXT4:
            features = ext4.features(ext4.ROOT_FEATURES, profile.ext4_features)
            block = recipe.disk.block_size
            ext4.make(
                work.root,
                target,
                size=None,
                label="ROOT",
                uuid=uuid,
                features=features,
                epoch=epoch,
                run=run,
                block_size=block,
            )
        case RootFs.XFS:
            from hostplane.image.disk.filesystems import xfs

            options = profile.xfs_options
            xfs.make(work.root, target, size=None, label="ROOT", uuid=uuid, options=options, epoch=epoch, run=run)
        case RootFs.EROFS:
            from hostplane.image.disk.filesystems import erofs

            erofs.make(work.root, target, uuid=uuid, epoch=epoch, run=run)


def _boot_image(work: Work, target: Path, about: dict[str, object], sealed: verity.Verity | None) -> None:
    """BOOT-x: kernel, initramfs, and what the image tells the loader and the host."""
    tree, boot = work.scratch / "boot", work.earlier[StageName.BOOT]
    tree.mkdir()
    for name in ("vmlinuz", "initrd.img"):
        if (boot / name).is_file():  # a root without a kernel can be packed as a tar
            shutil.copyfile(boot / name, tree / name)
            os.chmod(tree / name, 0o644)
    arguments = ""
    if sealed is not None:
        arguments = (
            f"root=/dev/mapper/hostplane-root hostplane.verity={sealed.roothash}"
            f" hostplane.hashoffset={sealed.hashoffset}"
        )
    (tree / "slot.cfg").write_text(grub.slot_config(work.recipe, verity=arguments), "utf-8")
    (tree / "image.json").write_bytes(json.format(json.encode(about), indent=1) + b"\n")
    features = ext4.features(ext4.BOOT_FEATURES, work.profile.boot_ext4_features)
    ext4.make(
        tree,
        target,
        size=None,
        label="BOOT",
        uuid=fs_uuid(work.recipe, "BOOT"),
        features=features,
        epoch=work.epoch,
        run=work.run,
    )


def _reports(work: Work) -> None:
    recipe, out = work.recipe, work.out
    work.progress(0.8, "packages")
    packages = backend_for(recipe, work.profile).installed(work.root)
    (out / "packages.json").write_bytes(json.format(json.encode(list(packages)), indent=1) + b"\n")
    sbom.write(packages, recipe, work.epoch, out / "sbom.cdx.json", kind=work.profile.package_format)
    licences.write(packages, out / "licences.json")
    work.progress(0.9, "sizes")
    removed = sizes.removed_by_slim(work.earlier[StageName.SLIM]) if StageName.SLIM in work.earlier else {}
    sizes.write(sizes.report(work.root, packages, removed), out / "sizes.json")
    (out / "inventory.json").write_bytes(json.encode(inventory.collect(work.root)))


def _rewind_compiled(root: Path, epoch: int) -> None:
    """Bring the times that compiled Python files remember back to `epoch`, as their sources' times will be."""
    for place, directories, names in os.walk(root):
        directories.sort()
        if os.path.basename(place) != "__pycache__":
            continue
        for name in sorted(names):
            path = os.path.join(place, name)
            if not name.endswith(".pyc") or os.path.islink(path):
                continue
            with open(path, "rb") as compiled:
                head = compiled.read(_PYC.size)
            if len(head) < _PYC.size:
                continue
            magic, flags, source, size = _PYC.unpack(head)
            if flags == 0 and source > epoch:  # with other flags it remembers a digest, not a time
                with open(path, "r+b") as compiled:
                    compiled.write(_PYC.pack(magic, flags, epoch, size))
