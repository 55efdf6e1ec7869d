"""Makes hashes of plain passwords, so that the plain ones need not be kept: for accounts and for GRUB's menu."""

from __future__ import annotations

import hashlib
import secrets
import subprocess

from hostplane.errors import ImageError

__all__ = ["grub_hash", "password_hash"]

_ROUNDS = 100_000


def password_hash(password: str) -> str:
    """SHA-512 crypt with a salt of its own, made by openssl: Python's crypt is on its way out.

    Raises:
        ImageError: openssl is missing or refuses.
    """
    try:
        command = ["openssl", "passwd", "-6", "-stdin"]
        done = subprocess.run(command, input=password.encode() + b"\n", capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ImageError("HashProgramFailed", error=error) from error
    return done.stdout.decode().strip()


def grub_hash(password: str) -> str:
    """The form of hash that grub-mkpasswd-pbkdf2 prints."""
    salt = secrets.token_bytes(64)
    made = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS)
    return f"grub.pbkdf2.sha512.{_ROUNDS}.{salt.hex().upper()}.{made.hex().upper()}"
