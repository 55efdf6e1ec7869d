"""`hostplane image keys`: key pairs, signatures on bundles, and the trusted key set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostplane.cli.options import json_option

if TYPE_CHECKING:
    from hostplane.agent.bundle.trust import TrustSet

__all__ = ["command"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(short_help="Make keys, sign bundles, keep the set of trusted keys.")
def command() -> None:
    """Make keys, sign bundles, and keep the versioned set of keys that hosts trust."""


@command.command(short_help="Make a key pair.")
@click.argument("private", type=_FILE)
def generate(private: Path) -> None:
    """Make a P-256 key pair: PRIVATE, readable by you alone, and PRIVATE.pub beside it."""
    from hostplane.image.bundle import signing

    public = private.with_name(private.name + ".pub")
    der = signing.generate(private, public)
    click.echo(f"key {signing.default_key_id(der)}: {private} (keep it secret), {public}")


@command.command(short_help="Sign a bundle.")
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path))
@click.option("--key", required=True, type=_FILE, help="PEM file of the private key.")
@click.option("--key-id", help="The key's id in the trusted set (default: from the key itself).")
@click.option("--expires-days", type=click.IntRange(1, 3650), help="Days after which the signature no longer counts.")
def sign(bundle: Path, key: Path, key_id: str | None, expires_days: int | None) -> None:
    """Add a signature to BUNDLE (or to OUT, the directory of a build). Its digest stays the same."""
    from hostplane.image.bundle import inspection, signing

    found = inspection.bundle_of(bundle)
    made = signing.sign_bundle(found, key, key_id=key_id, expires=signing.expiry(expires_days))
    click.echo(f"{found}: signed by {made}")


@command.group("trust-set", short_help="The set of keys that hosts trust.")
def trust_set() -> None:
    """The trusted keys, one version after the other in FILE. Each version must be signed by active keys of the version
    before it, the first one by its own; put FILE into an image with the recipe's signing.trusted_keys."""


@trust_set.command(short_help="Start a set.")
@click.argument("file", type=_FILE)
@click.option("--key", "keys", multiple=True, required=True, metavar="[ID=]PEM", help="A trusted key; repeat it.")
@click.option("--threshold", type=click.IntRange(1, 16), default=1, show_default=True, help="Signatures needed.")
def create(file: Path, keys: tuple[str, ...], threshold: int) -> None:
    """Write version 1 to FILE; sign it with one of its own keys."""
    from hostplane.image.bundle import trust

    parts = [text.rpartition("=") for text in keys]
    _say(file, trust.create(file, [(name, Path(pem)) for name, _, pem in parts], threshold))


@trust_set.command(short_help="Trust one more key.")
@click.argument("file", type=_FILE)
@click.argument("pem", type=_FILE)
@click.option("--key-id", help="Its id (default: from the key itself).")
@click.option("--not-after", metavar="TIME", help="When it stops counting: 2030-01-31T00:00:00Z.")
def add(file: Path, pem: Path, key_id: str | None, not_after: str | None) -> None:
    """Add the public key PEM in the next version."""
    from hostplane.image.bundle import trust

    _say(file, trust.add(file, pem, key_id, not_after))


@trust_set.command(short_help="Let a key sign nothing new.")
@click.argument("file", type=_FILE)
@click.argument("key_id")
def retire(file: Path, key_id: str) -> None:
    """Retire KEY_ID in the next version: what it signed still counts, but it can sign no further version."""
    from hostplane.image.bundle import trust

    _say(file, trust.retire(file, key_id))


@trust_set.command(short_help="Let nothing a key signed count any more.")
@click.argument("file", type=_FILE)
@click.argument("key_id")
@click.option("--reason", default="", help="Why, for the record.")
def revoke(file: Path, key_id: str, reason: str) -> None:
    """Revoke KEY_ID in the next version, for ever."""
    from hostplane.image.bundle import trust

    _say(file, trust.revoke(file, key_id, reason))


@trust_set.command("sign", short_help="Sign the newest version.")
@click.argument("file", type=_FILE)
@click.option("--key", required=True, type=_FILE, help="PEM file of the private key.")
@click.option("--key-id", help="Its id in the version that must sign, as a check.")
def sign_set(file: Path, key: Path, key_id: str | None) -> None:
    """Sign the newest version with an active key of the version before it."""
    from hostplane.image.bundle import trust

    found = trust.sign_newest(file, key, key_id)
    click.echo(f"{file}: version {found.version} signed")


@trust_set.command(short_help="Show versions, keys and signatures.")
@click.argument("file", type=_FILE)
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show every version of the set in FILE, whether it is signed, and the newest version's keys."""
    from hostplane.cli.output import print_json, print_table
    from hostplane.image.bundle import trust

    told = trust.told(file)
    if as_json:
        print_json(told)
        return
    rows = []
    for one in told.versions:
        signatures = ", ".join(f"{signature.key_id}: {signature.state}" for signature in one.signatures)
        rows.append((str(one.version), one.state, str(one.threshold), signatures))
    print_table(("VERSION", "STATE", "THRESHOLD", "SIGNATURES"), rows)
    click.echo()
    print_table(
        ("KEY", "STATUS", "NOT AFTER", "FINGERPRINT"),
        [(key.id, key.status, key.not_after, key.fingerprint) for key in told.keys],
    )


def _say(file: Path, trust: TrustSet) -> None:
    click.echo(f"{file}: version {trust.version}, not signed yet (hostplane image keys trust-set sign)")
