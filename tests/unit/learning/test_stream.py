"""Streams of request batches: the phases' proportions, the seed alone, each sample once, and a learner in order."""

import pytest
import torch

from peerlearn.errors import ConfigError, StateError
from peerlearn.learning.learner import Learner
from peerlearn.learning.stream import (
    Phase,
    Stream,
    StreamLearner,
    fluctuation,
    introduction,
    learn,
    provider_classes,
    steady,
)
from peerlearn.testing import Normed, everything, tiny_data, tiny_model, weights
from peerlearn.types import epochs, steps

DATA = tiny_data(samples=400)


def learner(stream: Stream, **more: object) -> StreamLearner:
    return StreamLearner(tiny_model(), stream, **more)  # type: ignore[arg-type]


def test_a_class_is_introduced_and_stays() -> None:
    stream = Stream(DATA, introduction([0, 1], [2], before=5, after=10, share=0.5), batch_size=40, seed=1)
    labels = DATA.y[stream.rows]
    assert set(labels[:5].unique().tolist()) == {0, 1}
    share = (labels[5:] == 2).double().mean()
    assert 0.42 < share < 0.58
    assert len(stream) == 15


def test_fluctuating_classes_vanish_and_come_again() -> None:
    phases = fluctuation([0], [3], before=2, present=3, absent=4, times=2, share=0.5)
    there = (DATA.y[Stream(DATA, phases, batch_size=20).rows] == 3).any(dim=1).tolist()
    assert there == [False] * 2 + [True] * 3 + [False] * 4 + [True] * 3


def test_overlapping_and_disjoint_providers() -> None:
    assert provider_classes([0, 1], [2], classes=6, overlapping=True) == (0, 1, 2)
    assert provider_classes([0, 1], [2], classes=6, overlapping=False) == (2, 3, 4, 5)


def test_the_seed_alone_decides_and_no_sample_comes_twice_while_there_are_others() -> None:
    one, two, other = (Stream(DATA, steady([0, 1], batches=9), batch_size=20, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.rows, two.rows)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert not torch.equal(one.rows, other.rows)
    assert len(one.rows.unique()) == one.rows.numel()  # 180 of the 200 there are
    more = Stream(DATA, steady([0], batches=9), batch_size=50)
    assert more.rows.reshape(-1).bincount(minlength=400).max() == 5  # 450 requests, 100 samples


def test_a_stream_that_is_over_goes_on_with_its_last_phase() -> None:
    stream = Stream(DATA, [Phase(2, {0: 1.0}), Phase(3, {1: 1.0})], batch_size=10)
    its = learner(stream)
    seen = [batch.y.unique().tolist() for batch in its.batches(steps(9))]
    assert seen == [[0]] * 2 + [[1]] * 7
    assert torch.equal(stream.at(5), stream.rows[2])
    assert torch.equal(stream.at(8), stream.rows[2])


@pytest.mark.parametrize(
    "phases", [[], [Phase(2, {7: 1.0})]],
)  # fmt: skip
def test_a_stream_without_phases_or_samples_is_refused(phases: list[Phase]) -> None:
    with pytest.raises(ConfigError):
        Stream(DATA, phases)
    with pytest.raises(ConfigError):
        introduction([0, 1], [1])
    with pytest.raises(ConfigError):
        Phase(3, {0: -1.0})


def test_a_learner_meets_the_batches_in_order_and_an_epoch_is_the_whole_stream() -> None:
    stream = Stream(DATA, introduction([0, 1], [2], before=3, after=4), batch_size=10)
    its = learner(stream)
    assert [batch.ids.tolist() for batch in its.batches(epochs(1))] == stream.rows.tolist()
    assert its.served == 7


def test_only_what_was_served_is_described() -> None:
    stream = Stream(DATA, introduction([0, 1], [2], before=3, after=4), batch_size=10)
    its = learner(stream)
    assert sum(its.describe().histogram) == 0
    list(its.batches(steps(3)))
    assert sum(its.describe().histogram) == 30
    assert its.describe().histogram[2] == 0


def test_a_rolled_back_learner_meets_the_same_batch_again() -> None:
    its = learner(Stream(DATA, steady([0, 1], batches=5), batch_size=10))
    mark = its.mark()
    first = next(iter(its.batches(steps(1)))).ids
    its.restore(mark)
    assert torch.equal(next(iter(its.batches(steps(1)))).ids, first)


def test_a_saved_learner_goes_on_to_the_same_bits_and_refuses_another_stream() -> None:
    def fresh(seed: int = 0) -> StreamLearner:
        stream = Stream(DATA, introduction([0, 1], [2], before=3, after=4), batch_size=16, seed=seed)
        return StreamLearner(Normed(), stream, seed=4)

    whole, first, second = fresh(), fresh(), fresh()
    whole.fit(steps(6))
    first.fit(steps(4))
    second.load_state_dict(first.state_dict())
    second.fit(steps(2))
    assert everything(second) == everything(whole)
    with pytest.raises(StateError, match="another stream"):
        fresh(seed=9).load_state_dict(first.state_dict())


def test_learning_one_batch_at_once_is_what_fit_does() -> None:
    def fresh() -> Learner:
        return StreamLearner(Normed(), Stream(DATA, steady([0, 1], batches=5), batch_size=16), seed=4)

    fitted, learned, in_parts = fresh(), fresh(), fresh()
    fitted.fit(steps(1))
    made, loss = learn(learned, next(iter(learned.batches(steps(1)))))
    assert everything(learned) == everything(fitted)
    assert made == 1
    assert loss > 0
    assert learn(in_parts, next(iter(in_parts.batches(steps(1)))), passes=2, minibatch=5)[0] == 8
    assert weights(in_parts) != weights(fitted)
