"""Booting: the kernel's arguments, the console, the firmware, and the menu's password."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hostplane.errors import reason
from hostplane.image.reading.positions import written
from hostplane.image.reading.rules.case import Case, Fault, Rule, error, unique
from hostplane.image.recipe import Arch, Firmware

__all__ = ["MODULE", "RULES"]

MODULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_OURS = (
    *("root", "rootfstype", "ro", "rw", "initrd", "BOOT_IMAGE"),
    *("panic", "oops", "rd.emergency", "rd.shell", "systemd.crash_reboot"),
)
_ARGUMENT = re.compile(r"[A-Za-z_][!#-&(-\[\]-~]*")
"""What GRUB hands over unchanged: no blank, quote or backslash, and nothing outside ASCII."""
_CONSOLE = re.compile(r"tty[0-9]{1,2}|(ttyS|ttyAMA|ttyUSB|hvc|ttyMSM|ttysclp)[0-9]{1,3}(,[0-9]{3,7}([neo][5-8]?r?)?)?")
_GRUB_HASH = re.compile(r"grub\.pbkdf2\.sha(512|256)\.[0-9]+\.[0-9A-Fa-f]+\.[0-9A-Fa-f]+")


def arguments_are_not_ours(case: Case) -> Iterator[Fault]:
    for index, argument in enumerate(case.recipe.boot.arguments):
        name = argument.partition("=")[0]
        if name in _OURS or name.startswith("hostplane."):
            path = ("boot", "arguments", index)
            yield error(path, reason("ArgumentOurs", key=written(path), value=argument))


def consoles_have_their_own_key(case: Case) -> Iterator[Fault]:
    for index, argument in enumerate(case.recipe.boot.arguments):
        if argument.startswith("console="):
            path = ("boot", "arguments", index)
            yield error(path, reason("ArgumentIsConsole", key=written(path), value=argument))


def arguments_are_one_word_each(case: Case) -> Iterator[Fault]:
    for index, argument in enumerate(case.recipe.boot.arguments):
        if not _ARGUMENT.fullmatch(argument):
            path = ("boot", "arguments", index)
            yield error(path, reason("ArgumentInvalid", key=written(path), value=argument))


def consoles_are_terminals(case: Case) -> Iterator[Fault]:
    for index, console in enumerate(case.recipe.boot.console):
        if not _CONSOLE.fullmatch(console):
            path = ("boot", "console", index)
            yield error(path, reason("ConsoleInvalid", key=written(path), value=console))


def bios_is_on_x86_64(case: Case) -> Iterator[Fault]:
    path = ("boot", "firmware")
    if Firmware.BIOS in case.recipe.boot.firmware and case.recipe.arch is not Arch.X86_64:
        yield error(path, reason("BiosForeign", key=written(path), arch=case.recipe.arch.value))


def there_is_a_firmware(case: Case) -> Iterator[Fault]:
    path = ("boot", "firmware")
    if not case.recipe.boot.firmware:
        yield error(path, reason("ListEmpty", key=written(path), known=", ".join(Firmware)))


def firmwares_are_unique(case: Case) -> Iterator[Fault]:
    firmware = enumerate(case.recipe.boot.firmware)
    yield from unique((("boot", "firmware", index), value.value) for index, value in firmware)


def initramfs_modules_are_names(case: Case) -> Iterator[Fault]:
    for index, name in enumerate(case.recipe.boot.modules):
        if not MODULE.fullmatch(name):
            path = ("boot", "modules", index)
            yield error(path, reason("ModuleNameInvalid", key=written(path), value=name))


def menu_password_is_hashed(case: Case) -> Iterator[Fault]:
    path, value = ("boot", "grub_password_hash"), case.recipe.boot.grub_password_hash
    if value is not None and not _GRUB_HASH.fullmatch(value):
        yield error(path, reason("GrubPasswordPlain", key=written(path)))


RULES: tuple[Rule, ...] = (
    arguments_are_not_ours,
    consoles_have_their_own_key,
    arguments_are_one_word_each,
    consoles_are_terminals,
    bios_is_on_x86_64,
    there_is_a_firmware,
    firmwares_are_unique,
    initramfs_modules_are_names,
    menu_password_is_hashed,
)
