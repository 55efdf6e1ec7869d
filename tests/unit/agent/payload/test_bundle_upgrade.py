"""A host upgraded by a bundle, asked over its socket as a proxy asks: also killed on the way, and over a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.main import main
from hostplane.image.bundle.signing import sign_bundle
from tests.unit.agent.bundle.keyring import private
from tests.unit.agent.payload import signed
from tests.unit.agent.payload.bundle_host import KEY, METADATA
from tests.unit.image import bundle_play

BOOT = bundle_play.blocks([1, 0, 2])


class Site:
    """Bundles for the agent's directory host; its slot A holds OLD."""

    def __init__(self, host_dir: Any) -> None:
        self.dir = host_dir
        signed.put(host_dir.root, "usr/lib/hostplane/keys/trusted.json", signed.trust_file((KEY,)))
        self.key = signed.put(host_dir.root, "key.pem", private(KEY, "P-256"))
        self.key.chmod(0o600)
        self.root = host_dir.NEW.ljust(-(-len(host_dir.NEW) // BLOCK) * BLOCK, b"\0") + bundle_play.blocks(
            [-n for n in range(1, 600)]
        )

    def bundle(self, signer: bool = True) -> dict[str, Any]:
        info = bundle_play.write(self.dir.root / "made", self.root, BOOT, metadata=METADATA)
        if signer:
            sign_bundle(info.path, self.key, key_id=KEY)
        ref = "file:///made/bundle"
        return {"format": "bundle", "ref": ref, "digest": info.digest, "size": info.size, "version": "2.0"}


@pytest.fixture
def site(host: Any) -> Site:
    return Site(host)


def slot(host: Any, label: str) -> bytes:
    return (host.root / "dev/hostplane" / label).read_bytes()


def test_a_bundle_is_staged_switched_to_and_kept(host: Any, site: Site) -> None:
    image = site.bundle()
    process = host.start()
    with host.client(host_uid="u") as client:
        status = host.staged(client, image)
        assert status["phase"] == "Staged", status
        size = len(site.root) + len(BOOT)
        assert status["slots"]["B"] == {"state": "Staged", "digest": image["digest"], "version": "2.0", "size": size}
        assert (slot(host, "ROOT-B"), slot(host, "BOOT-B")) == (site.root, BOOT)
        assert not host.boot_state().is_ok("B")
        client.call("switch", seq=7, operation="upgrade", digest=image["digest"], trialSeconds=60)
    assert host.restarted(process) == "B"
    host.start()
    with host.client(host_uid="u") as client:
        host.until(client, lambda status: status["phase"] == "Trial")
        record = json.loads((host.root / "var/lib/hostplane/slots/B/metadata.json").read_bytes())
        assert record["version"] == "2.0"


def test_what_it_costs_is_told_while_it_is_staged(host: Any, site: Site) -> None:
    host.configure(ioBytesPerSecond=3_000_000)
    image = site.bundle()
    host.start()
    with host.client() as client:
        client.call("stage", image=image)
        status = host.until(client, lambda status: "plan" in status)
        assert status["plan"]["total"] == len(site.root) + len(BOOT)
        assert status["plan"]["download"] > 599 * BLOCK * 0.9
        progress = status["progress"]
        assert 0 <= progress["bytes"] <= progress["total"]
        assert progress["etaSeconds"] > 0


def test_a_killed_staging_goes_on(host: Any, site: Site) -> None:
    host.configure(ioBytesPerSecond=3_000_000)
    image = site.bundle()
    process = host.start()
    with host.client() as client:
        client.call("stage", image=image)
        host.until(client, lambda status: status["slots"]["B"]["state"] == "Writing")
    host.kill(process)
    host.configure(ioBytesPerSecond=0)
    host.boot()
    host.start()
    with host.client() as client:
        status = host.until(client, lambda status: status["phase"] != "Staging")
    assert status["phase"] == "Staged"
    assert slot(host, "ROOT-B") == site.root


def test_an_unsigned_bundle_changes_nothing(host: Any, site: Site) -> None:
    host.write("dev/hostplane/ROOT-B", host.OLD)
    host.write_boot(host.boot_state().with_slot("B", True, 0))
    host.start()
    with host.client() as client:
        status = host.staged(client, site.bundle(signer=False))
    assert status["lastError"]["name"] == "BundleUnsigned"
    assert slot(host, "ROOT-B") == host.OLD
    assert host.boot_state().is_ok("B")


def test_the_console_is_told_beforehand(
    host: Any, site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image = site.bundle()
    assert main(["plan", image["ref"], image["digest"], "--root", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["total"] == len(site.root) + len(BOOT)
    assert main(["plan", image["ref"], image["digest"], "--root", str(tmp_path)]) == 0
    assert f"download {told['download']} bytes" in capsys.readouterr().out
    assert slot(host, "ROOT-B") == b""
    assert not (tmp_path / "var/lib/hostplane/state.json").exists()
