"""Exchanges that break in the middle of an answer go on where they broke off, and cannot be led astray."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from peerlearn.config import MIB, Limits, Timing
from peerlearn.errors import Corrupt, PeerUnreachable, WireError
from peerlearn.knowledge import Params, Query, Question
from peerlearn.orchestrator.consumer.partial_answers import PartialAnswers
from peerlearn.testing import until
from peerlearn.testing.messages import ScriptedService, answer, body_of
from peerlearn.transport.base import Caller, Traffic
from peerlearn.transport.exchange.deadline import Overdue
from peerlearn.transport.exchange.protocol import ask, reply
from peerlearn.transport.exchange.resume import ResumableAnswers
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.transport.memory.transport import MemoryNetwork
from peerlearn.types import PROTOCOL, Address, PeerId
from peerlearn.wire.codec import encode_answer
from peerlearn.wire.compress import LinkEstimate, Packer
from peerlearn.wire.frames import Assembler, Block, Message, blocks, parse, serialize
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.fetching import BOB, fetcher

PROTO = pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1])
QUICK = Timing(base=2.0, stall=0.5)
BODY = 12 * MIB + 12345


def question(*, sender: str = "ada") -> Message:
    return Message(pb.Header(protocol=PROTO, sender=sender, query=pb.Query(want="params")), ())


# ---------------------------------------------------------------- both ends, and a connection that can be lost


class Wire:
    """One direction of a call: at most a few frames under way, and cut after so many bytes."""

    def __init__(self, cut_after: float = float("inf")) -> None:
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue(4)
        self.left = cut_after
        self.cut = asyncio.Event()
        self.moved = 0


class End:
    """One end's pipe. A lost connection ends both."""

    def __init__(self, incoming: Wire, outgoing: Wire, change: Callable[[bytes], bytes] = lambda data: data) -> None:
        self.incoming, self.outgoing, self.change = incoming, outgoing, change

    async def read(self) -> bytes | None:
        got = asyncio.ensure_future(self.incoming.frames.get())  # noqa: TID251  a test's own wire
        cut = asyncio.ensure_future(self.incoming.cut.wait())  # noqa: TID251
        try:
            done, _ = await asyncio.wait((got, cut), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (got, cut):
                task.cancel()
        if got not in done:
            raise PeerUnreachable("bob", "the connection was lost")
        return got.result()

    async def write(self, data: bytes) -> None:
        if self.outgoing.cut.is_set() or self.incoming.cut.is_set():
            raise PeerUnreachable("ada", "the connection was lost")
        data = self.change(data)
        self.outgoing.left -= len(data)
        if self.outgoing.left < 0:
            self.outgoing.cut.set()
            self.incoming.cut.set()
            raise PeerUnreachable("ada", "the connection was lost")
        self.outgoing.moved += len(data)
        await self.outgoing.frames.put(data)

    async def done(self) -> None:
        await self.outgoing.frames.put(None)


@dataclass
class Bob:
    """A provider that answers with the same bytes again and again, and counts how often it had to."""

    given: Message = field(default_factory=lambda: answer(BODY))
    resumable: ResumableAnswers = field(default_factory=lambda: ResumableAnswers(1 << 30))
    answered: int = 0
    down: Wire = field(default_factory=Wire)
    change: Callable[[bytes], bytes] = lambda data: data

    async def asked(
        self,
        asked: Message,
        *,
        into: PartialMessage | None = None,
        cut_after: float = float("inf"),
        link: LinkEstimate | None = None,
    ) -> Message:
        up, self.down = Wire(), Wire(cut_after)

        async def answers(_: Message) -> Message:
            self.answered += 1
            return self.given

        async def provide() -> None:
            with contextlib.suppress(PeerUnreachable):
                await reply(
                    End(up, self.down, self.change), ScriptedService(answers), lambda nbytes: None,
                    caller=Caller("memory"), timing=QUICK, limits=Limits(), link=link or LinkEstimate(loopback=True),
                    resumable=self.resumable,
                )  # fmt: skip
            if not self.down.cut.is_set():
                await self.down.frames.put(None)

        async with asyncio.TaskGroup() as group:
            provider = group.create_task(provide())
            failure: PeerUnreachable | WireError | None = None
            try:
                got, _ = await ask(
                    End(self.down, up),
                    asked,
                    into if into is not None else PartialMessage(),
                    peer="bob",
                    timing=QUICK,
                    limits=Limits(),
                    link=LinkEstimate(loopback=True),
                )
            except (PeerUnreachable, WireError) as error:
                failure = error
                provider.cancel()
        if failure is not None:
            raise failure
        return got


async def broken(bob: Bob, partial: PartialMessage, *, after: int = 5 * MIB) -> int:
    """Ask, and lose the connection; bytes of the body that have come."""
    with pytest.raises(PeerUnreachable, match="lost"):
        await bob.asked(question(), into=partial, cut_after=after)
    assert partial.resume is not None
    return partial.resume.at


async def test_the_second_attempt_carries_only_what_is_missing() -> None:
    bob, partial = Bob(), PartialMessage()
    came = await broken(bob, partial)
    assert came >= 4 * MIB
    got = await bob.asked(question(), into=partial)
    assert body_of(got) == body_of(bob.given)
    assert bob.down.moved < BODY - came + 2000
    assert bob.answered == 1
    assert partial.resume is None


async def test_what_was_sent_and_then_lost_in_the_networks_buffers_is_sent_again() -> None:
    bob, partial = Bob(), PartialMessage()
    up, down = Wire(), Wire()
    down.frames = asyncio.Queue(100)  # swallows all of it

    class Losing(End):
        """What was under way after a few frames never arrives."""

        arrived = 0

        async def read(self) -> bytes | None:
            self.arrived += 1
            if self.arrived > 5:
                await asyncio.Event().wait()
            return await super().read()

    async def answers(_: Message) -> Message:
        return bob.given

    async with asyncio.TaskGroup() as group:
        asking = group.create_task(
            ask(
                Losing(down, up),
                question(),
                partial,
                peer="bob",
                timing=QUICK,
                limits=Limits(),
                link=LinkEstimate(loopback=True),
            )
        )
        await reply(
            End(up, down), ScriptedService(answers), lambda nbytes: None, caller=Caller("memory"), timing=QUICK,
            limits=Limits(), link=LinkEstimate(loopback=True), resumable=bob.resumable,
        )  # fmt: skip
        await until(lambda: partial.resume is not None)
        asking.cancel()
    came = partial.resume.at if partial.resume else 0
    assert 0 < came < BODY
    assert body_of(await bob.asked(question(), into=partial)) == body_of(bob.given)
    assert bob.answered == 0
    assert bob.down.moved < BODY - came + 2000


async def test_an_answer_may_break_off_again_and_again() -> None:
    bob, partial, came = Bob(), PartialMessage(), 0
    for _ in range(4):
        now = await broken(bob, partial, after=3 * MIB)
        assert now > came
        came = now
    got = await bob.asked(question(), into=partial)
    assert body_of(got) == body_of(bob.given)
    assert bob.answered == 1


@pytest.mark.parametrize("start", [1, 4095, 4097, MIB - 3, MIB, 2 * MIB + 17, 3 * MIB + 4099])
def test_a_body_goes_on_at_any_byte_packed_or_plain(start: int) -> None:
    """Tensors of odd sizes, so that blocks cross them, and zeros, so that codecs are at work."""
    header, parts = pb.Header(protocol=PROTO), []
    header.knowledge.params.architecture = "a"
    for i, (dtype, count) in enumerate([("uint8", 3), ("float32", 1000), ("uint8", 93), ("float32", 800_000)]):
        values = np.arange(count, dtype=np.dtype(dtype))
        values[:: 2 if i % 2 else 50] = 0
        header.tensors.add(name=f"t{i}", dtype=dtype, shape=[count], stored=count)
        parts.append(values.view(np.uint8).data)
    header.body_bytes = sum(map(len, parts))
    message, packer = Message(header, tuple(parts)), Packer(LinkEstimate())
    if start > header.body_bytes:
        pytest.skip("beyond the end")
    whole = b"".join(map(bytes, parts))
    assembler = Assembler()
    first, *rest = blocks(message, packer, start=start)
    assembler.feed(parse(serialize(first)))
    place = assembler._place(min(start, 2 * MIB))
    for at in itertools.count(0, 2 * MIB):  # what came before, put there by hand
        piece = whole[at : min(start, at + 2 * MIB)]
        if not piece:
            break
        place = assembler._place(len(piece))
        place[:] = piece
        assembler._placed(place)
    for frame in rest:
        got = assembler.feed(parse(serialize(frame)))
    assert got is not None
    assert body_of(got) == whole


async def test_small_answers_are_not_kept() -> None:
    bob, partial = Bob(answer(MIB)), PartialMessage()
    with pytest.raises(PeerUnreachable):
        await bob.asked(question(), into=partial, cut_after=100_000)
    assert partial.resume is None
    assert len(bob.resumable) == 0


async def test_only_who_has_asked_may_go_on() -> None:
    bob, partial = Bob(), PartialMessage()
    await broken(bob, partial)
    assert partial.resume is not None
    thief = Thief(partial.resume)
    got = await bob.asked(question(sender="eve"), into=thief)
    assert got.header.resumed_at == 0
    assert bob.answered == 2


class Thief(PartialMessage):
    """Asks to go on with another's answer."""

    def __init__(self, stolen: pb.Resume) -> None:
        super().__init__()
        self._stolen = stolen

    @property
    def resume(self) -> pb.Resume | None:
        return self._stolen


async def test_a_provider_that_has_forgotten_gives_a_whole_answer() -> None:
    bob, partial = Bob(), PartialMessage()
    await broken(bob, partial)
    bob.resumable = ResumableAnswers(1 << 30)
    bob.given = answer(BODY + 1)
    got = await bob.asked(question(), into=partial)
    assert body_of(got) == body_of(bob.given)


async def test_what_a_provider_keeps_is_bounded_in_number_size_and_time() -> None:
    bob = Bob(resumable=ResumableAnswers(BODY + 1, broken=0.2))
    for _ in range(3):
        await broken(bob, PartialMessage())
        assert len(bob.resumable) == 1  # one per consumer
    with pytest.raises(PeerUnreachable):
        await bob.asked(question(sender="eve"), into=PartialMessage(), cut_after=5 * MIB)
    assert len(bob.resumable) == 1  # and no more bytes than that
    await until(lambda: not len(bob.resumable))


@pytest.mark.parametrize("lie", ["another byte", "another answer", "unasked"])
async def test_a_provider_that_goes_on_with_something_else_is_found_out(lie: str) -> None:
    bob, partial = Bob(), PartialMessage()

    def changed(data: bytes) -> bytes:
        frame = parse(data)
        if not (isinstance(frame, pb.Frame) and frame.HasField("header")):
            return data
        if lie == "another byte":
            frame.header.resumed_at -= 1
        elif lie == "another answer":
            frame.header.tensors[0].name = "v"
        else:
            frame.header.resumed_at = 5
        frame.ClearField("check")
        return serialize(frame)

    if lie != "unasked":
        await broken(bob, partial)
    bob.change = changed
    with pytest.raises(Corrupt, match=r"goes on at byte|not asked for"):
        await bob.asked(question(), into=partial)
    assert partial.resume is None or lie == "unasked"
    bob.change = lambda data: data
    assert body_of(await bob.asked(question())) == body_of(bob.given)


async def test_bytes_that_change_between_two_attempts_are_found_out_by_the_checksum() -> None:
    bob, partial = Bob(), PartialMessage()
    await broken(bob, partial)
    np.frombuffer(bob.given.body[0], np.uint8)[0] ^= 1
    with pytest.raises(Corrupt, match="checksum"):
        await bob.asked(question(), into=partial)
    assert partial.resume is None


# ---------------------------------------------------------------- over the transports


async def test_over_memory_an_answer_that_fell_silent_goes_on_at_the_next_attempt() -> None:
    network = MemoryNetwork(delay=0.2)
    asking, serving = network.transport(timing=QUICK), network.transport(timing=QUICK)
    given, partial = answer(2 * BODY), PartialMessage()

    async def answers(_: Message) -> Message:
        return given

    async with serving.serving(ScriptedService(answers)) as at:
        async with asyncio.TaskGroup() as group:
            group.create_task(_cut_when_some_came(network, at, partial))
            with pytest.raises(Overdue):
                await asking.exchange(at, question(), into=partial)
        assert partial.silent
        came = partial.resume.at if partial.resume else 0
        network.mend(at)
        got, traffic = await asking.exchange(at, question(), into=partial)
    assert body_of(got) == body_of(given)
    assert came > 0
    assert traffic.received_bytes < 2 * BODY - came + 2000


async def _cut_when_some_came(network: MemoryNetwork, at: Address, partial: PartialMessage) -> None:
    await until(lambda: partial.resume is not None)
    network.cut(at)


class Proxy:
    """Forwards TCP; the first connection is lost once so many bytes have come down."""

    def __init__(self, to: Address, lose_after: int) -> None:
        self.to, self.lose_after = to, lose_after
        self.down: list[int] = []
        self.open = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Address]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        try:
            yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
        finally:
            server.close()
            await until(lambda: not self.open)

    async def _forward(self, up: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        theirs, to_them = await asyncio.open_connection(self.to.host, self.to.port)
        number = len(self.down)
        self.down.append(0)
        self.open += 1
        try:
            async with asyncio.TaskGroup() as group:
                both = {group.create_task(_pump(up, to_them)), group.create_task(self._down(number, theirs, down))}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for each in both:
                    each.cancel()
        finally:
            down.transport.abort()
            to_them.transport.abort()
            self.open -= 1

    async def _down(self, number: int, theirs: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await theirs.read(64 * 1024):
                self.down[number] += len(data)
                if number == 0 and self.down[0] > self.lose_after:
                    return
                down.write(data)
                await down.drain()


async def _pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(64 * 1024):
            to.write(data)
            await to.drain()


async def test_over_grpc_a_lost_connection_costs_the_fetcher_only_the_bytes_in_flight() -> None:
    weights = torch.randn(6 * MIB)
    answered = 0

    async def answers(_: Message) -> Message:
        nonlocal answered
        answered += 1
        knowledge = Params(tensors={"w": weights}, architecture="a", version=3)
        return encode_answer(knowledge, sender=BOB, session="s1", strategy="distillation")

    async with GrpcTransport().serving(ScriptedService(answers)) as at:
        proxy = Proxy(at, lose_after=18 * MIB)
        async with proxy.serving() as between:
            async with GrpcTransport() as transport:
                fetch = await fetcher(transport, between).fetch(BOB, Question(Query(want="params")), patience=5)
    assert fetch.received is not None
    assert isinstance(fetch.received.knowledge, Params)
    got = fetch.received.knowledge.tensors["w"]
    assert isinstance(got, torch.Tensor)
    assert torch.equal(got, weights)
    assert len(proxy.down) == 2
    assert answered == 1
    assert proxy.down[1] < weights.nbytes - 8 * MIB
    assert fetch.traffic.received_bytes < weights.nbytes + MIB


class Silent:
    """A transport whose every exchange is given up by the deadline rule, in the middle of an answer."""

    def __init__(self) -> None:
        self.asked = 0

    async def exchange(
        self, to: Address, question: Message, *, into: PartialMessage | None = None, certificates: Any = ()
    ) -> tuple[Message, Traffic]:
        self.asked += 1
        header = pb.Header(protocol=PROTO, answer=b"x" * 16, body_bytes=2)
        header.knowledge.params.architecture = "a"
        header.tensors.add(name="w", dtype="uint8", shape=[2], stored=2)
        assert into is not None
        into.take(pb.Frame(header=header), Limits()).feed(Block((memoryview(b"y"),)))
        into.silent = True
        raise Overdue("bob", "nothing more came")


async def test_a_provider_that_falls_silent_is_not_asked_again_at_once() -> None:
    silent = Silent()
    with pytest.raises(PeerUnreachable):
        await fetcher(silent, Address("memory", 1)).fetch(BOB, Question(Query(want="params")), patience=1)
    assert silent.asked == 1


async def test_what_a_consumer_keeps_is_bounded_and_of_one_query() -> None:
    partials = PartialAnswers(3 * BODY)
    for number in range(5):
        bob, partial = Bob(), partials.take(PeerId(f"{number:032x}"), b"query")
        await broken(bob, partial)
        partials.keep(PeerId(f"{number:032x}"), b"query", partial)
        assert len(partials) <= 3
    last = PeerId(f"{4:032x}")
    assert partials.take(last, b"another query").resume is None
    assert partials.take(last, b"query").resume is None
