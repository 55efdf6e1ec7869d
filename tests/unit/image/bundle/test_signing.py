"""Keys, signatures and the trusted set as a publisher keeps them, with the real openssl."""

from __future__ import annotations

import json
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from hostplane.agent.bundle.signature import openssl_verify
from hostplane.agent.bundle.trust import require
from hostplane.cli.image.keys import command
from hostplane.errors import HostError, HostplaneError, LocalError, RecipeError
from hostplane.image.bundle import signing, trust
from hostplane.image.bundle.inspection import inspect
from hostplane.image.bundle.ocilayout import open_bundle
from hostplane.image.recipe import Signing
from tests.unit.image import bundle_play as play

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the key pairs a, b and c."""
    directory = tmp_path_factory.mktemp("keys")
    for name in "abc":
        signing.generate(directory / name, directory / f"{name}.pub")
    return directory


@pytest.fixture
def signed_by(keys: Path, tmp_path: Path) -> Path:
    """A trust file whose version 1 trusts a and b and is signed."""
    path = tmp_path / "trusted"
    trust.create(path, [("a", keys / "a.pub"), ("b", keys / "b")])
    trust.sign_newest(path, keys / "a")
    return path


def named(call: object, *arguments: object, **more: object) -> str:
    with pytest.raises(HostplaneError) as caught:
        call(*arguments, **more)  # type: ignore[operator]
    return caught.value.name


def test_a_private_key_is_its_owners_alone_and_never_overwritten(keys: Path) -> None:
    assert stat.S_IMODE((keys / "a").stat().st_mode) == 0o600
    before = (keys / "a").read_bytes()
    assert named(signing.generate, keys / "a", keys / "new.pub") == "KeyExists"
    assert named(signing.generate, keys / "new", keys / "a.pub") == "KeyExists"
    assert (keys / "a").read_bytes() == before
    assert sorted(path.name for path in keys.iterdir()) == ["a", "a.pub", "b", "b.pub", "c", "c.pub"]


def test_both_halves_give_the_same_public_key(keys: Path) -> None:
    assert signing.public_key(keys / "a") == signing.public_key(keys / "a.pub")


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for at, words in enumerate((["EC", "-pkeyopt", "ec_paramgen_curve:P-384"], ["ED25519"])):
        path = tmp_path / str(at)
        subprocess.run(["openssl", "genpkey", "-algorithm", *words, "-out", str(path)], check=True, timeout=30)
        assert named(signing.public_key, path) == "KeyUnfit"
    (tmp_path / "text").write_text("no key")
    assert named(signing.public_key, tmp_path / "text") == "KeyUnreadable"
    assert named(signing.public_key, tmp_path / "missing") == "KeyUnreadable"


def test_a_key_with_a_passphrase_is_refused_without_asking(keys: Path, tmp_path: Path) -> None:
    path = tmp_path / "locked"
    words = ["openssl", "pkey", "-in", str(keys / "a"), "-aes256", "-passout", "pass:secret", "-out", str(path)]
    subprocess.run(words, check=True, timeout=30)
    assert named(signing.public_key, path) == "KeyUnreadable"


def test_signing_changes_neither_the_digest_nor_any_blob_that_was_signed(keys: Path, tmp_path: Path) -> None:
    info = play.write(tmp_path, play.blocks([1, 2, 3]))
    before = play.tree(tmp_path / "bundle/blobs")
    assert signing.sign_bundle(tmp_path / "bundle", keys / "a", key_id="a") == "a"
    own = signing.default_key_id(signing.public_key(keys / "b"))
    assert signing.sign_bundle(tmp_path / "bundle", keys / "b") == own
    opened = open_bundle(tmp_path / "bundle")
    assert opened.manifest.digest == info.digest
    assert [one.key_id for one in opened.signatures.signatures] == ["a", own]
    after = play.tree(tmp_path / "bundle/blobs")
    kept = {name: raw for name, raw in before.items() if name in after}
    assert len(kept) == len(before) - 1  # the index alone is another
    assert all(after[name] == raw for name, raw in kept.items())
    assert len(after) == len(before) + 3  # a list of signatures, its manifest, an empty config


def test_signing_again_replaces_the_keys_own_signature(keys: Path, tmp_path: Path) -> None:
    play.write(tmp_path, play.blocks([1]))
    for expires in ("", "2030-01-01T00:00:00Z"):
        signing.sign_bundle(tmp_path / "bundle", keys / "a", key_id="a", expires=expires)
    assert [one.expires for one in open_bundle(tmp_path / "bundle").signatures.signatures] == ["2030-01-01T00:00:00Z"]


def test_a_list_has_room_for_sixteen(keys: Path, tmp_path: Path) -> None:
    play.write(tmp_path, play.blocks([1]))
    for at in range(16):
        signing.sign_bundle(tmp_path / "bundle", keys / "a", key_id=f"k{at}")
    assert named(signing.sign_bundle, tmp_path / "bundle", keys / "a", key_id="one-more") == "SignaturesFull"


def test_a_signed_bundle_passes_and_another_under_its_signature_does_not(
    keys: Path, signed_by: Path, tmp_path: Path
) -> None:
    play.write(tmp_path / "x", play.blocks([1]))
    play.write(tmp_path / "y", play.blocks([2]))
    signing.sign_bundle(tmp_path / "x/bundle", keys / "a", key_id="a")
    mine, other = open_bundle(tmp_path / "x/bundle"), open_bundle(tmp_path / "y/bundle")
    held = trust.trusted(signed_by, NOW)
    assert require(mine.manifest.digest, mine.signatures, held, NOW, openssl_verify)
    with pytest.raises(HostError):
        require(other.manifest.digest, mine.signatures, held, NOW, openssl_verify)
    moved = mine.signatures._replace(subject=other.manifest.digest)
    with pytest.raises(HostError):
        require(other.manifest.digest, moved, held, NOW, openssl_verify)


def test_inspecting_tells_what_signatures_are_worth(keys: Path, signed_by: Path, tmp_path: Path) -> None:
    play.write(tmp_path, play.blocks([1]))
    assert inspect(tmp_path / "bundle", trust=signed_by).signature_state == "Untrusted"
    signing.sign_bundle(tmp_path / "bundle", keys / "c", key_id="c")
    assert inspect(tmp_path / "bundle").signature_state == "Unjudged"
    assert inspect(tmp_path / "bundle", trust=signed_by).signature_state == "Untrusted"
    signing.sign_bundle(tmp_path / "bundle", keys / "a", key_id="a")
    found = inspect(tmp_path / "bundle", trust=signed_by)
    assert (found.signature_state, [one.state for one in found.signatures]) == ("Trusted", ["KeyUnknown", "Good"])


def test_the_recipe_names_a_key_by_path_or_by_variable(keys: Path, tmp_path: Path) -> None:
    play.write(tmp_path, play.blocks([1]))
    assert signing.sign_by_recipe(tmp_path / "bundle", Signing()) is None
    assert signing.sign_by_recipe(tmp_path / "bundle", Signing(key=str(keys / "a"), key_id="a", expires_days=2)) == "a"
    assert signing.key_path(Signing(key_env="KEY"), {"KEY": "/k"}) == Path("/k")
    with pytest.raises(RecipeError) as caught:
        signing.key_path(Signing(key_env="KEY"), {})
    assert caught.value.name == "SigningKeyUnset"


def test_days_become_a_time() -> None:
    assert signing.expiry(1, datetime(2026, 12, 31, 12, tzinfo=UTC)) == "2027-01-01T12:00:00Z"
    assert signing.expiry(None) == ""


def test_the_set_changes_by_versions_that_count_once_signed(keys: Path, signed_by: Path) -> None:
    assert trust.add(signed_by, keys / "c.pub", "c").version == 2
    with pytest.raises(HostError) as caught:
        trust.trusted(signed_by, NOW)
    assert caught.value.name == "TrustedKeysUnsigned"
    assert trust.retire(signed_by, "a").version == 2  # nobody has signed it yet
    trust.sign_newest(signed_by, keys / "a")
    assert trust.revoke(signed_by, "b", "lost").version == 3
    assert named(trust.sign_newest, signed_by, keys / "a") == "TrustedKeyCannotSign"
    trust.sign_newest(signed_by, keys / "c")
    held = trust.trusted(signed_by, NOW)
    assert (held.version, held.keys["a"].status, list(held.keys)) == (3, "retired", ["a", "c"])
    told = trust.told(signed_by, NOW)
    assert [one.state for one in told.versions] == ["Trusted"] * 3
    assert {one.id: one.status for one in told.keys} == {"a": "retired", "b": "revoked", "c": "active"}


def test_changes_that_make_no_sense_are_refused_and_write_nothing(keys: Path, signed_by: Path) -> None:
    before = signed_by.read_bytes()
    assert named(trust.create, signed_by, [("a", keys / "a")]) == "KeyExists"
    assert named(trust.add, signed_by, keys / "a") == "TrustedKeyTaken"
    assert named(trust.add, signed_by, keys / "c", "a") == "TrustedKeyTaken"
    assert named(trust.add, signed_by, keys / "c", "c", "soon") == "BundleInvalid"
    assert named(trust.retire, signed_by, "c") == "TrustedKeyUnknown"
    assert named(trust.revoke, signed_by, "c") == "TrustedKeyUnknown"
    assert named(trust.sign_newest, signed_by, keys / "c") == "TrustedKeyCannotSign"
    assert signed_by.read_bytes() == before
    trust.revoke(signed_by, "b")
    assert named(trust.add, signed_by, keys / "b") == "TrustedKeyIsRevoked"
    assert named(trust.revoke, signed_by, "a") == "BundleInvalid"  # nobody could sign the next version
    with pytest.raises(LocalError):
        trust.trusted(signed_by.with_name("missing"))


def test_the_command_line_goes_all_the_way(keys: Path, tmp_path: Path) -> None:
    play.write(tmp_path / "out", play.blocks([1]))
    path, runner = str(tmp_path / "trusted"), CliRunner()

    def run(*words: str) -> str:
        done = runner.invoke(command, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run("generate", str(tmp_path / "key"))
    run("trust-set", "create", path, "--key", f"one={tmp_path / 'key.pub'}", "--key", str(keys / "a.pub"))
    run("trust-set", "sign", path, "--key", str(tmp_path / "key"))
    run("sign", str(tmp_path / "out"), "--key", str(tmp_path / "key"), "--key-id", "one", "--expires-days", "3")
    assert inspect(tmp_path / "out", trust=Path(path)).signature_state == "Trusted"
    run("trust-set", "add", path, str(keys / "b.pub"), "--key-id", "b")
    run("trust-set", "retire", path, "one")
    run("trust-set", "sign", path, "--key", str(tmp_path / "key"))
    run("trust-set", "revoke", path, "one", "--reason", "test")
    run("trust-set", "sign", path, "--key", str(keys / "b"))
    assert "revoked" in run("trust-set", "show", path)
    assert json.loads(run("trust-set", "show", path, "--json"))["versions"][2]["state"] == "Trusted"
    assert inspect(tmp_path / "out", trust=Path(path)).signature_state == "Untrusted"
