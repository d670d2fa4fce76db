"""Many who start together: each is introduced to each once, and those who do not answer hold up nobody."""

import asyncio
import logging
import random
import resource
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from peerlearn.config import Limits, Timing
from peerlearn.directory import Directory
from peerlearn.discovery.base import Hint
from peerlearn.discovery.lobby import Lobby
from peerlearn.errors import PeerUnreachable
from peerlearn.events import MemorySink
from peerlearn.membership.introducing import Introducer
from peerlearn.membership.introductions import Introductions
from peerlearn.membership.ourselves import Ourselves
from peerlearn.membership.problems import Problems
from peerlearn.membership.resolving import Resolver
from peerlearn.security import Identity, sign_card
from peerlearn.tasks import background
from peerlearn.testing import SOON, until
from peerlearn.testing.messages import ScriptedService
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.transport.memory.transport import MemoryTransport
from peerlearn.types import PROTOCOL, Address, Card, PeerId
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.members import MembershipNetwork

LIMITS = Limits()
TIMING = Timing(base=30, stall=30)


async def test_of_two_one_is_introduced_to_the_other_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although a lobby, callers and acquaintances all tell of everybody."""
    made: Counter[tuple[Address, Address]] = Counter()
    introduce = MemoryTransport.introduce

    async def counted(self: MemoryTransport, to: Address, said: pb.Introduction) -> pb.Introduction:
        made[(self.address, to)] += 1
        return await introduce(self, to, said)

    monkeypatch.setattr(MemoryTransport, "introduce", counted)
    village, lobby = MembershipNetwork("memory", timing=Timing(retry_most=60)), Lobby()
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        guests = [await stack.enter_async_context(village.peer(f"p{number}", lobby=lobby)) for number in range(12)]
        for guest in guests:
            await guest.membership.until(lambda directory: len(directory.alive()) == 11)
    assert set(made.values()) == {1}
    assert len(made) == len({frozenset(both) for both in made}) == 12 * 11 / 2


class Street:
    """A transport that only introduces: who lives at which address; at all others nothing is ever heard."""

    def __init__(self, **living: Identity) -> None:
        self._living = {Address(host, 1): identity for host, identity in living.items()}
        self.called: list[Address] = []

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        self.called.append(to)
        if to not in self._living:
            await asyncio.Event().wait()
        identity = self._living[to]
        await asyncio.sleep(0.2)
        card = Card(id=identity.id, name=to.host, session="ab" * 8, classes=2, histogram=(1, 2))
        return pb.Introduction(protocol=pb.Protocol(major=PROTOCOL[0]), card=sign_card(identity, card))


def introducer_of(street: Street, timing: Timing = TIMING) -> Introducer:
    directory = Directory(PeerId(""), group_tag="", timing=timing, limits=LIMITS)
    introductions = Introductions(directory, group_tag="", limits=LIMITS, card=None)
    return Introducer(
        street, directory, introductions,  # type: ignore[arg-type]  # neither watch nor exchange is called
        timing=timing, is_me=lambda card: False, heard=lambda card, said, address: None, refused=lambda exc: None,
    )  # fmt: skip


async def test_dead_addresses_do_not_hold_up_the_living() -> None:
    amber = Identity.ephemeral()
    street = Street(amber=amber)
    meet = introducer_of(street).meet
    async with asyncio.TaskGroup() as group, asyncio.timeout(SOON):
        dead = [group.create_task(meet([Address(f"dead{number}", 1)], doubtful=True)) for number in range(40)]
        await asyncio.sleep(0)
        card = await meet([Address("amber", 1)])
        assert card is not None
        assert card.id == amber.id
        assert len(street.called) < 10, "only a few at once"
        for task in dead:
            task.cancel()


async def test_what_comes_of_an_introduction_holds_for_all_who_wanted_it() -> None:
    street = Street(amber=Identity.ephemeral())
    meet = introducer_of(street).meet
    async with asyncio.TaskGroup() as group:
        told = [group.create_task(meet([Address("amber", 1)])) for _ in range(5)]
    assert {card.name for task in told if (card := task.result()) is not None} == {"amber"}
    assert len(street.called) == 1


async def test_when_the_one_who_introduces_is_cancelled_another_does_it() -> None:
    street = Street(amber=Identity.ephemeral())
    meet = introducer_of(street).meet
    async with asyncio.TaskGroup() as group, asyncio.timeout(SOON):
        first = group.create_task(meet([Address("amber", 1)]))
        await until(lambda: bool(street.called))
        second = group.create_task(meet([Address("amber", 1)]))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is not None
    assert len(street.called) == 2


async def test_a_silent_address_is_silent_for_all_who_wait() -> None:
    street = Street()
    meet = introducer_of(street, Timing(base=0.1)).meet

    async def unreachable() -> None:
        with pytest.raises(PeerUnreachable, match="no answer within"):
            await meet([Address("nobody", 1)])

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(unreachable())
    assert len(street.called) == 1


# ---------------------------------------------------------------- hearsay


class Empty(Street):
    """Nobody lives here, and that is told at once."""

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        self.called.append(to)
        raise PeerUnreachable(str(to), "connection refused")


def seeks(source: str, peer: str, host: str) -> Hint:
    return Hint(addresses=(Address(host, 1),), source=source, key=peer, id_prefix=peer)


@pytest.mark.parametrize("street", [Street, Empty])
async def test_hearsay_of_somebody_found_by_oneself_is_news_only_when_that_was_in_vain(street: type[Street]) -> None:
    peer, empty = "ef" * 16, street()
    directory = Directory(PeerId("00" * 16), group_tag="", timing=TIMING, limits=LIMITS)
    async with background() as tasks, asyncio.timeout(SOON):
        resolver = Resolver(
            Ourselves(id="00" * 16, session="s", timing=TIMING, limits=LIMITS), directory, introducer_of(empty), tasks,
            rng=random.Random(0), problems=Problems(MemorySink()), unwanted=lambda hint: False,
        )  # fmt: skip
        resolver.hinted(seeks("mdns", peer[:12], "a"))
        resolver.hinted(seeks("exchange", peer, "a"))
        assert set(resolver._pursuits) == {("mdns", peer[:12])}
        resolver.hinted(seeks("exchange", "cd" * 16, "a"))
        resolver.hinted(seeks("exchange", "ef" * 8 + "00" * 8, "b"))
        assert len(resolver._pursuits) == 3, "another peer, and another address"
        await until(lambda: bool(empty.called))
        await asyncio.sleep(0.05)
        resolver.hinted(seeks("exchange", peer, "a"))
        assert (("exchange", peer) in resolver._pursuits) is (street is Empty)


# ---------------------------------------------------------------- acquaintances


async def test_what_is_said_of_an_acquaintance_is_as_it_is_now() -> None:
    directory = Directory(PeerId("00" * 16), group_tag="", timing=TIMING, limits=LIMITS)
    introductions = Introductions(directory, group_tag="", limits=LIMITS, card=pb.SignedCard)

    def told() -> dict[str, list[str]]:
        known = introductions.greet("10.0.0.9").known
        return {acquaintance.id: [address.host for address in acquaintance.addresses] for acquaintance in known}

    one, two = (Card(id=PeerId(digit * 32), name=digit, session="s1") for digit in "12")
    directory.confirm(one, Address("10.0.0.1", 1), 0.0, reached=True)
    directory.confirm(two, Address("10.0.0.2", 1), 0.0, reached=True)
    assert told() == {one.id: ["10.0.0.1"], two.id: ["10.0.0.2"]}
    directory.confirm(one, Address("10.0.0.3", 1), 1.0, reached=True)
    assert told() == {one.id: ["10.0.0.3"], two.id: ["10.0.0.2"]}
    directory.goodbye(two.id, "s1", "")
    assert told() == {one.id: ["10.0.0.3"]}
    directory.confirm(two, Address("10.0.0.4", 1), 2.0, reached=True)
    assert told() == {one.id: ["10.0.0.3"], two.id: ["10.0.0.4"]}
    at_home = introductions.greet("127.0.0.1").known
    assert [acquaintance.id for acquaintance in at_home] == [one.id, two.id]


# ---------------------------------------------------------------- descriptors


async def test_too_few_descriptors_are_one_sentence_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 512))
    for peers, said in ((20, 0), (256, 1)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "peerlearn"):
            async with GrpcTransport(limits=Limits(peers=peers)).serving(ScriptedService()):
                pass
        assert len(caplog.messages) == said
    assert "this process may open 256 files and connections, and 256 other peers can take" in caplog.text
    assert "ulimit -n" in caplog.text
    assert "(at most 512 here)" in caplog.text
