"""A host lets in what enough trusted keys signed and what fits it; any doubt, and any field changed, keeps it out."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostplane.agent.bundle import manifest as wire
from hostplane.agent.bundle.manifest import parse_metadata
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import admission
from hostplane.errors import HostError, HostplaneError
from tests.unit.agent.bundle.keyring import EARLIER, LATER, body, entry, line
from tests.unit.agent.payload.signed import (
    VERITY,
    Bundle,
    digest,
    host,
    made,
    metadata,
    put,
    raw,
    record,
    signature_list,
    trust_file,
)


def refusal(root: HostRoot, bundle: Bundle, running: str = "1.0") -> str:
    with pytest.raises(HostError) as caught:
        admission.admit(root, bundle.image, bundle, running)
    return caught.value.name


def test_a_signed_image_that_fits_is_let_in(tmp_path: Path) -> None:
    bundle = made("ops", expires=LATER)
    admitted = admission.admit(host(tmp_path), bundle.image, bundle, "1.0")
    assert (admitted.manifest_raw, admitted.metadata_raw) == (bundle.manifest_raw, bundle.metadata_raw)
    assert admitted.manifest.digest == bundle.digest
    assert admitted.metadata.version == "2.0"


def test_nothing_is_fetched_before_what_comes_earlier_held(tmp_path: Path) -> None:
    blocked, unsigned, good = made("ops", name="one"), made(), made("ops")
    root = host(tmp_path)
    put(tmp_path, "etc/hostplane/blocked", blocked.digest.encode())
    assert refusal(root, blocked) == "DigestBlocked"
    assert blocked.asked == []
    assert refusal(root, unsigned) == "BundleUnsigned"
    assert unsigned.asked == ["signatures"]
    admission.admit(root, good.image, good, "1.0")
    assert good.asked == ["signatures", "manifest", wire.TYPE_METADATA]


def test_a_host_without_trusted_keys_takes_nothing(tmp_path: Path) -> None:
    assert refusal(host(tmp_path, keys=()), made("ops")) == "NoTrustedKeys"
    assert refusal(host(tmp_path, keys=(), trust=b" \n"), made("ops")) == "NoTrustedKeys"


def test_a_trust_file_that_its_own_keys_did_not_sign_is_worth_nothing(tmp_path: Path) -> None:
    root = host(tmp_path, trust=line(body(1, entry("ops"), entry("spare")), "stranger"))
    assert refusal(root, made("ops")) == "TrustedKeysUnsigned"


@pytest.mark.parametrize("signers", [(), ("stranger",)])
def test_an_image_that_no_trusted_key_signed_is_refused(tmp_path: Path, signers: tuple[str, ...]) -> None:
    assert refusal(host(tmp_path), made(*signers)) == "BundleUnsigned"


def test_the_threshold_counts_different_keys_over_all_lists(tmp_path: Path) -> None:
    root = host(tmp_path, trust=trust_file(("ops", "spare"), threshold=2))
    assert refusal(root, made("ops")) == "BundleUnsigned"
    twice = made("ops")
    twice.lists.append(raw(signature_list(twice.digest, "ops")))
    assert refusal(root, twice) == "BundleUnsigned"
    twice.lists.append(raw(signature_list(twice.digest, "spare")))
    assert admission.admit(root, twice.image, twice, "1.0")


def test_lists_that_anybody_added_neither_help_nor_hurt(tmp_path: Path) -> None:
    root, bundle = host(tmp_path), made("ops")
    junk = [b"", b"{}", b"[" * 1000, raw(signature_list("sha256:" + "0" * 64, "ops")), b"\xff" * 300000]
    bundle.lists = junk + bundle.lists
    assert admission.admit(root, bundle.image, bundle, "1.0")
    bundle.lists = junk
    assert refusal(root, bundle) == "BundleUnsigned"


def test_an_expired_signature_does_not_count(tmp_path: Path) -> None:
    assert refusal(host(tmp_path), made("ops", expires=EARLIER)) == "BundleUnsigned"


def test_a_clock_before_the_images_making_does_not_revive_an_expired_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, bundle = host(tmp_path), made("ops", expires=EARLIER)
    built = os.stat(tmp_path / "usr/lib/hostplane/image.json").st_mtime
    clock = [0.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    assert refusal(root, bundle) == "BundleUnsigned"  # judged as of the running image's making
    os.utime(tmp_path / "usr/lib/hostplane/image.json", (0, 0))
    admission.committed(root, parse_metadata(raw(metadata(created="2099-01-01T00:00:00Z"))))
    assert admission.admit(root, bundle.image, bundle, "1.0")  # nobody believes an image from tomorrow
    clock[0] = built
    admission.committed(root, parse_metadata(raw(metadata())))
    clock[0] = 0.0
    assert refusal(root, bundle) == "BundleUnsigned"  # a commit has moved the floor


def test_a_manifest_or_metadata_other_than_the_signed_one_is_refused(tmp_path: Path) -> None:
    root, right = host(tmp_path), made("ops")
    for name, content in (
        ("manifest_raw", right.manifest_raw + b" "),
        ("metadata_raw", right.metadata_raw + b" "),
        ("metadata_raw", right.metadata_raw[:-1]),
        ("metadata_raw", right.metadata_raw.replace(b"2.0", b"9.0")),
    ):
        bundle = made("ops")
        setattr(bundle, name, content)
        assert refusal(root, bundle) == "BundleDigestMismatch"


def test_a_source_that_never_stops_is_stopped(tmp_path: Path) -> None:
    class Endless(Bundle):
        def blob(self, descriptor: wire.Descriptor) -> Iterator[bytes]:
            while True:
                yield b" " * 4096

    bundle = Endless(metadata(), "ops")
    assert refusal(host(tmp_path), bundle) == "BundleDigestMismatch"


# --- whether it fits this host


def test_another_machines_image_is_refused(tmp_path: Path) -> None:
    assert refusal(host(tmp_path), made("ops", arch="aarch64")) == "ArchitectureWrong"


def test_an_image_that_is_not_the_version_it_was_called_is_refused(tmp_path: Path) -> None:
    root, bundle = host(tmp_path), made("ops")
    bundle.version = "3.0"
    assert refusal(root, bundle) == "VersionDiffers"
    bundle.version = ""
    assert admission.admit(root, bundle.image, bundle, "1.0")


@pytest.mark.parametrize(
    ("rules", "running", "is_reached"),
    [([], "", True), (["1.0"], "1.0", True), (["1.*"], "1.9", True), (["1.0"], "1.0.1", False), (["1.*"], "", False)],
)
def test_only_listed_versions_are_installed_over(
    tmp_path: Path, rules: list[str], running: str, is_reached: bool
) -> None:
    root, bundle = host(tmp_path), made("ops", reachableFrom=rules)
    if is_reached:
        assert admission.admit(root, bundle.image, bundle, running)
    else:
        assert refusal(root, bundle, running) == "VersionUnreachable"


def test_a_commit_raises_the_lowest_version_for_good(tmp_path: Path) -> None:
    root, low = host(tmp_path), made("ops", version="1.9")
    assert admission.admit(root, low.image, low, "1.0")
    admission.committed(root, parse_metadata(raw(metadata(minimumVersion="2.0~rc1"))))
    assert refusal(root, low) == "VersionTooLow"
    admission.committed(root, parse_metadata(raw(metadata(version="3.0", minimumVersion="1.0"))))
    admission.committed(root, parse_metadata(raw(metadata(version="3.0"))))
    admission.committed(root, None)
    assert admission.floor_of(root) == "2.0~rc1"
    assert refusal(root, low) == "VersionTooLow"
    assert admission.admit(root, made("ops").image, made("ops"), "1.0")


def test_the_running_images_own_minimum_counts_before_any_commit(tmp_path: Path) -> None:
    root = host(tmp_path)
    put(tmp_path, "usr/lib/hostplane/image.json", raw({"arch": "x86_64", "minimumVersion": "2.1"}))
    assert refusal(root, made("ops")) == "VersionTooLow"


def test_a_seal_is_neither_lost_nor_gained_unasked(tmp_path: Path) -> None:
    root = host(tmp_path)
    assert refusal(root, made("ops", verity=VERITY)) == "SealingChanges"
    put(tmp_path, "proc/cmdline", b"hostplane.slot=A hostplane.verity=" + b"ab" * 32)
    assert refusal(root, made("ops")) == "SealingChanges"
    assert admission.admit(root, made("ops", verity=VERITY).image, made("ops", verity=VERITY), "1.0")
    forced = host(tmp_path, allowSealingChange=True)
    assert admission.admit(forced, made("ops", verity=VERITY).image, made("ops", verity=VERITY), "1.0")


def test_a_slip_in_the_block_list_lets_nothing_in(tmp_path: Path) -> None:
    root = host(tmp_path)
    put(tmp_path, "etc/hostplane/blocked", b"# why\n\nsha256:" + b"0" * 64 + b"  # because\n")
    assert admission.admit(root, made("ops").image, made("ops"), "1.0")
    put(tmp_path, "etc/hostplane/blocked", b"sha256:123\n")
    assert refusal(root, made("ops")) == "BlockListUnreadable"


def test_an_upgrade_without_a_way_back_is_refused(tmp_path: Path) -> None:
    root = host(tmp_path)
    record(tmp_path, "A", stateVersions={"containerd": "1.7.2", "kubelet": "1.33.0"})
    assert admission.admit(root, made("ops").image, made("ops"), "1.0")
    newer = made("ops", stateVersions={"containerd": "2.1.0", "kubelet": "1.34.1"})
    assert refusal(root, newer) == "StateReturnBroken"
    rules: dict[str, Any] = {"containerd": {"reset": ["/var/lib/containerd"]}, "kubelet": {"minors": 1}}
    put(tmp_path, "usr/lib/hostplane/state.json", raw({"rules": rules}))
    assert admission.admit(root, newer.image, newer, "1.0")
    assert refusal(root, made("ops", stateVersions={"kubelet": "1.35.0"})) == "StateReturnBroken"


@pytest.mark.parametrize(
    ("verity", "line", "is_sound"),
    [
        (None, b"", True),
        (VERITY, b"hostplane.verity=" + b"ef" * 32 + b" hostplane.hashoffset=4096", True),
        (VERITY, b"", False),
        (VERITY, b"hostplane.verity=" + b"00" * 32 + b" hostplane.hashoffset=4096", False),
        (VERITY, b"hostplane.verity=" + b"ef" * 32, False),
        (None, b"hostplane.verity=" + b"ef" * 32, False),
    ],
)
def test_a_root_that_is_not_under_the_seal_it_was_signed_with_fails_its_trial(
    tmp_path: Path, verity: dict[str, Any] | None, line: bytes, is_sound: bool
) -> None:
    root = host(tmp_path)
    record(tmp_path, "A", verity=verity)
    put(tmp_path, "proc/cmdline", b"ro hostplane.slot=A " + line)
    assert (admission.broken_seal(root) == "") is is_sound


def test_what_a_slot_holds_is_asked_again_before_it_is_booted(tmp_path: Path) -> None:
    root, old = host(tmp_path), parse_metadata(raw(metadata(version="1.5")))
    admission.check_boot(root, "sha256:" + "1" * 64, old)
    admission.committed(root, parse_metadata(raw(metadata(minimumVersion="2.0"))))
    with pytest.raises(HostError) as low:
        admission.check_boot(root, "sha256:" + "1" * 64, old)
    assert low.value.name == "VersionTooLow"
    put(tmp_path, "etc/hostplane/blocked", ("sha256:" + "1" * 64).encode())
    with pytest.raises(HostError) as blocked:
        admission.check_boot(root, "sha256:" + "1" * 64, None)
    assert blocked.value.name == "DigestBlocked"


# --- nothing is let in with any one thing changed


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a document."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))


OTHER = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.just([]), st.just({}))


def changed(document: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    copy = json.loads(document)
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(copy, sort_keys=True).encode()


def is_let_in(root: HostRoot, bundle: Bundle) -> bool:
    try:
        admission.admit(root, bundle.image, bundle, "1.0")
    except HostplaneError:
        return False
    return True


PARTS: dict[str, Callable[[Bundle], bytes]] = {
    "manifest": lambda bundle: bundle.manifest_raw,
    "metadata": lambda bundle: bundle.metadata_raw,
    "signatures": lambda bundle: bundle.lists[0],
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), part=st.sampled_from(sorted(PARTS)), value=OTHER)
def test_no_field_of_a_signed_document_can_be_changed(
    tmp_path: Path, data: st.DataObject, part: str, value: Any
) -> None:
    root, bundle = host(tmp_path), made("ops", expires=LATER)
    before = PARTS[part](bundle)
    after = changed(before, data.draw(st.sampled_from(list(leaves(json.loads(before))))), value)
    if json.loads(after) == json.loads(before):
        return
    if part == "manifest":
        bundle.manifest_raw = after
    elif part == "metadata":
        bundle.metadata_raw = after
    else:
        bundle.lists = [after]
    assert not is_let_in(root, bundle)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=OTHER)
def test_whoever_holds_no_key_cannot_change_an_image_and_make_all_digests_fit_again(
    tmp_path: Path, data: st.DataObject, value: Any
) -> None:
    root, right = host(tmp_path), made("ops")
    after = changed(right.metadata_raw, data.draw(st.sampled_from(list(leaves(json.loads(right.metadata_raw))))), value)
    if json.loads(after) == json.loads(right.metadata_raw):
        return
    forged = made("ops")
    forged.manifest_raw = forged.manifest_raw.replace(digest(right.metadata_raw).encode(), digest(after).encode())
    forged.metadata_raw, forged.digest = after, digest(forged.manifest_raw)
    assert not is_let_in(root, forged)  # the signatures are for another digest
    forged.lists = [changed(forged.lists[0], ("subject",), forged.digest)]
    assert not is_let_in(root, forged)  # and those bytes were never signed


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=OTHER)
def test_no_field_of_a_trust_file_can_be_changed(tmp_path: Path, data: st.DataObject, value: Any) -> None:
    before, bundle = trust_file(("ops", "spare"), threshold=2), made("ops", "spare")
    inner = base64.b64decode(json.loads(before)["set"])
    after = changed(inner, data.draw(st.sampled_from(list(leaves(json.loads(inner))))), value)
    if json.loads(after) == json.loads(inner):
        return
    spoilt = changed(before, ("set",), base64.b64encode(after).decode())
    assert not is_let_in(host(tmp_path, trust=spoilt), bundle)


POOL: dict[str, tuple[Bundle, bool]] = {}


def pool() -> dict[str, tuple[Bundle, bool]]:
    """Images that somebody who holds the proxy may ask for, and whether this host may take each."""
    if not POOL:
        POOL.update(
            good=(made("ops"), True),
            later=(made("spare", version="3.0", expires=LATER), True),
            unsigned=(made(name="unsigned"), False),
            stranger=(made("stranger", name="stranger"), False),
            expired=(made("ops", name="expired", expires=EARLIER), False),
            blocked=(made("ops", name="blocked"), False),
            old=(made("ops", version="0.9"), False),
            other_machine=(made("ops", arch="aarch64"), False),
            sealed=(made("ops", verity=VERITY), False),
            too_far=(made("ops", reachableFrom=["7.*"]), False),
            no_return=(made("ops", stateVersions={"containerd": "9.0"}), False),
        )
    return POOL


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.tuples(*[st.sampled_from(sorted(pool()))] * 3, st.text(max_size=4)), max_size=4))
def test_whatever_a_stolen_proxy_asks_for_only_signed_and_allowed_images_come_in(
    tmp_path: Path, asked: list[tuple[str, str, str, str]]
) -> None:
    """It may name any digest, and let any documents be served for it, in any mixture."""
    root = host(tmp_path)
    put(tmp_path, "usr/lib/hostplane/image.json", raw({"arch": "x86_64", "minimumVersion": "1.0"}))
    put(tmp_path, "etc/hostplane/blocked", pool()["blocked"][0].digest.encode())
    record(tmp_path, "A", stateVersions={"containerd": "1.7.2"})
    for named, served, signed, version in asked:
        (bundle, _), (documents, may), (signer, _) = pool()[named], pool()[served], pool()[signed]
        mixed = made(version=bundle.version)
        mixed.digest, mixed.version = bundle.digest, version
        mixed.manifest_raw, mixed.metadata_raw = documents.manifest_raw, documents.metadata_raw
        mixed.lists = [*signer.lists, *bundle.lists] if version else signer.lists
        if is_let_in(root, mixed):
            assert may
            assert (named, mixed.digest) == (served, documents.digest)
            assert version in ("", documents.version)
