"""Peers on the local network, over multicast DNS (RFC 6762, 6763). A record is a hint: it outlives its peer."""

import asyncio
import ipaddress
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from peerlearn.discovery.base import Announcement, Hint, Listener
from peerlearn.discovery.interfaces import (
    ANY_V6,
    LOOPBACK,
    Interface,
    interfaces,
    is_any,
    is_loopback,
    nearest_first,
    own_hosts,
)
from peerlearn.errors import NetworkError
from peerlearn.tasks import Background, background
from peerlearn.types import Address

SERVICE = "_peerlearn._tcp.local."
SOURCE = "mdns"
_INSTANCE = re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}\._peerlearn\._tcp\.local\.")
_PREFIX = re.compile(r"[0-9a-f]{12}")
_RESOLVE_MS = 3000
_RESOLVING_MOST = 64  # at once; a flood of invented names costs no more than that
_ADDRESSES_MOST = 16
_FIX = "check that an interface is up and takes multicast (peerlearn doctor), or name the others with --peer HOST:PORT"


class Mdns:
    """Announces on, and listens to, the networks that belong to the host that the peer listens on.

    Loopback stays on loopback; one address: the interface that has it; 0.0.0.0 or ::, the default: all interfaces.
    Entering raises NetworkError when no interface can do multicast.
    """

    def __init__(self, listening: str = ANY_V6) -> None:
        self._listening = listening

    @asynccontextmanager
    async def announcing(self, me: Announcement, listener: Listener) -> AsyncIterator[None]:
        """An announcement without a port only listens: others are hinted to us, and we to nobody."""
        zeroconf = _open(self._listening)
        try:
            await _check_open(zeroconf.zeroconf, self._listening)
            async with background() as tasks:
                hearing = _Hearing(zeroconf.zeroconf, me, listener, tasks)
                mine = self._record(me) if me.port else None
                if mine is not None:
                    hearing.ignore(mine.name)
                    # Its name is unique by its random part: no need to probe for conflicts for a second.
                    sending = await zeroconf.async_register_service(mine, cooperating_responders=True)
                    tasks.start(_finish(sending), name="mdns:announce")
                browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[hearing.changed])
                try:
                    yield
                finally:
                    await browser.async_cancel()
                    tasks.cancel()
                    if mine is not None:
                        await (await zeroconf.async_unregister_service(mine))
        finally:
            await zeroconf.async_close()

    def _record(self, me: Announcement) -> AsyncServiceInfo:
        name = f"{me.id_prefix}-{secrets.token_hex(4)}"
        hosts = [LOOPBACK] if is_loopback(self._listening) else own_hosts(self._listening)
        return AsyncServiceInfo(
            SERVICE,
            f"{name}.{SERVICE}",
            server=f"{name}.local.",
            parsed_addresses=[host.partition("%")[0] for host in hosts if _is_ip(host)][:_ADDRESSES_MOST],
            port=me.port,
            properties={"v": str(me.protocol_major), "id": me.id_prefix, "g": me.group_hash},
        )


