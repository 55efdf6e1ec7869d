"""What a switch and a commit ask of other rooms: /etc made ready, the image allowed to boot, its proof put on record.

Here and nowhere else the spine touches them. Each call may be repeated, and may be abandoned at any instruction; none
decides what a refusal means.
"""

from typing import TYPE_CHECKING, Any, Dict, Optional

from hostplane.rpc import messages

from .bundle.manifest import Metadata
from .hostroot import HostRoot
from .state import Operation

if TYPE_CHECKING:
    from .etc import EtcReport

__all__ = ["etc_for", "metadata_of", "preview_etc", "refuse_unbootable", "settle"]

_SHOWN_CONFLICTS = 20


def metadata_of(host: HostRoot, slot: str) -> Optional[Metadata]:
    """What the record of `slot` says of its image; None for a plain tar, and where there is no record."""
    from .payload import record

    return record.metadata(host, slot)


def refuse_unbootable(host: HostRoot, slot: str, digest: str) -> None:
    """Raises HostError where the host's own rules forbid to boot what `slot` holds, however it got there."""
    from .payload import admission

    admission.check_boot(host, digest, metadata_of(host, slot))


def settle(host: HostRoot, slot: str) -> None:
    """The image in `slot` is proven. Raises HostError."""
    from .payload import admission

    admission.committed(host, metadata_of(host, slot))


def etc_for(host: HostRoot, active: str, operation: Operation) -> Dict[str, Any]:
    """Make /etc of the slot that `operation` goes to; what was done, for the report. Raises HostError.

    A rollback merges nothing: the old slot's tree is used as it is.
    """
    if operation.operation != messages.UPGRADE:
        return {}
    from . import etc

    return _told(etc.prepare(host, active, operation.target, host.config.etc_policy))


def preview_etc(host: HostRoot, active: str, target: str) -> Dict[str, Any]:
    """What an upgrade to `target` would do to /etc, for the report; nothing where it does nothing. Raises HostError."""
    from . import etc

    return _told(etc.preview(host, active, target))


def _told(report: "EtcReport") -> Dict[str, Any]:
    if not (report.merged or report.kept or report.conflicts):
        return {}
    conflicts = [{"path": path, "kind": kind, "action": action} for path, kind, action in report.conflicts]
    return {"merged": report.merged, "kept": report.kept, "conflicts": conflicts[:_SHOWN_CONFLICTS]}
