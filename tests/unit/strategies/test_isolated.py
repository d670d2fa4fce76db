"""Class-balanced training alone: what the weights come to, and that nothing else differs from Isolated."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from peerlearn.errors import LearnerError
from peerlearn.events import Fetched, Trained
from peerlearn.knowledge import Query, Question, Refusal
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.learner import Learner
from peerlearn.strategies import registry
from peerlearn.strategies.base import Asked
from peerlearn.strategies.isolated import Isolated, IsolatedBalanced
from peerlearn.testing import (
    CLASSES,
    PeerNetwork,
    blob_learner,
    everything,
    gathered,
    same,
    snapshot,
    tiny_card,
    tiny_data,
    tiny_learner,
    tiny_model,
    weights,
)
from peerlearn.types import epochs


def skewed(copies: tuple[int, ...]) -> Dataset:
    """One sample x_c per class, in `copies[c]` copies."""
    base = tiny_data(samples=CLASSES, seed=4)
    rows = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(copies))
    return Dataset(base.x[rows], base.y[rows], torch.arange(len(rows)), CLASSES, "skewed")


def after_one_step(data: Dataset, strategy: Isolated) -> dict[str, torch.Tensor]:
    """A pass that is one batch of everything, by plain gradient descent, in float64."""
    model = tiny_model().double()
    data = Dataset(data.x.double(), data.y, data.ids, data.classes, data.name)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, data, optimizer=sgd, batch_size=len(data), held_out=0, classes=CLASSES)
    assert strategy.local(learner, epochs(1)).steps == 1
    return {name: t.detach().clone() for name, t in learner.state.items()}


def test_every_class_counts_the_same_however_many_samples_it_has() -> None:
    """Balanced training on 1 : 2 : 5 : 12 is plain training on equally many."""
    balanced = after_one_step(skewed((1, 2, 5, 12)), IsolatedBalanced())
    even = after_one_step(skewed((3, 3, 3, 3)), Isolated())
    plain = after_one_step(skewed((1, 2, 5, 12)), Isolated())
    for name, t in balanced.items():
        torch.testing.assert_close(t, even[name], rtol=1e-6, atol=1e-7)  # the weights are float32
    assert not torch.allclose(balanced["fc.bias"], plain["fc.bias"], atol=1e-4)


def test_absent_classes_are_left_out_and_the_others_share_alike() -> None:
    balanced = after_one_step(skewed((0, 4, 1, 0)), IsolatedBalanced())
    even = after_one_step(skewed((0, 1, 1, 0)), Isolated())
    for name, t in balanced.items():
        torch.testing.assert_close(t, even[name], rtol=1e-6, atol=1e-7)


def test_the_loss_is_that_of_the_formula() -> None:
    learner = tiny_learner(1, data=tiny_data(only=[0, 0, 0, 1, 2]), held_out=0)
    batch, _ = learner.preview(epochs(1))
    counts = torch.tensor(learner.describe().histogram).double()
    weight = [float(counts.sum() / ((counts > 0).sum() * n)) if n else 0.0 for n in counts]
    each = F.cross_entropy(learner.model(batch.x), batch.y, reduction="none").double()
    w = torch.tensor([weight[y] for y in batch.y.tolist()])
    expected = float((w * each.detach()).sum() / w.sum())
    losses: list[float] = []
    descend = learner.step

    def spy(loss: torch.Tensor) -> float:
        losses.append(float(loss.detach()))
        return descend(loss)

    learner.step = spy  # type: ignore[method-assign]
    IsolatedBalanced().local(learner, epochs(1))
    assert losses[0] == pytest.approx(expected, rel=1e-5)


def test_it_passes_over_the_data_as_isolated_does() -> None:
    one, two = (tiny_learner(1, data=tiny_data(only=[0, 0, 0, 1, 2, 3])) for _ in range(2))
    assert IsolatedBalanced().schedule == Isolated().schedule
    assert IsolatedBalanced(passes=5).schedule == Isolated(passes=5).schedule
    reports = [s.local(its, epochs(2)) for s, its in ((IsolatedBalanced(), one), (Isolated(), two))]
    assert (reports[0].steps, reports[0].samples) == (reports[1].steps, reports[1].samples)
    assert one.mark().sampler == two.mark().sampler
    assert weights(one) != weights(two)


def test_9_1_10_the_same_seed_gives_the_same_bits() -> None:
    runs = []
    for _ in range(2):
        learner = tiny_learner(1)
        IsolatedBalanced().local(learner, epochs(2))
        runs.append(everything(learner))
    assert runs[0] == runs[1]


def test_a_loss_of_ones_own_cannot_be_weighed() -> None:
    with pytest.raises(LearnerError, match="cross-entropy"):
        IsolatedBalanced().check(tiny_learner(1, loss=nn.MultiMarginLoss()))
    IsolatedBalanced().check(tiny_learner(1))


def test_9_1_2_it_shows_nothing() -> None:
    strategy = registry.make("isolated-balanced")
    learner = tiny_learner(1)
    before = everything(learner)
    asked = Asked(tiny_card("birch", learner, strategy), Question(Query(want="params")))
    assert isinstance(strategy.answer(snapshot(learner, strategy), asked), Refusal)
    assert everything(learner) == before
    assert not strategy.exposes


async def test_a_whole_peer_trains_by_it_and_asks_nobody() -> None:
    village = PeerNetwork()
    amber, birch = (
        village.peer(n, blob_learner([0, 1], s), strategy="isolated-balanced") for s, n in enumerate(("amber", "birch"))
    )
    async with gathered(amber, birch):
        await amber.run(2)
    assert len(village.events["amber"].of(Trained)) == 2
    assert not village.events["amber"].of(Fetched)
    alone = blob_learner([0, 1], 0)
    IsolatedBalanced().local(alone, epochs(4))
    assert same(dict(amber.learner.state), dict(alone.state))
