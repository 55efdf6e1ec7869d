"""What changes for a host that goes from one bundle to another: packages, rights, listeners, sizes, and the download.

Pure over two inspections, besides the download, which merges the two block indexes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from hostplane.image.bundle.download import Download, estimate
from hostplane.image.bundle.inspection import Image, Inspection, Installed, Inventory, bundle_of, inspect
from hostplane.image.bundle.ocilayout import open_bundle

__all__ = ["Changed", "Difference", "SizeChange", "compare", "differences"]


class Changed(Struct, frozen=True, kw_only=True):
    """One thing that differs; `old` or `new` is empty where it came or went."""

    name: str
    old: str
    new: str
    size: int = 0
    """Packages: what it costs or frees in installed bytes, where both sizes are known."""


class SizeChange(Struct, frozen=True, kw_only=True):
    """A number of bytes, before and after."""

    name: str
    old: int
    new: int


class Difference(Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything that differs; an empty list means no difference."""

    old: str
    new: str
    facts: list[Changed]
    packages: list[Changed]
    setuid: list[Changed]
    capabilities: list[Changed]
    world_writable: list[Changed]
    units: list[Changed]
    listeners: list[Changed]
    accounts: list[Changed]
    boot_arguments: list[Changed]
    sizes: list[SizeChange]
    download: Download | None
    """None where a side is no bundle."""


def compare(old: Path, new: Path) -> Difference:
    """The difference between two bundles or two build directories.

    Raises:
        ImageError, HostError: what `inspect` raises.
    """
    places = bundle_of(old), bundle_of(new)
    before, after = (inspect(place) for place in places)
    return differences(before, after, estimate(*(open_bundle(place) for place in places)))


def differences(old: Inspection, new: Inspection, download: Download | None) -> Difference:
    """The difference between two inspections; pure."""
    before, after = old.inventory or Inventory(), new.inventory or Inventory()
    return Difference(
        old=_title(old),
        new=_title(new),
        facts=_pairs(_facts(old), _facts(new)),
        packages=_packages(old.packages, new.packages),
        setuid=_pairs(
            {one.path: f"{one.mode} {one.owner}:{one.group}" for one in before.setuid},
            {one.path: f"{one.mode} {one.owner}:{one.group}" for one in after.setuid},
        ),
        capabilities=_pairs(
            {one.path: one.capabilities for one in before.capabilities},
            {one.path: one.capabilities for one in after.capabilities},
        ),
        world_writable=_members(before.world_writable, after.world_writable, "writable by all"),
        units=_members(before.enabled_units, after.enabled_units, "enabled"),
        listeners=_pairs(_listeners(before), _listeners(after)),
        accounts=_pairs(_accounts(before), _accounts(after)),
        boot_arguments=_members(old.boot_arguments, new.boot_arguments, "set"),
        sizes=_sizes(old.images, new.images),
        download=download,
    )


def _title(one: Inspection) -> str:
    return f"{one.metadata.get('name', '?')} {one.metadata.get('version', '?')}"


def _facts(one: Inspection) -> dict[str, str]:
    """Single values of the metadata, and the kernels."""
    plain = {
        key: str(value)
        for key, value in one.metadata.items()
        if isinstance(value, str | int) and key not in ("schema", "created")
    }
    for group in ("stateVersions", "facts"):
        plain |= {f"{group}.{key}": str(value) for key, value in (one.metadata.get(group) or {}).items()}
    kernels = ", ".join(one.inventory.kernels) if one.inventory else ""
    verity = next((image.verity_root_hash for image in one.images if image.name == "root"), "")
    return {**plain, **({"kernels": kernels} if kernels else {}), **({"verity": verity} if verity else {})}


def _pairs(old: dict[str, str], new: dict[str, str]) -> list[Changed]:
    names = sorted(old.keys() | new.keys())
    return [
        Changed(name=name, old=old.get(name, ""), new=new.get(name, ""))
        for name in names
        if old.get(name) != new.get(name)
    ]


def _members(old: Iterable[str], new: Iterable[str], word: str) -> list[Changed]:
    return _pairs(dict.fromkeys(old, word), dict.fromkeys(new, word))


def _listeners(inventory: Inventory) -> dict[str, str]:
    """By unit and address; sockets of the file system cannot be reached from outside."""
    return {
        f"{one.protocol} {one.address} ({one.unit})": one.how for one in inventory.listeners if one.protocol != "unix"
    }


def _accounts(inventory: Inventory) -> dict[str, str]:
    return {
        one.name: f"uid {one.uid}, {one.shell}, password {one.password}, {one.ssh_keys} SSH keys"
        for one in inventory.accounts
    }


def _packages(old: list[Installed], new: list[Installed]) -> list[Changed]:
    """By name; a name that is there in several versions (kernels) shows all of them."""
    before, after = _by_name(old), _by_name(new)
    found = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name, ("", 0)), after.get(name, ("", 0))
        if was[0] != now[0]:
            found.append(Changed(name=name, old=was[0], new=now[0], size=now[1] - was[1]))
    return found


def _by_name(packages: list[Installed]) -> dict[str, tuple[str, int]]:
    versions: dict[str, list[Installed]] = {}
    for package in packages:
        versions.setdefault(package.name, []).append(package)
    return {
        name: (", ".join(sorted(one.version for one in own)), sum(one.size for one in own))
        for name, own in versions.items()
    }


def _sizes(old: list[Image], new: list[Image]) -> list[SizeChange]:
    before, after = ({image.name: image for image in images} for images in (old, new))
    found = []
    for name in (name for name in before if name in after):
        for word in ("size", "content", "stored"):
            was, now = getattr(before[name], word), getattr(after[name], word)
            found.append(SizeChange(name=f"{name} {word}", old=was, new=now))
    return found
