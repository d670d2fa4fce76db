"""Fetcher: asks one provider one question. Waits for the version that lockstep wants, and checks the answer."""

import asyncio
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from peerlearn.clock import now
from peerlearn.config import Limits
from peerlearn.directory import Contact
from peerlearn.errors import Changed, KnowledgeError, PeerRefused, PeerUnreachable, RefusalReason
from peerlearn.knowledge import Answer, NotModified, Outputs, Params, Question, Received, Refusal
from peerlearn.orchestrator.consumer.held_tensors import HeldTensors
from peerlearn.orchestrator.consumer.partial_answers import PartialAnswers
from peerlearn.orchestrator.directory_view import DirectoryView
from peerlearn.orchestrator.exposure import Showing
from peerlearn.transport.base import Traffic, Transport
from peerlearn.types import Card, PeerId
from peerlearn.wire.codec import decode_answer, encode_question
from peerlearn.wire.frames import Message
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.reuse.negotiation import Held

_AGAIN = 0.1
"""Seconds between two looks for a provider that may come back: short beside its restart, which takes seconds."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Result of one question to one provider."""

    provider: Card
    received: Received | None
    """None if the consumer already holds the latest knowledge (`not_modified`), or if it only brought knowledge."""
    version: int
    """The provider's version from which it answered."""
    traffic: Traffic
    not_modified: bool = False


