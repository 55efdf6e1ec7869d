"""`hostplane settings`: check settings before they reach a cluster, and sign those that an image's policy asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hostplane.agent.settings.request import Request

__all__ = ["command"]

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


@click.group(name="settings", short_help="Check and sign settings of hosts.")
def command() -> None:
    """Check and sign settings of hosts.

    What they would change on one host is shown there: hostplane-agent settings diff FILE.
    """


def _read(file: Path) -> Request:
    from hostplane.agent.settings.document import read_request

    return read_request(file.read_bytes())


@command.command(short_help="Say what no host could take.")
@click.argument("file", type=_FILE)
def check(file: Path) -> None:
    """Check the settings in FILE: a NodeGroup, a Rollout, or the settings alone; YAML or JSON.

    This is what the operator asks before it takes a host. What only a host knows (files, kernel) is not asked.
    """
    from hostplane.agent.settings import lint
    from hostplane.agent.settings.request import request_digest

    request = _read(file)
    lint.check(request)
    click.echo(f"{file}: any host could take it; {request_digest(request.version, request.configs)}")


@command.command(short_help="Sign settings that a policy asks a signature for.")
@click.argument("file", type=_FILE)
@click.option("--key", required=True, type=_FILE, help="PEM file of the private key.")
@click.option("--key-id", help="The key's id in the trusted set (default: from the key itself).")
@click.option("--expires-days", type=click.IntRange(1, 3650), help="Days after which the signature no longer counts.")
def sign(file: Path, key: Path, key_id: str | None, expires_days: int | None) -> None:
    """Print the value of `signatures` for the settings in FILE; those that are there for the same settings stay."""
    from hostplane.agent.settings import lint
    from hostplane.agent.settings.policy import PURPOSE
    from hostplane.agent.settings.request import request_digest
    from hostplane.errors import HostError
    from hostplane.image.bundle import signing

    request = _read(file)
    lint.check(request)
    if not request.version:
        raise HostError("SettingsDocumentInvalid", detail="a signature is for a version; give one")
    digest = request_digest(request.version, request.configs)
    made = signing.sign(digest, key, purpose=PURPOSE, key_id=key_id, expires=signing.expiry(expires_days))
    kept = [one for one in _signatures(request, digest) if one.get("keyId") != made.key_id]
    document = {"schema": "1.0", "subject": digest, "signatures": [*kept, signing.signature_json(made)]}
    click.echo(json.dumps(document, separators=(",", ":")))


def _signatures(request: Request, digest: str) -> list[dict[str, Any]]:
    """Those in the document that are for these very settings."""
    try:
        given = json.loads(request.signatures)
        return list(given["signatures"]) if given["subject"] == digest else []
    except (ValueError, TypeError, KeyError):
        return []
