"""Small documents the agent keeps below /var/lib/hostplane beside its state: read strictly, replaced whole.

A crash leaves the old document or the new one. What cannot be read is refused, never taken for absent: these documents
hold what must not be forgotten (reached keys, minimum version, who wrote /var last).
"""

import json
import os
from typing import Any, Dict, Optional

from hostplane.agent.bundle.limits import MAX_JSON
from hostplane.agent.bundle.strict import Fields, check_schema, parse_object
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

__all__ = ["DIRECTORY", "SCHEMA", "read", "read_file", "write"]

DIRECTORY = "var/lib/hostplane"
SCHEMA = "1.0"


def read_file(path: str, limit: int = 2 * MAX_JSON) -> Optional[bytes]:
    """The file's bytes; None where there is none.

    Raises:
        HostError: KeptUnreadable, also when it is longer than `limit` bytes.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise HostError("KeptUnreadable", path=path, detail=fault.strerror or str(fault)) from fault
    if len(raw) > limit:
        raise HostError("KeptUnreadable", path=path, detail="it is longer than %d bytes" % limit)
    return raw


def read(host: HostRoot, name: str) -> Optional[Fields]:
    """The fields of the document `name`; None where it was never written.

    Raises:
        HostError: KeptUnreadable.
    """
    path = host.path("%s/%s" % (DIRECTORY, name))
    raw = read_file(path)
    if raw is None:
        return None
    try:
        fields = parse_object(path, raw, 2 * MAX_JSON)
        check_schema(path, fields.text("schema"))
    except HostError as fault:
        raise HostError("KeptUnreadable", path=path, detail=str(fault)) from fault
    return fields


def write(host: HostRoot, name: str, values: Dict[str, Any]) -> None:
    """Put `values` in the document's place: a new file, flushed, renamed, its directory flushed.

    Raises:
        HostError: KeptWriteFailed; the old document is then still in force. VetoedByHost.
    """
    host.refuse_if_vetoed()
    path = host.path("%s/%s" % (DIRECTORY, name))
    document, fresh = dict(values, schema=SCHEMA), "%s.%d" % (path, os.getpid())  # the agent is not the only writer
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(fresh, "wb") as file:
            file.write(json.dumps(document, indent=1, sort_keys=True).encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as fault:
        raise HostError("KeptWriteFailed", path=path, detail=fault.strerror or str(fault)) from fault