class _Hearing:
    """What is heard of others. Records of other groups and other majors, and those that are none, are passed over."""

    def __init__(self, zeroconf: Zeroconf, me: Announcement, listener: Listener, tasks: Background) -> None:
        self._zeroconf = zeroconf
        self._me = me
        self._listener = listener
        self._tasks = tasks
        self._own: set[str] = set()
        self._hinted: set[str] = set()
        self._resolving: dict[str, asyncio.Task[None]] = {}

    def ignore(self, name: str) -> None:
        self._own.add(name)

    def changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name in self._own or not _INSTANCE.fullmatch(name):
            return
        resolving = self._resolving.pop(name, None)
        if resolving is not None:
            resolving.cancel()
        if state_change is ServiceStateChange.Removed:
            self._withdraw(name)
        elif len(self._resolving) < _RESOLVING_MOST:
            self._resolving[name] = self._tasks.start(self._resolve(name), name=f"mdns:{name[:12]}")

    async def _resolve(self, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        known = info.load_from_cache(self._zeroconf) or await info.async_request(self._zeroconf, _RESOLVE_MS)
        if self._resolving.get(name) is asyncio.current_task():
            del self._resolving[name]
        hint = self._hint(name, info) if known else None
        if hint is not None:
            self._hinted.add(name)
            self._listener.hinted(hint)
        elif known:
            self._withdraw(name)

    def _withdraw(self, name: str) -> None:
        if name in self._hinted:
            self._hinted.remove(name)
            self._listener.withdrawn(SOURCE, name.removesuffix(f".{SERVICE}"))

    def _hint(self, name: str, info: AsyncServiceInfo) -> Hint | None:
        text = info.properties
        prefix = (text.get(b"id") or b"").decode("ascii", "replace")
        mine = (str(self._me.protocol_major).encode(), self._me.group_hash.encode())
        if (text.get(b"v"), text.get(b"g")) != mine or not _PREFIX.fullmatch(prefix) or not name.startswith(prefix):
            return None
        hosts = [host for host in info.parsed_scoped_addresses(IPVersion.All) if _callable(host)]
        hosts = nearest_first(hosts, interfaces())[:_ADDRESSES_MOST]
        if not hosts or not info.port or not 1 <= info.port <= 65535:
            return None
        addresses = tuple(Address(host, info.port) for host in hosts)
        return Hint(addresses=addresses, source=SOURCE, key=name.removesuffix(f".{SERVICE}"), id_prefix=prefix)


async def _finish(sending: Awaitable[None]) -> None:
    await sending


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _callable(host: str) -> bool:
    ip = ipaddress.ip_address(host.partition("%")[0])
    needs_scope = ip.version == 6 and ip.is_link_local
    return not (ip.is_unspecified or ip.is_multicast) and (not needs_scope or "%" in host)


def _open(listening: str) -> AsyncZeroconf:
    chosen = _chosen(listening, interfaces())
    if not chosen:
        raise NetworkError(f"no interface for mDNS at {listening}: {_FIX}")
    try:
        zeroconf = AsyncZeroconf(interfaces=chosen)
    except (OSError, RuntimeError) as exc:
        v4 = [choice for choice in chosen if isinstance(choice, str) and ":" not in choice]
        if not v4 or v4 == chosen:
            raise NetworkError(f"mDNS cannot be used on {listening} ({exc}): {_FIX}") from exc
        zeroconf = _open_v4(v4, listening)
    return zeroconf


async def _check_open(zeroconf: Zeroconf, listening: str) -> None:
    # Zeroconf passes over every interface that refuses multicast, and goes on deaf when none is left.
    await zeroconf.async_wait_for_start()
    if not zeroconf.engine.senders:
        raise NetworkError(f"no interface at {listening} does multicast: {_FIX}")


def _open_v4(chosen: Sequence[str], listening: str) -> AsyncZeroconf:
    # IPv6 may be listed and yet switched off; what is left is tried before giving up.
    try:
        return AsyncZeroconf(interfaces=list(chosen), ip_version=IPVersion.V4Only)
    except (OSError, RuntimeError) as exc:
        raise NetworkError(f"mDNS cannot be used on {listening} ({exc}): {_FIX}") from exc


def _chosen(listening: str, mine: Sequence[Interface]) -> list[str | int]:
    """What zeroconf is to use: IPv4 addresses, and for IPv6 the index of the interface."""
    if is_loopback(listening):
        return [LOOPBACK]
    some = [i for i in mine if is_any(listening) or i.address == listening.partition("%")[0]]
    some = some or [i for i in mine if not _is_ip(listening)]
    v4: list[str | int] = [i.address for i in some if i.ip.version == 4]
    v6: list[str | int] = sorted({i.index for i in some if i.ip.version == 6 and not i.ip.is_loopback})
    return v4 + (v6 if listening == ANY_V6 or ":" in listening else [])
