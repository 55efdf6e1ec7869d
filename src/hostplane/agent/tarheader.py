"""Members of a tar from a stranger: a damaged header is an error and not the archive's end, a long one is refused.

The standard library takes both as they come: it ends the archive at the first, and reads the second whole into memory.
"""

import tarfile
from typing import Any

__all__ = ["StrictInfo"]

_MOST = 1 << 20  # of what a member says of itself beside its header
_END: Any = getattr(tarfile, "EOFHeaderError")  # noqa: B009 - not in the type stubs
_LONG = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class StrictInfo(tarfile.TarInfo):
    """For tarfile.open's `tarinfo`. Raises ValueError where the standard library would end, or fill the memory."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        """One header."""
        try:
            member = super(StrictInfo, cls).frombuf(buf, encoding, errors)
        except _END:
            raise
        except tarfile.HeaderError as fault:
            raise ValueError("a header is damaged, or the end is missing (%s)" % fault) from fault
        if member.type in _LONG and member.size > _MOST:
            raise ValueError("a header of it is too long")
        return member
