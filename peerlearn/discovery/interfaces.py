"""The addresses of this machine, and which of another's are nearest."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import ifaddr

from peerlearn.types import Address

ANY_V4 = "0.0.0.0"
ANY_V6 = "::"
LOOPBACK = "127.0.0.1"
_INWARD = re.compile(r"(docker|br-|veth|virbr|podman|cni|flannel|cali|lxc|lxd)")


@dataclass(frozen=True, slots=True)
class Interface:
    """One address on one network interface."""

    name: str
    index: int
    address: str
    """Without scope."""
    prefix: int

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.address)

    @property
    def scoped(self) -> str:
        """As one writes it to connect from here: fe80::1%eth0."""
        return f"{self.address}%{self.name}" if self.ip.is_link_local and self.ip.version == 6 else self.address

    @property
    def inward(self) -> bool:
        """Made for containers or virtual machines: it leads into this machine, not out of it."""
        return _INWARD.match(self.name) is not None

    def holds(self, address: str) -> bool:
        """Whether the address is on this interface's own network."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        return ip in ipaddress.ip_network(f"{self.address}/{self.prefix}", strict=False)


def interfaces() -> list[Interface]:
    """Every address of this machine that is up, loopback included."""
    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.append(Interface(ip.nice_name, adapter.index or 0, address.partition("%")[0], ip.network_prefix))
    return found


@lru_cache(maxsize=4096)
def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_any(host: str) -> bool:
    """Whether this is the address that stands for all addresses of a machine."""
    return host in ("", ANY_V4, ANY_V6)


def own_hosts(listening: str) -> list[str]:
    """Where others can find a peer that listens on this host: itself, or when it is 'any', every address here.

    Loopback is named only when there is nothing else; addresses made for containers come last.
    """
    if not is_any(listening):
        return [listening]
    wanted = (4, 6) if listening == ANY_V6 else (4,)
    mine = [i for i in interfaces() if i.ip.version in wanted]
    outward = [i for i in mine if not i.ip.is_loopback and not (i.ip.version == 6 and i.ip.is_link_local)]
    outward.sort(key=lambda i: (i.inward, i.ip.version, i.ip.is_link_local))
    return [i.address for i in outward] or [LOOPBACK]


def nearest_first(hosts: Iterable[str], mine: Sequence[Interface]) -> list[str]:
    """Those on a network that this machine is on come first; IPv4 before IPv6; each once."""

    def distance(host: str) -> tuple[bool, int]:
        return (
            not any(interface.holds(host) for interface in mine),
            ipaddress.ip_address(host.partition("%")[0]).version,
        )

    return sorted(dict.fromkeys(hosts), key=distance)


def callable_from_afar(addresses: Iterable[Address], host: str) -> list[Address]:
    """Those that mean something to somebody who is seen at `host`: loopback only to those who come over loopback."""
    near = is_loopback(host)
    return [a for a in addresses if a.port and not is_any(a.host) and (near or not is_loopback(a.host))]
