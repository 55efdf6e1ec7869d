"""Only enough good signatures by trusted keys let a bundle or a key set pass; every doubt counts against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.agent.bundle import limits
from hostplane.agent.bundle.signature import RESERVED, TRUST, Signature, SignatureList, openssl_verify
from hostplane.agent.bundle.trust import TrustSet, advance, follow, judge, load, parse_chain, parse_set, require
from hostplane.errors import HostError
from tests.unit.agent.bundle.keyring import (
    DIGEST,
    EARLIER,
    LATER,
    NOW,
    body,
    entry,
    envelope,
    line,
    private,
    public,
    revoked,
    signature,
)


def keys(*names: str, **more: object) -> TrustSet:
    return parse_set(body(1, *(entry(name) for name in names), **more))  # type: ignore[arg-type]


def states(trust: TrustSet, *signatures: Signature) -> list[str]:
    return [one.state for one in judge(SignatureList(DIGEST, signatures), trust, NOW, openssl_verify)]


def refusal(trust: TrustSet, *signatures: Signature, digest: str = DIGEST) -> str:
    with pytest.raises(HostError) as caught:
        require(digest, SignatureList(DIGEST, signatures), trust, NOW, openssl_verify)
    return caught.value.name


def test_one_good_signature_is_enough_beside_others_that_do_not_count() -> None:
    junk = signature("a")._replace(algorithm="ed25519"), signature("stranger"), signature("a", "sha256:" + "e" * 64)
    found = require(DIGEST, SignatureList(DIGEST, (*junk, signature("b"))), keys("a", "b"), NOW, openssl_verify)
    assert [one.state for one in found] == ["AlgorithmUnknown", "KeyUnknown", "Bad", "Good"]


def test_no_signature_is_refused() -> None:
    assert refusal(keys("a")) == "BundleUnsigned"


def test_a_signature_for_another_bundle_is_refused() -> None:
    assert refusal(keys("a"), signature("a"), digest="sha256:" + "e" * 64) == "BundleDigestMismatch"


@pytest.mark.parametrize("algorithm", [*RESERVED, "rsa", "none"])
def test_an_algorithm_that_is_not_known_never_counts(algorithm: str) -> None:
    assert refusal(keys("a"), signature("a")._replace(algorithm=algorithm)) == "BundleUnsigned"


def test_a_signature_fixes_everything_it_is_listed_with() -> None:
    right = signature("a", expires=LATER)
    trust = keys("a", "b")
    assert states(trust, right) == ["Good"]
    for wrong in (
        right._replace(expires=""),
        right._replace(expires="2031-01-01T00:00:00Z"),
        right._replace(key_id="b"),
        right._replace(value=right.value[:-1]),
        right._replace(value=b""),
        right._replace(value=bytes(72)),
        signature("a", purpose=TRUST),
    ):
        assert states(trust, wrong) == ["Bad"]


def test_an_expired_signature_does_not_count() -> None:
    assert states(keys("a"), signature("a", expires=EARLIER)) == ["Expired"]


def test_a_key_past_its_time_does_not_count() -> None:
    trust = parse_set(body(1, entry("a", notAfter=EARLIER), entry("b", notAfter=LATER)))
    assert states(trust, signature("a"), signature("b")) == ["KeyExpired", "Good"]


def test_what_a_retired_key_signed_still_counts() -> None:
    assert states(parse_set(body(1, entry("a", status="retired"), entry("b"))), signature("a")) == ["Good"]


def test_what_a_revoked_key_signed_counts_no_more() -> None:
    assert states(parse_set(body(1, entry("b"), gone=("a",))), signature("a")) == ["KeyRevoked"]


def test_a_threshold_counts_keys_and_not_signatures() -> None:
    trust = keys("a", "b", threshold=2)
    assert refusal(trust, signature("a"), signature("a", expires=LATER)) == "BundleUnsigned"
    assert require(DIGEST, SignatureList(DIGEST, (signature("a"), signature("b"))), trust, NOW, openssl_verify)


def test_without_openssl_nothing_is_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = signature("a")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal(keys("a"), good) == "SignatureToolMissing"


@pytest.mark.parametrize(
    "script", ["exit 1", "exit 0", "echo Verified OK; exit 1", "echo Verification OK", "kill -9 $$", "echo; exit 127"]
)
def test_an_openssl_that_says_anything_else_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    good = signature("a")
    (tmp_path / "openssl").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal(keys("a"), good) == "BundleUnsigned"


def test_a_key_of_another_curve_is_not_asked_about() -> None:
    private("other", "P-384")
    assert not openssl_verify(public("other", "P-384"), b"text", b"signature")


def test_the_set_moves_on_when_an_active_key_of_the_one_before_signed() -> None:
    first = keys("a")
    second = advance(first, envelope(body(2, entry("a", status="retired"), entry("b")), "a"), NOW, openssl_verify)
    third = advance(second, envelope(body(3, entry("b"), gone=("a",)), "b"), NOW, openssl_verify)
    assert (third.version, list(third.keys), list(third.revoked.values())) == (3, ["b"], ["a"])


@pytest.mark.parametrize(
    ("raw", "signers", "name"),
    [
        (body(3, entry("a")), (), "TrustedKeysUnsigned"),
        (body(3, entry("a")), ("b",), "TrustedKeysUnsigned"),  # retired
        (body(3, entry("c")), ("c",), "TrustedKeysUnsigned"),  # its own
        (body(3, entry("a")), ("gone",), "TrustedKeysUnsigned"),
        (body(2, entry("c")), ("a",), "TrustedKeysRolledBack"),
        (body(1, entry("a")), ("a",), "TrustedKeysRolledBack"),
    ],
)
def test_a_set_that_may_not_follow_is_refused(raw: bytes, signers: tuple[str, ...], name: str) -> None:
    current = parse_set(body(2, entry("a"), entry("b", status="retired")))
    with pytest.raises(HostError) as caught:
        advance(current, envelope(raw, *signers), NOW, openssl_verify)
    assert caught.value.name == name


def test_a_revoked_key_stays_revoked() -> None:
    current = parse_set(body(2, entry("a"), gone=("b",)))
    with pytest.raises(HostError) as caught:
        advance(current, envelope(body(3, entry("a"), entry("b")), "a"), NOW, openssl_verify)
    assert caught.value.name == "BundleInvalid"


def test_the_same_set_again_is_no_step() -> None:
    current = keys("a")
    assert advance(current, envelope(body(1, entry("a"))), NOW, openssl_verify) == current


CHAIN = b"".join(
    (
        line(body(1, entry("a")), "a"),
        line(body(2, entry("a"), entry("b")), "a"),
        line(body(3, entry("b"), gone=("a",)), "b"),
    )
)


def test_a_file_is_followed_to_its_newest_version_from_wherever_a_host_stands() -> None:
    chain = parse_chain(CHAIN)
    assert load(chain, NOW, openssl_verify).version == 3
    for envelope_ in chain:
        assert follow(envelope_.trust, chain, NOW, openssl_verify).version == 3


def test_an_older_file_never_takes_a_host_back() -> None:
    chain = parse_chain(CHAIN)
    assert follow(chain[2].trust, chain[:2], NOW, openssl_verify).version == 3


def test_a_file_whose_first_set_did_not_sign_itself_is_refused() -> None:
    for raw in (line(body(1, entry("a"))), line(body(1, entry("a")), "b")):
        with pytest.raises(HostError) as caught:
            load(parse_chain(raw), NOW, openssl_verify)
        assert caught.value.name == "TrustedKeysUnsigned"


def test_a_break_in_the_chain_stops_it() -> None:
    lines = CHAIN.splitlines(keepends=True)
    with pytest.raises(HostError) as caught:
        load(parse_chain(lines[0] + lines[2]), NOW, openssl_verify)
    assert caught.value.name == "TrustedKeysUnsigned"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n\n",
        b"{}",
        CHAIN[: len(CHAIN) // 2],
        CHAIN + CHAIN.splitlines(keepends=True)[0],
        b"\n".join([b"{}"] * (limits.MAX_TRUST_CHAIN + 1)),
    ],
)
def test_a_file_of_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(HostError):
        parse_chain(raw)


@pytest.mark.parametrize(
    "raw",
    [
        body(0, entry("a")),
        body(1),
        body(1, entry("a"), threshold=2),
        body(1, entry("a"), threshold=0),
        body(1, entry("a", status="retired")),
        body(1, entry("a"), entry("a")),
        body(1, entry("a"), {**entry("a"), "id": "b"}),
        body(1, entry("a"), {**entry("b"), "id": "a"}),
        body(1, entry("a"), gone=("a",)),
        body(1, entry("a"), revoked=[{**revoked("b"), "id": "a"}]),
        body(1, entry("a", status="trusted")),
        body(1, entry("a", publicKey="AAAA")),
        body(1, entry("a", publicKey="not base64!")),
        body(1, entry("a", id="a\nb")),
        body(1, entry("a", notAfter="soon")),
        body(1, entry("a"), schema="2.0"),
        body(1, *[entry("a")] * (limits.MAX_KEYS + 1)),
    ],
)
def test_a_set_that_could_not_work_is_refused(raw: bytes) -> None:
    with pytest.raises(HostError) as caught:
        parse_set(raw)
    assert caught.value.name in ("BundleInvalid", "BundleTooLarge", "BundleSchemaUnknown")


def test_a_key_of_a_later_algorithm_is_kept_and_does_not_count() -> None:
    trust = parse_set(body(1, entry("a"), entry("b", algorithm="sm2-sm3")))
    assert states(trust, signature("b")) == ["AlgorithmUnknown"]
