"""What any transport must keep to in an exchange: bodies, refusals, limits, cancellation."""

import asyncio
from typing import Final

import numpy as np

from peerlearn.config import MIB, Limits
from peerlearn.errors import (
    ForeignProtocol,
    KnowledgeError,
    PeerRefused,
    RefusalReason,
    Truncated,
    WireError,
)
from peerlearn.testing.conformance.check import raises, require
from peerlearn.testing.conformance.pairs import Law, Pairs
from peerlearn.testing.messages import ScriptedService, answer, body_of, echo, forever, question
from peerlearn.testing.waiting import SOON
from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb

_SIZES = (0, 1, 3 * MIB + 5)
"""Bytes of a body: none, less than a block, several blocks and a rest."""
_OVERHEAD = 500
"""Bytes on the wire, at most, beside a body that does not compress."""


async def bodies_travel_in_both_directions(pairs: Pairs) -> None:
    """Header and body of question and answer arrive as they were sent, of every size, and the traffic is counted."""
    for brought in _SIZES:
        for given in _SIZES:
            await _travel(pairs, brought, given)


async def what_compresses_is_seen_in_the_traffic(pairs: Pairs) -> None:
    """A body of zeros travels compressed, and the traffic names the codec."""
    async with pairs.two() as (_, b, at):
        got, traffic = await b.exchange(at, question(array=np.zeros(4 * MIB, np.uint8)))
    require(body_of(got) == bytes(4 * MIB), "a compressed body has changed on its way")
    require(traffic.codec == "lz4", f"the traffic names {traffic.codec!r} as the codec, not 'lz4'")
    require(max(traffic.received_bytes, traffic.sent_bytes) < 100_000, "a body of zeros was not compressed")


async def two_that_ask_each_other_at_once_both_get_answers(pairs: Pairs) -> None:
    """Two peers that ask each other at the same time do not wait for each other."""
    a, b = pairs.make(), pairs.make()
    async with (
        a.serving(ScriptedService()) as at_a,
        b.serving(ScriptedService()) as at_b,
        asyncio.timeout(SOON),
        asyncio.TaskGroup() as both,
    ):
        one = both.create_task(a.exchange(at_b, question(MIB)))
        two = both.create_task(b.exchange(at_a, question(MIB)))
    bodies = {body_of(one.result()[0]), body_of(two.result()[0]), body_of(question(MIB))}
    require(len(bodies) == 1, "two exchanges at once have mixed up their bodies")


async def a_question_is_refused_before_its_body_flows(pairs: Pairs) -> None:
    """A question that is not admitted is refused by its header, however large its body."""

    def refuse(header: pb.Header) -> None:
        raise PeerRefused("bob", RefusalReason.EXPOSURE, f"not for {header.sender}")

    async with pairs.two(ScriptedService(admits=refuse)) as (_, b, at):
        for size in (0, 64 * MIB):
            with raises(PeerRefused, "a question that is not admitted was not refused") as caught:
                await b.exchange(at, question(array=np.empty(size, np.uint8)))
            refused(caught, RefusalReason.EXPOSURE, "not for ada", at)


async def errors_of_an_answer_are_told_as_refusals(pairs: Pairs) -> None:
    """What the service raises while it answers reaches the consumer as a refusal with a reason."""
    for error, reason in (
        (PeerRefused("bob", RefusalReason.VERSION, "no"), RefusalReason.VERSION),
        (KnowledgeError("another shape"), RefusalReason.UNFIT),
        (ForeignProtocol("another"), RefusalReason.PROTOCOL),
        (Truncated("half"), RefusalReason.OTHER),
    ):
        async with pairs.two(_raising(error)) as (_, b, at):
            for size in (0, MIB):
                with raises(PeerRefused, f"{type(error).__name__} of an answer was not told as a refusal") as caught:
                    await b.exchange(at, question(size))
                refused(caught, reason, "", at)


async def more_than_the_provider_takes_is_refused(pairs: Pairs) -> None:
    """A question larger than the provider's limits is refused, and the next one is answered."""
    async with pairs.two(limits=Limits(body_bytes=MIB)) as (_, b, at):
        with raises(PeerRefused, "a question beyond the provider's limits was not refused") as caught:
            await b.exchange(at, question(2 * MIB))
        refused(caught, RefusalReason.LIMITS, "at most 1048576", at)
        got, _ = await b.exchange(at, question(MIB))
        require(body_of(got) == body_of(question(MIB)), "a body has changed on its way")


