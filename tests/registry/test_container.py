"""KubeOS's container images, without any container engine: os.tar comes out of the layers and is the image's own."""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import random
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.fetch import TarSource
from hostplane.agent.host import Host
from hostplane.agent.kubeos import KubeosSocket
from hostplane.agent.state import Image
from hostplane.errors import HostError
from tests.registry.containers import layer, write_image
from tests.registry.servers import Authority, Options, Registry, digest_by_tag, push
from tests.unit.agent.conftest import HostDir
from tests.unit.agent.fetch.faulty import Faulty, Handler, send
from tests.unit.agent.fetch.layouts import Site

TAR = random.Random(5).randbytes(900_000)
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
_numbers = itertools.count()

Pushed = Callable[..., Image]


@pytest.fixture
def pushed(plain: Registry, tmp_path: Path, site: Site) -> Pushed:
    """Pushes an image and gives the os.tar it should hold, as KubeOS would ask for it."""
    site.configure(registries={plain.host: {"plainHttp": True}})

    def do(machines: dict[str, list[bytes]], *options: str) -> Image:
        name = f"kubeos{next(_numbers)}"
        write_image(tmp_path / name, machines)
        push(f"oci:{tmp_path / name}:v1", f"{plain.host}/os/{name}:v1", "--dest-tls-verify=false", *options)
        digest = digest_by_tag(plain, f"os/{name}", "v1")
        return Image(format="osTar", ref=f"oci://{plain.host}/os/{name}:v1", digest=digest)

    return do


def fetched(site: Site, image: Image, room: int = 1 << 20) -> bytes:
    source = TarSource(site.host(), image, room, site.cancelled)
    try:
        return b"".join(source.pieces())
    finally:
        source.close()


def failure(site: Site, image: Image, **options: Any) -> str:
    with pytest.raises(HostError) as caught:
        fetched(site, image, **options)
    return f"{caught.value.name}: {caught.value}"


@pytest.mark.parametrize(
    "layers",
    [
        [layer({"os.tar": TAR})],
        [layer({"./os.tar": TAR}, packed=False)],
        [layer({"os.tar": TAR}, streams=7)],
        [layer({"os.tar": b"older"}), layer({"etc/x": b"", "os.tar": TAR}), layer({"tail": b"x" * 100_000})],
        [layer({"os.tar": b"older"}), layer({".wh.os.tar": b"", "os.tar": TAR})],
    ],
    ids=["gzip", "plain", "parallel gzip", "layers", "replaced"],
)
@pytest.mark.parametrize("kind", ["oci", "v2s2"])
def test_the_tar_comes_out_of_the_layers(site: Site, pushed: Pushed, layers: list[bytes], kind: str) -> None:
    assert fetched(site, pushed({MACHINE: layers}, f"--format={kind}")) == TAR


def test_it_is_read_like_a_file_too(site: Site, pushed: Pushed) -> None:
    image = pushed({MACHINE: [layer({"os.tar": TAR})]})
    source = TarSource(site.host(), image, 1 << 20, site.cancelled)
    assert source.read(10) + source.read(500_000) + source.read() == TAR
    assert source.read(1) == b""
    source.close()


def test_of_several_machines_this_ones_image_is_taken(site: Site, pushed: Pushed) -> None:
    machines = {"s390x": [layer({"os.tar": b"other"})], MACHINE: [layer({"os.tar": TAR})]}
    assert fetched(site, pushed(machines)) == TAR
    only = pushed({"s390x": [layer({"os.tar": b"other"})], "riscv64": [layer({"os.tar": b"other"})]})
    assert "none for linux" in failure(site, only)


@pytest.mark.parametrize(
    "layers",
    [
        [layer({"other": b"x"})],
        [layer({"os.tar": TAR}), layer({".wh.os.tar": b""})],
        [layer({"os.tar": TAR}), layer({".wh..wh..opq": b""})],
        [layer({"below/os.tar": TAR})],
    ],
    ids=["missing", "removed", "hidden", "elsewhere"],
)
def test_an_image_without_the_tar_is_said_to_be_one(site: Site, pushed: Pushed, layers: list[bytes]) -> None:
    assert "no file /os.tar" in failure(site, pushed({MACHINE: layers}))


def test_a_name_that_leads_to_another_image_is_refused(site: Site, pushed: Pushed) -> None:
    image = pushed({MACHINE: [layer({"os.tar": TAR})]})
    assert failure(site, image._replace(digest="sha256:" + "0" * 64)).startswith("PayloadDigestMismatch")
    by_digest = image._replace(ref=image.ref.rpartition(":")[0] + "@" + image.digest)
    assert fetched(site, by_digest) == TAR


def test_a_tar_larger_than_its_room_is_given_up(site: Site, pushed: Pushed) -> None:
    image = pushed({MACHINE: [layer({"os.tar": bytes(9 << 20)})]})
    assert failure(site, image, room=8 << 20).startswith("PayloadTooLarge")


