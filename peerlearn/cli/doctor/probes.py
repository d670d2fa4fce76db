"""What makes discovery on a LAN fail, tried out one by one: for `peerlearn doctor`, which prints what they say."""

import asyncio
import importlib.metadata
import ipaddress
import os
import re
import resource
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from peerlearn.discovery.base import Announcement, Hint
from peerlearn.discovery.interfaces import Interface, interfaces, is_any, own_hosts
from peerlearn.discovery.mdns import Mdns
from peerlearn.errors import NetworkError

_MULTICAST = "239.255.77.77"  # of the range for one's own use (RFC 2365), so that nobody else is disturbed
_MULTICAST_WAIT = 1.0
_MDNS_WAIT = 3.0
_CONNECT_WAIT = 2.0
_CLOCK_SAMPLE = 0.2
_CLOCK_SLACK = 0.1
_EARLIEST = time.mktime((2025, 1, 1, 0, 0, 0, 0, 0, 0))
_LATEST = time.mktime((2100, 1, 1, 0, 0, 0, 0, 0, 0))
_FILES_PER_PEER = 4
_FILES_BASE = 64
_FILES_WANTED = 512


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing tried: what was seen, and, when it is not well, what to do."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


async def examine(listening: str = "0.0.0.0", port: int = 0) -> list[Probe]:
    """Every probe, in the order in which causes come before effects; takes a few seconds at most."""
    network = [reach_out(), *await multicast(), *await mdns(), *await reachable(listening, port)]
    return [*network, await clock(), versions(), fork_hazard(), file_descriptors()]


def reach_out() -> Probe:
    """Whether an interface leads out of this machine, and not only to its own containers or to itself."""
    mine = interfaces()
    outward = sorted({i.name for i in mine if not i.inward and not i.ip.is_loopback})
    inward = sorted({i.name for i in mine if i.inward})
    # A container that shares its host's network has the host's interfaces; one behind a bridge has just this.
    behind_bridge = Path("/.dockerenv").exists() and all(_of_docker(i) for i in mine if not i.ip.is_loopback)
    if behind_bridge and outward:
        fix = "multicast does not leave a container's bridge: start it with --network host, or use --peer HOST:PORT"
        return Probe("interfaces", False, f"this is a container behind a bridge ({', '.join(outward)})", fix)
    if outward:
        more = f"; for containers only: {', '.join(inward)}" if inward else ""
        return Probe("interfaces", True, f"out of this machine lead: {', '.join(outward)}{more}")
    detail = f"only container networks ({', '.join(inward)})" if inward else "only loopback"
    return Probe(
        "interfaces", False, f"{detail} is up", "connect to a network: peers on this machine alone can meet now"
    )


def _of_docker(interface: Interface) -> bool:
    return interface.name == "eth0" and (
        interface.ip.version == 6 or interface.ip in ipaddress.ip_network("172.16.0.0/12")
    )


async def multicast() -> list[Probe]:
    """Send to a multicast group on every IPv4 interface, and hear it on the same."""
    probes = []
    for interface in _v4():
        name = f"multicast {interface.name} {interface.address}"
        try:
            heard = await asyncio.to_thread(_loops_back, interface.address)
        except OSError as exc:
            probes.append(Probe(name, False, f"cannot be used: {exc.strerror}", _multicast_fix(interface)))
            continue
        if heard:
            probes.append(Probe(name, True, "sent and heard"))
        else:
            probes.append(
                Probe(name, False, f"sent, not heard within {_MULTICAST_WAIT:g} s", _multicast_fix(interface))
            )
    return probes


def _loops_back(address: str) -> bool:
    token = secrets.token_bytes(16)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hear,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as say,
    ):
        hear.settimeout(_MULTICAST_WAIT)
        hear.bind((_MULTICAST, 0))
        group = socket.inet_aton(_MULTICAST) + socket.inet_aton(address)
        hear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        say.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        say.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        say.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        say.sendto(token, (_MULTICAST, hear.getsockname()[1]))
        end = time.monotonic() + _MULTICAST_WAIT
        while time.monotonic() < end:
            try:
                if hear.recv(64) == token:
                    return True
            except TimeoutError:
                return False
    return False


def _multicast_fix(interface: Interface) -> str:
    return (
        f"ip link set {interface.name} multicast on; let UDP 5353 through the firewall (for example "
        "ufw allow 5353/udp); on Wi-Fi, switch off client isolation; or name the others with --peer HOST:PORT"
    )


async def mdns() -> list[Probe]:
    """Announce on every IPv4 interface under a group of our own, and be found there by a second listener."""
    async with asyncio.TaskGroup() as trying:
        tasks = [trying.create_task(_found_by_mdns(interface)) for interface in _v4()]
    return [task.result() for task in tasks]


async def _found_by_mdns(interface: Interface) -> Probe:
    name = f"mDNS {interface.name} {interface.address}"
    me = Announcement(
        id_prefix=secrets.token_hex(6), group_hash=f"doctor-{secrets.token_hex(6)}", port=9, protocol_major=0
    )
    finder = _Finder(me.id_prefix)
    began = time.monotonic()
    try:
        async with AsyncExitStack() as stack:
            looking = replace(me, id_prefix="", port=0)
            await stack.enter_async_context(Mdns(interface.address).announcing(looking, finder))
            await stack.enter_async_context(Mdns(interface.address).announcing(me, _Finder("")))
            async with asyncio.timeout(_MDNS_WAIT):
                await finder.found.wait()
    except TimeoutError:
        return Probe(name, False, f"not found within {_MDNS_WAIT:g} s", _multicast_fix(interface))
    except NetworkError as exc:
        return Probe(name, False, str(exc), _multicast_fix(interface))
    return Probe(name, True, f"found after {1000 * (time.monotonic() - began):.0f} ms")


