"""A KubeOS builder's configuration becomes a recipe that passes every check, and nothing is lost in silence."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from hostplane.cli.main import ExitCode, main
from hostplane.errors import RecipeError
from hostplane.image.reading.check import check
from hostplane.image.reading.hashing import grub_hash
from hostplane.image.reading.importer import Imported, import_kbimg
from hostplane.image.recipe import Backend, Firmware, Output, Recipe

LEAST = """
[from_repo]
agent_path = "./os-agent"
legacy_bios = false
repo_path = "./my.repo"
root_passwd = "$6$saltsalt$abcdefghijklmnopqrstuvwxyz./ABCDEFGHIJ"
rpmlist = ["kernel", "containerd", "kubernetes-kubelet"]
version = "v1"
"""
REPO = """
[base]
name=base
baseurl=https://repo.openeuler.org/openEuler-22.03-LTS-SP3/OS/$basearch/
gpgkey=file://{here}/key.asc
gpgcheck=1
[update]
name=update
baseurl=https://repo.openeuler.org/openEuler-22.03-LTS-SP3/update/$basearch/ https://second.example/
sslverify=1
gpgcheck=0
[off]
baseurl=https://off.example/
enabled=0
[mirrors]
mirrorlist=https://mirrors.example/
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kbimg's examples name, and a language."""
    monkeypatch.setenv("HOSTPLANE_LANG", "en")
    (tmp_path / "my.repo").write_text(REPO.format(here=tmp_path), "utf-8")
    for name in ("key.asc", "os-agent", "foo.txt", "my_chroot.sh"):
        (tmp_path / name).write_text("x", "utf-8")
    (tmp_path / "tree").mkdir()


def imported(directory: Path, text: str) -> Imported:
    """kbimg.toml with that text, imported into `directory`/out."""
    (directory / "kbimg.toml").write_text(text, "utf-8")
    return import_kbimg(directory / "kbimg.toml", directory / "out", arch="x86_64")


def recipe_of(result: Imported) -> Recipe:
    """The recipe, read and checked."""
    return check(result.recipe, environment={}).recipe


def said(result: Imported) -> str:
    """All notes, one a line."""
    return "\n".join(f"{note.where.line}: {note.text}" for note in result.notes)


def test_the_least_configuration_passes_every_check(tmp_path: Path) -> None:
    result = imported(tmp_path, LEAST)
    recipe = recipe_of(result)
    assert (recipe.name, recipe.version, recipe.distro, recipe.release) == (
        "kubeos",
        "v1",
        "openEuler",
        "22.03-LTS-SP3",
    )
    assert recipe.packages.include == ("kernel", "containerd", "kubernetes-kubelet")
    assert recipe.kubernetes.runtime == "containerd"
    assert (recipe.disk.size_gib, recipe.disk.root_mib) == (20, 2560)
    assert recipe.boot.firmware == (Firmware.UEFI,)
    assert Output.OS_TAR in recipe.image.outputs
    [root] = recipe.user
    assert (root.name, root.password_hash) == ("root", "$6$saltsalt$abcdefghijklmnopqrstuvwxyz./ABCDEFGHIJ")
    assert "agent_path" in said(result)


def test_repositories_keep_key_and_address_and_say_what_they_lose(tmp_path: Path) -> None:
    result = imported(tmp_path, LEAST)
    base, update = recipe_of(result).packages.repositories
    assert base.url == "https://repo.openeuler.org/openEuler-22.03-LTS-SP3/OS/$arch/"
    assert base.key == str(tmp_path / "key.asc")
    assert base.check_signatures, "kbimg did not check; that is not carried over"
    assert update.key is None
    assert not update.check_signatures
    for words in (
        "only the first of 2",
        "update: gpgcheck is off there",
        "sslverify",
        "off: switched off",
        "mirrors: has no base",
    ):
        assert words in said(result)


@pytest.mark.parametrize(
    ("line", "field", "value", "note"),
    [
        ("sslcacert=key.asc", "ca", "key.asc", ""),
        ("sslclientcert=key.asc\nsslclientkey=key.asc", "client_key", "key.asc", ""),
        ("username=me\npassword=hunter2", "password_env", "HOSTPLANE_PASSWORD_A_B", "password is not copied"),
        ("proxy=http://p.example:3128", "proxy", "http://p.example:3128", ""),
        ("priority=7", "priority", 7, ""),
        ("gpgkey=https://keys.example/key", "key", "https://keys.example/key", ""),
        ("gpgkey=http://keys.example/key", "key", "https://keys.example/key", "fetched by https"),
        ("gpgkey=", "key", None, "names no key"),
        ("gpgkey=file:///a\n  file:///b", "key", "/a", "only the first of 2 keys"),
    ],
)
def test_keys_of_a_repository_are_carried_over(tmp_path: Path, line: str, field: str, value: object, note: str) -> None:
    (tmp_path / "my.repo").write_text(f"[a.b]\nbaseurl=https://m.example/$releasever/\n{line}\n", "utf-8")
    result = imported(tmp_path, LEAST)
    from hostplane.image.reading.read import read_recipe

    [repository] = read_recipe(result.recipe).recipe.packages.repositories
    found = getattr(repository, field)
    assert found.endswith(value) if value == "key.asc" else found == value, found
    assert repository.url == "https://m.example/$release/"
    assert note in said(result)
    assert "hunter2" not in result.recipe.read_text("utf-8") + said(result)
    assert "is a guess" in said(result), "the address names no release"


