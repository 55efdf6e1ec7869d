"""The disk: that everything fits, that the kernel can read it, and that nobody takes a place that is ours."""

from __future__ import annotations

from collections.abc import Iterator

from hostplane.errors import RecipeError, reason
from hostplane.image.disk.layout import LABELS, plan
from hostplane.image.reading.positions import KeyPath, written
from hostplane.image.reading.rules.case import Case, Fault, Rule, error, in_image, unique, warning
from hostplane.image.reading.rules.packages import backend_of
from hostplane.image.recipe import Arch, Backend, Output, Partition, RootFs, StateFs

__all__ = ["PERSIST_DIRS", "RULES"]

_PERSIST_WISE_MIB = 2100
"""What a node keeps besides images and logs; KubeOS's own floor."""
_LEAST_MIB = {"root_mib": 64, "boot_mib": 64, "esp_mib": 16, "bootstate_mib": 8}
_ROOT_WISE_MIB = 1024
"""Below this a distribution's default packages hardly fit once, not to speak of the next version."""
_XFS_LEAST_MIB = 300
"""mkfs.xfs makes nothing smaller."""
_BLOCKS = {RootFs.EXT4: (1024, 65536), RootFs.XFS: (512, 65536), RootFs.EROFS: (512, 65536)}
_WHOLE = ("/", "/var", "/home", "/root", "/opt", "/srv", "/usr/local")
"""Mounted by us; a partition may hang below them, not in their place."""
_CLOSED = (
    "/etc",
    "/usr",
    "/persist",
    "/boot",
    "/efi",
    "/dev",
    "/proc",
    "/sys",
    "/run",
    "/tmp",
    "/bin",
    "/sbin",
    "/lib",
)
"""Nothing may be mounted at or below these."""
PERSIST_DIRS = ("etc", "identity", "var", "home", "root", "opt", "srv", "usr-local", "lost+found")


def _partitions(case: Case) -> Iterator[tuple[KeyPath, Partition]]:
    for index, partition in enumerate(case.recipe.disk.partitions):
        yield ("disk", "partitions", index), partition


def _persist_mib(case: Case) -> int | None:
    """What is left for PERSIST, in MiB; None where the disk cannot be laid out."""
    try:
        return plan(case.recipe)["PERSIST"].size >> 20
    except RecipeError:
        return None


def partitions_fit_the_disk(case: Case) -> Iterator[Fault]:
    try:
        plan(case.recipe)
    except RecipeError as refused:
        yield error(_size_key(case), refused.reason)


def persist_has_room_for_a_node(case: Case) -> Iterator[Fault]:
    left = _persist_mib(case)
    if left is not None and left < _PERSIST_WISE_MIB:
        yield warning(_size_key(case), reason("PersistSmall", left=left, wise=_PERSIST_WISE_MIB))


def _size_key(case: Case) -> KeyPath:
    return ("disk", "size_gib") if case.said(("disk", "size_gib")) else ("disk", "root_mib")


def partitions_have_their_least_size(case: Case) -> Iterator[Fault]:
    for field, least in _LEAST_MIB.items():
        path, value = ("disk", field), getattr(case.recipe.disk, field)
        if value < least:
            yield error(path, reason("PartitionTooSmall", key=written(path), value=value, least=least))


def root_has_room_for_a_distribution(case: Case) -> Iterator[Fault]:
    path, value = ("disk", "root_mib"), case.recipe.disk.root_mib
    has_defaults = case.recipe.packages.defaults and backend_of(case) is not Backend.TREE
    if has_defaults and _LEAST_MIB["root_mib"] <= value < _ROOT_WISE_MIB:
        yield warning(path, reason("RootSmall", key=written(path), value=value, wise=_ROOT_WISE_MIB))


def xfs_is_large_enough(case: Case) -> Iterator[Fault]:
    disk = case.recipe.disk
    sizes: list[tuple[KeyPath, bool, int]] = [(("disk", "root_mib"), disk.fs is RootFs.XFS, disk.root_mib)]
    sizes += [((*path, "size_mib"), each.fs is StateFs.XFS, each.size_mib) for path, each in _partitions(case)]
    left = _persist_mib(case)
    if left is not None:
        sizes.append((("disk", "persist_fs"), disk.persist_fs is StateFs.XFS, left))
    for path, is_xfs, size in sizes:
        if is_xfs and size < _XFS_LEAST_MIB:
            yield error(path, reason("XfsTooSmall", key=written(path), size=size, least=_XFS_LEAST_MIB))


