"""What any transport must keep to: small calls, and silence. Exchanges have a module of their own."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from peerlearn.config import Limits
from peerlearn.errors import PeerRefused, PeerUnreachable, RefusalReason
from peerlearn.testing.conformance import exchanging
from peerlearn.testing.conformance.check import Check, checks_of, raises, require
from peerlearn.testing.conformance.pairs import Law, Maker, Pairs
from peerlearn.testing.leaks import nothing_left
from peerlearn.testing.messages import QUICK, EndlessWatch, ScriptedService, forever, introduction, question
from peerlearn.testing.waiting import SOON, timed
from peerlearn.transport.base import Transport
from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb


def transport(make: Maker, *, again: Callable[[Address], Transport] | None = None) -> tuple[Check, ...]:
    """The checks that any transport must pass.

        @pytest.mark.parametrize("check", conformance.transport(MyNetwork().transport), ids=str)
        def test_my_transport_keeps_to_the_contract(check):
            check()

    make: a new transport with `make(timing=..., limits=...)`, both with defaults; all that it makes reach one another.
    again: a new transport that serves at an address where another one has served before. None: the same transport can
        serve a second time.
    """
    return checks_of([*LAWS, *exchanging.LAWS], Pairs(make, again))


async def introductions_are_answered(pairs: Pairs) -> None:
    """An introduction is answered, and says where the caller was seen."""
    async with pairs.two() as (_, b, at):
        reply = await b.introduce(at, introduction())
    require(reply.observed, "the answer to an introduction does not say where the caller was seen")
    require([other.id for other in reply.known] == ["eve"], "the answer to an introduction has changed on its way")


async def a_refused_introduction_says_why(pairs: Pairs) -> None:
    """A refusal comes with its reason, its sentence and the peer's address, and the next call is answered."""
    async with pairs.two() as (_, b, at):
        with raises(PeerRefused, "a refused introduction raised nothing") as caught:
            await b.introduce(at, introduction("strangers"))
        _refused(caught, RefusalReason.GROUP, "another group: überall", at)
        require((await b.introduce(at, introduction())).known, "after a refusal the peer was not reached any more")


async def another_protocol_is_refused_with_both_versions(pairs: Pairs) -> None:
    """Introductions and questions of another major version are refused; the sentence names both versions."""
    foreign = pb.Protocol(major=2, minor=5)
    async with pairs.two() as (_, b, at):
        for call in (
            lambda: b.introduce(at, pb.Introduction(protocol=foreign)),
            lambda: b.exchange(at, Message(pb.Header(protocol=foreign))),
        ):
            with raises(PeerRefused, "another major version of the protocol was not refused") as caught:
                await call()
            _refused(caught, RefusalReason.PROTOCOL, "2.5", at)


async def an_introduction_beyond_the_limits_is_refused(pairs: Pairs) -> None:
    """What is larger than the serving side's limits is refused."""
    async with pairs.two(limits=Limits(card_bytes=100, acquaintances=1)) as (_, b, at):
        with raises(PeerRefused, "an introduction beyond the limits was not refused") as caught:
            await b.introduce(at, introduction("x" * 2000))
        _refused(caught, RefusalReason.LIMITS, "", at)


async def a_watch_gives_notices_in_order_and_ends(pairs: Pairs) -> None:
    """Notices come in the order in which they were sent, and the watch ends with the peer's end."""
    async with pairs.two() as (_, b, at):
        notices = [notice async for notice in b.watch(at, pb.WatchRequest(id="ada"))]
    kinds = [notice.WhichOneof("body") for notice in notices]
    require(kinds == ["beat", "beat", "beat", "goodbye"], f"other notices came than were sent: {kinds}")
    require([notice.beat.count for notice in notices[:3]] == [0, 1, 2], "notices came in another order")


async def a_refused_watch_says_why(pairs: Pairs) -> None:
    """A watch that is refused raises the reason at the first notice."""
    async with pairs.two() as (_, b, at):
        with raises(PeerRefused, "a refused watch raised nothing") as caught:
            await anext(b.watch(at, pb.WatchRequest(id="stranger")))
        _refused(caught, RefusalReason.UNKNOWN_PEER, "introduce yourself", at)


async def a_watcher_that_leaves_ends_the_watch_at_both_sides(pairs: Pairs) -> None:
    """Closing a watch ends it at the serving side; one watch more than the limits allow is refused as busy."""
    service = EndlessWatch()
    async with pairs.two(service, limits=Limits(watches=1)) as (_, b, at):
        async with aclosing(b.watch(at, pb.WatchRequest())) as notices:
            require((await anext(notices)).version == 1, "a notice has changed on its way")
            with raises(PeerRefused, "a watch beyond the limit was not refused") as caught:
                await anext(b.watch(at, pb.WatchRequest()))
            _refused(caught, RefusalReason.BUSY, "", at)
        try:
            await asyncio.wait_for(service.left.wait(), SOON)
        except TimeoutError:
            raise AssertionError("a watcher left, and the serving side still watches") from None


