"""Network addresses of this machine, and the order in which addresses of another machine are tried."""

import ipaddress
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import ifaddr

from peerlearn.types import Address

log = logging.getLogger("peerlearn")

ANY_V4 = "0.0.0.0"
ANY_V6 = "::"
LOOPBACK = "127.0.0.1"
_INWARD = re.compile(r"(docker|br-|veth|virbr|podman|cni|flannel|cali|lxc|lxd)")
"""Names of interfaces that container and virtual machine software makes on Linux."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One address on one network interface."""

    name: str
    index: int
    address: str
    """IP address without its scope."""
    prefix: int
    """Length of the network prefix in bits."""

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """The address, parsed."""
        return ipaddress.ip_address(self.address)

    @property
    def scoped(self) -> str:
        """The address as needed to connect from this machine, with the scope if it is link-local: fe80::1%eth0."""
        return f"{self.address}%{self.name}" if self.ip.is_link_local and self.ip.version == 6 else self.address

    @property
    def inward(self) -> bool:
        """True for an interface of containers or virtual machines: it leads into this machine, not out of it."""
        return _INWARD.match(self.name) is not None

    def holds(self, address: str) -> bool:
        """True if the address belongs to this interface's network."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        return ip in ipaddress.ip_network(f"{self.address}/{self.prefix}", strict=False)


_known: list[Interface] = []
"""As last read. The interfaces are the machine's, so every peer of this process may share what is known of them."""


def interfaces() -> list[Interface]:
    """Every address of this machine that is up, loopback included.

    Reading them takes a file descriptor. When there is none to be had (EMFILE), or the system fails otherwise, the
    interfaces are as they were when they were last read.
    """
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError as exc:
        log.warning("cannot read the network interfaces (%s); going on with those known", exc.strerror or exc)
        return list(_known)
    found = []
    for adapter in adapters:
        for ip in adapter.ips:
            address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.append(Interface(ip.nice_name, adapter.index or 0, address.partition("%")[0], ip.network_prefix))
    _known[:] = found
    return found


@lru_cache(maxsize=4096)  # bounded, because other machines choose the hosts; few of them are asked for again and again
def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses. Cached: it is asked for every address of every card."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_any(host: str) -> bool:
    """True for an address that stands for all addresses of a machine (0.0.0.0, ::, or empty)."""
    return host in ("", ANY_V4, ANY_V6)


def own_hosts(listening: str) -> list[str]:
    """Addresses at which others can reach a peer that listens on this host: the host itself, or for 0.0.0.0 and ::
    every address of this machine. Loopback is included only if there is no other; addresses of containers come last.
    """
    if not is_any(listening):
        return [listening]
    wanted = (4, 6) if listening == ANY_V6 else (4,)
    mine = [i for i in interfaces() if i.ip.version in wanted]
    outward = [i for i in mine if not i.ip.is_loopback and not (i.ip.version == 6 and i.ip.is_link_local)]
    outward.sort(key=lambda i: (i.inward, i.ip.version, i.ip.is_link_local))
    return [i.address for i in outward] or [LOOPBACK]


def nearest_first(hosts: Iterable[str], mine: Sequence[Interface]) -> list[str]:
    """The hosts without repeats, those on a network of this machine first, then IPv4 before IPv6."""

    def distance(host: str) -> tuple[bool, int]:
        return (
            not any(interface.holds(host) for interface in mine),
            ipaddress.ip_address(host.partition("%")[0]).version,
        )

    return sorted(dict.fromkeys(hosts), key=distance)


def callable_from_afar(addresses: Iterable[Address], host: str) -> list[Address]:
    """The addresses that a peer seen at `host` can call. Loopback addresses only if that peer is on loopback itself."""
    near = is_loopback(host)
    return [a for a in addresses if a.port and not is_any(a.host) and (near or not is_loopback(a.host))]
