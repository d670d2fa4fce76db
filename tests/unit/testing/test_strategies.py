"""The suite for strategies finds what is wrong: for each law, one strategy that breaks it and keeps the others."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Answer, Params, Query, Question, Received
from peerlearn.learning.interruption import Interrupted
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.strategies.base import Asked, Strategy
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.isolated import Isolated
from peerlearn.testing import DirectRounds, conformance, tensors_of, tiny_learner
from peerlearn.types import Card, Exposure, Span, steps


class Nameless(Distillation):
    name = ""


class Moody(Distillation):
    """`misfit` gives no sentence."""

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        return super().misfit(learner, provider) and ""


class Counting(Distillation):
    """`answer` changes the strategy."""

    answered = 0

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        self.answered += 1
        return super().answer(snapshot, asked)

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "answered": self.answered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.answered = state["answered"]


class Live(Distillation):
    """`answer` reads the model in training."""

    def publish(self, learner: Learner) -> Any:
        return learner

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        answer = super().answer(snapshot, asked)
        return replace(answer, tensors=dict(snapshot.extras.state)) if isinstance(answer, Params) else answer


class Partial(Distillation):
    """Says that all consumers get the same, and gives some of them more."""

    shares_answers = True

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        answer = super().answer(snapshot, asked)
        if isinstance(answer, Params) and asked.consumer.name == "stranger":
            return replace(answer, tensors={name: t + 1 for name, t in tensors_of(answer).items()})
        return answer


class Silent(Distillation):
    """Shows more than it says."""

    @property
    def exposes(self) -> frozenset[Exposure]:
        return frozenset()

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        return None

    def ask(self, learner: Learner, provider: Card) -> Question:
        return Question(Query(want="params"))


class Talkative(Distillation):
    """Answers whatever is asked."""

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        return super().answer(snapshot, Asked(asked.consumer, Question(Query(want="params"))))


class Unsendable(Distillation):
    """Gives a tensor that the wire has no dtype for."""

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        answer = super().answer(snapshot, asked)
        if isinstance(answer, Params):
            return replace(answer, tensors={**answer.tensors, "fc.bias": torch.zeros(4, dtype=torch.complex64)})
        return answer

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        return None


class Hoarding(Distillation):
    """Absorbing twice is not absorbing once."""

    absorbed = 0

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        super().absorb(learner, received)
        self.absorbed += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "absorbed": self.absorbed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.absorbed = state["absorbed"]


class Trusting(Distillation):
    """Does not look at what comes."""

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        for each in received:
            if not isinstance(each.knowledge, Params):
                raise KnowledgeError("no parameters")
            if self._memory.is_new(each):
                self._memory.keep(each)


class Clinging(Distillation):
    """Does not forget."""

    def forget(self, provider: str) -> None:
        return None


class Restless(Distillation):
    """Trains in a transfer though nothing was absorbed."""

    def transfer(self, learner: Learner, span: Span) -> Report:
        report = super().transfer(learner, span)
        return report if report.providers else learner.fit(span)


class Dicing(Distillation):
    """Draws from a generator that nothing saves."""

    source = torch.Generator().manual_seed(0)

    def transfer(self, learner: Learner, span: Span) -> Report:
        report = super().transfer(learner, span)
        if report.providers:
            weight = learner.state["fc.bias"]
            learner.overwrite({"fc.bias": weight.detach() + torch.rand(weight.shape, generator=self.source)})
        return report


class LastWins(Distillation):
    """What is absorbed last counts for more."""

    last = ""

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        super().absorb(learner, received)
        self.last = received[-1].sender.id

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.last = state["last"]


class Careless(Distillation):
    """Saves nothing of what it holds."""

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return None


class Hasty(Distillation):
    """Writes outside the learner's sight before it trains."""

    begun = 0

    def transfer(self, learner: Learner, span: Span) -> Report:
        try:
            return super().transfer(learner, span)
        except Interrupted:
            self.begun += 1
            raise

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "begun": self.begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)


class Deaf(Distillation):
    """`transfer_without` leaves nobody out."""

    def transfer_without(self, learner: Learner, absent: Collection[str]) -> Report:
        return self.transfer(learner, steps(2))

    def transfer_done(self) -> None:
        return None


class Whole(Distillation):
    """Says that its local spans may be cut, and does something once per span."""

    resumable = True

    def local(self, learner: Learner, span: Span) -> Report:
        report = super().local(learner, span)
        with torch.no_grad():
            learner.state["fc.bias"].detach().add_(0.01)
        return report


class Blunt(Distillation):
    """Predicts logits."""

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        return learner.logits(x)


BROKEN: dict[str, Callable[[], Strategy]] = {
    "it-says-what-it-is": Nameless,
    "misfit-answers-in-a-sentence": Moody,
    "answering-changes-nothing": Counting,
    "an-answer-is-of-the-snapshot": Live,
    "a-shared-answer-is-for-all": Partial,
    "nothing-crosses-that-is-not-exposed": Silent,
    "odd-questions-are-refused": Talkative,
    "what-is-said-can-travel": Unsendable,
    "absorbing-twice-is-absorbing-once": Hoarding,
    "foreign-knowledge-is-refused": Trusting,
    "a-forgotten-provider-teaches-no-more": Clinging,
    "without-providers-nothing-changes": Restless,
    "the-same-seeds-give-the-same-bits": Dicing,
    "resuming-gives-the-same-bits": Careless,
    "an-interrupted-transfer-changes-nothing": Hasty,
    "a-mixture-can-be-mixed-again": Deaf,
    "a-resumable-span-can-be-cut": Whole,
    "predictions-are-probabilities": Blunt,
}


def checked(name: str, make: Callable[[], Strategy]) -> conformance.Check:
    return {str(check): check for check in conformance.strategy(make)}[name]


@pytest.mark.parametrize("name", BROKEN)
def test_a_strategy_that_breaks_a_law_is_found_by_it(name: str) -> None:
    with pytest.raises((AssertionError, KnowledgeError)) as caught:
        checked(name, BROKEN[name])()
    assert "\n" not in str(caught.value)


def test_each_law_has_a_strategy_that_breaks_it() -> None:
    assert {str(check) for check in conformance.strategy(Isolated)} == set(BROKEN)
    assert all(check.promise.endswith(".") for check in conformance.strategy(Isolated))


def test_the_order_in_which_answers_are_absorbed_is_looked_at() -> None:
    with pytest.raises(AssertionError, match="another order"):
        checked("the-same-seeds-give-the-same-bits", LastWins)()


def test_peers_that_never_learn_from_one_another_prove_nothing() -> None:
    alone = conformance.strategy(peers=lambda: [("amber", tiny_learner(), Distillation(via="params"))])
    with pytest.raises(AssertionError, match="no peer got an answer"):
        {str(check): check for check in alone}["answering-changes-nothing"]()


def test_one_of_make_and_peers_is_needed() -> None:
    with pytest.raises(ValueError, match="one of"):
        conformance.strategy()
    with pytest.raises(ValueError, match="one of"):
        conformance.strategy(Isolated, peers=list)


def test_direct_rounds_do_what_the_schedule_says() -> None:
    rounds = DirectRounds([(name, tiny_learner(seed), Distillation()) for seed, name in enumerate(("amber", "birch"))])
    rounds.run(2)
    assert [peer.version for peer in rounds.peers] == [2, 2]
    assert rounds.answers == 4
    assert rounds.peers[0].taught_by == {rounds.peers[1].id}
