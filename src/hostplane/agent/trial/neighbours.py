"""Default gateways and whether they answer on the link, from the kernel's own tables.

A gateway that forwards need not answer pings, but it must answer the question for its link address. So a datagram is
sent towards it (to the discard port) and the neighbour table is asked, by netlink, whether anybody answered. Routes
without a gateway (point-to-point links) cannot be asked and count as there.
"""

import socket
import struct
import time
from typing import Callable, Dict, List, NamedTuple, Tuple

__all__ = ["Gateway", "default_gateways", "is_answering", "neighbours", "parse_neighbours"]

_DISCARD_PORT = 9
_ROUTE_IS_UP, _ROUTE_HAS_GATEWAY = 0x1, 0x2
_ASK_NEIGHBOURS, _NEIGHBOUR, _DONE = 30, 28, 3  # RTM_GETNEIGH, RTM_NEWNEIGH, NLMSG_DONE
_ANSWERED = 0x02 | 0x04 | 0x08 | 0x40 | 0x80  # reachable, stale, delay, noarp, permanent
_POLL_SECONDS = 0.1


class Gateway(NamedTuple):
    """The next hop of a default route; an empty address: the link itself."""

    address: str
    interface: str


def default_gateways(ipv4: str, ipv6: str) -> List[Gateway]:
    """Next hops in the text of /proc/net/route and /proc/net/ipv6_route."""
    found = []
    for line in ipv4.splitlines()[1:]:
        words = line.split()
        if len(words) < 8 or words[1] != "00000000" or words[7] != "00000000":
            continue
        flags = int(words[3], 16)
        if flags & _ROUTE_IS_UP:
            hop = socket.inet_ntoa(struct.pack("=I", int(words[2], 16))) if flags & _ROUTE_HAS_GATEWAY else ""
            found.append(Gateway(hop, words[0]))
    for line in ipv6.splitlines():
        words = line.split()
        if len(words) < 10 or words[0].strip("0") or words[1] != "00":
            continue
        flags = int(words[8], 16)
        if flags & _ROUTE_IS_UP and flags & _ROUTE_HAS_GATEWAY:
            found.append(Gateway(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[4])), words[9]))
    return found


def is_answering(
    gateway: Gateway, seconds: float, table: Callable[[], Dict[str, int]], poke: "Callable[[Gateway], None]"
) -> bool:
    """Whether the gateway answers on its link within `seconds`. `table` gives neighbours, `poke` sends towards one."""
    if not gateway.address:
        return True
    deadline = time.monotonic() + seconds
    poke(gateway)
    while True:
        if table().get(gateway.address, 0) & _ANSWERED:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)


def poke(gateway: Gateway) -> None:
    """Make the kernel look for the gateway's link address."""
    is_new = ":" in gateway.address
    try:
        with socket.socket(socket.AF_INET6 if is_new else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            if is_new:
                sock.sendto(b"", (gateway.address, _DISCARD_PORT, 0, socket.if_nametoindex(gateway.interface)))
            else:
                sock.sendto(b"", (gateway.address, _DISCARD_PORT))
    except OSError:
        pass  # no route, no interface: the table will not have it either


def neighbours() -> Dict[str, int]:
    """Address -> state (NUD_*) of every neighbour the kernel knows; nothing where it cannot be asked."""
    ask = struct.pack("=IHHII", 28, _ASK_NEIGHBOURS, 0x301, 1, 0) + bytes(12)
    found: Dict[str, int] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
            sock.settimeout(2.0)
            sock.sendto(ask, (0, 0))
            is_over = False
            while not is_over:
                more, is_over = parse_neighbours(sock.recv(1 << 16))
                found.update(more)
    except OSError:
        pass
    return found


def parse_neighbours(raw: bytes) -> Tuple[Dict[str, int], bool]:
    """(address -> state, whether that was the last) of one datagram of the kernel's answer."""
    found: Dict[str, int] = {}
    at = 0
    while at + 16 <= len(raw):
        length, kind = struct.unpack_from("=IH", raw, at)
        if length < 16 or kind != _NEIGHBOUR:
            return found, True
        message = raw[at + 16 : at + length]
        if len(message) >= 12:
            family, state = message[0], struct.unpack_from("=H", message, 8)[0]
            address = _destination(message[12:])
            if len(address) == (4 if family == socket.AF_INET else 16):
                found[socket.inet_ntop(family, address)] = state
        at += (length + 3) & ~3
    return found, False


def _destination(attributes: bytes) -> bytes:
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if length < 4:
            break
        if kind == 1:  # NDA_DST
            return attributes[at + 4 : at + length]
        at += (length + 3) & ~3
    return b""
