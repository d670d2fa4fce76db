"""The providing side: every question is answered at once, from a snapshot, never waiting for training."""

from collections.abc import Callable

from peerlearn.clock import now
from peerlearn.errors import KnowledgeError, PeerRefused, RefusalReason, WireError
from peerlearn.knowledge import Answer, NotModified, Question, Received, Refusal
from peerlearn.learning.snapshot import Snapshot
from peerlearn.orchestrator.compute import Compute
from peerlearn.orchestrator.snapshots import Snapshots
from peerlearn.recording import Answered, Record, Refused
from peerlearn.strategies.base import Asked, Strategy
from peerlearn.types import Card, PeerId
from peerlearn.wire.codec import decode_question, encode_answer
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb


class Answerer:
    """Admits and answers questions. Lives on the event loop; the strategy's `answer` runs in a thread of its own.

    `arrived` takes what questions bring; None: this peer's schedule has no use for it, and it is refused.
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
        record: Record,
    ) -> None:
        self._me = me
        self._strategy = strategy
        self._snapshots = snapshots
        self._compute = compute
        self._acquainted = acquainted
        self._arrived = arrived
        self._record = record
        self._leaving = False

    def leave(self) -> None:
        """From now on every question is refused; those under way are still answered."""
        self._leaving = True

    async def admit(self, header: pb.Header) -> None:
        """Raises PeerRefused on a question's first frame, before any bulk flows."""
        consumer = self._consumer(header)
        if header.HasField("knowledge") and self._arrived is None:
            detail = f"{self._me.name} takes no knowledge that it has not asked for (strategy {self._strategy.name})"
            raise self._refusal(consumer.name, RefusalReason.STRATEGY, detail)

    async def answer(self, message: Message) -> Message:
        began = now()
        consumer = self._consumer(message.header)
        question = self._read(consumer, message)
        answer = await self._answer(Asked(consumer, question))
        if question.brings is not None and self._arrived is not None and not isinstance(answer, Refusal):
            self._arrived(Received(consumer, question.brings))
        reply = encode_answer(
            answer, sender=self._me.id, session=self._me.session, strategy=self._strategy.name, cast=question.query.cast
        )
        self._note(consumer, question, answer, reply.header.body_bytes, now() - began)
        return reply

    def _consumer(self, header: pb.Header) -> Card:
        if self._leaving:
            raise self._refusal(header.sender, RefusalReason.LEAVING, f"{self._me.name} is leaving")
        consumer = self._acquainted(PeerId(header.sender))
        if consumer is None:
            raise self._refusal(header.sender, RefusalReason.UNKNOWN_PEER, "introduce yourself first")
        if header.strategy != self._strategy.name:
            raise self._refusal(
                consumer.name,
                RefusalReason.STRATEGY,
                f"{self._me.name} answers by {self._strategy.name}, not by {header.strategy or 'no strategy at all'}",
            )
        return consumer

    def _read(self, consumer: Card, message: Message) -> Question:
        try:
            return decode_question(message)
        except (WireError, KnowledgeError) as exc:
            raise self._refusal(consumer.name, RefusalReason.LIMITS, str(exc)) from exc

    async def _answer(self, asked: Asked) -> Answer:
        query = asked.question.query
        snapshot = self._snapshots.latest if query.at is None else self._snapshots.at(query.at)
        if snapshot is None:
            wanted = "no snapshot is there yet" if query.at is None else f"version {query.at} is not there"
            return Refusal(RefusalReason.VERSION, wanted)
        up_to_date = query.have == snapshot.version and query.have_session == self._me.session
        if up_to_date or query.want == "nothing":
            return NotModified(snapshot.version)
        return await self._compute.run(self._by_strategy, snapshot, asked)

    def _by_strategy(self, snapshot: Snapshot, asked: Asked) -> Answer:
        try:
            return self._strategy.answer(snapshot, asked)
        except KnowledgeError as exc:
            return Refusal(RefusalReason.UNFIT, str(exc))

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

    def _refusal(self, consumer: str, reason: RefusalReason, detail: str) -> PeerRefused:
        self._record(Refused(consumer=consumer, reason=reason, detail=detail))
        return PeerRefused(self._me.name, reason, detail)
