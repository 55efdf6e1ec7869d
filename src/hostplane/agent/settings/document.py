"""Settings as a person writes them: a NodeGroup, Rollout or Host with settings in it, or bare settings; YAML or JSON.

Nothing is judged here but the shape; what a request may ask is the planner's.
"""

import json

from hostplane.errors import HostError

from .request import Request, as_configs

__all__ = ["read_request"]


def read_request(raw: bytes) -> Request:
    """The settings in a document.

    Raises:
        HostError: SettingsDocumentInvalid.
    """
    try:
        text = raw.decode("utf-8")
        try:
            given = json.loads(text)
        except ValueError:
            from ruamel.yaml import YAML

            given = YAML(typ="safe", pure=True).load(text)
        spec = given.get("spec", given)
        settings = spec.get("settings", spec)
        if not isinstance(settings.get("configs", []), list) or not ({"configs", "undo"} & set(settings)):
            raise ValueError("there are no settings in it")
    except Exception as fault:  # the YAML library has many
        raise HostError("SettingsDocumentInvalid", detail=" ".join(str(fault).split())[:200]) from None
    return Request(
        version=str(settings.get("version") or ""),
        configs=as_configs(settings.get("configs") or []),
        undo=bool(settings.get("undo")),
        enforce=bool(settings.get("enforce")),
        signatures=str(settings.get("signatures") or ""),
    )
