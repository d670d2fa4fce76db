"""The tormentors themselves: inputs come again from their seed, what does harm is noticed and can be sent again."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from peerlearn.transport.grpc.server import SERVICE
from peerlearn.wire.frames import serialize
from peerlearn.wire.seal import sealed
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.hostile.fuzz import Found, main, send
from tests.hostile.mutate import Case, Input, mutated
from tests.hostile.processes import sample, slope, worker
from tests.hostile.soak import thirds

INTRODUCTION = Input("Introduce", (sealed(pb.Introduction(group_tag="g").SerializeToString()),))
QUESTION = Input("Exchange", (serialize(pb.Frame(header=pb.Header(sender="a", query=pb.Query(want="params")))),))
UNARY = Input("UnaryExchange", QUESTION.messages)
SEEDS = [INTRODUCTION, QUESTION, UNARY, Input("Watch", (sealed(pb.WatchRequest(id="a").SerializeToString()),))]


def test_the_same_seed_makes_the_same_inputs_and_another_makes_others() -> None:
    one, two, other = ([mutated(SEEDS, random.Random(f"{seed}:{n}")) for n in range(300)] for seed in ("a", "a", "b"))
    assert one == two
    assert one != other
    assert {each.call for each in one} == {"Introduce", "Watch", "Exchange", "UnaryExchange"}
    assert sum(each in SEEDS for each in one) < 30, "most are changed"


def test_what_was_saved_is_sent_again_as_it_was(tmp_path: Path) -> None:
    case = Case("tag", INTRODUCTION, QUESTION, "it broke")
    case.save(tmp_path / "case.json")
    assert Case.load(tmp_path / "case.json") == case


def test_a_rise_is_told_from_a_peak() -> None:
    steady = [(float(n), 300.0 + (50.0 if n == 7 else 0.0)) for n in range(30)]
    assert slope(steady) == 0.0
    assert slope([(float(n), 300.0 + 2 * n) for n in range(30)]) == pytest.approx(2.0)
    assert slope([(1.0, 5.0)]) == 0.0
    assert thirds([1.0, 1.0, 5.0, 5.0, 9.0, 9.0]) == (1.0, 5.0, 9.0)


@asynccontextmanager
async def served(exchange: Any) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Exchange": grpc.stream_stream_rpc_method_handler(exchange)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


async def test_a_peer_that_fails_over_an_input_is_found_out() -> None:
    async def breaks(_: AsyncIterator[bytes], context: Any) -> None:
        await context.read()
        raise ZeroDivisionError

    async with served(breaks) as channel:
        for culprit in (QUESTION, UNARY):
            with pytest.raises(Found, match="ZeroDivisionError") as found:
                await send(channel, culprit)
            assert found.value.culprit == culprit


async def test_a_peer_that_hangs_over_an_input_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(_: AsyncIterator[bytes], context: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("tests.hostile.fuzz.HANG", 0.3)
    async with served(hangs) as channel:
        with pytest.raises(Found, match="no end within"):
            await send(channel, QUESTION)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory and files are read from /proc")
async def test_a_worker_says_how_it_is_and_which_model_it_has_in_the_end() -> None:
    settings: dict[str, Any] = {"name": "w", "tag": "t", "classes": [0, 1], "seed": 1, "strategy": "gossip"}
    async with worker(**settings, keeps=True, unseen=True, pause=0.01) as one:
        assert sample(one.pid).fds > 3
        own = await one.finish()
    async with worker(**settings, keeps=True, unseen=True, rounds=own["round"]) as two:
        assert (await two.says("done"))["model"] == own["model"], "its twin has the same, bit for bit"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory and files are read from /proc")
def test_five_seconds_of_fuzzing_harm_nobody(tmp_path: Path) -> None:
    assert main(["--seconds", "5", "--keep", str(tmp_path / "found")]) == 0
    assert not (tmp_path / "found").exists()
