"""Meeting a peer that may be at one of several addresses: all are tried, staggered, and the first that answers wins.

As in RFC 8305 ("happy eyeballs"): one dead address must not cost the time-out of a connection.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from peerlearn.clock import now
from peerlearn.config import Timing
from peerlearn.directory import Directory
from peerlearn.errors import Corrupt, PeerRefused, PeerUnreachable, TransferError, WireError
from peerlearn.membership.introductions import Introductions
from peerlearn.tasks import Background, background
from peerlearn.transport.base import Transport
from peerlearn.types import Address, Card
from peerlearn.wire.v1 import fabric_pb2 as pb

STAGGER = 0.25
"""Seconds before the next address is tried while the one before has neither answered nor failed (RFC 8305, 5)."""

_AT_ONCE = 4
"""Introductions under way, and as many doubtful ones. Many peers that start together would otherwise begin all of them
and finish none in time."""

_HEAD_START = 4
"""In `retry_first`: an introduction and a watch take one or two, with room for a busy machine."""
_CROWD = 8
"""So many peers are met within that time even in one slow process; with more, it grows in proportion."""

Heard = Callable[[Card, pb.Introduction, Address], None]
Unless = Literal["", "known", "reached"]
"""When a peer need not be met any more, once its turn has come: never; when it has introduced itself; when we have got
through to it."""


def head_start(timing: Timing, crowd: int) -> float:
    """Seconds to leave the first step to a peer that is about to take it. `crowd`: peers that are to be met now."""
    return _HEAD_START * timing.retry_first * max(1.0, crowd / _CROWD)


def pauses(timing: Timing, rng: random.Random) -> Iterator[float]:
    """Seconds to wait before trying again: doubling, jittered so that peers do not try in step."""
    pause = timing.retry_first
    while True:
        yield pause * rng.uniform(0.5, 1.0)
        pause = min(2 * pause, timing.retry_most)


@dataclass
class _Race:
    expect: str
    doubtful: bool
    unless: Unless
    running: int = 0
    winner: Card | None = None
    oneself: bool = False
    failures: dict[Address, TransferError | WireError] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def open(self) -> bool:
        return self.winner is None and self.running > 0


class Introducer:
    """Introduces us, verifies the peer that answers, and confirms it in the directory.

    `heard` is told of every card that came with its introduction; `is_me` recognises our own. `refused` is told when
    another peer refuses us (never when we refuse it), and may raise, which ends the membership.
    """

    def __init__(
        self,
        transport: Transport,
        directory: Directory,
        introductions: Introductions,
        *,
        timing: Timing,
        is_me: Callable[[Card], bool],
        heard: Heard,
        refused: Callable[[PeerRefused], None],
    ) -> None:
        self._transport = transport
        self._directory = directory
        self._introductions = introductions
        self._timing = timing
        self._is_me = is_me
        self._heard = heard
        self._refused = refused
        self._leaving = False
        self._rooms = {doubtful: asyncio.Semaphore(_AT_ONCE) for doubtful in (False, True)}
        self._under_way: dict[tuple[Address, bytes, bool], asyncio.Future[Card | TransferError | WireError | None]] = {}

    def leave(self) -> None:
        """We say goodbye. From now on we introduce ourselves to no peer: it would take that for a return."""
        self._leaving = True

    async def meet(
        self, addresses: Sequence[Address], *, expect: str = "", doubtful: bool = False, unless: Unless = ""
    ) -> Card | None:
        """The card of the first to answer whose id begins with `expect`; None when only we ourselves answer.

        Addresses that are `doubtful` (hearsay, or tried in vain before) wait in a line of their own, so that dead ones
        do not hold up the living. `unless`: a peer of which this has become true meanwhile need not be met. Others that
        answer are confirmed all the same. Raises PeerRefused, WireError or PeerUnreachable: a refusal before silence,
        since a peer that refuses is at least there.
        """
        race = _Race(expect, doubtful, unless)
        try:
            async with background() as tries:
                for address in addresses:
                    self._start(address, race, tries)
                    await _news(race, STAGGER)
                    if race.winner is not None:
                        break
                while race.open:
                    await _news(race, None)
            if race.winner is None and not race.oneself:
                raise _told(race, addresses)
            return race.winner
        finally:
            race.failures.clear()  # each holds a frame that holds it: a cycle, and in it a connection

    def _start(self, address: Address, race: _Race, tries: Background) -> None:
        race.running += 1
        tries.start(self._try(address, race), name=f"meet:{address}")

    async def _try(self, address: Address, race: _Race) -> None:
        try:
            card = await self._introduce_once(address, race)
            if card is None:
                race.oneself = True
            elif card.id.startswith(race.expect):
                race.winner = race.winner or card
            else:
                race.failures[address] = PeerUnreachable(str(address), f"{card.name} ({card.id[:12]}) is there instead")
        except (TransferError, WireError) as exc:
            race.failures[address] = exc
        finally:
            race.running -= 1
            race.news.set()

    async def _introduce_once(self, address: Address, race: _Race) -> Card | None:
        """A peer is often to be met for several reasons at once (a hint, a caller, an acquaintance): one introduction
        of one card is enough, and its outcome holds for all. When it is cancelled, one of the others makes its own.
        """
        sure, place = ((address, self._introductions.shown(), doubt) for doubt in (False, race.doubtful))
        while (under_way := self._under_way.get(sure) or self._under_way.get(place)) is not None:
            await asyncio.wait([under_way])
            if not under_way.cancelled():
                try:
                    return _outcome(under_way.result())
                finally:
                    del under_way  # as below
        mine = self._under_way[place] = asyncio.get_running_loop().create_future()
        try:
            async with self._rooms[race.doubtful]:
                if race.unless and (under_way := self._under_way.get(sure)) not in (None, mine):
                    await asyncio.wait([under_way])
                met = self._directory.expected(race.expect) if race.unless else None
                enough = met is not None and met.alive and (met.reached or race.unless == "known")
                card = met.card if met is not None and enough else await self._introduce(address)
            mine.set_result(card)
            return card
        except (TransferError, WireError) as exc:
            mine.set_result(exc)
            raise
        finally:
            mine.cancel()  # does nothing once there is a result
            del self._under_way[place]
            del mine  # it holds an error that holds this frame: a cycle, and in it a connection

    async def _introduce(self, address: Address) -> Card | None:
        if self._leaving:
            raise PeerUnreachable(str(address), "this peer itself is leaving")
        try:
            async with asyncio.timeout(self._timing.base):
                answer = await self._transport.introduce(address, self._introductions.greet(address.host))
        except PeerRefused as exc:
            self._refused(exc)
            raise
        except TimeoutError:
            raise PeerUnreachable(str(address), f"no answer within {self._timing.base:g} s") from None
        card = self._introductions.read(answer, str(address), answer.card.certificates)
        if card is None:
            raise Corrupt(f"{address} answers an introduction without a card")
        if self._is_me(card):
            return None
        self._directory.confirm(card, address, now(), reached=True)
        self._heard(card, answer, address)
        return card


def _outcome(outcome: Card | TransferError | WireError | None) -> Card | None:
    try:
        if isinstance(outcome, (TransferError, WireError)):
            raise outcome
        return outcome
    finally:
        del outcome


async def _news(race: _Race, within: float | None) -> None:
    try:
        async with asyncio.timeout(within):
            await race.news.wait()
    except TimeoutError:
        return
    race.news.clear()


def _told(race: _Race, addresses: Sequence[Address]) -> TransferError | WireError:
    failures = [race.failures[address] for address in addresses if address in race.failures]
    silent = [failure for failure in failures if isinstance(failure, PeerUnreachable)]
    spoken = [failure for failure in failures if not isinstance(failure, PeerUnreachable)]
    if spoken:
        return spoken[0]
    if len(silent) == 1:
        return silent[0]
    where = ", ".join(map(str, addresses))
    return PeerUnreachable(where, "; ".join(dict.fromkeys(failure.detail for failure in silent)) or "no address")
