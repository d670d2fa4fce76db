"""Peers that introduce themselves, watch one another, fall silent, leave and return: over memory and over gRPC."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc.aio
import pytest

from peerlearn.config import brisk
from peerlearn.directory import Directory, Liveness
from peerlearn.discovery.lobby import Lobby
from peerlearn.errors import ConfigError, IdentityError, NetworkError, PeerRefused, PeerUnreachable, RefusalReason
from peerlearn.events import PeerChanged
from peerlearn.membership import Membership, Observer
from peerlearn.membership.watching import Watcher
from peerlearn.security import Identity, open_card, sign_card
from peerlearn.simulation.loop import VirtualLoop
from peerlearn.tasks import background
from peerlearn.testing import SOON, timed
from peerlearn.transport.base import Caller, Transport
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.transport.memory.transport import MemoryNetwork, MemoryTransport
from peerlearn.types import PROTOCOL, Address, Card, PeerId
from peerlearn.wire.seal import sealed
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.members import LIMITS, Guest, MembershipNetwork, Served

DEAD = Address("127.0.0.1", 9)


@pytest.fixture(params=["memory", "grpc"])
def village(request: pytest.FixtureRequest) -> MembershipNetwork:
    return MembershipNetwork(request.param)


async def within(seconds: float, guest: Guest, *names: str) -> None:
    """Wait until just these are alive."""
    async with asyncio.timeout(seconds):
        await guest.membership.until(lambda _: guest.names() == sorted(names))


async def watched(guest: Guest, *others: Guest) -> None:
    """Wait until these watch the guest: from now on its goodbye is heard."""
    async with asyncio.timeout(SOON):
        while not all(guest.membership._watchers.watched_by(o.id) for o in others):  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)


async def test_strangers_in_a_lobby_meet_and_know_each_other(village: MembershipNetwork) -> None:
    lobby = Lobby()
    async with village.peer("amber", lobby=lobby) as amber, village.peer("birch", lobby=lobby) as birch:
        async with village.peer("cedar", lobby=lobby) as cedar:
            await within(SOON, amber, "birch", "cedar")
            await within(SOON, birch, "amber", "cedar")
            await within(SOON, cedar, "amber", "birch")
            seen = amber.directory.find("birch")
            assert (seen.address, seen.reached, seen.card.histogram) == (birch.address, True, (1, 2))
            assert amber.life("birch") == ["confirmed"]


async def test_one_told_address_is_enough_for_all_to_meet(village: MembershipNetwork) -> None:
    async with village.peer("amber") as amber:
        async with village.peer("birch", peers=[amber.address]) as birch:
            await within(SOON, amber, "birch")
            async with village.peer("cedar", peers=[birch.address]) as cedar:
                await within(SOON, cedar, "amber", "birch")
                await within(SOON, amber, "birch", "cedar")


async def test_a_hint_at_oneself_is_dropped(village: MembershipNetwork) -> None:
    async with village.peer("birch") as birch:
        async with AsyncExitStack() as stack:
            transport = village.transport()
            identity = Identity.ephemeral()
            directory = Directory(identity.id, group_tag="", timing=village.timing, limits=LIMITS)
            served: list[Membership] = []

            class Late(Served):
                def __init__(self) -> None:
                    return None

                async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
                    return await served[0].introduce(introduction, caller)

                def watch(self, request: pb.WatchRequest, caller: Caller) -> Any:
                    return served[0].watch(request, caller)

                async def told(self, request: pb.WatchRequest, caller: Caller, notices: Any) -> None:
                    await served[0].told(request, caller, notices)

            address = await stack.enter_async_context(transport.serving(Late()))
            membership = Membership(
                identity,
                directory,
                transport,
                [],
                timing=village.timing,
                limits=LIMITS,
                peers=[address, birch.address],
            )
            served.append(membership)
            card = Card(id=identity.id, name="amber", session="s1")
            await stack.enter_async_context(membership.running(address, card))
            async with asyncio.timeout(SOON):
                await membership.until(lambda d: len(d.alive()) == 1)
            assert [contact.name for contact in directory] == ["birch"]
            assert membership.problems == ()


async def hears_of_news(listener: Guest, speaker: Guest, version: int) -> None:
    """Wait until this version of the speaker's has been heard of, and then a card that it shows from now on."""
    async with asyncio.timeout(SOON):
        await listener.membership.until(lambda d: d.find(speaker.name).version == version)
    speaker.membership.update(replace(speaker.membership.card, metrics={"shared": 0.5}))
    async with asyncio.timeout(SOON):
        await listener.membership.until(lambda d: d.find(speaker.name).card.metrics == {"shared": 0.5})


