"""Networks: the interfaces that mDNS uses, chosen at the start and updated as interfaces come and go."""

import ipaddress
import logging
from collections.abc import Collection, Sequence

from zeroconf import IPVersion
from zeroconf.asyncio import AsyncZeroconf

from peerlearn.discovery.interfaces import ANY_V6, LOOPBACK, Interface, interfaces, is_any, is_loopback
from peerlearn.errors import NetworkError

log = logging.getLogger("peerlearn")

_FIX = "check that an interface is up and takes multicast (peerlearn doctor), or name the others with --peer HOST:PORT"


class Networks:
    """The interfaces that belong to the host that a peer listens on; see `Mdns`."""

    def __init__(self, listening: str) -> None:
        self._listening = listening
        self._joined: frozenset[Interface] = frozenset()

    async def open(self) -> AsyncZeroconf:
        """Open zeroconf on these interfaces. Raises NetworkError if none of them can do multicast."""
        mine = self._wanted()
        zeroconf = _open(self._listening, mine)
        try:
            await _check_open(zeroconf, self._listening)
        except BaseException:
            await zeroconf.async_close()
            raise
        self._joined = mine
        return zeroconf

    async def follow(self, zeroconf: AsyncZeroconf) -> bool:
        """Leave the interfaces that are gone, and join those that have appeared. True if anything has changed.

        An interface that has come back under its old address is left before it is joined again: the old membership in
        the multicast group ended with the old interface.
        """
        wanted = self._wanted()
        if wanted == self._joined:
            return False
        stayed = wanted & self._joined
        try:
            if stayed != self._joined:
                await zeroconf.async_update_interfaces(_choice(self._listening, stayed))
            if stayed != wanted:
                await zeroconf.async_update_interfaces(_choice(self._listening, wanted))
        except (OSError, RuntimeError) as exc:  # an interface went while it was joined: try again at the next look
            log.info("mDNS: the interfaces are changing (%s); looking again soon", exc)
            self._joined = frozenset()
            return False
        self._joined = wanted
        return True

    def _wanted(self) -> frozenset[Interface]:
        mine = interfaces()
        if is_loopback(self._listening):
            # Some systems do not list loopback among their interfaces: its usual name, index and prefix then stand in.
            return frozenset(i for i in mine if i.address == LOOPBACK) or frozenset({Interface("lo", 1, LOOPBACK, 8)})
        some = [i for i in mine if is_any(self._listening) or i.address == self._listening.partition("%")[0]]
        return frozenset(some or [i for i in mine if not is_ip(self._listening)])


def is_ip(host: str) -> bool:
    """True for an IP address, with or without a scope; False for a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _choice(listening: str, some: Collection[Interface]) -> list[str | int]:
    """Interfaces in the form that zeroconf takes: addresses for IPv4, interface indexes for IPv6."""
    v4: list[str | int] = sorted({i.address for i in some if i.ip.version == 4})
    v6: list[str | int] = sorted({i.index for i in some if i.ip.version == 6 and not i.ip.is_loopback})
    return v4 + (v6 if listening == ANY_V6 or ":" in listening else [])


def _open(listening: str, mine: Collection[Interface]) -> AsyncZeroconf:
    chosen = _choice(listening, mine)
    if not chosen:
        raise NetworkError(f"no interface for mDNS at {listening}: {_FIX}")
    try:
        return AsyncZeroconf(interfaces=chosen)
    except (OSError, RuntimeError) as exc:
        v4 = [choice for choice in chosen if isinstance(choice, str) and ":" not in choice]
        if not v4 or v4 == chosen:
            raise NetworkError(f"mDNS cannot be used on {listening} ({exc}): {_FIX}") from exc
        return _open_v4(v4, listening)


def _open_v4(chosen: Sequence[str], listening: str) -> AsyncZeroconf:
    # IPv6 may be listed and yet switched off: try IPv4 alone before giving up.
    try:
        return AsyncZeroconf(interfaces=list(chosen), ip_version=IPVersion.V4Only)
    except (OSError, RuntimeError) as exc:
        raise NetworkError(f"mDNS cannot be used on {listening} ({exc}): {_FIX}") from exc


async def _check_open(zeroconf: AsyncZeroconf, listening: str) -> None:
    # Zeroconf skips each interface that refuses multicast, and raises nothing even if none is left.
    await zeroconf.zeroconf.async_wait_for_start()
    if not zeroconf.zeroconf.engine.senders:
        raise NetworkError(f"no interface at {listening} does multicast: {_FIX}")
