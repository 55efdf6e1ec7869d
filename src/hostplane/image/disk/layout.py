"""Where everything lies on the disk: decided from the recipe alone, the same on every machine and in every build.

    1 BIOS-BOOT  2 ESP  3 BOOTSTATE  4 BOOT-A  5 BOOT-B  6 ROOT-A  7 ROOT-B  9… extras  8 PERSIST

The numbers are fixed for ever (the loader's configuration and hosts in the field know them); PERSIST lies last so that
it can grow with the disk. Every GUID is made from the recipe's name, its version and the partition's label, so that the
kernel line, the initramfs and the table agree without asking one another. Nothing here touches a file.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from msgspec import Struct

from hostplane.agent import gpt
from hostplane.errors import Reason, RecipeError, reason
from hostplane.image.recipe import Recipe

__all__ = ["LABELS", "Layout", "Region", "fs_uuid", "plan", "room_left"]

LABELS = ("BIOS-BOOT", "ESP", "BOOTSTATE", "BOOT-A", "BOOT-B", "ROOT-A", "ROOT-B", "PERSIST")
"""By number, from 1."""
_MIB = gpt.ALIGNMENT
_NAMESPACE = uuid.UUID("5d9b5f0a-6d0e-5c39-9f0e-5b7a3c2f41d7")
_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
_TYPES = {"BIOS-BOOT": _BIOS_BOOT, "ESP": _ESP}
_PERSIST_LEAST = 256 * _MIB
_GROWTH = 1.15
"""What the next version of an image should find room for, as a share of this one."""


class Region(Struct, frozen=True, kw_only=True):
    """One partition; offset and size in bytes, both multiples of 1 MiB."""

    number: int
    label: str
    type_guid: str
    guid: str
    offset: int
    size: int


class Layout(Struct, frozen=True, kw_only=True):
    """A whole disk of `size` bytes. GUIDs are in lower case, as the kernel's PARTUUID has them."""

    disk_guid: str
    size: int
    regions: tuple[Region, ...]
    """In the order they lie on the disk."""

    def __getitem__(self, label: str) -> Region:
        """The partition called `label`. Raises KeyError."""
        for region in self.regions:
            if region.label == label:
                return region
        raise KeyError(label)

    def table(self) -> gpt.Table:
        """The partition table, for sectors of 512 bytes."""
        return gpt.make(
            self.disk_guid,
            self.size,
            tuple(
                gpt.Partition(
                    region.number,
                    region.type_guid,
                    region.guid,
                    region.offset // 512,
                    (region.offset + region.size) // 512 - 1,
                    region.label,
                )
                for region in self.regions
            ),
        )


def _guid(recipe: Recipe, *words: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\0".join((recipe.name, recipe.version, *words))))


def fs_uuid(recipe: Recipe, label: str) -> str:
    """The UUID of the file system in the partition `label`. A slot's images are made before it is known where they go:
    they take ROOT and BOOT for a label."""
    return _guid(recipe, label, "file system")


def plan(recipe: Recipe) -> Layout:
    """The disk that `recipe` asks for.

    Raises:
        RecipeError: DiskTooSmall when the partitions leave no room for PERSIST.
    """
    disk = recipe.disk
    sizes = {
        "BIOS-BOOT": 1,
        "ESP": disk.esp_mib,
        "BOOTSTATE": disk.bootstate_mib,
        "BOOT-A": disk.boot_mib,
        "BOOT-B": disk.boot_mib,
        "ROOT-A": disk.root_mib,
        "ROOT-B": disk.root_mib,
        **{extra.label: extra.size_mib for extra in disk.partitions},
    }
    numbers = {label: number for number, label in enumerate((*LABELS, *list(sizes)[7:]), start=1)}
    regions, offset, total = [], _MIB, disk.size_gib << 30
    for label in (*sizes, "PERSIST"):
        size = sizes[label] * _MIB if label in sizes else total - _MIB - offset
        if label == "PERSIST" and size < _PERSIST_LEAST:
            wanted = -(-(offset + _PERSIST_LEAST + _MIB) // (1 << 30))
            raise RecipeError("DiskTooSmall", value=disk.size_gib, root=disk.root_mib, left=size // _MIB, wanted=wanted)
        kind = _TYPES.get(label, _LINUX)
        guid = _guid(recipe, label)
        regions.append(Region(number=numbers[label], label=label, type_guid=kind, guid=guid, offset=offset, size=size))
        offset += size
    return Layout(disk_guid=_guid(recipe, "disk"), size=total, regions=tuple(regions))


def room_left(layout: Layout, used: Mapping[str, int]) -> list[Reason]:
    """Warnings where the next version may not fit: `used` is bytes by label (BOOT-A, ROOT-A), as built now.

    Raises:
        RecipeError: ImageTooLarge when this version does not fit either.
    """
    warnings = []
    for label, size in used.items():
        room = layout[label].size
        key = {"R": "disk.root_mib", "B": "disk.boot_mib", "E": "disk.esp_mib"}[label[0]]
        facts = {"label": label, "size": -(-size // _MIB), "room": room // _MIB, "key": key}
        wanted = -(-int(size * _GROWTH) // _MIB)
        if size > room:
            raise RecipeError("ImageTooLarge", wanted=wanted, **facts)
        if size * _GROWTH > room:
            warnings.append(reason("GrowthSmall", left=(room - size) // _MIB, wanted=wanted, **facts))
    return warnings
