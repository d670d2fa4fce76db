"""One provider, many consumers: whose turn it is, how much is in flight, and that beats do not wait behind bulk."""

import asyncio
import json
import statistics
import subprocess
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack, suppress

import grpc
import grpc.aio
import pytest

from peerlearn.config import MIB, Limits
from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.testing import until
from peerlearn.testing.messages import ScriptedService, answer, forever
from peerlearn.testing.messages import question as small_question
from peerlearn.transport.base import Caller
from peerlearn.transport.exchange.fair_queue import FairQueue
from peerlearn.transport.grpc.channels import options
from peerlearn.transport.grpc.server import SERVICE
from peerlearn.wire.frames import serialize
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.fair_peer import ROOMY, question
from tests.support.fair_provider import provider
from tests.support.namespaces import Lan, lan
from tests.support.transports import Make, make

__all__ = ["lan", "make"]  # fixtures


def caller(name: str) -> Caller:
    return Caller("10.0.0.1", certificates=(name.encode(),))


class Sender:
    """Sends blocks one after another, each for as long as it is told, and writes down whose turn it was."""

    def __init__(self, turns: FairQueue, name: str, served: list[str]) -> None:
        self._turns = turns
        self._name = name
        self._served = served
        self.taken = asyncio.Event()
        """Set: the network has taken the block."""

    async def send(self, blocks: int) -> None:
        with self._turns.exchange(caller(self._name)) as turn:
            for _ in range(blocks):
                async with turn(MIB):
                    self._served.append(self._name)
                    await self.taken.wait()


async def test_consumers_who_wait_are_served_in_turn() -> None:
    """However many exchanges one of them has under way."""
    turns, served = FairQueue(Limits()), list[str]()
    async with asyncio.TaskGroup() as group:
        ada, bob = Sender(turns, "ada", served), Sender(turns, "bob", served)
        for _ in range(10):
            group.create_task(ada.send(1))
        await asyncio.sleep(0)
        group.create_task(bob.send(1))
        await asyncio.sleep(0)
        assert served == ["ada"] * 4
        ada.taken.set()
        bob.taken.set()
    assert served.index("bob") == 5, "after one of the six of hers that waited"
    assert turns.in_flight == 0


async def test_no_more_is_in_flight_than_the_limit() -> None:
    turns, served = FairQueue(Limits(in_flight_bytes=2 * MIB)), list[str]()
    async with asyncio.TaskGroup() as group:
        senders = [Sender(turns, name, served) for name in ("ada", "bob", "cyd")]
        for sender in senders:
            group.create_task(sender.send(1))
        await asyncio.sleep(0.1)  # longer than any is waited for
        assert served == ["ada", "bob"]
        assert turns.in_flight == 2 * MIB
        senders[0].taken.set()
        await until(lambda: served == ["ada", "bob", "cyd"])
        for sender in senders:
            sender.taken.set()
    assert turns.in_flight == 0


async def test_slow_consumers_keep_nobody_from_a_turn() -> None:
    turns, served = FairQueue(Limits()), list[str]()
    async with asyncio.TaskGroup() as group:
        slow = [Sender(turns, f"slow{number}", served) for number in range(4)]
        for sender in slow:
            group.create_task(sender.send(1))
        await asyncio.sleep(0)
        quick = Sender(turns, "quick", served)
        quick.taken.set()
        group.create_task(quick.send(3))
        await until(lambda: served.count("quick") == 3)
        assert turns.in_flight == 4 * MIB, "theirs are in flight still"
        for sender in slow:
            sender.taken.set()


async def test_who_leaves_while_it_waits_is_forgotten() -> None:
    turns, served = FairQueue(Limits(in_flight_bytes=1)), list[str]()
    async with asyncio.TaskGroup() as group:
        ada, bob, cyd = (Sender(turns, name, served) for name in ("ada", "bob", "cyd"))
        group.create_task(ada.send(1))
        await asyncio.sleep(0)
        waiting = group.create_task(bob.send(1))
        group.create_task(cyd.send(1))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        ada.taken.set()
        await until(lambda: "cyd" in served)
        cyd.taken.set()
    assert served == ["ada", "cyd"]
    assert turns.in_flight == 0


async def test_one_consumer_may_not_take_all_exchanges(make: Make) -> None:
    asked = asyncio.Event()

    async def hang(_: object) -> object:
        asked.set()
        return await forever(answer())

    provider, greedy, modest = make(limits=Limits(exchanges_per_peer=1)), make(), make()
    service = ScriptedService(hang)  # type: ignore[arg-type]
    async with provider.serving(service) as at, greedy.serving(ScriptedService()), modest.serving(ScriptedService()):
        async with asyncio.TaskGroup() as group:
            first = group.create_task(greedy.exchange(at, small_question()))
            await asked.wait()
            with pytest.raises(PeerRefused, match="1 exchanges with you are under way") as caught:
                await greedy.exchange(at, small_question())
            assert caught.value.reason is RefusalReason.BUSY
            asked.clear()
            second = group.create_task(modest.exchange(at, small_question()))
            await asked.wait()  # it is let in
            first.cancel()
            second.cancel()


# ---------------------------------------------------------------- processes


async def test_a_slow_consumer_costs_its_provider_a_few_blocks_of_memory() -> None:
    """Three of them take 100 MB each, ten blocks a second."""
    async with provider() as (process, at), AsyncExitStack() as stack:
        frame = serialize(pb.Frame(header=question(100_000_000).header))
        calls: list[grpc.aio.UnaryStreamCall[bytes, bytes]] = []
        for _ in range(3):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(str(at), options=options(ROOMY)))
            ask: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{SERVICE}/Exchange")
            calls.append(ask(frame))
            await calls[-1].read()  # the header: the answer itself is there
        before = process.memory_info().rss
        for _ in range(15):
            for call in calls:
                assert len(await call.read()) > MIB  # type: ignore[arg-type]
            await asyncio.sleep(0.1)
        grown = process.memory_info().rss - before
        for call in calls:
            call.cancel()
    assert grown < 12 * MIB


@pytest.fixture
def slow_lan(lan: Lan) -> Lan:
    """10 Mbit/s from left to right."""
    shaped = ["tc", "qdisc", "add", "dev", "lan0", "root", "tbf", "rate", "10mbit", "burst", "32kb", "latency", "50ms"]
    done = subprocess.run(["ip", "netns", "exec", lan.left, *shaped], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"links cannot be slowed down here: {done.stderr.strip()}")
    return lan


async def test_beats_do_not_wait_behind_bulk_on_a_slow_link(slow_lan: Lan) -> None:
    """What lies in the buffers of one connection takes more than a second to pass."""
    lan = slow_lan
    async with provider(lan.left_ip, space=lan.left) as (_, at):
        consumer = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", lan.right, sys.executable, "-m", "tests.support.fair_peer", "consumer", str(at), "5",
            stdout=PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            late = json.loads((await consumer.communicate())[0])
    assert len(late) > 20
    assert statistics.median(late[len(late) // 2 :]) < 0.5