async def test_new_versions_and_cards_reach_those_who_watch(village: MembershipNetwork) -> None:
    lobby = Lobby()
    async with village.peer("amber", lobby=lobby) as amber, village.peer("birch", lobby=lobby) as birch:
        await within(SOON, amber, "birch")
        birch.membership.announce_version(7)
        birch.membership.announce_version(6)
        await hears_of_news(amber, birch, 7)
        assert amber.directory.find("birch").version == 7
        # Who comes now hears of version 7 at once.
        async with village.peer("cedar", peers=[birch.address]) as cedar:
            await within(SOON, cedar, "amber", "birch")
            assert cedar.directory.find("birch").version == 7


async def test_goodbye_is_noticed_at_once_and_is_not_silence(village: MembershipNetwork) -> None:
    lobby = Lobby()
    async with village.peer("amber", lobby=lobby) as amber:
        async with village.peer("birch", lobby=lobby) as birch:
            await within(SOON, amber, "birch")
            await watched(birch, amber)
        with timed() as watch:
            await within(SOON, amber)
        assert watch.seconds < 0.5
        assert amber.life("birch") == ["confirmed", "left"]


async def test_a_silent_peer_is_suspect_then_gone_then_back() -> None:
    village = MembershipNetwork("memory")
    lobby = Lobby()
    async with village.peer("amber", lobby=lobby) as amber, village.peer("birch", lobby=lobby) as birch:
        await within(SOON, amber, "birch")
        await within(SOON, birch, "amber")
        village.network.cut(birch.address)
        start = asyncio.get_running_loop().time()
        with timed() as watch:
            await within(SOON, amber)
        assert amber.directory.find("birch").status is Liveness.SUSPECT
        assert asyncio.get_running_loop().time() - start >= village.timing.suspect_after - 2 * village.timing.beat
        assert watch.seconds <= 2 * village.timing.suspect_after + 0.5  # once more where the loop was held up meanwhile
        async with asyncio.timeout(SOON):
            await amber.membership.until(lambda d: d.get(birch.id) is None)
            await birch.membership.until(lambda d: d.get(amber.id) is None)
        village.network.mend(birch.address)
        await within(SOON, amber, "birch")
        await within(SOON, birch, "amber")
        assert amber.life("birch") == ["confirmed", "suspect", "gone", "back"]


async def test_a_short_cut_ends_in_back_without_gone() -> None:
    village = MembershipNetwork("memory")
    async with village.peer("amber") as amber, village.peer("birch", peers=[amber.address]) as birch:
        await within(SOON, amber, "birch")
        await within(SOON, birch, "amber")
        village.network.cut(birch.address)
        await within(SOON, amber)
        village.network.mend(birch.address)
        await within(SOON, amber, "birch")
        assert amber.life("birch") == ["confirmed", "suspect", "back"]


async def test_a_peer_is_recognised_after_a_restart_at_another_address(village: MembershipNetwork) -> None:
    me = Identity.ephemeral()
    async with village.peer("amber") as amber:
        async with village.peer("birch", peers=[amber.address], identity=me) as birch:
            await within(SOON, amber, "birch")
            await watched(birch, amber)
            before = amber.directory.find("birch")
        async with village.peer("birch", peers=[amber.address], identity=me) as birch:
            await within(SOON, amber, "birch")
            after = amber.directory.find("birch")
            assert after.id == before.id
            assert after.session != before.session
            assert after.address == birch.address != before.address
        assert amber.life("birch")[:3] == ["confirmed", "left", "back"]


async def test_a_second_process_with_the_same_identity_gives_up(village: MembershipNetwork) -> None:
    me = Identity.ephemeral()
    async with village.peer("amber") as amber, village.peer("birch", peers=[amber.address], identity=me) as first:
        await within(SOON, amber, "birch")
        await within(SOON, first, "amber")
        with pytest.raises(IdentityError, match="in use elsewhere"):
            async with village.peer("copy", peers=[amber.address], identity=me):
                await asyncio.sleep(SOON)
        assert amber.directory.find("birch").alive
        assert first.names() == ["amber"]


async def test_a_copy_whose_network_comes_late_gives_up_all_the_same() -> None:
    village, me = MembershipNetwork("memory"), Identity.ephemeral()
    late = village.timing.gone_after + village.timing.suspect_after

    class Late:
        @asynccontextmanager
        async def announcing(self, _: Any, listener: Any) -> AsyncIterator[None]:
            from peerlearn.discovery.base import Hint

            hint = Hint(addresses=(amber.address,), source="mdns", key="k", id_prefix=amber.id[:12])
            asyncio.get_running_loop().call_later(late, listener.hinted, hint)
            yield

    async with village.peer("amber") as amber, village.peer("birch", peers=[amber.address], identity=me):
        await within(SOON, amber, "birch")
        with pytest.raises(IdentityError, match="in use elsewhere"):
            async with village.peer("copy", discoveries=[Late()], identity=me):
                await asyncio.sleep(SOON)
        assert amber.directory.find("birch").alive


