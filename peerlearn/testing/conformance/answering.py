"""Laws about what a strategy says and shows: names, exposures, answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import torch

from peerlearn.errors import KnowledgeError, PeerRefused, RefusalReason
from peerlearn.knowledge import Answer, Json, Params, Query, Question, Received, Refusal
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.exposure import Allowance, Showing
from peerlearn.schedule import Schedule
from peerlearn.strategies.base import Asked
from peerlearn.testing.conformance.check import require
from peerlearn.testing.conformance.world import World, state_of
from peerlearn.testing.digests import bits
from peerlearn.testing.direct import SESSION, DirectPeer, DirectRounds
from peerlearn.testing.exchange import tiny_id
from peerlearn.types import Exposure
from peerlearn.wire.codec import decode_answer, decode_question, encode_answer, encode_question

_ODD: Final[tuple[dict[str, Json], ...]] = (
    {"layers": ["nose"]},
    {"layers": []},
    {"layers": "penult"},
    {"layers": [3]},
    {"nonsense": 1},
    {"dataset": "public", "fingerprint": "0", "ids": None},
    {"fingerprint": [], "ids": {}},
)
"""What no strategy can mean by `select`."""


def it_says_what_it_is(world: World) -> None:
    """A strategy has a name, says what it needs and shows, and has a schedule; `check` changes nothing."""
    for peer in DirectRounds(world.peers()).peers:
        strategy, before = peer.strategy, state_of(peer)
        require(isinstance(strategy.name, str) and strategy.name, "`name` is not a text")
        require(isinstance(strategy.shares_answers, bool), "`shares_answers` is neither True nor False")
        for what in ("needs", "exposes"):
            said = getattr(strategy, what)
            fits = isinstance(said, frozenset) and all(isinstance(each, Exposure) for each in said)
            require(fits, f"`{what}` is not a frozenset of Exposure")
        require(isinstance(strategy.schedule, Schedule), "`schedule` is not a Schedule")
        strategy.check(peer.learner)
        require(state_of(peer) == before, "`check` has changed something")


def misfit_answers_in_a_sentence(world: World) -> None:
    """`misfit` says None or why, for cards of all kinds, and changes nothing."""
    rounds = DirectRounds(world.peers())
    for peer in rounds.peers:
        before = state_of(peer)
        for other in rounds.peers:
            card = other.card
            for odd in (
                card,
                replace(card, classes=card.classes + 1, histogram=()),
                replace(card, architecture="0" * 64, layers=(), start=""),
                replace(card, public_sets=(), exposes=frozenset(), strategy="another", task="another"),
            ):
                why = peer.strategy.misfit(peer.learner, odd)
                require(why is None or (isinstance(why, str) and why), "`misfit` gave neither None nor a sentence")
        require(state_of(peer) == before, "`misfit` has changed something")


def answering_changes_nothing(world: World) -> None:
    """`answer` is pure: asked twice it gives the same bits, and learner, snapshot and strategy are as before."""

    class Twice(DirectRounds):
        def answer(self, provider: DirectPeer, asked: Asked) -> Answer:
            before = state_of(provider), bits(dict(provider.shown.state))
            answers = [super(Twice, self).answer(provider, asked) for _ in range(2)]
            after = state_of(provider), bits(dict(provider.shown.state))
            require(after == before, f"`answer` of {provider.strategy.name} has changed learner, snapshot or strategy")
            require(_digest(answers[0]) == _digest(answers[1]), "`answer` has given other bits the second time")
            return answers[0]

    world.run(Twice)


def an_answer_is_of_the_snapshot(world: World) -> None:
    """An answer comes from the snapshot, not from the model in training."""

    class Meanwhile(DirectRounds):
        def answer(self, provider: DirectPeer, asked: Asked) -> Answer:
            answer = super().answer(provider, asked)
            before = _digest(answer)
            with _elsewhere(provider.learner):
                meanwhile = _digest(answer), _digest(super().answer(provider, asked))
            require(meanwhile == (before, before), "`answer` gives the live model instead of the snapshot")
            return answer

    world.run(Meanwhile)


def a_shared_answer_is_for_all(world: World) -> None:
    """Where `shares_answers` is True, the answer does not depend on the consumer that asks."""

    class Strangers(DirectRounds):
        def answer(self, provider: DirectPeer, asked: Asked) -> Answer:
            answer = super().answer(provider, asked)
            if provider.strategy.shares_answers:
                stranger = replace(asked.consumer, id=tiny_id("stranger"), name="stranger", session="s9", histogram=())
                other = super().answer(provider, Asked(stranger, Question(asked.question.query)))
                require(_digest(answer) == _digest(other), "`shares_answers` is True, yet a stranger got other bits")
            return answer

    world.run(Strangers)


def nothing_crosses_that_is_not_exposed(world: World) -> None:
    """Answers and what questions bring show no more than `exposes` names."""

    class Guarded(DirectRounds):
        def answer(self, provider: DirectPeer, asked: Asked) -> Answer:
            answer = super().answer(provider, asked)
            _guard(provider, answer, asked.question.query)
            return answer

        def absorb(self, peer: DirectPeer, received: Received) -> None:
            if received.asked is None:
                sender = next(each for each in self.peers if each.id == received.sender.id)
                _guard(sender, received.knowledge, Query(want="nothing"))
            super().absorb(peer, received)

    world.run(Guarded)


def odd_questions_are_refused(world: World) -> None:
    """A question that the strategy cannot mean is refused with a reason, shows nothing beyond `exposes`, and changes
    nothing; an error other than KnowledgeError is a fault."""
    rounds = DirectRounds(world.peers())
    rounds.run(1)
    for peer in rounds.peers:
        before, card = state_of(peer), rounds.peers[0].card
        for select in _ODD:
            for want in ("params", "outputs"):
                answer = _by_strategy(peer, Asked(card, Question(Query(want=want, select=select))))
                require(isinstance(answer, Refusal), f"{want} with select {select!r} was answered, not refused")
                assert isinstance(answer, Refusal)
                fits = answer.reason in (RefusalReason.STRATEGY, RefusalReason.UNFIT, RefusalReason.VERSION)
                require(fits and answer.detail, f"the refusal of select {select!r} gives no fitting reason")
        require(state_of(peer) == before, "a refused question has changed something")


def what_is_said_can_travel(world: World) -> None:
    """Questions, answers and what questions bring pass the wire's codec and come out as the same bits."""

    class Wired(DirectRounds):
        def answer(self, provider: DirectPeer, asked: Asked) -> Answer:
            query = asked.question.query
            sent = encode_question(Question(query, asked.question.brings), **_about(provider))
            back = decode_question(sent)
            require(back.query == query, "a query has changed on its way through the codec")
            require(bits(back.brings) == bits(asked.question.brings), "what a question brings has changed on its way")
            answer = super().answer(provider, Asked(asked.consumer, replace(asked.question, brings=back.brings)))
            there = decode_answer(encode_answer(answer, **_about(provider)))
            require(_digest(there) == _digest(answer), "an answer has changed on its way through the codec")
            return there

    world.run(Wired)