@pytest.mark.parametrize("place", [4, 5000, -1], ids=["packing time", "content", "check sum"])
def test_a_layer_that_was_changed_on_its_way_is_found_out(
    site: Site, pushed: Pushed, plain: Registry, serve: Callable[..., Faulty], place: int
) -> None:
    image = pushed({MACHINE: [layer({"os.tar": TAR}, packed=False)]})
    liar = serve()

    def before(handler: Handler, number: int) -> bool:
        if "manifests" in handler.path:
            send(handler, 404)
            return True
        with urllib.request.urlopen(f"http://{plain.host}{handler.path}", timeout=10) as answer:
            changed = bytearray(answer.read())
        changed[place] ^= 1
        send(handler, 200, bytes(changed))
        return True

    liar.before = before
    site.configure(registries={plain.host: {"plainHttp": True, "mirrors": [liar.url]}})
    assert failure(site, image).startswith(("PayloadDigestMismatch", "ContainerImageUnfit"))
    assert liar.asked


@pytest.mark.parametrize(
    "raw", [b"\x1f\x8b" + bytes(100), b"\x28\xb5\x2f\xfd", b"no tar" * 200, layer({"x": TAR})[:-9]]
)
def test_a_layer_that_makes_no_sense_is_a_reason(
    site: Site, pushed: Pushed, plain: Registry, serve: Callable[..., Faulty], raw: bytes
) -> None:
    """The digest is right, so the image itself is wrong; a registry would not have taken it from skopeo."""
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    listed = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(raw)}
    manifest = json.dumps({"schemaVersion": 2, "layers": [listed]}).encode()
    server = serve()

    def before(handler: Handler, number: int) -> bool:
        send(handler, 200, manifest if "manifests" in handler.path else raw)
        return True

    server.before = before
    place = f"localhost:{server.port}"
    site.configure(registries={place: {"plainHttp": True}})
    image = Image(format="osTar", ref=f"oci://{place}/os:v1", digest="sha256:" + hashlib.sha256(manifest).hexdigest())
    assert failure(site, image).startswith("ContainerImageUnfit")


# --- what the container engine was told


def test_certs_d_names_the_authority_and_the_mirror(
    site: Site, tmp_path: Path, start: Callable[[Options], Registry], authority: Authority
) -> None:
    cert, key = authority.issue("localhost")
    registry = start(Options(cert=cert, key=key, password=True))
    (tmp_path / "ca.crt").write_bytes(authority.ca.read_bytes())
    write_image(tmp_path / "image", {MACHINE: [layer({"os.tar": TAR})]})
    creds = "--dest-creds=reader:pssst"
    push(f"oci:{tmp_path}/image:v1", f"{registry.host}/team/os:v1", f"--dest-cert-dir={tmp_path}", creds)
    site.write("/etc/containerd/certs.d/registry.test/ca.pem", authority.ca.read_text(), 0o644)
    hosts = f"""
server = "https://localhost:9"

[host."https://localhost:{registry.port}/v2/team"]
  capabilities = ["pull", "resolve"]
  ca = "ca.pem"
  override_path = true
"""
    site.write("/etc/containerd/certs.d/registry.test/hosts.toml", hosts, 0o644)
    auths = f'{{"auths": {{"{registry.host}": {{"auth": "cmVhZGVyOnBzc3N0"}}}}}}'
    site.write("/var/lib/kubelet/config.json", auths, 0o644)
    digest = "sha256:" + hashlib.sha256(_raw(tmp_path / "image")).hexdigest()
    image = Image(format="osTar", ref="oci://registry.test/os:v1", digest=digest)
    assert fetched(site, image) == TAR


def _raw(directory: Path) -> bytes:
    top = json.loads((directory / "index.json").read_text())["manifests"][0]["digest"]
    return (directory / "blobs/sha256" / top[7:]).read_bytes()


def test_a_hosts_file_that_makes_no_sense_is_named(site: Site, pushed: Pushed, plain: Registry) -> None:
    image = pushed({MACHINE: [layer({"os.tar": TAR})]})
    site.write(f"/etc/containerd/certs.d/{plain.host.replace(':', '_')}_/hosts.toml", "server = [", 0o644)
    assert failure(site, image).startswith("CertificateRefused")


def test_a_container_image_is_staged_over_kubeos_socket(plain: Registry, tmp_path: Path) -> None:
    host = HostDir(tmp_path / "h")
    host.configure(registries={plain.host: {"plainHttp": True}})
    write_image(tmp_path / "image", {MACHINE: [layer({"os.tar": host.NEW})]})
    push(f"oci:{tmp_path / 'image'}:v1", f"{plain.host}/os/staged:v1", "--dest-tls-verify=false")
    request = {
        "version": "v2",
        "check_sum": digest_by_tag(plain, "os/staged", "v1")[7:].upper(),
        "image_type": "containerd",
        "container_image": f"{plain.host}/os/staged:v1",
        "image_url": "",
        "flag_safe": False,
        "mtls": False,
        "certs": {"ca_cert": "", "client_cert": "", "client_key": ""},
    }
    agent = Host(str(host.root))
    agent.start(lambda: None)
    ours, theirs = socket.socketpair()
    try:
        for kind in ("containerd", "docker"):
            call = {"jsonrpc": "2.0", "id": 1, "method": "prepare_upgrade", "params": [{**request, "image_type": kind}]}
            theirs.sendall(json.dumps(call).encode())
            KubeosSocket(agent).serve(ours)
            assert json.loads(theirs.recv(65536))["result"] == {"status": "UpgradeReady"}
        assert host.slot("B") == host.NEW
        slot = agent.status()["slots"]["B"]
        assert (slot["digest"][7:].upper(), slot["size"]) == (request["check_sum"], len(host.NEW))
    finally:
        agent.close()
        ours.close()
        theirs.close()
