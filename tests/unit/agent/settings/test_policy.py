"""What settings may touch without a signature, and what a signature is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hostplane.agent.settings import policy
from hostplane.cli.settings import command
from hostplane.errors import HostError
from hostplane.image.bundle import signing, trust
from tests.unit.agent.settings.test_request import UNIT, apply, furnish
from tests.unit.agent.settings.test_request import policy as policy_text

CRI = 'plugins."io.containerd.grpc.v1.cri"'


@pytest.mark.parametrize(
    ("path", "allowed", "is_allowed"),
    [
        ("/etc/motd", ["/etc/motd"], True),
        ("/etc/motd.d/x", ["/etc/motd"], False),
        ("/etc/motd.d/x", ["/etc/motd.d/"], True),
        ("/etc/motd.dx", ["/etc/motd.d/"], False),
        ("/etc/motd", [], False),
    ],
)
def test_places(path: str, allowed: list[str], is_allowed: bool) -> None:
    assert policy.is_allowed(path, allowed) is is_allowed


def test_nothing_that_an_image_without_a_policy_allows_is_run() -> None:
    for place in policy.DEFAULT_PATHS:
        assert not place.startswith(("/etc/systemd/system", "/etc/cron", "/etc/profile", "/etc/kubernetes", "/usr"))


@pytest.mark.parametrize(
    ("model", "path", "key", "value"),
    [
        ("files", "", "/etc/passwd", "x"),
        ("files", "", "/etc/cron.d/x", "x"),
        ("files", "", "/etc/motd.d/x", "x"),
        ("units", "", "my.service", UNIT),
        ("kernel.sysctl", "", "kernel.core_pattern", "|/x"),
        ("sysctl", "", "kernel.modprobe", "/x"),
        ("kernel.sysctl.persist", "", "kernel/core_pattern", "|/x"),
        ("kernel.sysctl.persist", "", "-kernel.core_pattern", "|/x"),
        ("kernel.sysctl.persist", "", "kernel.core_p*", "|/x"),
        ("kernel.sysctl.persist", "", "- kernel.modprobe", "/x"),
        ("kernel.sysctl.persist", "/etc/environment", "LD_PRELOAD", "/x"),
        ("kubernetes.kubelet", "/etc/kubernetes/manifests/x.yaml", "a", "b"),
        ("kubelet", "", "authorization.mode", "AlwaysAllow"),
        ("kubernetes.kubelet", "", '"authentication".anonymous.enabled', True),
        ("kubelet", "", "staticPodPath", "/tmp"),
        ("containerd", "", 'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options.BinaryName', "/x"),
        ("container.containerd", "", "proxy_plugins.x.address", "/x"),
        ("kubernetes.kubelet", "/var/lib/kubelet/../x.yaml", "a", "b"),
        ("kubernetes.kubelet", "/etc/kubernetes/credentials.yaml", "providers", [{"name": "x"}]),
        ("kubernetes.kubelet", "/etc/kubernetes/credentials.yaml", "users", [{"name": "x"}]),
        ("kubelet", "", "imageCredentialProviderBinDir", "/x"),
        ("containerd", "", CRI + ".registry.config_path", "/x"),
        ("containerd", "", CRI + '.registry.mirrors."docker.io".endpoint', ["https://registry.test"]),
        ("containerd", "", CRI + ".sandbox_image", "registry.test/pause"),
        ("containerd", "", 'plugins."io.containerd.cri.v1.images".pinned_images.sandbox', "registry.test/pause"),
        ("containerd", "", 'plugins."io.containerd.transfer.v1.local".config_path', "/x"),
        ("containerd", "", "grpc.tcp_address", "0.0.0.0:1"),
        ("containerd", "", CRI + ".containerd.runtimes.runc.options.CriuPath", "/x"),
        ("containerd", "", 'plugins."io.containerd.image-verifier.v1.bindir".max_verifiers', 0),
        ("containerd", "", "disabled_plugins", ["io.containerd.image-verifier.v1.bindir"]),
    ],
)
def test_what_would_be_root_needs_a_signature(host: Any, model: str, path: str, key: str, value: Any) -> None:
    furnish(host)
    host.write("usr/lib/hostplane/policy.json", policy_text("/etc/motd"))
    for name in ("core_pattern", "modprobe"):
        host.write("proc/sys/kernel/" + name, "core\n")
    host.write("etc/kubernetes/manifests/x.yaml", "a: 1\n")
    host.write("etc/kubernetes/credentials.yaml", "a: 1\n")
    host.write("etc/environment", "")
    with pytest.raises(HostError, match=r"HP-6421|HP-6061"):
        apply(host, (model, path, [(key, value, "")]))
    assert (host.root / "proc/sys/kernel/core_pattern").read_text() == "core\n"


@pytest.mark.parametrize("key", ["plugins", CRI])
def test_a_table_that_may_hold_such_keys_is_deleted_by_signed_settings_only(host: Any, key: str) -> None:
    furnish(host)
    host.write("etc/containerd/config.toml", f"[{CRI}]\nx = 1\n")
    with pytest.raises(HostError, match="HP-6421"):
        apply(host, ("containerd", "", [(key, None, "delete")]))


def test_what_only_tunes_needs_no_signature(host: Any) -> None:
    furnish(host)
    host.write("etc/containerd/config.toml", "version = 2\n")
    rows = [(CRI + ".max_container_log_line_size", 1), (CRI + ".containerd.runtimes.runc.options.SystemdCgroup", True)]
    apply(host, ("containerd", "", [(key, value, "") for key, value in rows]))
    apply(host, ("kubelet", "", [("resolvConf", "/run/systemd/resolve/resolv.conf", "")]), version="s2")


def test_who_chooses_a_registry_needs_the_image_or_a_signature(host: Any) -> None:
    furnish(host)
    (host.root / "usr/lib/hostplane/policy.json").unlink()
    config = ("files", "", [("/etc/containerd/certs.d/docker.io/hosts.toml", 'server = "https://registry.test"\n', "")])
    with pytest.raises(HostError, match="HP-6421"):
        apply(host, config)
    host.write("usr/lib/hostplane/policy.json", policy_text("/etc/containerd/certs.d/"))
    apply(host, config)


def test_a_link_leads_nowhere_that_its_place_does_not_allow(host: Any) -> None:
    furnish(host)
    host.write("usr/lib/hostplane/policy.json", policy_text("/etc/motd.d/"))
    (host.root / "etc/secret").mkdir()
    (host.root / "etc/motd.d").symlink_to("secret")
    with pytest.raises(HostError, match="HP-6421"):
        apply(host, ("files", "", [("/etc/motd.d/x", "x", "")]))


def test_a_model_may_be_for_signed_settings_only(host: Any) -> None:
    furnish(host)
    host.write("usr/lib/hostplane/policy.json", policy_text("/etc/motd", signed=("kubelet",)))
    apply(host, ("files", "", [("/etc/motd", "hello\n", "")]))
    with pytest.raises(HostError, match=r"HP-6421.*the model kubelet"):
        apply(host, ("kubelet", "", [("maxPods", 5, "")]), version="s2")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trusted key, another one, and the trust file."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("good", "other"):
        signing.generate(directory / name, directory / (name + ".pub"))
    trust.create(directory / "trusted.json", [("good", directory / "good")])
    trust.sign_newest(directory / "trusted.json", directory / "good", None)
    return directory


def test_signed_settings_may_write_anywhere_but_where_the_agent_lives(host: Any, keys: Path) -> None:
    furnish(host)
    host.write("usr/lib/hostplane/policy.json", policy_text())
    host.write("usr/lib/hostplane/keys/trusted.json", (keys / "trusted.json").read_bytes())
    contents = [{"key": "/etc/cron.d/x", "value": {"content": "x\n", "mode": "0600"}}]
    file = host.write(
        "group.json", json.dumps({"version": "s1", "configs": [{"model": "files", "contents": contents}]})
    )

    def signed(key: str, *more: str) -> str:
        done = CliRunner().invoke(command, ["sign", str(file), "--key", str(keys / key), "--key-id", key, *more])
        assert done.exit_code == 0, done.output
        return done.output.strip()

    config = ("files", "", [("/etc/cron.d/x", {"content": "x\n", "mode": "0600"}, "")])
    for bad in ("", signed("other"), signed("good").replace('"keyId":"good"', '"keyId":"other"')):
        with pytest.raises(HostError, match="HP-6421"):
            apply(host, config, signatures=bad)
    good = signed("good")
    with pytest.raises(HostError, match=r"HP-6421.*for other settings"):
        apply(host, config, signatures=good, version="s2")
    with pytest.raises(HostError, match="HP-6061"):
        apply(host, ("files", "", [("/etc/hostplane/agent.json", "{}", "")]), signatures=good)
    apply(host, config, signatures=good)
    assert (host.root / "etc/cron.d/x").read_text() == "x\n"
    assert (host.root / "etc/cron.d/x").stat().st_mode & 0o777 == 0o600


def test_a_signature_for_an_image_is_none_for_settings(host: Any, keys: Path) -> None:
    furnish(host)
    host.write("usr/lib/hostplane/policy.json", policy_text())
    host.write("usr/lib/hostplane/keys/trusted.json", (keys / "trusted.json").read_bytes())
    from hostplane.agent.settings.request import request_digest

    configs = [("files", "", [("/etc/cron.d/x", "x", "")])]
    digest = request_digest("s1", configs)
    made = signing.signature_json(signing.sign(digest, keys / "good", key_id="good"))
    document = json.dumps({"schema": "1.0", "subject": digest, "signatures": [made]})
    with pytest.raises(HostError, match=r"HP-6421.*good: Bad"):
        apply(host, *configs, signatures=document)


@pytest.mark.parametrize("path", ["/persist/etc/A/hostplane/agent.json", "/etc/hostplane", "/etc/hostplane/never"])
def test_the_agents_own_places_are_never_written_by_whatever_name(host: Any, path: str) -> None:
    furnish(host)
    host.write("usr/lib/hostplane/policy.json", policy_text("/etc/", "/persist/"))
    (host.root / "etc/hostplane/agent.json").unlink()
    (host.root / "etc/hostplane").rmdir()
    (host.root / "persist/etc/A/hostplane").mkdir(parents=True)
    with pytest.raises(HostError) as caught:
        apply(host, ("files", "", [(path, "x", "")]))
    assert caught.value.name == "SettingsPathRefused"