def test_plain_passwords_become_hashes_and_are_written_nowhere(tmp_path: Path) -> None:
    text = LEAST.replace("$6$saltsalt$abcdefghijklmnopqrstuvwxyz./ABCDEFGHIJ", "plain-root-word")
    text += """
[[users]]
name = "foo"
passwd = "plain-foo-word"
primary_group = "foogroup"
groups = ["wheel", "adm"]
[[users]]
name = "bar"
primary_group = "bar"
passwd = "plain-bar-word"
groups = "wheel"
[grub]
passwd = "plain-grub-word"
"""
    result = imported(tmp_path, text)
    recipe = recipe_of(result)
    assert "plain-" not in result.recipe.read_text("utf-8") + said(result)
    words = {"root": "plain-root-word", "foo": "plain-foo-word", "bar": "plain-bar-word"}
    for user in recipe.user:
        assert user.password_hash is not None
        salt = user.password_hash.split("$")[2]
        command = ["openssl", "passwd", "-6", "-salt", salt, words.pop(user.name)]
        made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        assert made.stdout.strip() == user.password_hash
    assert words == {}
    assert [user.primary_group for user in recipe.user] == [None, "foogroup", None]
    assert [user.groups for user in recipe.user] == [(), ("wheel", "adm"), ("wheel",)]
    assert recipe.boot.grub_password_hash is not None
    assert said(result).count("plain password stood there") == 4


def test_a_menu_password_verifies_as_grub_does() -> None:
    _, _, kind, rounds, salt, made = grub_hash("secret").split(".")
    assert hashlib.pbkdf2_hmac(kind, b"secret", bytes.fromhex(salt), int(rounds)).hex().upper() == made


def test_a_user_root_replaces_the_one_of_the_repository_section(tmp_path: Path) -> None:
    result = imported(tmp_path, LEAST + '[[users]]\nname = "root"\npasswd = "$6$other$abcdefghijklmnopqrstuvwxyz"\n')
    [root] = recipe_of(result).user
    assert root.password_hash == "$6$other$abcdefghijklmnopqrstuvwxyz"


def test_files_land_where_cp_would_have_put_them(tmp_path: Path) -> None:
    text = LEAST
    for source, target, made in (
        ("foo.txt", "/etc/renamed.txt", None),
        ("foo.txt", "/opt/", None),
        ("tree", "/opt", None),
        ("tree", "/opt/new", None),
        ("foo.txt", "/root/test/foo.txt", "/root/test"),
        ("foo.txt", "/root/test", "/root/test"),
        ("foo.txt", "/srv/x", "/var/lib/it's elsewhere"),
    ):
        text += f'[[copy_files]]\nsrc = "{source}"\ndst = "{target}"\n'
        text += f'create_dir = "{made}"\n' if made else ""
    text = text.replace("/root/test/foo.txt", "/root/test/bar.txt")
    recipe = recipe_of(imported(tmp_path, text))
    assert [file.path for file in recipe.file] == [
        "/etc/renamed.txt",
        "/opt/foo.txt",
        "/opt/tree",
        "/opt/new",
        "/root/test/bar.txt",
        "/root/test/foo.txt",
        "/srv/x",
    ]
    assert recipe.file[0].source == str(tmp_path / "foo.txt")
    [script] = recipe.script
    assert script.content == "mkdir -p '/var/lib/it'\\''s elsewhere'\n"


def test_units_script_disk_and_directories_are_carried_over(tmp_path: Path) -> None:
    text = (
        LEAST
        + """
[systemd_service]
name = ["containerd", "kubelet.service", "my.timer"]
[chroot_script]
path = "./my_chroot.sh"
rm = false
[disk_partition]
root = 3000
img_size = 30
[persist_mkdir]
name = ["data", "/logs", "var"]
"""
    )
    result = imported(tmp_path, text)
    recipe = recipe_of(result)
    assert [unit.name for unit in recipe.unit] == ["containerd.service", "kubelet.service", "my.timer"]
    [script] = recipe.script
    assert script.source == str(tmp_path / "my_chroot.sh")
    assert (recipe.disk.root_mib, recipe.disk.size_gib, recipe.disk.persist_dirs) == (3000, 30, ("data", "logs"))
    assert "chroot_script.rm" in said(result)
    assert "persist_mkdir: var" in said(result)


