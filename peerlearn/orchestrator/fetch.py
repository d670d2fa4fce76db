"""The consuming side of one exchange: wait for the version that lockstep wants, ask, check what came."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from peerlearn.clock import now
from peerlearn.config import Limits
from peerlearn.directory import Contact
from peerlearn.errors import KnowledgeError, PeerRefused, PeerUnreachable
from peerlearn.knowledge import NotModified, Question, Received, Refusal
from peerlearn.orchestrator.exposure import Showing
from peerlearn.orchestrator.news import Company
from peerlearn.transport.base import Traffic, Transport
from peerlearn.types import Card, PeerId
from peerlearn.wire.codec import decode_answer, encode_question


@dataclass(frozen=True, slots=True)
class Fetch:
    """What an exchange gave: `received` is None when the provider had nothing to add, because what is held is still
    the latest (`not_modified`), or because the question only brought something."""

    provider: Card
    received: Received | None
    version: int
    traffic: Traffic
    not_modified: bool = False


class Fetcher:
    """Exchanges with one provider at a time per call; holds no state of its own.

    `certificates` tells whose connection the provider's must be; `showing` whether what a question brings may be shown.
    """

    def __init__(
        self,
        me: Card,
        strategy: str,
        *,
        transport: Transport,
        company: Company,
        certificates: Callable[[PeerId], Collection[bytes]],
        showing: Showing,
        limits: Limits,
    ) -> None:
        self._me = me
        self._strategy = strategy
        self._transport = transport
        self._company = company
        self._certificates = certificates
        self._showing = showing
        self._limits = limits

    async def fetch(self, provider: PeerId, question: Question, *, patience: float) -> Fetch:
        """Raises PeerUnreachable, PeerRefused, WireError or KnowledgeError; each costs at most one stall window.

        `patience` bounds how long a provider that is alive may take to reach the version asked for (lockstep).
        """
        wanted = question.query.at if question.query.at is not None else question.after
        if wanted is not None:
            await self._reached(provider, wanted, patience)
        contact = self._here(provider)
        if question.brings is not None:
            self._showing.check_answer(question.brings, question.query, contact.card)
        message = await asyncio.to_thread(
            encode_question,
            question,
            sender=self._me.id,
            session=self._me.session,
            strategy=self._strategy,
            limits=self._limits,
        )
        reply, traffic = await self._transport.exchange(
            contact.address, message, certificates=self._certificates(provider)
        )
        if reply.header.sender != provider:
            raise KnowledgeError(f"{contact.card.name} answered in the name of {reply.header.sender[:12]!r}")
        answer = decode_answer(reply, limits=self._limits)
        if isinstance(answer, Refusal):
            raise PeerRefused(contact.card.name, answer.reason, answer.detail)
        if isinstance(answer, NotModified):
            if question.query.have is None and question.query.want != "nothing":
                raise KnowledgeError(f"{contact.card.name} says 'not modified' to a peer that holds nothing of it")
            return Fetch(contact.card, None, answer.version, traffic, question.query.have is not None)
        return Fetch(contact.card, Received(contact.card, answer, question.query), answer.version, traffic)

    def _here(self, provider: PeerId) -> Contact:
        contact = self._company.get(provider)
        if contact is None:
            raise PeerUnreachable(provider[:12], "left")
        return contact

    async def _reached(self, provider: PeerId, version: int, patience: float) -> None:
        deadline = now() + patience
        while (contact := self._here(provider)).version < version:
            if not contact.alive:
                raise PeerUnreachable(contact.card.name, f"fell silent before it reached version {version}")
            try:
                async with asyncio.timeout_at(deadline):
                    await self._company.news()
            except TimeoutError:
                why = f"did not reach version {version} within {patience:g} s; it is at {contact.version}"
                raise PeerUnreachable(contact.card.name, why) from None