async def test_a_twin_that_meets_the_first_directly_gives_up(village: MembershipNetwork) -> None:
    me = Identity.ephemeral()
    async with village.peer("birch", identity=me, session="1-older") as first:
        with pytest.raises(IdentityError, match="in use elsewhere"):
            async with village.peer("copy", peers=[first.address], identity=me, session="2-newer"):
                await asyncio.sleep(SOON)
        assert list(first.directory) == []


async def test_other_groups_are_refused_and_the_user_is_told(village: MembershipNetwork) -> None:
    async with village.peer("amber", group_tag="red") as amber:
        async with village.peer("birch", peers=[amber.address], group_tag="blue") as birch:
            async with asyncio.timeout(SOON):
                while not birch.membership.problems:  # noqa: ASYNC110  problems are read, not waited for
                    await asyncio.sleep(0.02)
            assert len(birch.membership.problems) == 1
            assert "another group" in birch.membership.problems[0]
            assert "--group-tag" in birch.membership.problems[0]
            assert str(amber.address) in birch.membership.problems[0]
            assert [e.status for e in birch.events.of(PeerChanged)] == ["refused"]
            assert list(amber.directory) == list(birch.directory) == []


async def test_another_protocol_is_refused_with_the_reason(village: MembershipNetwork) -> None:
    async with village.peer("amber") as amber:
        asking = village.transport()
        future = pb.Introduction(protocol=pb.Protocol(major=PROTOCOL[0] + 1))
        with pytest.raises(PeerRefused) as refused:
            await asking.introduce(amber.address, future)
        assert refused.value.reason is RefusalReason.PROTOCOL
        newer_minor = pb.Introduction(protocol=pb.Protocol(major=PROTOCOL[0], minor=99))
        assert (await asking.introduce(amber.address, newer_minor)).HasField("card")
        await closed(asking)


async def test_a_forged_card_is_refused(village: MembershipNetwork) -> None:
    async with village.peer("amber") as amber:
        asking = village.transport()
        liar, victim = Identity.ephemeral(), Identity.ephemeral()
        signed = sign_card(victim, Card(id=victim.id, name="victim", session="s"))
        tampered = pb.SignedCard(
            card=signed.card + b"\x18\x01", public_key=signed.public_key, signature=signed.signature
        )
        stolen = pb.SignedCard(card=signed.card, public_key=liar.public_key, signature=liar.sign(signed.card))
        for forged in (tampered, stolen):
            with pytest.raises(PeerRefused) as refused:
                await asking.introduce(
                    amber.address, pb.Introduction(protocol=pb.Protocol(major=PROTOCOL[0]), card=forged)
                )
            assert refused.value.reason is RefusalReason.IDENTITY
        assert list(amber.directory) == []
        await closed(asking)


async def test_watching_needs_an_introduction(village: MembershipNetwork) -> None:
    async with village.peer("amber") as amber:
        asking = village.transport()
        with pytest.raises(PeerRefused) as refused:
            await anext(asking.watch(amber.address, pb.WatchRequest(id="0" * 32, session="s")))
        assert refused.value.reason is RefusalReason.UNKNOWN_PEER
        await closed(asking)


async def test_only_so_many_may_watch(village: MembershipNetwork) -> None:
    async with village.peer("amber", limits=replace(LIMITS, watches=1)) as amber:
        asking = village.transport()
        first = asking.watch(amber.address, pb.WatchRequest())
        kinds = [(await anext(first)).WhichOneof("body") for _ in range(3)]
        assert kinds == ["card", "beat", "beat"], "the card says the version"
        with pytest.raises(PeerRefused) as refused:
            await anext(asking.watch(amber.address, pb.WatchRequest()))
        assert refused.value.reason is RefusalReason.BUSY
        await first.aclose()
        await closed(asking)


async def test_an_anonymous_look_is_answered_and_recorded_nowhere(village: MembershipNetwork) -> None:
    async with village.peer("amber") as amber:
        asking = village.transport()
        answer = await asking.introduce(amber.address, pb.Introduction(protocol=pb.Protocol(major=PROTOCOL[0])))
        assert open_card(answer.card, LIMITS).name == "amber"
        assert list(amber.directory) == []
        assert amber.events.events == []
        await closed(asking)


async def test_an_observer_sees_all_and_is_seen_by_none(village: MembershipNetwork) -> None:
    lobby = Lobby()
    async with village.peer("amber", lobby=lobby) as amber, village.peer("birch", lobby=lobby) as birch:
        await within(SOON, amber, "birch")
        transport = village.transport()
        directory = Directory(PeerId(""), group_tag="", timing=village.timing, limits=LIMITS)
        observer = Observer(
            directory, transport, [], timing=village.timing, limits=LIMITS, peers=[amber.address], watch=True
        )
        async with observer.looking():
            async with asyncio.timeout(SOON):
                while len(directory.alive()) < 2:
                    await observer.changed()
            birch.membership.announce_version(3)
            async with asyncio.timeout(SOON):
                while directory.find("birch").version != 3:
                    await observer.changed()
        assert amber.names() == ["birch"]
        assert birch.names() == ["amber"]
        await closed(transport)


