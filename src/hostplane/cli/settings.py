"""`hostplane settings`: check settings before they reach a cluster, ask hosts what they would change, and sign them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostplane.cli.options import json_option, kubeconfig_option

if TYPE_CHECKING:
    from hostplane.agent.settings.request import Request
    from hostplane.api.host import Preview, PreviewStatus
    from hostplane.kube.session import Session

__all__ = ["command"]

_LOOK_SECONDS = 0.5
_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


@click.group(name="settings", short_help="Check, preview and sign settings of hosts.")
def command() -> None:
    """Check, preview and sign settings of hosts."""


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


@command.command(short_help="Ask hosts what settings would change on them.")
@click.argument("file", type=_FILE)
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.option("--seconds", type=click.IntRange(1, 600), default=60, show_default=True, help="Wait so long for answers.")
@json_option
@kubeconfig_option
def diff(file: Path, hosts: tuple[str, ...], seconds: int, as_json: bool, kubeconfig: str | None) -> int:
    """Ask each HOST what the settings in FILE would change on it, and whether it would need a reboot; nothing changes.

    Files, kernel parameters and keys are named, values are not: those are shown on the host itself, by
    hostplane-agent settings diff FILE. The exit code is 1 when a host would refuse the settings or does not answer.
    """
    from hostplane.agent.settings import lint

    request = _read(file)
    lint.check(request)
    return asyncio.run(_ask_all(kubeconfig, request, hosts, seconds, as_json))


async def _ask_all(
    kubeconfig: str | None, request: Request, hosts: tuple[str, ...], seconds: int, as_json: bool
) -> int:
    from hostplane.api.host import PreviewStatus
    from hostplane.cli.output import print_json
    from hostplane.errors import HostplaneError
    from hostplane.kube.session import Session

    async with await Session.open(kubeconfig, connections=4, user_agent="hostplane-cli") as session:
        asked = _question(request)
        answers = await asyncio.gather(*(_ask(session, host, asked, seconds) for host in hosts), return_exceptions=True)
    found: dict[str, PreviewStatus] = {}
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, HostplaneError):
            answer = PreviewStatus(error=str(answer))
        elif isinstance(answer, BaseException):
            raise answer
        found[host] = answer
    if as_json:
        print_json(found)
    else:
        for host, answer in found.items():
            click.echo("\n".join(_lines(host, answer)))
    return 1 if any(answer.error for answer in found.values()) else 0


def _question(request: Request) -> Preview:
    from hostplane.api.host import Preview, Setting, SettingsModel

    configs = [
        SettingsModel(
            model=model,
            configpath=path,
            contents=[Setting(key=key, value=value, operation=operation) for key, value, operation in contents],
        )
        for model, path, contents in request.configs
    ]
    return Preview(
        id=secrets.token_hex(8),
        version=request.version,
        configs=configs,
        undo=request.undo,
        signatures=request.signatures,
    )


async def _ask(session: Session, host: str, asked: Preview, seconds: int) -> PreviewStatus:
    """The answer of one host; the question is taken back, whatever comes of it.

    Raises:
        HostError: PreviewUnanswered. ClusterError: the question cannot be put.
    """
    import msgspec

    from hostplane.api.host import HOST
    from hostplane.errors import ClusterError, HostError

    # A merge would keep what an earlier question had, were that one still there.
    body = [{"op": "add", "path": "/spec/preview", "value": msgspec.to_builtins(asked)}]
    found = await session.patch(HOST, host, body, kind="json")
    try:
        async with asyncio.timeout(seconds):
            while found.status.preview is None or found.status.preview.id != asked.id:
                await asyncio.sleep(_LOOK_SECONDS)
                found = await session.get(HOST, host)
            return found.status.preview
    except TimeoutError:
        bad = [condition.message for condition in found.status.conditions if condition.status == "False"]
        detail = "; ".join(bad) or "its proxy is silent, or does not know the question"
        raise HostError("PreviewUnanswered", host=host, seconds=seconds, detail=detail) from None
    finally:
        own = {"op": "test", "path": "/spec/preview/id", "value": asked.id}
        with contextlib.suppress(ClusterError):  # somebody has put another question meanwhile, or the Host is gone
            await session.patch(HOST, host, [own, {"op": "remove", "path": "/spec/preview"}], kind="json")


def _lines(host: str, answer: PreviewStatus) -> list[str]:
    """One host's answer for a person."""
    from hostplane.cli.output import printable

    if answer.error:
        return [printable(f"{host}: refused: {answer.error}")]
    if not answer.changes:
        return [f"{host}: nothing would change"]
    needed = "a reboot is needed" if answer.reboot_needed else "no reboot is needed"
    lines = [f"{host}: {needed}; services told: {', '.join(answer.services) or 'none'}"]
    lines += [f"  {change}" for change in answer.changes]
    if answer.more:
        lines.append(f"  and {answer.more} more")
    return [printable(line) for line in lines]


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
