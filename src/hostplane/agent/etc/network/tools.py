"""Which programs read which network settings, and how one sees that a root has them in use: data.

A tool is in use where one of its programs is there and one of its units is wanted by a target; a tool without units
needs none. A format is understood where a tool that reads it is in use. Patterns are paths below the root.
"""

from typing import NamedTuple, Tuple

__all__ = ["FORMATS", "TOOLS", "Format", "Tool"]


class Tool(NamedTuple):
    """A program that configures interfaces."""

    name: str
    programs: Tuple[str, ...]
    units: Tuple[str, ...] = ()


class Format(NamedTuple):
    """A form of settings: where its files are below /etc, who reads it, and with which further file of the root.

    `is_written`: whether settings can be told in it; the first such format that an image understands is taken.
    """

    name: str
    files: Tuple[str, ...]
    readers: Tuple[Tuple[str, str], ...]
    is_written: bool = False


TOOLS: Tuple[Tool, ...] = (
    Tool("netplan", ("usr/sbin/netplan", "usr/bin/netplan")),
    Tool("NetworkManager", ("usr/sbin/NetworkManager", "usr/bin/NetworkManager"), ("NetworkManager.service",)),
    Tool(
        "networkd",
        ("usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd"),
        ("systemd-networkd.service", "systemd-networkd.socket"),
    ),
    Tool("ifupdown", ("usr/sbin/ifup", "sbin/ifup"), ("networking.service",)),
    Tool(
        "initscripts",
        ("etc/sysconfig/network-scripts/ifup-eth",),
        ("network.service",),
    ),
)

FORMATS: Tuple[Format, ...] = (
    Format("netplan", ("netplan/*.yaml",), (("netplan", ""),), True),
    Format(
        "keyfile",
        ("NetworkManager/system-connections/*",),
        (("NetworkManager", ""),),
        True,
    ),
    Format("networkd", ("systemd/network/*.network", "systemd/network/*.netdev"), (("networkd", ""),), True),
    Format("interfaces", ("network/interfaces", "network/interfaces.d/*"), (("ifupdown", ""),)),
    Format(
        "ifcfg",
        (
            "sysconfig/network",
            "sysconfig/network-scripts/ifcfg-*",
            "sysconfig/network-scripts/route-*",
            "sysconfig/network-scripts/route6-*",
            "sysconfig/network-scripts/rule-*",
            "sysconfig/network-scripts/rule6-*",
        ),
        (
            ("initscripts", ""),
            ("NetworkManager", "usr/lib*/NetworkManager/*/libnm-settings-plugin-ifcfg-rh.so"),
            ("NetworkManager", "usr/lib*/NetworkManager/libnm-settings-plugin-ifcfg-rh.so"),
        ),
    ),
)