class Fetcher:
    """Asks providers; several calls may run at once. Keeps the last answers and those that broke off, so that fewer
    bytes need to travel. Lives on the event loop.

    strategy: name of the consumer's strategy, sent with each question.
    certificates: SHA-256 of the certificates that a provider's connection may show; empty without a group.
    showing: checks the knowledge that a question brings before it is sent.
    cast: lossy conversion for queries that name none; empty: lossless.
    absence: seconds to wait for a provider that fell silent (lockstep); 0: none.
    """

    def __init__(
        self,
        me: Card,
        strategy: str,
        *,
        transport: Transport,
        directory: DirectoryView,
        certificates: Callable[[PeerId], Collection[bytes]],
        showing: Showing,
        limits: Limits,
        cast: str = "",
        absence: float = 0.0,
    ) -> None:
        self._me = me
        self._strategy = strategy
        self._transport = transport
        self._directory = directory
        self._certificates = certificates
        self._showing = showing
        self._limits = limits
        self._cast = cast
        self._held_tensors = HeldTensors(limits.reuse_bytes)
        self._partial_answers = PartialAnswers(limits.resumable_bytes)
        self._absence = absence

    async def fetch(self, provider: PeerId, question: Question, *, patience: float) -> Fetch:
        """Ask a provider and return its answer. `patience`: seconds that a live provider may take to reach the version
        asked for (lockstep); each version on the way renews it.

        Raises PeerUnreachable, PeerRefused, WireError or KnowledgeError. A failure takes at most one stall window; with
        `absence`, a provider that fell silent is waited for and asked again within that time.
        """
        until: float | None = None
        while True:
            try:
                return await self._fetch(provider, question, patience)
            except (PeerUnreachable, PeerRefused) as exc:
                if isinstance(exc, PeerUnreachable):
                    self._directory.doubt(provider)
                until = now() + self._absence if until is None else until
                if not _may_pass(exc) or not await self._back(provider, until):
                    raise

    async def _back(self, provider: PeerId, until: float) -> bool:
        """Wait, at most until this time, for a provider that fell silent without a goodbye; True if it is back."""
        while now() < until and not self._directory.left(provider):
            await asyncio.sleep(_AGAIN)
            contact = self._directory.get(provider)
            if contact is not None and contact.alive:
                return True
        return False

    async def _fetch(self, provider: PeerId, question: Question, patience: float) -> Fetch:
        wanted = question.query.at if question.query.at is not None else question.after
        if wanted is not None:
            await self._reached(provider, wanted, patience)
        contact = self._here(provider)
        if question.brings is not None:
            self._showing.check_answer(question.brings, question.query, contact.card)
        asked = _casting(question, self._cast)
        held = self._held_tensors.offer(provider, asked.query)
        try:
            reply, traffic, answer = await self._exchange(provider, contact, asked, held)
        except Changed:
            self._held_tensors.distrust(provider)
            held = None
            reply, traffic, answer = await self._exchange(provider, contact, asked, held)
        if isinstance(answer, Params | Outputs):
            self._held_tensors.keep(provider, asked.query, held, answer, reply.header)
        if isinstance(answer, Refusal):
            raise PeerRefused(contact.card.name, answer.reason, answer.detail)
        if isinstance(answer, NotModified):
            if question.query.have is None and question.query.want != "nothing":
                raise KnowledgeError(f"{contact.card.name} says 'not modified' to a peer that holds nothing of it")
            return Fetch(contact.card, None, answer.version, traffic, question.query.have is not None)
        received = Received(contact.card, answer, question.query, traffic.received_bytes, traffic.seconds)
        return Fetch(contact.card, received, answer.version, traffic)

    async def _exchange(
        self, provider: PeerId, contact: Contact, question: Question, held: Held | None
    ) -> tuple[Message, Traffic, Answer]:
        """A complete answer, including bytes received before a lost connection. Raises Changed if the tensors held do
        not give what the provider announced."""
        if question.brings is None:  # small: a hop to a thread takes longer than encoding, above all during training
            message = self._encoded(question, held)
        else:
            message = await asyncio.to_thread(self._encoded, question, held)
        same = message.header.query.SerializeToString()
        partial = self._partial_answers.take(provider, same)
        try:
            reply, traffic = await self._resumed(provider, contact, message, partial)
        finally:
            self._partial_answers.keep(provider, same, partial)
        if reply.header.sender != provider:
            raise KnowledgeError(f"{contact.card.name} answered in the name of {reply.header.sender[:12]!r}")
        # In a thread if tensors must be hashed or converted: that takes long, and the event loop must stay free.
        if any(line.base or line.cast_from for line in reply.header.tensors):
            return reply, traffic, await asyncio.to_thread(decode_answer, reply, limits=self._limits, held=held)
        return reply, traffic, decode_answer(reply, limits=self._limits)

    def _encoded(self, question: Question, held: Held | None) -> Message:
        return encode_question(
            question,
            sender=self._me.id,
            session=self._me.session,
            strategy=self._strategy,
            limits=self._limits,
            held=held,
        )

    async def _resumed(
        self, provider: PeerId, contact: Contact, message: Message, partial: PartialMessage
    ) -> tuple[Message, Traffic]:
        """Exchange, with one more attempt at once if the connection is lost in the middle of an answer. There is no
        second attempt after silence: it has cost one stall window, and another attempt would cost another."""
        attempt = functools.partial(
            self._transport.exchange,
            contact.address,
            message,
            into=partial,
            certificates=self._certificates(provider),
        )
        try:
            return await attempt()
        except PeerUnreachable:
            if partial.silent or partial.resume is None:
                raise
        before = partial.received
        reply, traffic = await attempt()
        return reply, replace(traffic, received_bytes=traffic.received_bytes + before)

    def _here(self, provider: PeerId) -> Contact:
        contact = self._directory.get(provider)
        if contact is None:
            raise PeerUnreachable(provider[:12], "left")
        return contact

    async def _reached(self, provider: PeerId, version: int, patience: float) -> None:
        """Wait until the provider has published this version. Each version on the way renews the patience: a slow
        provider that advances is not dead. Raises PeerUnreachable."""
        at, deadline = -1, 0.0
        while (contact := self._here(provider)).version < version:
            if not contact.alive:
                raise PeerUnreachable(contact.card.name, f"fell silent before it reached version {version}")
            if contact.version > at:
                at, deadline = contact.version, now() + patience
            try:
                async with asyncio.timeout_at(deadline):
                    await self._directory.news()
            except TimeoutError:
                why = f"did not reach version {version} within {patience:g} s; it is at {contact.version}"
                raise PeerUnreachable(contact.card.name, why) from None


def _may_pass(error: PeerUnreachable | PeerRefused) -> bool:
    """True if the failure may end once the provider is back: it is silent, or it was restarted and does not know this
    peer before their next introduction."""
    return isinstance(error, PeerUnreachable) or error.reason is RefusalReason.UNKNOWN_PEER


def _casting(question: Question, cast: str) -> Question:
    if not cast or question.query.cast:
        return question
    return replace(question, query=replace(question.query, cast=cast))