async def test_a_dead_address_beside_a_good_one_costs_no_time_out() -> None:
    village = MembershipNetwork("memory")

    async with village.peer("amber") as amber:
        # An address that swallows everything: only staggering gets past it.
        hole = village.network.transport()
        village.network.cut(hole._address)

        class Two:
            @asynccontextmanager
            async def announcing(self, me: Any, listener: Any) -> AsyncIterator[None]:
                from peerlearn.discovery.base import Hint

                listener.hinted(Hint(addresses=(hole._address, amber.address), source="mdns", key="k"))
                yield

        async with village.peer("birch", discoveries=[Two()]) as birch:
            with timed() as watch:
                await within(SOON, birch, "amber")
            assert watch.seconds < village.timing.base / 2


async def test_what_is_left_of_former_lives_in_mdns_is_not_followed_for_ever() -> None:
    """A peer killed again and again leaves a name and an address each time; the last of them is where it is."""
    village = MembershipNetwork("memory")
    async with village.peer("amber") as amber:

        class Litter:
            @asynccontextmanager
            async def announcing(self, me: Any, listener: Any) -> AsyncIterator[None]:
                from peerlearn.discovery.base import Hint

                for n in range(12):
                    where = amber.address if n == 11 else Address("memory", 100 + n)
                    listener.hinted(Hint(addresses=(where,), source="mdns", key=str(n), id_prefix=amber.id[:12]))
                yield

        async with village.peer("birch", discoveries=[Litter()]) as birch:
            await within(SOON, birch, "amber")
            following = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("seek:mdns")]
            assert sorted(following) == ["seek:mdns:10", "seek:mdns:11", "seek:mdns:9"]


async def test_an_unreachable_told_address_is_a_problem_until_somebody_is_there() -> None:
    village = MembershipNetwork("memory")
    hole = Address("memory", 2)  # the next that the network gives out
    async with village.peer("amber", peers=[hole, Address("memory", 99)]) as amber:
        async with asyncio.timeout(SOON):
            while len(amber.membership.problems) < 2:  # noqa: ASYNC110  problems are read, not waited for
                await asyncio.sleep(0.01)
        assert all("nobody answers at memory:" in problem for problem in amber.membership.problems)
        async with village.peer("birch") as birch:
            assert birch.address == hole
            await within(SOON, amber, "birch")
            async with asyncio.timeout(SOON):
                while len(amber.membership.problems) > 1:  # noqa: ASYNC110  problems are read, not waited for
                    await asyncio.sleep(0.01)
            assert "memory:99" in amber.membership.problems[0]


