"""A request for settings as it comes over either socket, its limits, and the digest that names and signs it.

The digest is of what the models see (model, path, key, value, operation), so that neither defaults that a server leaves
out nor the spelling of a number changes it.
"""

import hashlib
import json
from typing import Any, List, NamedTuple, Sequence, Tuple

from hostplane.errors import HostError

__all__ = ["MAX_BYTES", "Config", "Request", "check_size", "request_digest"]

Config = Tuple[str, str, Sequence[Tuple[str, Any, str]]]  # model, path on the host or "", settings
MAX_BYTES = 8 << 10
"""A group's settings in their plainest JSON; every Host carries a copy."""


class Request(NamedTuple):
    """`undo`: take back first what earlier settings changed. `enforce`: put right what somebody changes later.

    `signatures`: a list of signatures as JSON, or empty. `is_kubeos`: it came over KubeOS's socket, from root.
    """

    version: str = ""
    configs: Sequence[Config] = ()
    undo: bool = False
    enforce: bool = False
    signatures: str = ""
    is_kubeos: bool = False


def _plain(value: Any) -> Any:
    """Numbers as JSON has them after any server: 1.0 is 1."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def canonical(version: str, configs: Sequence[Config]) -> bytes:
    """The bytes the digest is of."""
    return json.dumps([version, _plain(configs)], sort_keys=True, separators=(",", ":")).encode("ascii")


def request_digest(version: str, configs: Sequence[Config]) -> str:
    """sha256: and the SHA-256 of a request, to know it again and to sign it."""
    return "sha256:" + hashlib.sha256(canonical(version, configs)).hexdigest()


def check_size(version: str, configs: Sequence[Config]) -> None:
    """Raises HostError SettingsTooLarge."""
    size = len(canonical(version, configs))
    if size > MAX_BYTES:
        raise HostError("SettingsTooLarge", size=size, limit=MAX_BYTES)


def as_configs(given: Sequence[Any]) -> List[Config]:
    """The configs of a document in the form of a NodeGroup's settings (objects with model, configpath, contents).

    Raises:
        HostError: SettingsDocumentInvalid.
    """
    configs: List[Config] = []
    try:
        for config in given:
            contents = []
            for item in config.get("contents") or []:
                contents.append((str(item.get("key") or ""), item.get("value"), str(item.get("operation") or "")))
            configs.append((str(config.get("model") or ""), str(config.get("configpath") or ""), contents))
    except (AttributeError, TypeError) as fault:
        raise HostError("SettingsDocumentInvalid", detail=str(fault)[:200]) from None
    return configs