async def more_than_the_consumer_takes_is_an_error_there(pairs: Pairs) -> None:
    """An answer larger than the consumer's limits raises WireError at the consumer."""

    async def large(asked: Message) -> Message:
        return answer(2 * MIB)

    a, b = pairs.make(), pairs.make(limits=Limits(body_bytes=MIB))
    async with a.serving(ScriptedService(large)) as at, b.serving(ScriptedService()):
        with raises(WireError, "an answer beyond the consumer's limits was taken") as caught:
            await b.exchange(at, question())
        require("at most 1048576" in str(caught[0]), "the error does not say how much is taken")


async def one_exchange_too_many_is_refused_as_busy(pairs: Pairs) -> None:
    """More exchanges at once than the limits allow are refused as busy."""
    started = asyncio.Event()

    async def slowly(asked: Message) -> Message:
        started.set()
        return await forever(asked)

    limits = Limits(exchanges=1)
    async with pairs.two(ScriptedService(slowly), limits=limits) as (_, b, at), asyncio.TaskGroup() as group:
        first = group.create_task(b.exchange(at, question()))
        await started.wait()
        for size in (0, MIB):
            with raises(PeerRefused, "an exchange beyond the limit was not refused") as caught:
                await b.exchange(at, question(size))
            refused(caught, RefusalReason.BUSY, "try again", at)
        first.cancel()


async def a_cancelled_exchange_ends_at_both_sides(pairs: Pairs) -> None:
    """Cancelling an exchange cancels its answer, and frees its place for the next one."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def slowly(asked: Message) -> Message:
        started.set()
        try:
            return await forever(asked)
        finally:
            ended.set()

    service = ScriptedService(slowly)
    async with pairs.two(service, limits=Limits(exchanges=1)) as (_, b, at):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(b.exchange(at, question()))
            await started.wait()
            task.cancel()
        require(task.cancelled(), "a cancelled exchange was not cancelled")
        try:
            await asyncio.wait_for(ended.wait(), SOON)
        except TimeoutError:
            raise AssertionError("the exchange was cancelled, and the provider still answers") from None
        service.answers = echo
        await asyncio.sleep(0)
        await b.exchange(at, question())


LAWS: Final[tuple[Law, ...]] = (
    bodies_travel_in_both_directions,
    what_compresses_is_seen_in_the_traffic,
    two_that_ask_each_other_at_once_both_get_answers,
    a_question_is_refused_before_its_body_flows,
    errors_of_an_answer_are_told_as_refusals,
    more_than_the_provider_takes_is_refused,
    more_than_the_consumer_takes_is_an_error_there,
    one_exchange_too_many_is_refused_as_busy,
    a_cancelled_exchange_ends_at_both_sides,
)


def refused(caught: list[Exception], reason: RefusalReason, said: str, at: Address) -> None:
    """Raises AssertionError unless this refusal was caught, with this in its sentence, from this address."""
    (error,) = caught
    assert isinstance(error, PeerRefused)
    require(error.reason is reason, f"the refusal gives the reason {error.reason.name}, not {reason.name}")
    require(said in str(error), f"the refusal does not say {said!r}: {error}")
    require(error.peer == str(at), f"the refusal comes from {error.peer}, not from {at}")


async def _travel(pairs: Pairs, brought: int, given: int) -> None:
    arrived: list[Message] = []

    async def answers(asked: Message) -> Message:
        arrived.append(asked)
        return answer(given)

    asked = question(brought)
    async with pairs.two(ScriptedService(answers)) as (_, b, at):
        got, traffic = await b.exchange(at, asked)
    require(arrived[0].header == asked.header, "the header of a question has changed on its way")
    require(body_of(arrived[0]) == body_of(asked), f"a question's body of {brought} bytes has changed on its way")
    require(body_of(got) == body_of(answer(given)), f"an answer's body of {given} bytes has changed on its way")
    require(traffic.body_bytes == given, f"the traffic counts {traffic.body_bytes} bytes of a body of {given}")
    counted = 0 <= traffic.received_bytes - given < _OVERHEAD and 0 <= traffic.sent_bytes - brought < _OVERHEAD
    require(counted, f"the traffic counts {traffic.sent_bytes} bytes up for {brought}, {traffic.received_bytes} down")
    require(traffic.seconds > 0, "the traffic counts no time")


def _raising(error: Exception) -> ScriptedService:
    async def answers(asked: Message) -> Message:
        raise error

    return ScriptedService(answers)
