"""The providing side: every question is answered at once, from a snapshot, never waiting for training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from peerlearn.clock import now
from peerlearn.config import Limits
from peerlearn.errors import KnowledgeError, PeerRefused, RefusalReason, WireError
from peerlearn.events import Answered, Record, Refused
from peerlearn.knowledge import Answer, NotModified, Outputs, Params, Question, Received, Refusal
from peerlearn.learning.snapshot import Snapshot
from peerlearn.orchestrator.exposure import Showing
from peerlearn.orchestrator.provider.answer_cache import AnswerCache, CachedAnswer
from peerlearn.orchestrator.provider.snapshots import Snapshots
from peerlearn.orchestrator.training.compute import Compute
from peerlearn.strategies.base import Asked, Strategy
from peerlearn.transport.base import Caller
from peerlearn.types import Card, PeerId
from peerlearn.wire.codec import decode_question, encode_answer
from peerlearn.wire.frames import Message
from peerlearn.wire.reuse.negotiation import Reuse, Terms, terms_of
from peerlearn.wire.tensors import all_to_wire
from peerlearn.wire.v1 import fabric_pb2 as pb

_ID_CHARS = 32


class Answerer:
    """Admits and answers questions. Lives on the event loop; the strategy's `answer` runs in a thread of its own.

    `arrived` takes what questions bring. None: this peer's schedule has no use for it, and it is refused.
    `quarantine_reason` says why nothing is taken of a peer at this version. `vouch` raises PeerRefused unless a
    connection is that of the peer, in the session, that a question names; `showing` unless what is asked for, and what
    is answered, may be shown to that peer.
    """

    def __init__(
        self,
        me: Card,
        strategy: Strategy,
        snapshots: Snapshots,
        *,
        compute: Compute,
        acquainted: Callable[[PeerId], Card | None],
        arrived: Callable[[Received], None] | None,
        quarantine_reason: Callable[[Card, int], str | None],
        record: Record,
        vouch: Callable[[Caller, PeerId, str], None],
        showing: Showing,
        limits: Limits,
    ) -> None:
        self._me = me
        self._strategy = strategy
        self._snapshots = snapshots
        self._compute = compute
        self._acquainted = acquainted
        self._arrived = arrived
        self._quarantine_reason = quarantine_reason
        self._record = record
        self._vouch = vouch
        self._showing = showing
        self._limits = limits
        self._reuse = Reuse(limits.reuse_bytes)
        self._answer_cache = AnswerCache(limits.reuse_bytes)
        self._leaving = False

    def leave(self) -> None:
        """From now on every question is refused; those under way are still answered."""
        self._leaving = True

    async def admit(self, header: pb.Header, caller: Caller) -> Card:
        """The consumer's card. Raises PeerRefused on a question's first frame, before any bulk flows."""
        consumer = self._consumer(header, caller)
        if header.HasField("knowledge") and self._arrived is None:
            detail = f"{self._me.name} takes no knowledge that it has not asked for (strategy {self._strategy.name})"
            raise self._refusal(consumer.name, RefusalReason.STRATEGY, detail)
        if (
            header.HasField("knowledge")
            and (why := self._quarantine_reason(consumer, header.knowledge.version)) is not None
        ):
            raise self._refusal(consumer.name, RefusalReason.VERSION, why)  # a later version may be better
        with self._recording(consumer.name):
            self._showing.check_query(header.query.want, consumer)
        return consumer

    async def answer(self, message: Message, consumer: Card) -> Message:
        """The answer to the question of a consumer that was admitted. Raises PeerRefused."""
        began = now()
        question = self._read(consumer, message)
        given = await self._given(Asked(consumer, question), message.header.query)
        answer = given.answer
        with self._recording(consumer.name):
            self._showing.check_answer(answer, question.query, consumer)
        if question.brings is not None and self._arrived is not None and not isinstance(answer, Refusal):
            self._arrived(Received(consumer, question.brings))
        terms = terms_of(message.header.query)
        if isinstance(answer, Params | Outputs) and (terms is not None or question.query.cast):
            reply = await self._compute.run(self._encoded, answer, question.query.cast, terms)  # hashes, or converts
        else:
            reply = given.message = given.message or self._encoded(answer)
        self._note(consumer, question, answer, reply.header.body_bytes, now() - began)
        return reply

    def _consumer(self, header: pb.Header, caller: Caller) -> Card:
        if self._leaving:
            raise self._refusal(header.sender[:_ID_CHARS], RefusalReason.LEAVING, f"{self._me.name} is leaving")
        sender = PeerId(header.sender)
        with self._recording(sender[:_ID_CHARS]):
            self._vouch(caller, sender, header.session)
        consumer = self._acquainted(sender)
        if consumer is None:
            raise self._refusal(sender[:_ID_CHARS], RefusalReason.UNKNOWN_PEER, "introduce yourself first")
        if header.strategy != self._strategy.name:
            raise self._refusal(
                consumer.name,
                RefusalReason.STRATEGY,
                f"{self._me.name} answers by {self._strategy.name}, not by {header.strategy or 'no strategy at all'}",
            )
        return consumer

    def _read(self, consumer: Card, message: Message) -> Question:
        try:
            return decode_question(message, limits=self._limits)
        except (WireError, KnowledgeError) as exc:
            raise self._refusal(consumer.name, RefusalReason.LIMITS, str(exc)) from exc

    async def _given(self, asked: Asked, as_asked: pb.Query) -> CachedAnswer:
        query = asked.question.query
        snapshot = self._snapshots.latest if query.at is None else self._snapshots.at(query.at)
        if snapshot is None:
            wanted = "no snapshot is there yet" if query.at is None else f"version {query.at} is not there"
            return CachedAnswer(Refusal(RefusalReason.VERSION, wanted))
        up_to_date = query.have == snapshot.version and query.have_session == self._me.session
        if up_to_date or query.want == "nothing":
            return CachedAnswer(NotModified(snapshot.version))
        if not self._strategy.shares_answers:
            return CachedAnswer(await self._compute.run(self._by_strategy, snapshot, asked))
        if (given := self._answer_cache.get(snapshot, as_asked)) is not None:
            return given
        make = partial(self._by_strategy, snapshot, asked)
        return await self._compute.run(self._answer_cache.once, snapshot, as_asked, make)

    def _by_strategy(self, snapshot: Snapshot, asked: Asked) -> Answer:
        try:
            return self._strategy.answer(snapshot, asked)
        except KnowledgeError as exc:
            return Refusal(RefusalReason.UNFIT, str(exc))

    def _encoded(self, answer: Answer, cast: str = "", terms: Terms | None = None) -> Message:
        lines = partial(self._reuse.all_to_wire, terms) if terms is not None else all_to_wire
        return encode_answer(
            answer,
            sender=self._me.id,
            session=self._me.session,
            strategy=self._strategy.name,
            cast=cast,
            lines=lines,
        )

    def _note(self, consumer: Card, question: Question, answer: Answer, body_bytes: int, seconds: float) -> None:
        if isinstance(answer, Refusal):
            self._record(Refused(consumer=consumer.name, reason=answer.reason, detail=answer.detail))
            return
        self._record(
            Answered(
                consumer=consumer.name,
                want=question.query.want,
                version=answer.version,
                body_bytes=body_bytes,
                seconds=seconds,
                not_modified=isinstance(answer, NotModified),
            )
        )

    @contextmanager
    def _recording(self, consumer: str) -> Iterator[None]:
        try:
            yield
        except PeerRefused as exc:
            raise self._refusal(consumer, exc.reason, exc.said) from exc

    def _refusal(self, consumer: str, reason: RefusalReason, detail: str) -> PeerRefused:
        self._record(Refused(consumer=consumer, reason=reason, detail=detail))
        return PeerRefused(self._me.name, reason, detail)
