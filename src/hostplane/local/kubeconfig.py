"""Kubeconfigs for a local cluster: one server, one certificate, one token; readable by their user alone."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["kubeconfig_text", "write_kubeconfig", "write_private"]

_TEXT = """apiVersion: v1
kind: Config
current-context: hostplane
clusters:
- name: hostplane
  cluster: {{server: "{url}", certificate-authority: "{ca}"}}
users:
- name: {user}
  user: {{token: "{token}"}}
contexts:
- name: hostplane
  context: {{cluster: hostplane, user: {user}}}
"""


def kubeconfig_text(*, url: str, ca: Path | str, token: str, user: str) -> str:
    """The kubeconfig of `user`; `ca` is the path of the server's certificate where it will be read."""
    return _TEXT.format(url=url, ca=ca, token=token, user=user)


def write_kubeconfig(path: Path, *, url: str, ca: Path | str, token: str, user: str) -> None:
    """Writes the kubeconfig of `user` to `path`, mode 0600, old or new and never neither."""
    write_private(path, kubeconfig_text(url=url, ca=ca, token=token, user=user))


def write_private(path: Path, text: str) -> None:
    """Writes `text` to `path`, mode 0600 from its first byte on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
