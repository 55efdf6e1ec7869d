"""Routes in the words of `ip route` and `route add`, as route-* files and `up` lines have them."""

from typing import List

from .model import NotUnderstood, Route, host, number, prefix_of, subnet

__all__ = ["read_route"]


def read_route(path: str, words: List[str], name: str, version: int = 4) -> Route:
    """`GOAL [via GATEWAY] [dev NAME] [metric N]` for the interface `name`. Raises NotUnderstood."""
    line, words = " ".join(words), list(words)
    via, metric, length = "", 0, ""
    goal = words.pop(0) if words else ""
    if goal in ("-net", "-host") and words:
        goal = words.pop(0) + ("/32" if goal == "-host" else "")
    while words:
        word = words.pop(0)
        value = words.pop(0) if words else ""
        if word in ("via", "gw"):
            via = host(path, value)
        elif word == "metric":
            metric = number(path, word, value, 1 << 31)
        elif word == "netmask":
            length = "/" + prefix_of(path, value)
        elif word != "dev" or value not in (name, "$IFACE"):
            raise NotUnderstood(path, "the route %s" % line[:80])
    if not goal:
        raise NotUnderstood(path, "a route without a goal")
    return Route(subnet(path, goal + length, version), via, metric)
