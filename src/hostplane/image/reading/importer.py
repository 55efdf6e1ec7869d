"""A KubeOS builder's configuration (kbimg.toml) as a recipe, and a word on everything that is not the same here.

Every key of kbimg is either carried over or noted; a key that kbimg does not know is noted too. Notes stand at the head
of the recipe, so that they are still there when somebody asks. Refused: `[dm_verity]`, which means Secure Boot with
keys of one's own there; a recipe without it would look the same and protect nothing. Plain passwords become hashes.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from msgspec import Struct

from hostplane import distros
from hostplane.errors import RecipeError
from hostplane.image.reading.hashing import grub_hash, password_hash
from hostplane.image.reading.layers import Node, Place, parsed, plain
from hostplane.image.reading.rules.accounts import is_password_hash
from hostplane.image.reading.rules.disk import PERSIST_DIRS
from hostplane.image.reading.tomltext import document
from hostplane.image.reading.yumrepo import repositories

__all__ = ["Imported", "Note", "import_kbimg"]

_KBIMG_ROOT_MIB = 2560
_KBIMG_SIZE_GIB = 20
_STANDING = frozenset(
    {
        "/",
        "/etc",
        "/usr",
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib",
        "/usr/local",
        "/usr/local/bin",
        "/opt",
        "/var",
        "/var/lib",
    }
    | {"/root", "/home", "/srv", "/usr/share", "/etc/systemd/system", "/usr/lib/systemd/system", "/usr/local/lib"}
)
"""Directories that a root has in any case: what is copied there lands below them."""
_OF_A_NEW_ROOT = ("users", "copy_files", "grub", "systemd_service", "chroot_script")
_UNIT_KINDS = (".service", ".socket", ".mount", ".timer", ".path", ".target", ".slice", ".automount")


class Note(Struct, frozen=True, kw_only=True):
    """Something that is not the same in the recipe."""

    where: Place
    text: str


class Imported(Struct, frozen=True, kw_only=True):
    """What came of an import."""

    recipe: Path
    notes: tuple[Note, ...]


def import_kbimg(
    file: Path,
    directory: Path,
    *,
    name: str = "kubeos",
    distro: str = "openEuler",
    release: str | None = None,
    arch: str | None = None,
    replace: bool = False,
) -> Imported:
    """Writes `directory`/recipe.toml from kbimg's `file`.

    `release` None is guessed from the repositories' addresses, `arch` None is this machine's.

    Raises:
        RecipeError: the file cannot be read or is not kbimg's, it has [dm_verity], or recipe.toml exists.
        ImageError: a plain password could not be hashed.
    """
    try:
        tree = parsed(file.read_text("utf-8"), file)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("RecipeUnreadable", file=file, error=error) from error
    target = directory / "recipe.toml"
    if target.exists() and not replace:
        raise RecipeError("ImportExists", file=target)
    conversion = _Conversion(tree, file, directory)
    conversion.recipe |= {"name": name, "version": "1", "distro": distro, "release": release or ""}
    conversion.recipe["arch"] = arch or platform.machine().replace("arm64", "aarch64")
    conversion.convert()
    if release is None:
        conversion.recipe["release"] = conversion.guessed_release(distro)
    text = document(conversion.recipe, [f"Imported from {file.name}.", *_comments(conversion.notes)])
    directory.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(".recipe.toml.new")
    temporary.write_text(text, "utf-8")
    temporary.replace(target)
    return Imported(recipe=target, notes=tuple(_sorted(conversion.notes)))


def _comments(notes: list[Note]) -> list[str]:
    if not notes:
        return ["Everything was carried over."]
    lines = [f"line {note.where.line}: {note.text}" for note in _sorted(notes)]
    return ["Not the same as there:", *lines]


def _sorted(notes: list[Note]) -> list[Note]:
    return sorted(notes, key=lambda note: note.where)


class _Conversion:
    """One import under way: what it reads, the recipe as far as it is, and the notes."""

    def __init__(self, tree: Node, file: Path, directory: Path) -> None:
        self.tree = tree
        self.file = file
        self.directory = directory
        self.recipe: dict[str, object] = {}
        self.notes: list[Note] = []
        self._addresses = ""
        self._sections: Mapping[str, Callable[[Node], None]] = {
            "from_repo": self._from_repo,
            "from_dockerimg": self._from_dockerimg,
            "admin_container": self._admin_container,
            "pxe_config": self._pxe_config,
            "users": self._users,
            "copy_files": self._copy_files,
            "grub": self._grub,
            "systemd_service": self._services,
            "chroot_script": self._chroot_script,
            "disk_partition": self._disk_partition,
            "persist_mkdir": self._persist_mkdir,
        }

    def convert(self) -> None:
        """Every section of the file, in the order of the table above."""
        sections = self.tree.value
        assert isinstance(sections, dict)
        if "dm_verity" in sections:
            raise RecipeError("ImportSecureBoot", where=sections["dm_verity"].place)
        if not {"from_repo", "from_dockerimg"} & set(sections):
            raise RecipeError(
                "ImportValueWrong", where=self.tree.place, key="[from_repo]", wanted="[from_repo] | [from_dockerimg]"
            )
        self._disk_defaults()
        is_made_already = "from_repo" not in sections
        for section, take in self._sections.items():
            if section not in sections:
                continue
            if is_made_already and section in _OF_A_NEW_ROOT:
                self._note(sections[section], f"[{section}]: kbimg ignores it beside [from_dockerimg]; left out.")
            else:
                take(sections[section])
        for section, node in sections.items():
            if section not in self._sections:
                self._note(node, f"[{section}] is not a section of kbimg; left out.")

    def guessed_release(self, distro: str) -> str:
        """The newest release of `distro` that the repositories' addresses name, else the newest known."""
        known = {p.release for each in distros.listing() for p in each.profiles if p.id.lower() == distro.lower()}
        named = [name for name in known if re.search(re.escape(name) + r"(?![\w-])", self._addresses, re.IGNORECASE)]
        if not known:
            raise RecipeError(
                "ImportValueWrong", where=self.tree.place, key="--distro", wanted="hostplane image distros"
            )
        chosen = max(named or known)
        if not named:
            self._note(self.tree, f"The release is not said there; {chosen} is a guess, correct it below.")
        return chosen

    # --- reading

    def _note(self, node: Node, text: str) -> None:
        self.notes.append(Note(where=node.place, text=text))

    def _table(self, node: Node, section: str, known: tuple[str, ...]) -> dict[str, Node]:
        if not isinstance(node.value, dict):
            raise RecipeError("ImportValueWrong", where=node.place, key=section, wanted=f"[{section}]")
        for key, entry in node.value.items():
            if key not in known:
                self._note(entry, f"{section}.{key} is not a key of kbimg; left out.")
        return {key: entry for key, entry in node.value.items() if key in known}

    def _tables(self, node: Node, section: str, known: tuple[str, ...]) -> list[dict[str, Node]]:
        if not isinstance(node.value, list):
            raise RecipeError("ImportValueWrong", where=node.place, key=section, wanted=f"[[{section}]]")
        return [self._table(entry, section, known) for entry in node.value]

    def _text(self, table: Mapping[str, Node], key: str) -> str | None:
        if key not in table:
            return None
        value = table[key].value
        if not isinstance(value, str) or not value:
            raise RecipeError("ImportValueWrong", where=table[key].place, key=key, wanted='"…"')
        return value

    def _needed(self, table: Mapping[str, Node], key: str, above: Node) -> str:
        value = self._text(table, key)
        if value is None:
            raise RecipeError("ImportValueWrong", where=above.place, key=key, wanted='"…"')
        return value

    def _flag(self, table: Mapping[str, Node], key: str) -> bool:
        value = table[key].value if key in table else False
        if not isinstance(value, bool):
            raise RecipeError("ImportValueWrong", where=table[key].place, key=key, wanted="true | false")
        return value

    def _number(self, table: Mapping[str, Node], key: str, default: int) -> int:
        value = table[key].value if key in table else default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecipeError("ImportValueWrong", where=table[key].place, key=key, wanted="integer 1…")
        return value

    def _texts(self, table: Mapping[str, Node], key: str) -> list[str]:
        value = plain(table[key]) if key in table else []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise RecipeError("ImportValueWrong", where=table[key].place, key=key, wanted='["…", …]')
        return list(dict.fromkeys(value))

    def _path(self, value: str) -> str:
        """kbimg's path, from the recipe's directory where that is shorter."""
        target = os.path.abspath(self.file.parent / Path(value).expanduser())
        relative = os.path.relpath(target, os.path.abspath(self.directory))
        return target if relative.startswith("../../..") else relative

    def _put(self, section: str, key: str, value: object) -> None:
        table = self.recipe.setdefault(section, {})
        assert isinstance(table, dict)
        table[key] = value

    def _entries(self, section: str) -> list[dict[str, object]]:
        entries = self.recipe.setdefault(section, [])
        assert isinstance(entries, list)
        return entries

    def _add(self, section: str, entry: dict[str, object]) -> None:
        self._entries(section).append(entry)

    # --- sections, in kbimg's words

    def _disk_defaults(self) -> None:
        self._put("disk", "size_gib", _KBIMG_SIZE_GIB)
        self._put("disk", "root_mib", _KBIMG_ROOT_MIB)
        self._put("image", "outputs", ["raw", "qcow2", "os-tar", "bundle"])

    def _from_repo(self, node: Node) -> None:
        known = ("version", "repo_path", "agent_path", "root_passwd", "rpmlist", "legacy_bios", "upgrade_img")
        table = self._table(node, "from_repo", known)
        self._version(table.get("version", node), self._needed(table, "version", node))
        self.recipe["profiles"] = ["slim-host", "kubernetes"]
        packages = self._texts(table, "rpmlist")
        self._put("packages", "include", packages)
        self._put("kubernetes", "runtime", "containerd" if "containerd" in packages else "none")
        repository_file = self._needed(table, "repo_path", node)
        self._repositories(table["repo_path"], Path(os.path.abspath(self.file.parent / repository_file)))
        self._add("user", {"name": "root", "password_hash": self._hashed(table, "root_passwd", node)})
        self._firmware(table)
        if "agent_path" in table:
            self._note(
                table["agent_path"], "agent_path: Hostplane's own agent is put in; it answers KubeOS's proxy too."
            )
        self._upgrade_image(table)

    def _version(self, node: Node, version: str) -> None:
        plain_version = re.sub(r"[^0-9A-Za-z._+~-]+", "-", version).lstrip("._+~-")[:63] or "1"
        self.recipe["version"] = plain_version
        if plain_version != version:
            self._note(node, f"version: {version!r} became {plain_version!r}; spaces and signs do not go into names.")

    def _upgrade_image(self, table: Mapping[str, Node]) -> None:
        name = self._text(table, "upgrade_img")
        if name is not None:
            text = (
                f"upgrade_img: the output os-tar is what {name} held; build and push of that image are not done here."
            )
            self._note(table["upgrade_img"], text)

    def _repositories(self, node: Node, file: Path) -> None:
        found, notes = repositories(file, self._path)
        for entry in found:
            self._addresses += f" {entry['url']}"
        for note in notes:
            self._note(node, note)
        if found:
            self._put("packages", "repositories", found)

    def _firmware(self, table: Mapping[str, Node]) -> None:
        is_bios = self._flag(table, "legacy_bios") and self.recipe["arch"] == "x86_64"
        self._put("boot", "firmware", ["bios", "uefi"] if is_bios else ["uefi"])
        if is_bios:
            self._note(table["legacy_bios"], "legacy_bios: the disk has a GPT, not an MBR, and boots by BIOS and UEFI.")

    def _from_dockerimg(self, node: Node) -> None:
        table = self._table(node, "from_dockerimg", ("upgrade_img", "legacy_bios"))
        if "from_repo" in self._sections_given():
            raise RecipeError("ImportValueWrong", where=node.place, key="[from_dockerimg]", wanted="[from_repo]")
        name = self._needed(table, "upgrade_img", node)
        self._put("packages", "backend", "tree")
        self._put("packages", "source", "os.tar")
        self._firmware(table)
        text = (
            "put its /os.tar beside the recipe: docker cp $(docker create IMAGE true):/os.tar os.tar; then set version."
        )
        self._note(table["upgrade_img"], f"upgrade_img {name}: {text.replace('IMAGE', name)}")

    def _sections_given(self) -> Mapping[str, Node]:
        assert isinstance(self.tree.value, dict)
        return self.tree.value

    def _admin_container(self, node: Node) -> None:
        self._table(node, "admin_container", ("img_name", "hostshell"))
        self._note(node, "[admin_container]: a container image, not part of a host's; keep building it with kbimg.")

    def _pxe_config(self, node: Node) -> None:
        known = ("rootfs_name", "disk", "server_ip", "route_ip", "dhcp", "local_ip", "netmask", "net_name")
        table = self._table(node, "pxe_config", known)
        self._note(node, "[pxe_config]: no PXE initramfs is made; install by writing the output raw to the disk.")
        for key, entry in table.items():
            self._note(entry, f"pxe_config.{key} = {entry.value!r} is a matter of the installation; not carried over.")

    def _users(self, node: Node) -> None:
        for table in self._tables(node, "users", ("name", "passwd", "primary_group", "groups")):
            name = self._needed(table, "name", node)
            user: dict[str, object] = {"name": name, "password_hash": self._hashed(table, "passwd", node)}
            group = self._text(table, "primary_group")
            if group not in (None, name):  # a group of the user's own name is made in any case
                user["primary_group"] = group
            if "groups" in table:
                groups = table["groups"]
                user["groups"] = [groups.value] if isinstance(groups.value, str) else self._texts(table, "groups")
            if name == "root":
                self.recipe["user"] = [entry for entry in self._entries("user") if entry["name"] != "root"]
            self._add("user", user)

    def _hashed(self, table: Mapping[str, Node], key: str, above: Node) -> str:
        value = self._needed(table, key, above)
        if is_password_hash(value):
            return value
        self._note(table[key], f"{key}: a plain password stood there; the recipe has its hash. Delete it there too.")
        return password_hash(value)

    def _copy_files(self, node: Node) -> None:
        self._note(node, "copy_files: what is copied belongs to root and keeps its modes; kbimg set its own.")
        for index, table in enumerate(self._tables(node, "copy_files", ("src", "dst", "create_dir"))):
            source, target = self._needed(table, "src", node), self._needed(table, "dst", node)
            made = self._text(table, "create_dir")
            path = self._landing(source, target, made)
            self._add("file", {"path": path, "source": self._path(source)})
            if made is not None and not PurePosixPath(path).is_relative_to(made):
                content = f"mkdir -p {_quoted(made)}\n"
                self._add("script", {"name": f"create-dir-{index + 1}", "content": content})

    def _landing(self, source: str, target: str, made: str | None) -> str:
        """Where `cp -r source target` puts it: below a directory that exists, else under the very name."""
        where = str(PurePosixPath("/") / target)
        into = {str(PurePosixPath("/") / made)} if made else set()
        if target.endswith("/") or where in _STANDING | into:
            return str(PurePosixPath(where) / Path(source).name)
        return where

    def _grub(self, node: Node) -> None:
        table = self._table(node, "grub", ("passwd",))
        password = self._needed(table, "passwd", node)
        self._put("boot", "grub_password_hash", grub_hash(password))
        self._note(table["passwd"], "grub.passwd: a plain password stood there; the recipe has its hash, user root.")

    def _services(self, node: Node) -> None:
        table = self._table(node, "systemd_service", ("name",))
        for name in self._texts(table, "name"):
            self._add("unit", {"name": name if name.endswith(_UNIT_KINDS) else f"{name}.service"})

    def _chroot_script(self, node: Node) -> None:
        table = self._table(node, "chroot_script", ("path", "rm"))
        source = self._needed(table, "path", node)
        self._add("script", {"name": "chroot-script", "source": self._path(source)})
        if not self._flag(table, "rm"):
            self._note(table.get("rm", node), "chroot_script.rm: the script is never left in the image here.")

    def _disk_partition(self, node: Node) -> None:
        table = self._table(node, "disk_partition", ("root", "img_size"))
        self._put("disk", "root_mib", self._number(table, "root", _KBIMG_ROOT_MIB))
        self._put("disk", "size_gib", self._number(table, "img_size", _KBIMG_SIZE_GIB))

    def _persist_mkdir(self, node: Node) -> None:
        table = self._table(node, "persist_mkdir", ("name",))
        names = [name.strip("/") for name in self._texts(table, "name")]
        self._put("disk", "persist_dirs", [name for name in names if name not in PERSIST_DIRS])
        for name in sorted(set(names) & set(PERSIST_DIRS)):
            self._note(table["name"], f"persist_mkdir: {name} is there in any case.")


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"
