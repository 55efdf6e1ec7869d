"""A host follows signatures from the set it has to newer ones, never back, whatever its images bring."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import admission, truststore
from hostplane.errors import HostError
from hostplane.image.bundle import signing
from hostplane.image.bundle import trust as building
from tests.unit.agent.bundle.keyring import NOW, body, entry, line
from tests.unit.agent.payload.signed import host, made, put, raw

FIRST = line(body(1, entry("a"), entry("b")), "a")
SECOND = line(body(2, entry("b"), entry("c"), gone=("a",)), "b")
THIRD = line(body(3, entry("c"), entry("d"), gone=("a",)), "c")
FOREIGN = line(body(9, entry("x"), entry("y")), "x")


def boot(root: Path, *lines: bytes) -> HostRoot:
    """The host with another image, whose trust file is `lines`."""
    return host(root, trust=b"".join(lines))


def version(root: HostRoot) -> int:
    return truststore.trusted(root, NOW).version


def test_the_first_image_is_trusted_as_it_is(tmp_path: Path) -> None:
    assert version(boot(tmp_path, FIRST)) == 1
    assert version(boot(tmp_path, FIRST, SECOND, THIRD)) == 3


def test_a_set_is_kept_by_a_commit_and_by_nothing_else(tmp_path: Path) -> None:
    root = boot(tmp_path, FIRST, SECOND)
    truststore.trusted(root, NOW)
    assert not (tmp_path / "var/lib/hostplane/trust.json").exists()
    truststore.reach(root, NOW)
    assert version(boot(tmp_path, FIRST)) == 2


def test_an_image_with_an_older_set_never_lowers_it(tmp_path: Path) -> None:
    truststore.reach(boot(tmp_path, FIRST, SECOND, THIRD), NOW)
    for lines in ((FIRST,), (FIRST, SECOND), (), (line(body(3, entry("a"), entry("b")), "a"),)):
        rolled_back = boot(tmp_path, *lines)
        truststore.reach(rolled_back, NOW)
        assert version(rolled_back) == 3
        with pytest.raises(HostError) as caught:
            admission.admit(rolled_back, made("a").image, made("a"), "1.0")
        assert caught.value.name == "BundleUnsigned"


def test_a_newer_set_counts_when_the_kept_one_signed_it(tmp_path: Path) -> None:
    truststore.reach(boot(tmp_path, FIRST), NOW)
    newer = boot(tmp_path, FIRST, SECOND)
    assert version(newer) == 2
    truststore.reach(newer, NOW)
    assert version(boot(tmp_path, THIRD)) == 3


@pytest.mark.parametrize("lines", [(FOREIGN,), (THIRD,), (FOREIGN, line(body(10, entry("x"), entry("y")), "x", "y"))])
def test_a_set_that_the_kept_one_did_not_sign_is_passed_over(tmp_path: Path, lines: tuple[bytes, ...]) -> None:
    truststore.reach(boot(tmp_path, FIRST), NOW)
    stranger = boot(tmp_path, *lines)
    truststore.reach(stranger, NOW)
    assert version(stranger) == 1


def test_signatures_may_carry_over_a_version_that_is_left_out_or_unsigned(tmp_path: Path) -> None:
    truststore.reach(boot(tmp_path, FIRST), NOW)
    unsigned, fourth = line(body(2, entry("x"), entry("y")), "x"), line(body(4, entry("b"), entry("c")), "b")
    assert version(boot(tmp_path, unsigned, fourth)) == 4


def test_a_revoked_key_is_never_forgotten(tmp_path: Path) -> None:
    truststore.reach(boot(tmp_path, FIRST, SECOND), NOW)
    assert version(boot(tmp_path, line(body(3, entry("a"), entry("b")), "b"))) == 2


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b"\xff", raw({"schema": "2.0"}), raw({"schema": "1.0", "set": "AAAA"})]
)
def test_a_kept_set_that_cannot_be_read_is_not_taken_for_absent(tmp_path: Path, content: bytes) -> None:
    root = boot(tmp_path, FIRST)
    put(tmp_path, "var/lib/hostplane/trust.json", content)
    with pytest.raises(HostError) as caught:
        admission.admit(root, made("a").image, made("a"), "1.0")
    assert caught.value.name == "KeptUnreadable"


def test_a_cut_while_the_set_is_kept_leaves_the_old_one(tmp_path: Path) -> None:
    truststore.reach(boot(tmp_path, FIRST), NOW)
    put(tmp_path, "var/lib/hostplane/trust.json.1", b'{"schema": "1.0", "se')
    newer = boot(tmp_path, FIRST, SECOND)
    assert version(newer) == 2
    truststore.reach(newer, NOW)
    said = json.loads((tmp_path / "var/lib/hostplane/trust.json").read_bytes())
    assert json.loads(base64.b64decode(said["set"]))["version"] == 2


def test_without_openssl_nothing_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truststore.reach(boot(tmp_path, FIRST), NOW)
    newer = boot(tmp_path, FIRST, SECOND)
    bundle = made("b")
    monkeypatch.setenv("PATH", str(tmp_path))
    for judge in (lambda: truststore.trusted(newer, NOW), lambda: admission.admit(newer, bundle.image, bundle, "1.0")):
        with pytest.raises(HostError) as caught:
            judge()
        assert caught.value.name == "SignatureToolMissing"


def test_key_sets_as_the_builder_makes_them_are_followed(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("ops", "spare", "next"):
        signing.generate(keys / name, keys / (name + ".pub"))
    trusted = keys / "trusted"
    building.create(trusted, [("ops", keys / "ops.pub"), ("spare", keys / "spare.pub")])
    building.sign_newest(trusted, keys / "ops")
    root = boot(tmp_path, trusted.read_bytes())
    old = made()
    old.lists = [signed(old.digest, keys / "ops", "ops")]
    assert admission.admit(root, old.image, old, "1.0")
    admission.committed(root, None)
    shutil.copy(trusted, keys / "older")
    building.add(trusted, keys / "next.pub", "next")
    building.revoke(trusted, "ops", "left on a train")
    building.sign_newest(trusted, keys / "spare")
    newer = boot(tmp_path, trusted.read_bytes())
    admission.committed(newer, None)
    rolled_back = boot(tmp_path, (keys / "older").read_bytes())
    with pytest.raises(HostError) as caught:
        admission.admit(rolled_back, old.image, old, "1.0")
    assert caught.value.name == "BundleUnsigned"
    assert "KeyRevoked" in str(caught.value)
    old.lists = [signed(old.digest, keys / "next", "next")]
    assert admission.admit(rolled_back, old.image, old, "1.0")


def signed(digest: str, key: Path, key_id: str) -> bytes:
    one = signing.sign(digest, key, key_id=key_id)
    return raw({"schema": "1.0", "subject": digest, "signatures": [signing.signature_json(one)]})
