"""What a recipe says in so many words: host name, accounts, files, units, modules, settings, the node's own programs.

Everything is written from here; nothing of the root runs. Hostplane's own files come first, so that a recipe may
replace any of them, and the recipe's units last, because they may start what its files brought.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from importlib import resources
from pathlib import Path, PurePosixPath

from hostplane.distros.profile import Profile
from hostplane.errors import ImageError
from hostplane.image.building.digests import source_digest, text_digest
from hostplane.image.recipe import File, Recipe, StageName, User
from hostplane.image.root import hostfiles, units
from hostplane.image.root.accounts import Accounts
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Inputs, Work

__all__ = ["NAME", "inputs", "run"]

NAME = StageName.FILES
_CNI = PurePosixPath("/usr/libexec/cni")
_CNI_SHOWN = "/opt/cni/bin"
"""Where runtimes look for plugins. It is the host's own directory, so an image's plugins are linked from there."""
_KUBELET_UNIT = "kubelet.service"


def inputs(recipe: Recipe, profile: Profile) -> Inputs:
    """The words themselves, and digests of the files they name."""
    kubernetes = recipe.kubernetes
    return {
        "agent": hostfiles.inputs(recipe, profile),
        "hostname": recipe.hostname,
        "timezone": recipe.timezone,
        "user": [_said(user) for user in recipe.user],
        "file": [
            {
                **_said(file),
                "source": source_digest(file.source) if file.source else None,
                "content": None if file.content is None else text_digest(file.content),
            }
            for file in recipe.file
        ],
        "unit": [_said(unit) for unit in recipe.unit],
        "modules_load": list(recipe.modules_load),
        "modules_block": list(recipe.modules_block),
        "sysctl": dict(recipe.sysctl),
        "kubelet": source_digest(kubernetes.kubelet) if kubernetes.kubelet else None,
        "cni_plugins": source_digest(kubernetes.cni_plugins) if kubernetes.cni_plugins else None,
        "partition": [] if recipe.agent else [_said(part) for part in recipe.disk.partitions],
    }


def _said(table: object) -> dict[str, object]:
    return {name: getattr(table, name) for name in table.__struct_fields__}  # type: ignore[attr-defined]  # a Struct


def run(work: Work) -> None:
    """Write them."""
    recipe, root = work.recipe, work.root
    hostfiles.install(work)
    _write_names(recipe, root)
    accounts = Accounts(root, work.epoch // 86400)
    for user in recipe.user:
        _write_home(root, user, accounts)
    accounts.write()
    _write_settings(recipe, root)
    _write_kubernetes(recipe, root)
    for number, file in enumerate(recipe.file):
        work.progress(number / len(recipe.file), file.path)
        _write_file(root, file, accounts)
    _set_units(recipe, root)


def _write_names(recipe: Recipe, root: Path) -> None:
    if recipe.hostname is not None:
        _write(root, "/etc/hostname", f"{recipe.hostname}\n")
    zone = within(root, f"/usr/share/zoneinfo/{recipe.timezone}")
    if not zone.is_file():
        if recipe.timezone != "UTC":  # which everything without the data is in
            raise ImageError("TimezoneMissing", timezone=recipe.timezone)
        return
    link = within(root, "/etc/localtime", follow=False)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(f"../usr/share/zoneinfo/{recipe.timezone}")
    if (named := within(root, "/etc/timezone")).is_file():
        named.write_text(f"{recipe.timezone}\n", "utf-8")


def _write_home(root: Path, user: User, accounts: Accounts) -> None:
    """The account, its home with the root's skeleton where it has none yet, and its ssh keys."""
    account = accounts.add(user)
    home = within(root, account.home)
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        skeleton = within(root, "/etc/skel")
        if skeleton.is_dir():
            shutil.copytree(skeleton, home, symlinks=True)
        else:
            home.mkdir()
        home.chmod(0o700)
        for path in [home, *home.rglob("*")]:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    if not user.ssh_keys:
        return
    directory = within(root, f"{account.home}/.ssh")
    directory.mkdir(exist_ok=True)
    directory.chmod(0o700)
    keys = within(root, f"{account.home}/.ssh/authorized_keys")
    before = keys.read_text("utf-8").splitlines() if keys.is_file() else []
    keys.write_text("".join(f"{line}\n" for line in dict.fromkeys([*before, *user.ssh_keys])), "utf-8")
    keys.chmod(0o600)
    for path in (directory, keys):
        os.chown(path, account.uid, account.gid)


def _write_settings(recipe: Recipe, root: Path) -> None:
    if recipe.modules_load:
        _write(root, "/etc/modules-load.d/50-image.conf", "".join(f"{name}\n" for name in recipe.modules_load))
    if recipe.modules_block:
        lines = [f"blacklist {name}\ninstall {name} /bin/false\n" for name in recipe.modules_block]
        _write(root, "/etc/modprobe.d/50-image.conf", "".join(lines))
    if recipe.sysctl:
        _write(root, "/etc/sysctl.d/50-image.conf", "".join(f"{key} = {v}\n" for key, v in recipe.sysctl.items()))
    mounts = [part for part in recipe.disk.partitions if part.mount and not recipe.agent]
    if mounts:  # with the agent its own files mount them
        table = within(root, "/etc/fstab")
        before = table.read_text("utf-8") if table.is_file() else ""
        lines = [f"PARTLABEL={part.label} {part.mount} {part.fs.value} defaults,nofail 0 2\n" for part in mounts]
        _write(root, "/etc/fstab", before + "".join(lines))
        for part in mounts:
            within(root, part.mount or "/").mkdir(parents=True, exist_ok=True)


