"""Discovery on the local network by multicast DNS (RFC 6762, 6763). Records are hints only: they outlive a peer."""

import asyncio
import ipaddress
import re
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from peerlearn.discovery.base import Announcement, Hint, Listener
from peerlearn.discovery.interfaces import ANY_V6, LOOPBACK, interfaces, is_loopback, nearest_first, own_hosts
from peerlearn.discovery.networks import Networks, is_ip
from peerlearn.tasks import Background, background
from peerlearn.types import Address

SERVICE = "_peerlearn._tcp.local."
SOURCE = "mdns"
_INSTANCE = re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}\._peerlearn\._tcp\.local\.")
_PREFIX = re.compile(r"[0-9a-f]{12}")
_RESOLVE_MS = 3000
"""Milliseconds to wait for a record's addresses: zeroconf's own default for such a request."""
_RESOLVING_MOST = 64
"""Upper bound on names resolved at once, so that a flood of invented names costs no more than that."""
_ADDRESSES_MOST = 16
"""Upper bound on addresses taken from one record: as many as a card may name by default."""


class Mdns:
    """Announces a peer, and finds others, on the networks of the host that the peer listens on.

    Loopback: on loopback only. One address: on the interface that has it. 0.0.0.0 or :: (the default): on all
    interfaces, including those that appear later. The interfaces are read every `look` seconds: less finds a new one
    sooner, and costs a system call more often. Entering `announcing` raises NetworkError if no interface can do
    multicast.
    """

    def __init__(self, listening: str = ANY_V6, *, look: float = 3.0) -> None:
        self._listening = listening
        self._look = look

    @asynccontextmanager
    async def announcing(self, me: Announcement, listener: Listener) -> AsyncIterator[None]:
        """Announce and listen, inside the block. With port 0 it only listens."""
        networks = Networks(self._listening)
        zeroconf = await networks.open()
        try:
            async with background() as tasks:
                hearing = _Hearing(zeroconf.zeroconf, me, listener, tasks)
                name = f"{me.id_prefix}-{secrets.token_hex(4)}" if me.port else ""
                if name:
                    hearing.ignore(f"{name}.{SERVICE}")
                    # The random part makes the name unique, so zeroconf need not probe for conflicts for a second.
                    sending = await zeroconf.async_register_service(self._record(name, me), cooperating_responders=True)
                    tasks.start(_finish(sending), name="mdns:announce")
                hearing.begin()
                tasks.supervise(
                    lambda: self._roam(zeroconf, networks, hearing, name, me),
                    name="mdns:interfaces",
                    lost="new networks are not noticed",
                )
                try:
                    yield
                finally:
                    tasks.cancel()
                    await hearing.end()
                    if name:
                        await (await zeroconf.async_unregister_service(self._record(name, me)))
        finally:
            await zeroconf.async_close()

    async def _roam(
        self, zeroconf: AsyncZeroconf, networks: Networks, hearing: "_Hearing", name: str, me: Announcement
    ) -> None:
        """Follow the interfaces, until cancelled: when one comes, goes or changes its address, announce again and ask
        again for peers. Records of other peers are kept, because mDNS cannot tell whether a peer is alive."""
        while True:
            await asyncio.sleep(self._look)
            if await networks.follow(zeroconf):
                if name:
                    await (await zeroconf.async_update_service(self._record(name, me)))
                await hearing.end()
                hearing.begin()

    def _record(self, name: str, me: Announcement) -> AsyncServiceInfo:
        hosts = [LOOPBACK] if is_loopback(self._listening) else own_hosts(self._listening)
        return AsyncServiceInfo(
            SERVICE,
            f"{name}.{SERVICE}",
            server=f"{name}.local.",
            parsed_addresses=[host.partition("%")[0] for host in hosts if is_ip(host)][:_ADDRESSES_MOST],
            port=me.port,
            properties={"v": str(me.protocol_major), "id": me.id_prefix, "g": me.group_hash},
        )


class _Hearing:
    """Turns records of other peers into hints. Ignores records of other groups, of other major versions, and records
    that are malformed."""

    def __init__(self, zeroconf: Zeroconf, me: Announcement, listener: Listener, tasks: Background) -> None:
        self._zeroconf = zeroconf
        self._me = me
        self._listener = listener
        self._tasks = tasks
        self._own: set[str] = set()
        self._hinted: set[str] = set()
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._browser: AsyncServiceBrowser | None = None

    def begin(self) -> None:
        """Ask for peers on all interfaces, and listen for records."""
        self._browser = AsyncServiceBrowser(self._zeroconf, SERVICE, handlers=[self.changed])

    async def end(self) -> None:
        """Stop listening."""
        browser, self._browser = self._browser, None
        if browser is not None:
            await browser.async_cancel()

    def ignore(self, name: str) -> None:
        """Ignore this record: it is the peer's own."""
        self._own.add(name)

    def changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """Called by zeroconf, on the event loop, when a record was added, updated or removed."""
        if name in self._own or not _INSTANCE.fullmatch(name):
            return
        resolving = self._resolving.pop(name, None)
        if resolving is not None:
            resolving.cancel()
        if state_change is ServiceStateChange.Removed:
            self._withdraw(name)
        elif len(self._resolving) < _RESOLVING_MOST:
            self._resolving[name] = self._tasks.supervise(
                lambda: self._resolve(name), name=f"mdns:{name[:12]}", lost="this peer is not found by mDNS"
            )

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


def _callable(host: str) -> bool:
    ip = ipaddress.ip_address(host.partition("%")[0])
    needs_scope = ip.version == 6 and ip.is_link_local
    return not (ip.is_unspecified or ip.is_multicast) and (not needs_scope or "%" in host)