@pytest.mark.parametrize("fault", ["does not watch", "cannot be watched", "says nothing"])
async def test_whoever_does_not_show_its_card_by_a_watch_is_introduced_to(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has introduced itself and does not tell of itself is only watched in turn; else we introduce ourselves
    too."""
    monkeypatch.setattr(Watcher, "_may_tell", lambda self: False)
    village = MembershipNetwork("memory", replace(brisk(), base=0.5))
    introduced: list[tuple[Address, Address]] = []
    introduce, watch = MemoryTransport.introduce, MemoryTransport.watch

    async def counted(self: MemoryTransport, to: Address, said: pb.Introduction) -> pb.Introduction:
        introduced.append((self.address, to))
        return await introduce(self, to, said)

    async def faulty(self: MemoryTransport, to: Address, *args: Any, **more: Any) -> AsyncGenerator[pb.Notice, None]:
        first_introduction_only = (hub.address, guest_address) not in introduced
        if first_introduction_only and (fault == "does not watch") == (self.address == guest_address):
            if fault == "says nothing":
                await asyncio.Event().wait()
            raise PeerUnreachable(str(to), "not now")
        async for notice in watch(self, to, *args, **more):
            yield notice

    monkeypatch.setattr(MemoryTransport, "introduce", counted)
    monkeypatch.setattr(MemoryTransport, "watch", faulty)
    async with village.peer("hub") as hub:
        guest_address = Address("memory", hub.address.port + 1)
        async with village.peer("guest", peers=[hub.address]) as guest:
            assert guest.address == guest_address
            await within(SOON, hub, "guest")
            await within(SOON, guest, "hub")
    assert introduced[0] == (guest_address, hub.address)
    assert (hub.address, guest_address) in introduced


@dataclass
class Calls:
    """Watches that are open, and introductions that were made, by caller and called."""

    open: Counter[tuple[Address, Address]] = field(default_factory=Counter)
    introduced: Counter[tuple[Address, Address]] = field(default_factory=Counter)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    counted = Calls()
    introduce, watch = MemoryTransport.introduce, MemoryTransport.watch

    async def introducing(self: MemoryTransport, to: Address, said: pb.Introduction) -> pb.Introduction:
        counted.introduced[self.address, to] += 1
        return await introduce(self, to, said)

    async def watching(self: MemoryTransport, to: Address, *args: Any, **more: Any) -> AsyncGenerator[pb.Notice, None]:
        counted.open[self.address, to] += 1
        try:
            async with aclosing(watch(self, to, *args, **more)) as notices:
                async for notice in notices:
                    yield notice
        finally:
            counted.open[self.address, to] -= 1

    monkeypatch.setattr(MemoryTransport, "introduce", introducing)
    monkeypatch.setattr(MemoryTransport, "watch", watching)
    return counted


async def test_one_call_serves_two(calls: Calls) -> None:
    """Whoever is watched hears of the watcher by the same call: versions, cards, beats and a goodbye, and asks it."""
    village = MembershipNetwork("memory")
    async with village.peer("hub") as hub:
        async with village.peer("guest", peers=[hub.address]) as guest:
            await within(SOON, hub, "guest")
            seen = hub.directory.find("guest")
            assert (seen.address, seen.reached) == (guest.address, True)
            assert calls.introduced == {(guest.address, hub.address): 1}
            guest.membership.announce_version(7)
            await hears_of_news(hub, guest, 7)
            await asyncio.sleep(village.timing.gone_after + 0.5)
            assert hub.life("guest") == guest.life("hub") == ["confirmed"]
            assert calls.open == {(guest.address, hub.address): 1}
        await within(SOON, hub)
        assert hub.life("guest") == ["confirmed", "left"]
        async with village.peer("other", peers=[hub.address]) as other:
            await within(SOON, other, "hub")
            await watched(hub, other)
            await hub.membership._watchers.goodbye("leaving", within=1.0)
            await within(SOON, other)
            assert other.life("hub")[:2] == ["confirmed", "left"]


async def test_who_leaves_does_not_take_those_for_lost_who_hear_of_it(
    village: MembershipNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(village.peer("hub"))
        async with village.peer("guest", peers=[hub.address]) as guest:
            await within(SOON, hub, "guest")
            await watched(guest, hub)
            goodbye = hub.membership._watchers.goodbye

            async def to_somebody_slow(reason: str, *, within: float) -> None:
                await goodbye(reason, within=within)
                await asyncio.sleep(0.3)

            monkeypatch.setattr(hub.membership._watchers, "goodbye", to_somebody_slow)
            await stack.aclose()
            await within(SOON, guest)
        assert guest.life("hub") == ["confirmed", "left"]
        assert hub.life("guest") == ["confirmed"]


async def test_of_two_calls_that_crossed_the_one_of_the_lower_id_stays(calls: Calls) -> None:
    village = MembershipNetwork("memory", replace(brisk(), retry_first=0.001))
    village.network.delay = 0.05
    low, high = sorted((Identity.ephemeral(), Identity.ephemeral()), key=lambda identity: identity.id)
    first, second = Address("memory", 1), Address("memory", 2)
    async with village.peer("low", identity=low, peers=[second]) as amber:
        async with village.peer("high", identity=high, peers=[first]) as birch:
            await within(SOON, amber, "high")
            await within(SOON, birch, "low")
            assert calls.introduced.keys() == {(first, second), (second, first)}, "they crossed"
            async with asyncio.timeout(SOON):
                while +calls.open != {(first, second): 1}:  # noqa: ASYNC110  nobody tells
                    await asyncio.sleep(0.01)
            await asyncio.sleep(village.timing.gone_after + 0.5)
            assert +calls.open == {(first, second): 1}
            assert amber.life("high") == birch.life("low") == ["confirmed"], "nobody was in doubt meanwhile"


async def test_who_tells_and_cannot_be_called_is_not_asked_and_needs_no_reassurance(calls: Calls) -> None:
    village = MembershipNetwork("memory", replace(brisk(), retry_most=3.0))
    away = Address("memory", 77)
    async with village.peer("hub") as hub:
        async with village.peer("shy", peers=[hub.address]) as shy:
            await within(SOON, hub, "shy")
            village.network._served[away] = village.network._served.pop(
                shy.address
            )  # as behind a firewall, from now on
            hub.membership.doubt(shy.id)
            await within(SOON, hub)
            await asyncio.sleep(village.timing.gone_after + 0.5)
            assert hub.names() == [], "it cannot be asked"
            assert hub.life("shy") == ["confirmed"], "it is heard of"
            assert calls.introduced[shy.address, hub.address] <= 1 + 2, "by what it tells; now and then they do so anew"
            village.network._served[shy.address] = village.network._served.pop(away)
            await within(SOON, hub, "shy")


async def test_who_could_not_be_asked_is_met_anew(calls: Calls) -> None:
    """One that we watch is not: its watch says how it is."""
    village = MembershipNetwork("memory", replace(brisk(), retry_most=30.0))  # no anti-entropy meanwhile
    async with village.peer("hub") as hub, village.peer("guest", peers=[hub.address]) as guest:
        await within(SOON, hub, "guest")
        before = calls.introduced[hub.address, guest.address], calls.introduced[guest.address, hub.address]
        hub.membership.doubt(guest.id)
        guest.membership.doubt(hub.id)
        async with asyncio.timeout(SOON):
            while calls.introduced[hub.address, guest.address] == before[0]:  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.01)
        assert calls.introduced[guest.address, hub.address] == before[1]
        assert (hub.names(), guest.names()) == (["guest"], ["hub"])
        assert hub.life("guest") == ["confirmed"]


def test_lost_introductions_are_made_up_for_by_anti_entropy() -> None:
    """Two peers that both know a third cannot reach each other, and give each other up. Once they can, the third tells
    them anew, because they go on introducing themselves to it. On a clock that jumps."""

    async def run() -> None:
        village = MembershipNetwork("memory")
        async with village.peer("amber") as amber, village.peer("birch", peers=[amber.address]) as birch:
            await within(SOON, amber, "birch")
            next_address = Address("memory", birch.address.port + 1)
            village.network.part([birch.address], [next_address])
            async with village.peer("cedar", peers=[amber.address]) as cedar:
                assert cedar.address == next_address
                await within(SOON, amber, "birch", "cedar")
                await within(SOON, cedar, "amber")
                await asyncio.sleep(10 * village.timing.gone_after)
                assert (birch.names(), cedar.names()) == (["amber"], ["amber"])
                village.network.join()
                await within(10 * village.timing.retry_most, cedar, "amber", "birch")
                await within(10 * village.timing.retry_most, birch, "amber", "cedar")

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"\xff\xff", id="garbage"),
        pytest.param(sealed(pb.WatchRequest(id="x").SerializeToString()), id="a second request"),
        pytest.param(
            sealed(pb.WatchRequest(notice=pb.Notice(card=pb.SignedCard(card=b"?"))).SerializeToString()), id="card"
        ),
        pytest.param(sealed(pb.WatchRequest(id="x" * 9_000_000).SerializeToString()), id="too large"),
        pytest.param(pb.WatchRequest(notice=pb.Notice(version=3), check=1).SerializeToString(), id="wrong check"),
    ],
)
async def test_who_tells_nonsense_is_doubted_and_the_rest_goes_on(said: bytes) -> None:
    village = MembershipNetwork("grpc")
    async with village.peer("hub") as hub, village.peer("guest", peers=[hub.address]):
        await within(SOON, hub, "guest")
        mallory = Identity.ephemeral()
        card = Card(id=mallory.id, name="mallory", session="s")
        introduction = pb.Introduction(
            protocol=pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1]), card=sign_card(mallory, card, ())
        )
        async with grpc.aio.insecure_channel(
            str(hub.address), options=[("grpc.max_send_message_length", -1)]
        ) as channel:
            introduce: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/peerlearn.wire.v1.Fabric/Introduce"
            )
            await introduce(sealed(introduction.SerializeToString()))
            watch: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                "/peerlearn.wire.v1.Fabric/Watch"
            )
            call = watch()
            request = pb.WatchRequest(id=mallory.id, session="s", tells=True)
            await call.write(sealed(request.SerializeToString()))
            assert isinstance(await call.read(), bytes)
            await call.write(said)
            async with asyncio.timeout(SOON):
                await hub.membership.until(lambda _: "suspect" in hub.life("mallory") or "gone" in hub.life("mallory"))
            call.cancel()
        assert hub.life("guest") == ["confirmed"]
        assert hub.directory.find("guest").alive


async def test_who_tells_ever_more_is_read_no_faster() -> None:
    village, told = MembershipNetwork("memory"), 2000
    limits = replace(LIMITS, calls=200)
    async with village.peer("hub", limits=limits) as hub:
        mallory, asking = Identity.ephemeral(), village.transport()
        card = Card(id=mallory.id, name="mallory", session="s")
        said = pb.Introduction(
            protocol=pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1]), card=sign_card(mallory, card, ())
        )
        await asking.introduce(hub.address, said)

        async def flood() -> AsyncGenerator[pb.Notice, None]:
            for version in range(1, told + 1):
                yield pb.Notice(version=version)
            await asyncio.Event().wait()

        request = pb.WatchRequest(id=mallory.id, session="s", tells=True)
        with timed() as watch:
            async with aclosing(asking.watch(hub.address, request, notices=flood())) as notices:
                heard = asyncio.get_running_loop().create_task(_drained(notices))
                async with asyncio.timeout(SOON):
                    await hub.membership.until(lambda d: (c := d.get(mallory.id)) is not None and c.version == told)
                heard.cancel()
                await asyncio.wait([heard])
        assert watch.seconds > 0.9 * (told - 5 * limits.calls) / (2 * limits.calls)


def introduction_of(identity: Identity, *addresses: Address, session: str = "s") -> pb.Introduction:
    card = Card(id=identity.id, name="mallory", session=session, addresses=addresses)
    return pb.Introduction(
        protocol=pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1]), card=sign_card(identity, card, ())
    )


async def beats() -> AsyncGenerator[pb.Notice, None]:
    while True:
        yield pb.Notice(beat=pb.Beat())
        await asyncio.sleep(0.05)


async def test_who_calls_again_before_its_old_call_has_ended_is_not_in_doubt() -> None:
    village = MembershipNetwork("memory")
    async with village.peer("hub") as hub:
        mallory, theirs = Identity.ephemeral(), village.transport()
        async with theirs.serving(Served(hub.membership)) as at, background() as tasks:
            await theirs.introduce(hub.address, introduction_of(mallory, at))
            request = pb.WatchRequest(id=mallory.id, session="s", tells=True)
            first = tasks.start(_drained(theirs.watch(hub.address, request, notices=beats())), name="first")
            await within(SOON, hub, "mallory")
            second = tasks.start(_drained(theirs.watch(hub.address, request, notices=beats())), name="second")
            await asyncio.sleep(0.2)
            first.cancel()
            await asyncio.sleep(village.timing.suspect_after + 0.3)
            assert hub.life("mallory") == ["confirmed"]
            second.cancel()
            async with asyncio.timeout(SOON):
                await hub.membership.until(lambda _: "suspect" in hub.life("mallory"))


async def test_nobody_tells_in_the_name_of_another_session(calls: Calls) -> None:
    village = MembershipNetwork("memory")
    low, high = sorted((Identity.ephemeral(), Identity.ephemeral()), key=lambda identity: identity.id)
    async with village.peer("hub", identity=low) as hub:
        async with village.peer("guest", identity=high, peers=[hub.address]) as guest:
            await within(SOON, guest, "hub")
            request = pb.WatchRequest(id=hub.id, session="another", tells=True)
            lies = village.transport().watch(guest.address, request, notices=beats())
            with pytest.raises(PeerRefused, match="introduce yourself"):
                await anext(lies)
            await asyncio.sleep(0.3)
            assert calls.open[guest.address, hub.address] == 1, "its own watch is not needless"
            assert guest.life("hub") == ["confirmed"]


async def test_who_has_no_room_to_tell_one_more_watches_all_the_same() -> None:
    village = MembershipNetwork("memory")
    async with village.peer("one") as one, village.peer("two") as two:
        narrow = replace(LIMITS, watches=1)
        async with village.peer("guest", peers=[one.address, two.address], limits=narrow) as guest:
            await within(SOON, guest, "one", "two")
            await asyncio.sleep(village.timing.suspect_after + 0.3)
            assert guest.life("one") == guest.life("two") == ["confirmed"]


async def _drained(notices: AsyncIterator[pb.Notice]) -> None:
    async for _ in notices:
        pass


async def test_a_peer_whose_card_takes_back_its_address_is_followed_where_it_is_now(village: MembershipNetwork) -> None:
    """Although the connection to the old one looks open, and its introductions say that it lives."""
    async with village.peer("hub") as hub, village.peer("guest", peers=[hub.address]) as guest:
        await within(SOON, hub, "guest")
        other = village.transport()
        async with other.serving(Served(guest.membership)) as elsewhere:
            mine = guest.membership.card
            assert guest.address in mine.addresses
            moved = replace(mine, serial=mine.serial + 5, addresses=(elsewhere,))
            said = pb.Introduction(
                protocol=pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1]), card=sign_card(guest.identity, moved, ())
            )
            await other.introduce(hub.address, said)
            async with asyncio.timeout(SOON):
                await hub.membership.until(
                    lambda d: (c := d.get(guest.id)) is not None and c.reached and c.address == elsewhere
                )
            assert hub.life("guest") == ["confirmed", "moved"], "it was never taken for dead"
            assert hub.events.of(PeerChanged)[-1].address == str(elsewhere)


async def test_another_peer_at_the_address_that_somebody_names_is_not_taken_for_it(village: MembershipNetwork) -> None:
    async with village.peer("amber") as amber, village.peer("birch") as birch:
        asking, mallory = village.transport(), Identity.ephemeral()
        card = Card(id=mallory.id, name="mallory", session="s", addresses=(birch.address,))
        said = pb.Introduction(
            protocol=pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1]), card=sign_card(mallory, card, ())
        )
        await asking.introduce(amber.address, said)
        await within(SOON, amber, "birch")
        contact = amber.directory.get(mallory.id)
        assert contact is None or not contact.reached
        await closed(asking)


async def test_a_peer_that_cannot_be_called_lives_while_it_watches(village: MembershipNetwork) -> None:
    village.timing = replace(brisk(), beat=0.05, suspect_after=0.4, gone_after=0.9)
    async with village.peer("hub") as hub:
        async with village.peer("shy", peers=[hub.address], hidden=True) as shy:
            await within(SOON, shy, "hub")
            async with asyncio.timeout(SOON):
                await hub.membership.until(lambda d: d.get(shy.id) is not None)
            assert hub.names() == [], "it cannot be asked"
            await asyncio.sleep(village.timing.gone_after + 0.5)
            assert hub.life("shy") == ["confirmed"]
            contact = hub.directory.get(shy.id)
            assert contact is not None
            assert contact.alive
        async with asyncio.timeout(SOON):
            await hub.membership.until(lambda d: d.get(shy.id) is None)


async def test_a_peer_that_cannot_be_called_is_not_alive_because_its_watch_looks_open() -> None:
    village = MembershipNetwork("memory")
    async with village.peer("hub") as hub, village.peer("shy", peers=[hub.address], hidden=True) as shy:
        await within(SOON, shy, "hub")
        async with asyncio.timeout(SOON):
            await hub.membership.until(lambda d: d.get(shy.id) is not None)
        village.network.cut(shy.address)
        async with asyncio.timeout(SOON):
            await hub.membership.until(lambda d: d.get(shy.id) is None)
        village.network.mend(shy.address)
        await within(SOON, shy, "hub")
        async with asyncio.timeout(SOON):
            await hub.membership.until(lambda d: d.get(shy.id) is not None)


async def test_leaving_peers_and_those_not_yet_there_send_others_away() -> None:
    identity = Identity.ephemeral()
    network = MemoryNetwork()
    directory = Directory(identity.id, group_tag="", timing=brisk(), limits=LIMITS)
    transport = network.transport()
    membership = Membership(identity, directory, transport, [], timing=brisk(), limits=LIMITS)
    asking = pb.Introduction(protocol=pb.Protocol(major=PROTOCOL[0]))
    card = Card(id=identity.id, name="amber", session="s")
    async with transport.serving(Served(membership)) as address:
        with pytest.raises(PeerRefused, match="starting"):
            await network.transport().introduce(address, asking)
        async with membership.running(address, card):
            await network.transport().introduce(address, asking)
        with pytest.raises(PeerRefused, match="leaving"):
            await network.transport().introduce(address, asking)


async def test_no_multicast_is_an_error_unless_addresses_were_told() -> None:
    class Deaf:
        def announcing(self, me: Any, listener: Any) -> Any:
            raise NetworkError("no multicast here")

    village = MembershipNetwork("memory")
    with pytest.raises(NetworkError, match="no multicast"):
        async with village.peer("amber", discoveries=[Deaf()]):
            pytest.fail("nobody could be found")
    async with village.peer("amber") as amber:
        async with village.peer("birch", discoveries=[Deaf()], peers=[amber.address]) as birch:
            await within(SOON, birch, "amber")
            assert any("no multicast here" in problem for problem in birch.membership.problems)


async def test_the_callers_exception_comes_out_as_it_went_in() -> None:
    village = MembershipNetwork("memory")
    with pytest.raises(KeyError, match="mine"):
        async with village.peer("amber", lobby=Lobby()):
            raise KeyError("mine")


async def test_a_card_that_nobody_would_take_is_refused_at_home() -> None:
    village = MembershipNetwork("memory")
    async with village.peer("amber") as amber:
        with pytest.raises(ConfigError, match="others would not take"):
            amber.membership.update(replace(amber.membership.card, name="x" * 1000))


async def test_cancelling_leaves_nothing_behind_and_still_says_goodbye(village: MembershipNetwork) -> None:
    before = asyncio.all_tasks()
    async with village.peer("amber") as amber:
        known = asyncio.Event()

        async def live() -> None:
            async with village.peer("birch", peers=[amber.address]) as birch:
                await watched(birch, amber)
                known.set()
                await asyncio.sleep(60)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(live())
            await within(SOON, amber, "birch")
            await known.wait()
            task.cancel()
        await within(SOON, amber)
        assert amber.life("birch") == ["confirmed", "left"]
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    assert not [task for task in left if "follow" in task.get_name() or "seek" in task.get_name()]


async def test_nobody_is_blamed_while_our_own_loop_is_held_up() -> None:
    import time

    village = MembershipNetwork("memory")
    lobby = Lobby()
    async with village.peer("amber", lobby=lobby) as amber, village.peer("birch", lobby=lobby):
        await within(SOON, amber, "birch")
        time.sleep(village.timing.gone_after + 0.3)  # noqa: ASYNC251  the held-up loop is what is tested
        await asyncio.sleep(village.timing.suspect_after)
        assert amber.life("birch") == ["confirmed"]


async def closed(transport: Transport) -> None:
    if isinstance(transport, GrpcTransport):
        await transport.__aexit__(None, None, None)


async def test_refused_connections_raise_peer_unreachable(village: MembershipNetwork) -> None:
    asking = village.transport()
    with pytest.raises(PeerUnreachable):
        await asking.introduce(DEAD, pb.Introduction())
    await closed(asking)
