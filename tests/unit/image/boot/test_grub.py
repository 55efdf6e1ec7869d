"""GRUB's script, a slot's words and a BIOS's two sectors, as text and bytes; tests/vm runs them."""

from __future__ import annotations

import re
import struct

import pytest

from hostplane.errors import ImageError
from hostplane.image.boot import grub
from hostplane.image.disk import layout
from hostplane.image.recipe import Boot, Disk, Partition, Recipe, RootFs


def _recipe(boot: Boot | None = None, disk: Disk | None = None) -> Recipe:
    return Recipe(
        name="node", version="1.0", distro="debian", release="12", boot=boot or Boot(), disk=disk or Disk(size_gib=10)
    )


def test_the_script_names_this_disk_s_partitions_and_leaves_no_hole() -> None:
    recipe = _recipe()
    plan = layout.plan(recipe)
    text = grub.config(plan, recipe)
    assert re.findall(r"@\w+@", text) == []
    assert text.count(plan["ROOT-A"].guid) == text.count(plan["ROOT-B"].guid) == 1
    assert f"hostplane.persist=PARTUUID={plan['PERSIST'].guid} " in text
    assert {"gpt3", "gpt4", "gpt5"} == set(re.findall(r"gpt\d+", text))


def test_the_script_is_the_same_for_every_version_but_for_the_guids() -> None:
    """It is written once with the disk, so nothing of an image may be in it."""
    texts = []
    for version in ("1.0", "2.0"):
        recipe = Recipe(name="node", version=version, distro="debian", release="12", boot=Boot(arguments=(version,)))
        texts.append(re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "GUID", grub.config(layout.plan(recipe), recipe)))
    assert texts[0] == texts[1]


def test_extra_partitions_change_nothing_for_the_loader() -> None:
    recipe = _recipe(disk=Disk(size_gib=10, partitions=(Partition(label="DATA", size_mib=100),)))
    assert "gpt9" not in grub.config(layout.plan(recipe), recipe)


def test_only_words_that_every_grub_since_2_02_knows_are_used() -> None:
    text = grub.config(layout.plan(_recipe()), _recipe(Boot(grub_password_hash="grub.x")))
    text = re.sub(r"(^|\s)#.*", "", re.sub(r'"[^"]*"', '""', text))
    commands = {
        word
        for line in text.splitlines()
        for word in re.findall(r"(?:^|;|\bthen\b|\belse\b|\bdo\b|\bif\b|\{)\s*([a-z_0-9]+)", line)
    }
    functions = {word for word in commands if word.startswith("hp_")}
    shell = {"if", "then", "else", "fi", "for", "in", "do", "done", "function", "set", "unset", "export", "source"}
    module = {"load_env", "save_env", "echo", "linux", "initrd", "linuxefi", "initrdefi", "boot", "sleep", "menuentry"}
    module |= {"serial", "terminal_input", "terminal_output", "password_pbkdf2"}
    assert commands - functions - shell - module == set()


@pytest.mark.parametrize(
    ("console", "said"),
    [
        (("tty0", "ttyS1,57600n8"), "serial --unit=1 --speed=57600;"),
        (("ttyS0",), "serial --unit=0 --speed=9600;"),
        (("tty0",), ""),
    ],
)
def test_grub_talks_on_the_serial_line_that_the_kernel_talks_on(console: tuple[str, ...], said: str) -> None:
    recipe = _recipe(Boot(console=console))
    assert said in grub.config(layout.plan(recipe), recipe)
    assert ("terminal_output" in grub.config(layout.plan(recipe), recipe)) is bool(said)


def test_a_password_guards_editing_and_nothing_else() -> None:
    recipe = _recipe(Boot(grub_password_hash="grub.pbkdf2.sha512.1.AA.BB"))
    text = grub.config(layout.plan(recipe), recipe)
    assert "password_pbkdf2 root grub.pbkdf2.sha512.1.AA.BB" in text
    assert "superusers" not in grub.config(layout.plan(_recipe()), _recipe())
    assert all("--unrestricted" in line for line in text.splitlines() if line.startswith("menuentry"))


def test_a_slot_says_what_belongs_to_its_image_and_that_it_is_complete() -> None:
    recipe = _recipe(Boot(arguments=("quiet", "a.b=1,2"), console=("ttyS0,115200",)), Disk(fs=RootFs.XFS))
    lines = grub.slot_config(recipe, verity="root=/dev/mapper/x hostplane.verity=00").splitlines()
    assert "set hp_args='console=ttyS0,115200 quiet a.b=1,2'" in lines
    assert "set hp_rootfs='xfs'" in lines
    assert "set hp_verity='root=/dev/mapper/x hostplane.verity=00'" in lines
    assert lines[-1] == "set hp_complete=1", "a file that was cut says so by lacking its last line"


@pytest.mark.parametrize("argument", ["a b", "it's", 'x="1"', "back\\slash", "ä", "", "tab\there"])
def test_an_argument_that_grub_would_change_is_refused(argument: str) -> None:
    with pytest.raises(ImageError) as caught:
        grub.slot_config(_recipe(Boot(arguments=(argument,))))
    assert caught.value.reason.name == "KernelArgumentUnfit"


def _boot_img() -> bytes:
    image = bytearray(b"\xcc" * 510 + b"\x55\xaa")
    image[0x66:0x68] = b"\xeb\x05"
    return bytes(image)


def _core_img(size: int = 5000) -> bytes:
    image = bytearray(b"\xdd" * size)
    image[0x1E8:0x200] = bytes(12) + struct.pack("<QHH", 2, 9, 0x820)
    return bytes(image)


def test_a_bios_finds_the_core_where_it_lies() -> None:
    code, core = grub.bios_boot(_boot_img(), _core_img(), 2048)
    assert len(code) == 440
    assert struct.unpack_from("<Q", code, 0x5C) == (2048,)
    assert code[0x66:0x68] == b"\x90\x90"
    assert len(core) == 10 * 512
    assert struct.unpack_from("<QHH", core, 500) == (2049, 9, 0x820)
    assert struct.unpack_from("<QHH", core, 488) == (0, 0, 0), "the list of sectors ends"
    assert core[512:5000] == _core_img()[512:]


@pytest.mark.parametrize(
    ("boot", "core"),
    [
        (_boot_img()[:-1], _core_img()),
        (b"\0" * 512, _core_img()),
        (_boot_img(), _core_img()[:600]),
        (_boot_img(), b"\0" * 5000),
    ],
)
def test_what_is_not_grub_s_is_refused(boot: bytes, core: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        grub.bios_boot(boot, core, 2048)
    assert caught.value.reason.name == "GrubImageUnfit"


def test_each_platform_reads_its_configuration_from_where_the_disk_has_it() -> None:
    assert grub.prefix(grub.BIOS_PLATFORM, "debian") == "(,gpt3)/grub"
    assert grub.prefix("x86_64-efi", "openEuler") == "/EFI/openEuler"
    for platform in (grub.BIOS_PLATFORM, *grub.EFI_PLATFORMS.values()):
        needed, welcome = grub.modules(platform)
        assert {"loadenv", "ext2", "part_gpt", "linux"} <= set(needed)
        assert not set(needed) & set(welcome)