LAWS: Final[tuple[Callable[[World], None], ...]] = (
    it_says_what_it_is,
    misfit_answers_in_a_sentence,
    answering_changes_nothing,
    an_answer_is_of_the_snapshot,
    a_shared_answer_is_for_all,
    nothing_crosses_that_is_not_exposed,
    odd_questions_are_refused,
    what_is_said_can_travel,
)


def _digest(answer: Answer) -> str:
    return bits(answer)


def _by_strategy(peer: DirectPeer, asked: Asked) -> Answer:
    try:
        return peer.strategy.answer(peer.shown, asked)
    except KnowledgeError as exc:
        return Refusal(RefusalReason.UNFIT, str(exc))


@contextmanager
def _elsewhere(learner: Learner) -> Iterator[None]:
    """Inside the block the live model has other weights."""
    mark = learner.mark()
    with torch.no_grad():
        for tensor in learner.state.values():
            if tensor.is_floating_point():
                tensor.detach().add_(1.0)
    try:
        yield
    finally:
        learner.restore(mark)


def _guard(provider: DirectPeer, answer: Answer, query: Query) -> None:
    public = frozenset(public.fingerprint for public in provider.card.public_sets)
    state = frozenset(provider.learner.state)
    showing = Showing(Allowance(provider.strategy.exposes), state=state, public=public, namesakes=lambda name: 1)
    try:
        showing.check_answer(answer, query, provider.card)
    except PeerRefused as exc:
        raise AssertionError(f"{provider.strategy.name} shows what `exposes` does not name: {exc.said}") from exc
    if isinstance(answer, Params):
        require(set(answer.tensors) <= state, "an answer names tensors that the model does not have")


def _about(provider: DirectPeer) -> dict[str, Any]:
    return {"sender": provider.id, "session": SESSION, "strategy": provider.strategy.name}
