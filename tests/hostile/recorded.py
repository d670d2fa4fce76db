"""Real calls between real peers, written down as they arrive: what the fuzzer starts from."""

import asyncio
from contextlib import suppress
from typing import Any
from unittest import mock

from peerlearn.arguments import Internals, Network
from peerlearn.config import brisk
from peerlearn.discovery.static import Static
from peerlearn.errors import PeerUnreachable
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.peer import Peer
from peerlearn.strategies.gossip import Gossip
from peerlearn.testing import blob_learner
from peerlearn.transport.base import Caller
from peerlearn.transport.exchange.dispatcher import Dispatcher
from peerlearn.transport.exchange.protocol import Pipe
from peerlearn.wire.frames import Block, parse, serialize
from peerlearn.wire.seal import sealed
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.hostile.mutate import Call, Input


async def calls(tag: str) -> list[Input]:
    """Introductions, watches, and questions that bring a body and that bring none, of a peer in this group; these last
    also as unary calls."""
    kept: list[Input] = []

    class Recording(Dispatcher):
        async def introduce(self, data: bytes, caller: Caller) -> bytes:
            kept.append(Input("Introduce", (data,)))
            return await super().introduce(data, caller)

        def watch(self, data: bytes, caller: Caller, more: Any = None) -> Any:
            kept.append(Input("Watch", (data,)))
            return super().watch(data, caller, more)

        async def exchange(self, pipe: Pipe, caller: Caller) -> None:
            heard = Heard(pipe)
            try:
                await super().exchange(heard, caller)
            finally:
                kept.append(Input("Exchange", tuple(heard.frames)))

    with mock.patch("peerlearn.transport.grpc.transport.Dispatcher", Recording):
        async with _peer("amber", tag, 1) as amber:
            async with _peer("birch", tag, 2, Static([amber.address])) as birch:
                await birch.meet(1, timeout=30)
                with suppress(PeerUnreachable):
                    await amber.meet(1, timeout=10)
                await birch.run(2)
                await asyncio.sleep(0.5)
                return _useful(kept, birch.id)


def _peer(name: str, tag: str, seed: int, *discovery: Static) -> Peer:
    its = blob_learner([0, 1], seed, hidden=32)
    return Peer(
        its,
        name=name,
        strategy=Gossip(),
        gate=Gate(metric="off"),
        network=Network(group_tag=tag, timing=brisk()),
        internals=Internals(discovery=discovery),
    )


def _useful(kept: list[Input], sender: str) -> list[Input]:
    """Birch's own calls, and a question of it without a body; the peers that it names are left out, so that nobody is
    sent to call at made-up addresses."""
    chosen: dict[tuple[Call, int], Input] = {}
    for each in kept:
        if each.call == "Introduce":
            introduction = pb.Introduction.FromString(each.messages[0])
            if sender.encode() not in introduction.card.card:
                continue
            introduction.ClearField("known")
            introduction.ClearField("check")
            introduction.known.add(id="nobody").addresses.add(host="127.0.0.1", port=9)
            each = Input("Introduce", (sealed(introduction.SerializeToString()),))
        elif sender.encode() not in b"".join(each.messages[:1]):
            continue
        chosen[each.call, len(each.messages)] = each
    question = next(each for each in chosen.values() if each.call == "Exchange")
    frame = parse(question.messages[0])
    assert not isinstance(frame, Block)
    plain = pb.Frame()
    plain.CopyFrom(frame)
    plain.ClearField("check")
    for field in ("knowledge", "tensors", "body_bytes"):
        plain.header.ClearField(field)
    missing = {"Introduce", "Watch", "Exchange"} - {each.call for each in chosen.values()}
    assert not missing, f"no {missing} was recorded"
    bringing = pb.Frame()
    bringing.CopyFrom(plain)
    bringing.header.knowledge.params.architecture = "a"
    bringing.header.tensors.add(name="w", dtype="float32", shape=[100], stored=100)
    bringing.header.body_bytes = 400
    bringing.whole = bytes(400)
    unary = [Input("UnaryExchange", (serialize(each),)) for each in (plain, bringing)]
    return [*chosen.values(), Input("Exchange", (serialize(plain),)), *unary]


class Heard:
    """A pipe that keeps what it reads."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.frames: list[bytes] = []

    async def read(self) -> bytes | None:
        data = await self._pipe.read()
        if data is not None:
            self.frames.append(data)
        return data

    async def write(self, data: bytes) -> None:
        await self._pipe.write(data)

    async def done(self) -> None:
        await self._pipe.done()
