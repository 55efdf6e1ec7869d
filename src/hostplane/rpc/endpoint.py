"""Unix sockets by path: listening, connecting, and who is on the other side.

A socket's path may have at most 107 bytes; hosts kept in deep directories (tests, simulated hosts) exceed that, so a
long path is reached through an open directory of this process instead of failing.
"""

import os
import socket
import struct
from typing import Tuple

from hostplane.errors import HostError

__all__ = ["connect", "listen", "peer"]

_PATH_LIMIT = 107


def _with_address(sock: socket.socket, path: str, action: str) -> None:
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        getattr(sock, action)(path)
        return
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        getattr(sock, action)("/proc/self/fd/%d/%s" % (directory, os.path.basename(path)))
    finally:
        os.close(directory)


def listen(path: str, mode: int, directory_mode: int = 0o755) -> socket.socket:
    """A listening socket at `path` with exactly `mode`; a stale one is replaced, a missing directory is made."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        os.makedirs(directory)
        os.chmod(directory, directory_mode)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        _with_address(sock, path, "bind")
        sock.listen(64)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def connect(path: str, timeout: float) -> socket.socket:
    """A connected socket.

    Raises:
        HostError: AgentUnreachable.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        _with_address(sock, path, "connect")
    except OSError as fault:
        sock.close()
        raise HostError("AgentUnreachable", socket=path, detail=fault.strerror or str(fault)) from fault
    return sock


def peer(sock: socket.socket) -> Tuple[int, int]:
    """(pid, uid) of the process that connected, as the kernel recorded it then."""
    pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