def _write_kubernetes(recipe: Recipe, root: Path) -> None:
    """The kubelet with a unit that waits for the node to be joined, and the CNI plugins."""
    kubernetes = recipe.kubernetes
    if kubernetes.kubelet:
        program = within(root, "/usr/bin/kubelet")
        program.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kubernetes.kubelet, program)
        program.chmod(0o755)
        if not within(root, f"/usr/lib/systemd/system/{_KUBELET_UNIT}").exists():
            _write(root, f"/usr/lib/systemd/system/{_KUBELET_UNIT}", _kubelet_unit())
        units.enable(root, _KUBELET_UNIT)
    if kubernetes.cni_plugins:
        source, target = Path(kubernetes.cni_plugins), within(root, _CNI)
        target.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            for path in sorted(source.iterdir()):
                if path.is_file():
                    shutil.copyfile(path, target / path.name)
        else:
            _unpack_flat(source, target)
        names = sorted(path.name for path in target.iterdir())
        for name in names:
            (target / name).chmod(0o755)
        links = [f"L+ {_CNI_SHOWN}/{name} - - - - {_CNI}/{name}\n" for name in names]
        _write(root, "/usr/lib/tmpfiles.d/hostplane-cni.conf", f"d {_CNI_SHOWN} 0755 root root -\n" + "".join(links))


def _kubelet_unit() -> str:
    return resources.files("hostplane.image").joinpath(f"data/kubernetes/{_KUBELET_UNIT}").read_text("utf-8")


def _unpack_flat(source: Path, target: Path) -> None:
    """The plain files of a tar, all into one directory, whatever paths it claims for them."""
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    with (target / PurePosixPath(member.name).name).open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError) as error:
        raise ImageError("ArchiveUnreadable", path=source, error=error) from error


def _write_file(root: Path, file: File, accounts: Accounts) -> None:
    """One [[file]]: a text, a file, or a whole tree."""
    owner = accounts.ids(file.owner, file.group)
    mode = None if file.mode is None else int(file.mode, 8)
    if file.source is None or not Path(file.source).is_dir():
        content = Path(file.source) if file.source else (file.content or "").encode()
        _put(root, PurePosixPath(file.path), content, mode, owner, replace=file.replace)
        return
    top = Path(file.source)
    for directory, names, files in os.walk(top):
        here = PurePosixPath(file.path) / Path(directory).relative_to(top).as_posix()
        target = within(root, here)
        if not target.is_dir():
            target.mkdir(parents=True)
            target.chmod(Path(directory).stat().st_mode & 0o7777)
            os.chown(target, *owner)
        links = [name for name in names if Path(directory, name).is_symlink()]
        for name in sorted([*files, *links]):
            _put(root, here / name, Path(directory, name), mode, owner, replace=file.replace, in_tree=True)


def _put(
    root: Path,
    path: PurePosixPath,
    content: Path | bytes,
    mode: int | None,
    owner: tuple[int, int],
    *,
    replace: bool,
    in_tree: bool = False,
) -> None:
    target = within(root, path, follow=False)
    if os.path.lexists(target):
        if not replace:
            return
        if target.is_dir() and not target.is_symlink():
            raise ImageError("FileIsDirectory", path=path)
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        target.write_bytes(content)
        target.chmod(0o644)
    elif in_tree and content.is_symlink():
        target.symlink_to(os.readlink(content))
        os.chown(target, *owner, follow_symlinks=False)
        return
    else:
        shutil.copyfile(content, target)
        target.chmod(content.stat().st_mode & 0o7777)
    os.chown(target, *owner)
    if mode is not None:  # after the owner, whose change takes set-uid bits away
        target.chmod(mode)
    elif isinstance(content, Path):
        target.chmod(content.stat().st_mode & 0o7777)


def _set_units(recipe: Recipe, root: Path) -> None:
    for unit in recipe.unit:
        if unit.content is not None and unit.state != "masked":
            _write(root, f"/etc/systemd/system/{unit.name}", unit.content)
    presets = []
    for unit in recipe.unit:
        match unit.state:
            case "enabled":
                units.enable(root, unit.name)
                presets.append(f"enable {unit.name}\n")
            case "disabled":
                units.disable(root, unit.name)
                presets.append(f"disable {unit.name}\n")
            case "masked":
                units.mask(root, unit.name)
    if presets:  # so that `systemctl preset` on a host comes to the same
        _write(root, "/etc/systemd/system-preset/10-image.preset", "".join(presets))


def _write(root: Path, path: str, text: str) -> None:
    target = within(root, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")
    target.chmod(0o644)