def test_legacy_bios_means_both_firmwares(tmp_path: Path) -> None:
    result = imported(tmp_path, LEAST.replace("legacy_bios = false", "legacy_bios = true"))
    assert recipe_of(result).boot.firmware == (Firmware.BIOS, Firmware.UEFI)
    assert "legacy_bios" in said(result)


def test_what_cannot_be_carried_over_is_said_and_stands_in_the_recipe(tmp_path: Path) -> None:
    text = LEAST.replace('version = "v1"', 'version = "KubeOS v 1"\nupgrade_img = "kubeos:v1"\nrpm_list = []')
    text += """
[admin_container]
img_name = "admin:v1"
hostshell = "./hostshell"
[pxe_config]
rootfs_name = "kubeos.tar"
disk = "/dev/vda"
server_ip = "192.0.2.1"
route_ip = "192.0.2.2"
dhcp = false
local_ip = "192.0.2.3"
netmask = "255.255.255.0"
net_name = "eth0"
[made_up]
x = 1
"""
    result = imported(tmp_path, text)
    assert recipe_of(result).version == "KubeOS-v-1"
    comments = [line for line in result.recipe.read_text("utf-8").splitlines() if line.startswith("# line ")]
    assert len(comments) == len(result.notes)
    for word in (
        *("[admin_container]", "[pxe_config]", "kubeos:v1", "KubeOS v 1", "rpm_list", "made_up"),
        *(
            f"pxe_config.{key}"
            for key in ("rootfs_name", "disk", "server_ip", "route_ip", "local_ip", "netmask", "net_name")
        ),
    ):
        assert word in said(result)
        assert any(word in comment for comment in comments)


def test_an_upgrade_image_becomes_a_tree(tmp_path: Path) -> None:
    text = '[from_dockerimg]\nupgrade_img = "kubeos:v1"\nlegacy_bios = false\n'
    result = imported(tmp_path, text + '[disk_partition]\nroot = 3000\n[systemd_service]\nname = ["kubelet"]\n')
    assert "docker create kubeos:v1" in said(result)
    (tmp_path / "out" / "os.tar").write_bytes(b"")
    recipe = recipe_of(result)
    assert recipe.packages.backend is Backend.TREE
    assert recipe.packages.source == str(tmp_path / "out" / "os.tar")
    assert recipe.disk.root_mib == 3000
    assert recipe.unit == ()
    assert "kbimg ignores it" in said(result)


def test_secure_boot_is_refused_loudly_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = LEAST + '[dm_verity]\nefi_key = "secret-a"\ngrub_key = "secret-b"\nkeys_dir = "./keys"\n'
    (tmp_path / "kbimg.toml").write_text(text, "utf-8")
    assert main(["image", "import", str(tmp_path / "kbimg.toml"), "-o", str(tmp_path / "out")]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert f"kbimg.toml:{text.splitlines().index('[dm_verity]') + 1}: [dm_verity] means Secure Boot" in err
    assert "disk.verity" in err
    assert "secret-" not in out + err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (("version", "[x]\nversion"), "ImportValueWrong"),
        (('version = "v1"', 'version = ""'), "ImportValueWrong"),
        (("legacy_bios = false", "legacy_bios = 1"), "ImportValueWrong"),
        (('rpmlist = ["kernel", "containerd", "kubernetes-kubelet"]', 'rpmlist = "kernel"'), "ImportValueWrong"),
        (("[from_repo]", "[other]"), "ImportValueWrong"),
        (("[from_repo]", "from_repo = 1\n[other]"), "ImportValueWrong"),
        (("my.repo", "nowhere.repo"), "RecipeUnreadable"),
        (("[from_repo]", "[from_repo"), "RecipeNotToml"),
        (("[from_repo]", '[from_dockerimg]\nupgrade_img = "a"\n[from_repo]'), "ImportValueWrong"),
        (("[from_repo]", '[disk_partition]\nroot = "x"\n[from_repo]'), "ImportValueWrong"),
    ],
)
def test_what_is_not_kbimgs_is_refused_and_nothing_is_written(
    tmp_path: Path, change: tuple[str, str], name: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        imported(tmp_path, LEAST.replace(*change, 1))
    assert caught.value.name == name
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_there_is_kept_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = imported(tmp_path, LEAST)
    result.recipe.write_text("mine", "utf-8")
    arguments = ["image", "import", str(tmp_path / "kbimg.toml"), "-o", str(tmp_path / "out")]
    assert main(arguments) == ExitCode.USAGE
    assert result.recipe.read_text("utf-8") == "mine"
    assert main([*arguments, "--force", "--name", "mine", "--arch", "aarch64", "--release", "24.03-LTS"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(result.recipe)]
    assert f"{tmp_path / 'kbimg.toml'}:3: agent_path" in err
    recipe = recipe_of(result)
    assert (recipe.name, recipe.arch, recipe.release) == ("mine", "aarch64", "24.03-LTS")
