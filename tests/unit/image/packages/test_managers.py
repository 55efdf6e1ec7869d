"""Package managers leave alone what others need."""

from __future__ import annotations

from hostplane.image.packages.managers import _needs, closure, superfluous

NEEDS = {
    "apt": {"libapt", "libc", "gnutls"},
    "libapt": {"libc", "lz4"},
    "gnutls": {"libc", "nettle"},
    "nettle": set[str](),
    "lz4": set[str](),
    "libc": set[str](),
    "systemd": {"libc", "lz4"},
    "dpkg": {"libc"},
}


def test_a_closure_is_all_that_is_needed() -> None:
    assert closure(["gnutls"], NEEDS) == {"gnutls", "libc", "nettle"}
    assert closure(["missing"], NEEDS) == set()


def test_what_came_only_for_the_manager_goes_with_it() -> None:
    assert superfluous(["apt"], ["dpkg"], NEEDS) == {"apt", "libapt", "gnutls", "nettle"}


def test_what_was_asked_for_stays() -> None:
    assert superfluous(["apt"], ["gnutls"], NEEDS) == {"apt", "libapt"}


def test_a_manager_that_another_package_needs_stays() -> None:
    needs = {**NEEDS, "upgrader": {"apt"}}
    assert superfluous(["apt"], [], needs) == set()


def test_alternatives_and_provided_names_count() -> None:
    stanzas = [
        {"Package": "a", "Depends": "virtual (>= 1) | missing, c:any"},
        {"Package": "b", "Provides": "virtual (= 2), other"},
        {"Package": "c", "Pre-Depends": "b"},
    ]
    assert _needs(stanzas) == {"a": {"b", "c"}, "b": set(), "c": {"b"}}