def block_size_is_one_of_the_file_system(case: Case) -> Iterator[Fault]:
    path, fs, value = ("disk", "block_size"), case.recipe.disk.fs, case.recipe.disk.block_size
    least, most = _BLOCKS[fs]
    if value & (value - 1) or not least <= value <= most:
        yield error(
            path, reason("BlockSizeInvalid", key=written(path), value=value, fs=fs.value, least=least, most=most)
        )


def block_is_no_larger_than_a_page(case: Case) -> Iterator[Fault]:
    if case.profile is None:
        return
    page = case.recipe.boot.page_size or case.profile.page_sizes[0]
    path, value = ("disk", "block_size"), case.recipe.disk.block_size
    if value > page:
        yield error(path, reason("BlockOverPage", key=written(path), value=value, page=page))


def page_size_is_one_of_the_kernels(case: Case) -> Iterator[Fault]:
    path, value = ("boot", "page_size"), case.recipe.boot.page_size
    if value is None:
        return
    known: tuple[int, ...] = (4096,) if case.recipe.arch is Arch.X86_64 else (4096, 16384, 65536)
    if case.profile is not None:
        known = case.profile.page_sizes
    if value not in known:
        sizes = ", ".join(map(str, known))
        why = reason("PageSizeForeign", key=written(path), value=value, arch=case.recipe.arch.value, known=sizes)
        yield error(path, why)


def labels_are_unique(case: Case) -> Iterator[Fault]:
    yield from unique(((*path, "label"), each.label) for path, each in _partitions(case))


def labels_are_not_ours(case: Case) -> Iterator[Fault]:
    for path, each in _partitions(case):
        if each.label in LABELS:
            path = (*path, "label")
            yield error(path, reason("LabelOurs", key=written(path), value=each.label))


def mount_points_are_paths(case: Case) -> Iterator[Fault]:
    for path, each in _partitions(case):
        yield from in_image((*path, "mount"), None if each.mount == "/" else each.mount)


def mount_points_are_unique(case: Case) -> Iterator[Fault]:
    yield from unique(((*path, "mount"), each.mount) for path, each in _partitions(case))


def mount_points_are_free(case: Case) -> Iterator[Fault]:
    for path, each in _partitions(case):
        if each.mount is None or each.mount.startswith("/usr/local/"):
            continue
        is_closed = any(each.mount == place or each.mount.startswith(f"{place}/") for place in _CLOSED)
        if is_closed or each.mount in _WHOLE:
            path = (*path, "mount")
            yield error(path, reason("MountTaken", key=written(path), value=each.mount))


def persist_directories_are_new(case: Case) -> Iterator[Fault]:
    for index, value in enumerate(case.recipe.disk.persist_dirs):
        path = ("disk", "persist_dirs", index)
        parts = value.removeprefix("/").split("/")
        if {"", ".", ".."} & set(parts) or parts[0] in PERSIST_DIRS or not value.isprintable():
            yield error(path, reason("PersistDirectory", key=written(path), value=value, ours=", ".join(PERSIST_DIRS)))


def persist_directories_are_unique(case: Case) -> Iterator[Fault]:
    dirs = enumerate(case.recipe.disk.persist_dirs)
    yield from unique((("disk", "persist_dirs", index), value.strip("/")) for index, value in dirs)


def sealed_root_is_a_kind_that_is_never_written(case: Case) -> Iterator[Fault]:
    path = ("disk", "verity")
    if case.recipe.disk.verity and case.recipe.disk.fs is RootFs.XFS:
        yield error(path, reason("VerityFileSystem", key=written(path), fs=case.recipe.disk.fs.value))


def sealed_root_is_opened_by_the_agents_script(case: Case) -> Iterator[Fault]:
    path = ("disk", "verity")
    if case.recipe.disk.verity and not case.recipe.agent:
        yield error(path, reason("VerityWithoutAgent", key=written(path)))


def sealed_root_does_not_travel_as_a_tar(case: Case) -> Iterator[Fault]:
    path = ("disk", "verity")
    if case.recipe.disk.verity and Output.OS_TAR in case.recipe.image.outputs:
        yield error(path, reason("VerityInTar", key=written(path)))


RULES: tuple[Rule, ...] = (
    partitions_fit_the_disk,
    persist_has_room_for_a_node,
    partitions_have_their_least_size,
    root_has_room_for_a_distribution,
    xfs_is_large_enough,
    block_size_is_one_of_the_file_system,
    block_is_no_larger_than_a_page,
    page_size_is_one_of_the_kernels,
    labels_are_unique,
    labels_are_not_ours,
    mount_points_are_paths,
    mount_points_are_unique,
    mount_points_are_free,
    persist_directories_are_new,
    persist_directories_are_unique,
    sealed_root_is_a_kind_that_is_never_written,
    sealed_root_is_opened_by_the_agents_script,
    sealed_root_does_not_travel_as_a_tar,
)
