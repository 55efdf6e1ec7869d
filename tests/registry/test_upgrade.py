"""A signed bundle, pushed by skopeo as anybody would, is found, judged and staged out of a real registry."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.state import Image
from hostplane.errors import HostError
from tests.registry.servers import Registry, push
from tests.unit.agent.payload.bundle_host import BundleHost
from tests.unit.image.bundle_play import blocks

OLD = [*range(1, 200)]
NEW = [*range(1, 60), -1, -2, *range(62, 199)]


@pytest.fixture
def host(tmp_path: Path, plain: Registry) -> BundleHost:
    made = BundleHost(tmp_path / "host", registries={plain.host: {"plainHttp": True}})
    made.install_in_a(made.bundle("old", blocks(OLD)))
    return made


def pushed(host: BundleHost, registry: Registry, name: str, image: Image, *options: str) -> Image:
    """The image's address in the registry; the layout is gone from the host."""
    target = f"{registry.host}/hosts/{name}"
    push(f"oci:{host.layout(name)}:{host.opened(name).ref}", f"{target}:v2", "--dest-tls-verify=false", *options)
    shutil.rmtree(host.layout(name))
    return image._replace(ref=f"oci://{target}:v2")


def test_an_upgrade_out_of_a_registry(host: BundleHost, plain: Registry) -> None:
    image = host.bundle("new", blocks(NEW), frame_bytes=4 * BLOCK, codec="none")
    image = pushed(host, plain, "new", image)
    source = host.source(image)
    host.stage(image, source)
    assert host.slot("ROOT-B", len(blocks(NEW))) == blocks(NEW)
    assert source.frames_bytes <= 8 * BLOCK  # the two new blocks are in one frame, or at the edge of two
    assert host.plan.download < 40 * BLOCK


def test_a_bundle_pushed_without_its_signatures_is_refused(host: BundleHost, plain: Registry) -> None:
    image = host.bundle("bare", blocks(NEW))
    target = f"{plain.host}/hosts/bare"
    push(
        f"oci:{host.layout('bare')}:{host.opened('bare').ref}",
        f"{target}:v2",
        "--dest-tls-verify=false",
        everything=False,
    )
    with pytest.raises(HostError) as caught:
        host.stage(image._replace(ref=f"oci://{target}:v2"))
    assert caught.value.name == "BundleUnsigned"
    assert host.slot("ROOT-B") == b""
