"""The side that takes: one lane after another, each timed from asking to the last byte in its place."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

from benchmarks import raw, raw_grpc
from benchmarks.payloads import live, make
from benchmarks.provider import LIMITS, ME, SESSION, STRATEGY
from peerlearn.config import Limits
from peerlearn.errors import ConfigError
from peerlearn.knowledge import Answer, Query, Question, Sparse
from peerlearn.security.group import Group
from peerlearn.security.passport import Passport
from peerlearn.transport.base import Credentials, Traffic
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import Address
from peerlearn.wire.codec import decode_answer, encode_question
from peerlearn.wire.frames import Message
from peerlearn.wire.protocol import our_protocol
from peerlearn.wire.v1 import fabric_pb2 as pb

_SMALL = b"x" * 64
"""Bytes of a bare echo: what an introduction without a card, or a question, is about as long as."""


class Consumer:
    """One connection per lane, opened at its first use."""

    def __init__(self, ports: dict[str, int], host: str, group: str) -> None:
        self.ports = ports
        self.host = host
        self._group = group
        self._passport: Passport | None = None
        self._stack = AsyncExitStack()
        self._channels: dict[str, raw.RawLine] = {}
        self._bare: dict[str, raw_grpc.BareLine] = {}
        self._transports: dict[str, GrpcTransport] = {}
        self._places: dict[int, memoryview] = {}
        self._live: dict[str, dict[str, object]] = {}

    async def close(self) -> None:
        await self._stack.aclose()

    # ---------------------------------------------------------------- what lanes need

    @property
    def passport(self) -> Passport:
        self._passport = self._passport or Passport(Group.load(Path(self._group)))
        return self._passport

    def place(self, nbytes: int) -> memoryview:
        """A destination that is there already, one for each size."""
        if nbytes not in self._places:
            self._places = {nbytes: raw.touched(nbytes)}  # one at a time: a billion bytes twice are too many
        return self._places[nbytes]

    def raw_line(self, lane: str) -> raw.RawLine:
        if lane not in self._channels:
            tls = raw.context(self.passport, server=False) if lane == "ssl" else None
            name = self.passport.server_name if lane == "ssl" else ""
            self._channels[lane] = raw.RawLine(self.ports[lane], tls, name, self.host)
            self._stack.callback(self._channels[lane].close)
        return self._channels[lane]

    def bare_line(self, kind: str) -> raw_grpc.BareLine:
        if kind not in self._bare:
            tls = kind == "tls"
            ports = {name: self.ports[f"{name}-tls" if tls else name] for name in ("bare", "generated")}
            self._bare[kind] = raw_grpc.BareLine(ports, self.passport if tls else None)
            self._stack.push_async_callback(self._bare[kind].close)
        return self._bare[kind]

    def new_transport(self, kind: str) -> GrpcTransport:
        credentials: Credentials | None = self.passport if kind == "tls" else None
        return GrpcTransport(limits=self.limits(kind), credentials=credentials)

    def limits(self, kind: str) -> Limits:
        return replace(LIMITS, look_ahead_bytes=64 * 1024) if kind == "low" else LIMITS

    def transport(self, kind: str = "plain") -> GrpcTransport:
        if kind not in self._transports:
            self._transports[kind] = self.new_transport(kind)
            self._stack.push_async_exit(self._transports[kind])
        return self._transports[kind]

    def address(self, kind: str) -> Address:
        return Address(self.host, self.ports["tls" if kind == "tls" else "none" if kind == "none" else "plain"])

    # ---------------------------------------------------------------- our own

    async def exchange(
        self,
        transport: GrpcTransport,
        kind: str,
        payload: str,
        *,
        cast: str = "",
        have: bool = False,
        to: Address | None = None,
    ) -> tuple[Message, Traffic]:
        """`have`: the question names the version that there is. `to`: another way to the same provider."""
        query = Query(
            want="params", select={"payload": payload}, have=1 if have else None, have_session=SESSION if have else "",
            cast=cast,
        )  # fmt: skip
        question = encode_question(Question(query), sender=ME, session=SESSION, strategy=STRATEGY)
        return await transport.exchange(to or self.address(kind), question)

    async def ask(
        self, transport: GrpcTransport, kind: str, payload: str, *, cast: str = "", have: bool = False
    ) -> Answer:
        """One exchange, as a fetcher makes it: question encoded, answer decoded."""
        message, _ = await self.exchange(transport, kind, payload, cast=cast, have=have)
        return decode_answer(message, limits=LIMITS)

    async def fabric(self, payload: str, *, kind: str = "plain", cast: str = "", have: bool = False) -> float:
        transport = self.transport(kind)
        start = time.perf_counter()
        await self.ask(transport, kind, payload, cast=cast, have=have)
        return time.perf_counter() - start

    async def into_model(self, payload: str) -> float:
        """State dict to live state dict: the exchange, and the copy into tensors that a model has."""
        transport = self.transport()
        if payload not in self._live:
            self._live[payload] = dict(live(make(payload)))
        model = self._live[payload]
        start = time.perf_counter()
        answer = await self.ask(transport, "plain", payload)
        for name, tensor in answer.tensors.items():  # type: ignore[union-attr]  # payloads are knowledge
            if not isinstance(tensor, Sparse):
                model[name].copy_(tensor)  # type: ignore[attr-defined]  # tensors, which this module does not name
        return time.perf_counter() - start

    async def cold(self, payload: str, kind: str) -> float:
        """With a connection of its own, from nothing."""
        start = time.perf_counter()
        async with self.new_transport(kind) as transport:
            await self.ask(transport, kind, payload)
            return time.perf_counter() - start

    async def introduce(self) -> float:
        said = pb.Introduction(protocol=our_protocol())
        transport, to = self.transport(), self.address("plain")
        start = time.perf_counter()
        await transport.introduce(to, said)
        return time.perf_counter() - start

    async def watched(self, count: int) -> list[float]:
        """Seconds that each of `count` notices was under way. Both sides read one monotonic clock: the machine's."""
        notices = self.transport().watch(self.address("plain"), pb.WatchRequest(id=str(count)))
        async with aclosing(notices):
            return [(time.monotonic_ns() - notice.version) / 1e9 async for notice in notices]

    # ---------------------------------------------------------------- by name

    async def lane(self, name: str, payload: str, nbytes: int) -> float:
        """Seconds of one pass. Raises ConfigError for a lane that there is not."""
        if name in ("tcp", "ssl"):
            return self.raw_line(name).take(payload, self.place(nbytes))
        if name == "memcpy":
            return raw.copy_seconds(nbytes)
        fabric = {
            "fabric": lambda: self.fabric(payload),
            "fabric-tls": lambda: self.fabric(payload, kind="tls"),
            "fabric-low": lambda: self.fabric(payload, kind="low"),
            "fabric-none": lambda: self.fabric(payload, kind="none"),
            "fabric-bf16": lambda: self.fabric(payload, cast="bfloat16"),
            "fabric-int8": lambda: self.fabric(payload, cast="int8"),
            "into-model": lambda: self.into_model(payload),
            "cold": lambda: self.cold(payload, "plain"),
            "cold-tls": lambda: self.cold(payload, "tls"),
            "not-modified": lambda: self.fabric(payload, have=True),
            "introduce": self.introduce,
        }
        if name in fabric:
            return await fabric[name]()
        return await self._bare_lane(name, payload, nbytes)

    async def _bare_lane(self, name: str, payload: str, nbytes: int) -> float:
        """Each lane's destination: there already, except for `-fresh`."""
        lanes: dict[str, Callable[[], Awaitable[None]]] = {
            "bare": lambda: self.bare_line("plain").blocks(payload, self.place(nbytes)),
            "bare-tls": lambda: self.bare_line("tls").blocks(payload, self.place(nbytes)),
            "bare-fresh": lambda: self.bare_line("plain").blocks(payload, raw_grpc.fresh(nbytes)),
            "chunked": lambda: self.bare_line("plain").frames(payload, self.place(nbytes)),
            "unary": lambda: self.bare_line("plain").unary(payload, self.place(nbytes)),
            "echo": lambda: self.bare_line("plain").echo(_SMALL),
            "echo-stream": lambda: self.bare_line("plain").echo_stream(_SMALL),
            "bare-cold": lambda: self._bare_cold("plain"),
            "bare-cold-tls": lambda: self._bare_cold("tls"),
        }
        if name not in lanes:
            raise ConfigError(f"there is no lane {name!r}")
        if nbytes and name in ("bare", "bare-tls", "chunked", "unary"):
            self.place(nbytes)  # not on the clock
        start = time.perf_counter()
        await lanes[name]()
        return time.perf_counter() - start

    async def _bare_cold(self, kind: str) -> None:
        tls = kind == "tls"
        ports = {name: self.ports[f"{name}-tls" if tls else name] for name in ("bare", "generated")}
        line = raw_grpc.BareLine(ports, self.passport if tls else None)
        try:
            await line.echo(_SMALL)
        finally:
            await line.close()