class _Finder:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.found = asyncio.Event()

    def hinted(self, hint: Hint) -> None:
        if self._prefix and hint.id_prefix == self._prefix:
            self.found.set()

    def withdrawn(self, source: str, key: str) -> None:
        return None


async def reachable(listening: str = "0.0.0.0", port: int = 0) -> list[Probe]:
    """Listen as a peer would (at whatever listens there already, when the port is taken), and connect to every own
    address. What a firewall does to others cannot be seen from here, and the probe says so."""
    try:
        server = await asyncio.start_server(_hang_up, listening or None, port or None, reuse_address=True)
    except OSError as exc:
        if not port:
            fix = "choose an address of this machine for --listen, see `ip addr`"
            return [Probe(f"listen {listening}", False, f"cannot listen: {exc.strerror}", fix)]
        return [await _connects(host, port, "somebody listens already") for host in own_hosts(listening)]
    async with server:
        bound = server.sockets[0].getsockname()[1]
        hosts = own_hosts(listening) if is_any(listening) else [listening]
        return [await _connects(host, bound, "we listen") for host in hosts]


async def _connects(host: str, port: int, how: str) -> Probe:
    name = f"port {host}:{port}"
    fix = f"let TCP port {port} through the firewall, here and on the way (for example ufw allow {port}/tcp)"
    try:
        async with asyncio.timeout(_CONNECT_WAIT):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Probe(name, False, f"{how}; no connection within {_CONNECT_WAIT:g} s", fix)
    except OSError as exc:
        return Probe(name, False, f"{how}; no connection: {exc.strerror or exc}", fix)
    writer.close()
    await writer.wait_closed()
    return Probe(name, True, f"{how}, and it connects from this machine; from another one a firewall may differ")


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def clock(now: Callable[[], float] = time.time) -> Probe:
    """Beats need none, but certificates and records need a wall clock that is about right and runs evenly."""
    fix = "set the clock (timedatectl set-ntp true)"
    wall, even = now(), time.monotonic()
    await asyncio.sleep(_CLOCK_SAMPLE)
    drift = (now() - wall) - (time.monotonic() - even)
    today = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall))
    if not _EARLIEST <= wall <= _LATEST:
        return Probe("clock", False, f"it says {today}", fix)
    if abs(drift) > _CLOCK_SLACK:
        return Probe("clock", False, f"it jumped by {drift:+.2f} s within {_CLOCK_SAMPLE:g} s", fix)
    return Probe("clock", True, f"{today}, and runs evenly")


def versions(distribution: str = "peerlearn") -> Probe:
    """What is installed, against what the package says that it needs; nothing is imported."""
    try:
        needed = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return Probe("versions", False, f"{distribution} is not installed", f"pip install {distribution}")
    wrong = [problem for problem in map(_unmet, needed) if problem]
    if wrong:
        return Probe("versions", False, "; ".join(wrong), f"pip install --upgrade {distribution}")
    python = ".".join(map(str, sys.version_info[:3]))
    return Probe("versions", True, f"{distribution} {importlib.metadata.version(distribution)}, Python {python}")


def _unmet(requirement: str) -> str:
    """Why a requirement such as 'torch<2.14,>=2.6' is not met; "" when it is, or when it is an extra's."""
    match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(;.*)?$", requirement)
    if match is None or "extra" in (match[3] or ""):
        return ""
    try:
        have = importlib.metadata.version(match[1])
    except importlib.metadata.PackageNotFoundError:
        return f"{match[1]} is missing"
    bounds = [bound.strip() for bound in match[2].split(",") if bound.strip()]
    return "" if all(_holds(have, bound) for bound in bounds) else f"{match[1]} is {have}, needed is {match[2].strip()}"


def _holds(have: str, bound: str) -> bool:
    match = re.match(r"(>=|<=|==|!=|>|<|~=)\s*([0-9.]+)", bound)
    if match is None:
        return True
    ours, theirs = _release(have), _release(match[2])
    width = max(len(ours), len(theirs))
    left, right = (part + (0,) * (width - len(part)) for part in (ours, theirs))
    return {
        ">=": left >= right,
        "<=": left <= right,
        "==": left == right,
        "!=": left != right,
        ">": left > right,
        "<": left < right,
        "~=": left >= right and ours[: len(theirs) - 1] == theirs[:-1],
    }[match[1]]


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def fork_hazard() -> Probe:
    """A process that forks beside a live gRPC server (a DataLoader with workers does) can crash its children."""
    setting = os.environ.get("GRPC_ENABLE_FORK_SUPPORT")
    if setting is None and "grpc" in sys.modules:
        detail = "grpc was imported before peerlearn could switch off its fork handlers"
        return Probe("fork", False, detail, "export GRPC_ENABLE_FORK_SUPPORT=0, or import peerlearn first")
    if setting not in (None, "0", "false"):
        detail = f"GRPC_ENABLE_FORK_SUPPORT is {setting!r}: DataLoader workers that fork may crash"
        return Probe("fork", False, detail, "export GRPC_ENABLE_FORK_SUPPORT=0")
    return Probe("fork", True, "gRPC's fork handlers are off: DataLoader workers may fork")


def file_descriptors() -> Probe:
    """Every peer known costs a few: one connection each way, and those of their watches."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Probe("open files", True, "no limit")
    peers = max(0, (soft - _FILES_BASE) // _FILES_PER_PEER)
    detail = f"at most {soft} open files: enough for about {peers} peers"
    return Probe("open files", soft >= _FILES_WANTED, detail, "" if soft >= _FILES_WANTED else "ulimit -n 4096")


def _v4() -> Iterable[Interface]:
    return [interface for interface in interfaces() if interface.ip.version == 4]