async def a_server_that_leaves_ends_its_watches_quickly(pairs: Pairs) -> None:
    """When a peer stops serving its watchers get PeerUnreachable, within three seconds."""
    a, b = pairs.make(), pairs.make()
    with timed() as watch:
        async with b.serving(ScriptedService()):
            async with a.serving(EndlessWatch()) as at:
                notices = b.watch(at, pb.WatchRequest())
                await anext(notices)
            with raises(PeerUnreachable, "the server left, and its watcher was not told"):
                await anext(notices)
    require(watch.seconds < 3, f"it took {watch.seconds:.1f} s to leave a server that was watched")


async def the_callers_own_error_comes_out_as_it_went_in(pairs: Pairs) -> None:
    """An error of the block in which a transport serves is raised as it is."""
    with raises(ZeroDivisionError, "an error of the serving block was swallowed"):
        async with pairs.make().serving(ScriptedService()):
            raise ZeroDivisionError


async def a_peer_that_is_not_there_is_told_at_once(pairs: Pairs) -> None:
    """An address at which no peer serves raises PeerUnreachable, at once, for every call."""
    a, b = pairs.make(), pairs.make()
    async with a.serving(ScriptedService()) as at:
        pass
    async with b.serving(ScriptedService()):
        with timed() as watch:
            for _ in range(2):
                for call in (
                    lambda: b.exchange(at, question()),
                    lambda: b.introduce(at, introduction()),
                    lambda: anext(b.watch(at, pb.WatchRequest())),
                ):
                    with raises(PeerUnreachable, "a call to an address without a peer raised nothing") as caught:
                        await call()
                    require(str(at) in str(caught[0]), "the error does not name the address")
    require(watch.seconds < 2, f"it took {watch.seconds:.1f} s to say that no peer is there")


async def a_provider_that_never_answers_costs_one_base_window(pairs: Pairs) -> None:
    """Without an answer an exchange raises PeerUnreachable when `timing.base` is over: not before, and soon after."""
    a, b = pairs.make(timing=QUICK), pairs.make(timing=QUICK)
    async with a.serving(ScriptedService(forever)) as at, b.serving(ScriptedService()):
        for size in (0, 1 << 20):
            began = asyncio.get_running_loop().time()
            with timed() as watch, raises(PeerUnreachable, "an exchange without an answer raised nothing"):
                await b.exchange(at, question(size))
            waited = asyncio.get_running_loop().time() - began
            require(waited > 0.8 * QUICK.base, f"an answer was waited for {waited:.1f} of {QUICK.base:g} s only")
            require(watch.seconds < 2, f"an answer was waited for {watch.seconds:.1f} s instead of {QUICK.base:g} s")


async def a_provider_that_returns_is_reached_at_once(pairs: Pairs) -> None:
    """A peer that serves again at its address is reached by the first call."""
    a, b = pairs.make(), pairs.make()
    async with b.serving(ScriptedService()):
        async with a.serving(ScriptedService()) as at:
            await b.exchange(at, question())
        with raises(PeerUnreachable, "a peer that had left was still reached"):
            await b.exchange(at, question())
        returned = a if pairs.again is None else pairs.again(at)
        async with returned.serving(ScriptedService()) as there:
            require(there == at, "a transport that serves again does so at another address")
            await b.exchange(at, question())


async def reach_tells_whether_a_peer_listens(pairs: Pairs) -> None:
    """`reach` returns where a peer listens, and raises PeerUnreachable where none does."""
    a, b = pairs.make(), pairs.make()
    async with b.serving(ScriptedService()):
        async with a.serving(ScriptedService()) as at:
            await b.reach(at)
        with raises(PeerUnreachable, "`reach` found a peer that had left"):
            await b.reach(at)


async def leaving_leaves_nothing_behind(pairs: Pairs) -> None:
    """After the serving blocks no task, thread or descriptor is left."""
    async with pairs.two() as (_, b, at):  # what a library keeps for good, it has now
        await b.exchange(at, question())
    async with nothing_left(), pairs.two() as (_, b, at):
        await b.exchange(at, question(1 << 20))
        async for _ in b.watch(at, pb.WatchRequest(id="ada")):
            pass


LAWS: Final[tuple[Law, ...]] = (
    introductions_are_answered,
    a_refused_introduction_says_why,
    another_protocol_is_refused_with_both_versions,
    an_introduction_beyond_the_limits_is_refused,
    a_watch_gives_notices_in_order_and_ends,
    a_refused_watch_says_why,
    a_watcher_that_leaves_ends_the_watch_at_both_sides,
    a_server_that_leaves_ends_its_watches_quickly,
    the_callers_own_error_comes_out_as_it_went_in,
    a_peer_that_is_not_there_is_told_at_once,
    a_provider_that_never_answers_costs_one_base_window,
    a_provider_that_returns_is_reached_at_once,
    reach_tells_whether_a_peer_listens,
    leaving_leaves_nothing_behind,
)


def _refused(caught: list[Exception], reason: RefusalReason, said: str, at: Address) -> None:
    exchanging.refused(caught, reason, said, at)
