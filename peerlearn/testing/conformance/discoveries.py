"""What any discovery must keep to."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeAlias

from peerlearn.discovery.base import Announcement, Discovery, Hint
from peerlearn.testing.conformance.check import Check, checks_of, raises, require
from peerlearn.testing.leaks import nothing_left
from peerlearn.testing.waiting import until
from peerlearn.types import PROTOCOL, Address

_GROUP = secrets.token_hex(8)
"""Of this process only: on a LAN, and on loopback, the same checks may run elsewhere at the same time."""
_AMBER = Announcement(id_prefix=secrets.token_hex(6), group_hash=_GROUP, port=7411, protocol_major=PROTOCOL[0])
_BIRCH = Announcement(id_prefix=secrets.token_hex(6), group_hash=_GROUP, port=7412, protocol_major=PROTOCOL[0])


class Maker(Protocol):
    """Makes what one peer finds others by."""

    def __call__(self, address: Address, /) -> Discovery:
        """For the peer that listens at this address."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked."""

    make: Maker
    quiet: float

    def of(self, me: Announcement) -> Discovery:
        """For the peer that announces this."""
        return self.make(Address("127.0.0.1", me.port))


@dataclass
class Heard:
    """A listener that remembers."""

    hints: dict[tuple[str, str], Hint] = field(default_factory=dict)
    """By source and key: those that have not been withdrawn."""

    def hinted(self, hint: Hint) -> None:
        """Remember it."""
        self.hints[hint.source, hint.key] = hint

    def withdrawn(self, source: str, key: str) -> None:
        """Forget it."""
        self.hints.pop((source, key), None)

    def port(self, me: Announcement) -> bool:
        """Whether some hint leads to the peer that announces this."""
        return any(address.port == me.port for hint in self.hints.values() for address in hint.addresses)


def discovery(make: Maker, *, announces: bool = True, quiet: float = 1.0) -> tuple[Check, ...]:
    """The checks that any discovery must pass.

        @pytest.mark.parametrize("check", conformance.discovery(lobby.door), ids=str)
        def test_a_lobby_keeps_to_the_contract(check):
            check()

    make: what the peer at an address finds others by; all that it makes hear of one another.
    announces: whether others hear of a peer by it. False, as for a list of addresses: `make` must then hint at
        127.0.0.1:7412.
    quiet: seconds without a hint after which none is expected to come.
    """
    laws = _LAWS if announces else _LAWS_OF_A_LIST
    return checks_of(laws, Subject(make, quiet))


async def hints_lead_to_the_other_peer(subject: Subject) -> None:
    """A hint has an address, a source and a key, and leads to the other peer."""
    heard = Heard()
    async with subject.of(_BIRCH).announcing(_BIRCH, Heard()), subject.of(_AMBER).announcing(_AMBER, heard):
        await _soon(lambda: heard.port(_BIRCH), "no hint led to the other peer")
        for hint in heard.hints.values():
            require(hint.addresses and hint.source and hint.key, f"a hint lacks addresses, source or key: {hint}")


async def those_who_came_before_are_heard_of(subject: Subject) -> None:
    """Each of two peers hears of the other, whichever came first, with the start of its id or none."""
    first, second = Heard(), Heard()
    async with subject.of(_AMBER).announcing(_AMBER, first), subject.of(_BIRCH).announcing(_BIRCH, second):
        await _soon(lambda: first.port(_BIRCH), "a peer that came later was not heard of")
        await _soon(lambda: second.port(_AMBER), "a peer that was there before was not heard of")
        ids = {hint.id_prefix for hint in first.hints.values()}
        require(ids <= {"", _BIRCH.id_prefix}, f"a hint expects another id than was announced: {sorted(ids)}")


async def ones_own_announcement_is_not_reported(subject: Subject) -> None:
    """A peer does not hear of itself."""
    heard = Heard()
    async with subject.of(_AMBER).announcing(_AMBER, heard):
        await asyncio.sleep(subject.quiet)
    require(not heard.port(_AMBER), "a peer was hinted at itself")


async def one_that_only_looks_is_not_announced(subject: Subject) -> None:
    """With port 0 a peer hears of others, and they do not hear of it."""
    looking = replace(_AMBER, port=0)
    seen, heard = Heard(), Heard()
    async with subject.of(_BIRCH).announcing(_BIRCH, seen), subject.of(looking).announcing(looking, heard):
        await _soon(lambda: heard.port(_BIRCH), "a peer that only looks heard of none")
        await asyncio.sleep(subject.quiet)
        require(not seen.hints, "a peer that only looks was announced")


async def other_groups_are_passed_over(subject: Subject) -> None:
    """Peers with another group hash are not hinted."""
    other = replace(_BIRCH, group_hash=secrets.token_hex(8))
    heard = Heard()
    async with subject.of(_AMBER).announcing(_AMBER, heard), subject.of(other).announcing(other, Heard()):
        await asyncio.sleep(subject.quiet)
        require(not heard.hints, "a peer of another group was hinted")


async def a_hint_is_withdrawn_when_its_peer_leaves(subject: Subject) -> None:
    """When a peer stops announcing, its hint is withdrawn by source and key."""
    heard = Heard()
    async with subject.of(_AMBER).announcing(_AMBER, heard):
        async with subject.of(_BIRCH).announcing(_BIRCH, Heard()):
            await _soon(lambda: heard.port(_BIRCH), "a peer that announces itself was not heard of")
        await _soon(lambda: not heard.hints, "the hint of a peer that has left was not withdrawn")


async def the_callers_own_error_comes_out_as_it_went_in(subject: Subject) -> None:
    """An error of the block is raised as it is."""
    with raises(ZeroDivisionError, "an error of the announcing block was swallowed"):
        async with subject.of(_AMBER).announcing(_AMBER, Heard()):
            raise ZeroDivisionError


async def leaving_leaves_nothing_behind(subject: Subject) -> None:
    """After the block no task, thread or descriptor is left."""
    async with nothing_left(), subject.of(_AMBER).announcing(_AMBER, Heard()):
        pass


_Law: TypeAlias = Callable[[Subject], Awaitable[None]]
_LAWS_OF_A_LIST: Final[tuple[_Law, ...]] = (
    hints_lead_to_the_other_peer,
    ones_own_announcement_is_not_reported,
    the_callers_own_error_comes_out_as_it_went_in,
    leaving_leaves_nothing_behind,
)
_LAWS: Final[tuple[_Law, ...]] = (
    *_LAWS_OF_A_LIST,
    those_who_came_before_are_heard_of,
    one_that_only_looks_is_not_announced,
    other_groups_are_passed_over,
    a_hint_is_withdrawn_when_its_peer_leaves,
)


async def _soon(condition: Callable[[], bool], sentence: str) -> None:
    try:
        await until(condition)
    except TimeoutError:
        raise AssertionError(sentence) from None
