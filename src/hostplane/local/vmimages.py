"""The images of `hostplane demo --vm`: a node of Debian in three versions, of which the third has a kubelet that fails.

They are built like anybody's, by recipe and builder, and found again in the user's store of results, so that only the
first demo pays for them. What they share is `vmnode/node.toml`; a small recipe for each version stands on it. They are
signed by a key made for this user once; it lies in the cache, is worth nothing elsewhere, and no image trusts another.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from msgspec import Struct

from hostplane.errors import LocalError
from hostplane.image.building.engine import Wish, build, open_store
from hostplane.image.building.progress import Event
from hostplane.image.building.store import default_store
from hostplane.image.bundle import signing, trust
from hostplane.image.bundle.inspection import Inspection, inspect
from hostplane.image.reading.check import check
from hostplane.local.binaries import KUBERNETES_VERSION, Say, cache_directory, locate
from hostplane.local.proxyapp import build_proxy

__all__ = ["BROKEN", "RELEASES", "VmImage", "build_images", "demo_keys", "recipe_text"]

RELEASES = {"v1": "1.0.0", "v2": "2.0.0", "v3": "3.0.0"}
BROKEN = "v3"
_FLAW = """
[Service]
Environment="KUBELET_EXTRA_ARGS=--flag-that-this-kubelet-does-not-know"
"""
_KEY = "demo"


class VmImage(Struct, frozen=True, kw_only=True):
    """One built version: the directory of the build and what its bundle says."""

    name: str
    out: Path
    pretty_name: str
    inspection: Inspection

    @property
    def bundle(self) -> Path:
        """The bundle's directory."""
        return self.out / "bundle"

    @property
    def disk(self) -> Path:
        """The disk for a first installation; the first version alone has one."""
        return self.out / "disk.raw"


def build_images(directory: Path, say: Say) -> dict[str, VmImage]:
    """The three versions by name, in `directory`; from the store where nothing they are made of has changed.

    Raises:
        LocalError: a program is missing, or the guest's libraries.
        RecipeError, ImageError: the build did not succeed; the log is named.
    """
    kubelet = locate(["kubelet"], say)["kubelet"]
    key, trusted = demo_keys()
    directory.mkdir(parents=True, exist_ok=True)
    proxy = build_proxy(directory / "proxy")
    made: dict[str, VmImage] = {}
    for name in RELEASES:
        previous = made["v1"].bundle if made else None
        recipe = directory / f"{name}.toml"
        recipe.write_text(
            recipe_text(name, kubelet=kubelet, proxy=proxy, key=key, trusted=trusted, previous=previous), "utf-8"
        )
        made[name] = _built(name, recipe, directory / name, say)
    return made


def recipe_text(name: str, *, kubelet: Path, proxy: Path, key: Path, trusted: Path, previous: Path | None) -> str:
    """The recipe of one version; `previous` is the bundle whose hosts shall fetch little."""
    with resources.as_file(resources.files("hostplane.local") / "vmnode" / "node.toml") as base:
        lines = [f"include = [{_text(base)}]", f"version = {_text(RELEASES[name])}", ""]
    lines += ["[kubernetes]", f"version = {_text(KUBERNETES_VERSION.lstrip('v'))}", f"kubelet = {_text(kubelet)}", ""]
    lines += ["[signing]", f"key = {_text(key)}", f"key_id = {_text(_KEY)}", f"trusted_keys = {_text(trusted)}", ""]
    outputs = "bundle" if previous else "raw bundle"
    lines += ["[image]", f"outputs = {json.dumps(outputs.split())}"]
    lines += [f"previous = {_text(previous)}"] if previous else []
    files = {"/usr/lib/os-release": _os_release(name), "/etc/motd": f"Hostplane demo, {name}.\n"}
    if name == BROKEN:
        files["/usr/lib/systemd/system/kubelet.service.d/60-flaw.conf"] = _FLAW
    for path, content in files.items():
        lines += ["", "[[file]]", f"path = {_text(path)}", f"content = {_text(content)}"]
    lines += ["", "[[file]]", 'path = "/usr/lib/hostplane-proxy"', f"source = {_text(proxy)}"]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _pretty_name(name: str) -> str:
    return f"Hostplane demo node {name} (Debian 12)"


def _os_release(name: str) -> str:
    said = {
        "PRETTY_NAME": _pretty_name(name),
        "NAME": "Debian GNU/Linux",
        "VERSION_ID": "12",
        "VERSION": "12 (bookworm)",
        "VERSION_CODENAME": "bookworm",
        "ID": "debian",
        "IMAGE_ID": "vm-node",
        "IMAGE_VERSION": RELEASES[name],
    }
    return "".join(f'{key}="{value}"\n' for key, value in said.items())


def _built(name: str, recipe: Path, out: Path, say: Say) -> VmImage:
    checked = check(recipe)

    def show(event: Event) -> None:
        if event.event == "started":
            say(f"image {name}: {event.stage}")

    build(checked.recipe, checked.profile, store=open_store(default_store()), out=out, wish=Wish(), show=show)
    return VmImage(name=name, out=out, pretty_name=_pretty_name(name), inspection=inspect(out / "bundle"))


def demo_keys() -> tuple[Path, Path]:
    """(private key, trusted key set) of this user's demos; made at the first one."""
    directory = cache_directory().parent / "demo-keys"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key, public, trusted = directory / f"{_KEY}.key", directory / f"{_KEY}.key.pub", directory / "trusted"
    with _locked(directory / "lock"):
        if not trusted.exists():
            for leftover in (key, public):  # of a run that was killed in between
                leftover.unlink(missing_ok=True)
            signing.generate(key, public)
            draft = directory / f".trusted.{os.getpid()}"
            draft.unlink(missing_ok=True)
            trust.create(draft, [(_KEY, public)])
            trust.sign_newest(draft, key)
            draft.replace(trusted)
    if not key.is_file():
        raise LocalError("KeyUnreadable", path=key, detail="no such file")
    return key, trusted


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
