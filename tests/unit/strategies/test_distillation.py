"""Distillation: its loss against a hand-made one, its two routes, and that knowledge arrives."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from peerlearn.cli.demo import recipe
from peerlearn.data import datasets, partition
from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.knowledge import Outputs, Params, Question, Received
from peerlearn.learning import losses, models
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.learner import Learner
from peerlearn.learning.sampler import Sampler
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.isolated import Isolated
from peerlearn.testing import (
    bits,
    everything,
    give,
    received,
    snapshot,
    tiny_card,
    tiny_data,
    tiny_id,
    tiny_learner,
    tiny_model,
    weights,
)
from peerlearn.types import Card, Exposure, epochs, steps

PUBLIC = tiny_data(samples=40, seed=77).unlabelled("public")
OTHER = tiny_data(samples=40, seed=78).unlabelled("public")


def member(name: str, seed: int, *, strategy: Distillation | None = None, hidden=(8, 8), public=(PUBLIC,)):
    learner = tiny_learner(seed, model=tiny_model(hidden=hidden), public_sets=public)
    learner.fit(epochs(2))
    return name, learner, strategy or Distillation()


# ---- the loss


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_a_step_is_the_gradient_of_the_written_loss(loss) -> None:
    """alpha CE + (1 - alpha) mean over teachers of the distance, on the student's own private batch."""
    settings = {"loss": loss, "alpha": 0.3, "temperature": 2.0}
    amber = member("amber", 0, strategy=Distillation(**settings))
    birch, cedar = member("birch", 1), member("cedar", 2)
    amber[2].absorb(amber[1], [received(amber, birch), received(amber, cedar)])
    twin = tiny_learner(0, public_sets=(PUBLIC,))
    twin.fit(epochs(2))
    assert weights(twin) == weights(amber[1])

    amber[2].transfer(amber[1], steps(1))

    (batch,) = twin.batches(steps(1))
    logits = twin.model(batch.x)
    teachers = [snapshot(p[1], p[2]).module()(batch.x) for p in (birch, cedar)]
    kl = loss == "kl"
    distances = [losses.distill_kl(t, logits, 2.0) if kl else losses.logit_mse(t, logits) for t in teachers]
    twin.step(0.3 * F.cross_entropy(logits, batch.y) + 0.7 * (distances[0] + distances[1]) / 2)
    for name, tensor in twin.state.items():
        torch.testing.assert_close(amber[1].state[name], tensor, rtol=1e-4, atol=1e-6)


def test_alpha_one_is_learning_from_labels_alone() -> None:
    amber, birch = member("amber", 0, strategy=Distillation(alpha=1.0)), member("birch", 1)
    plain = member("amber", 0)[1]
    amber[2].absorb(amber[1], [received(amber, birch)])
    amber[2].transfer(amber[1], epochs(1))
    plain.fit(epochs(1))
    assert weights(amber[1]) == weights(plain)


def test_a_teacher_equal_to_the_student_teaches_nothing_at_first() -> None:
    """KD(f -> f) = 0 with zero gradient: the first update is that of the labels alone (6.9 row 2)."""
    amber = member("amber", 0, strategy=Distillation(alpha=0.5))
    twin = member("amber", 0)[1]
    copy = member("birch", 0)
    amber[2].absorb(amber[1], [received(amber, copy)])
    amber[2].transfer(amber[1], steps(1))
    twin.fit(steps(1), loss=lambda model, batch: 0.5 * F.cross_entropy(model(batch.x), batch.y))
    for name, tensor in twin.state.items():
        torch.testing.assert_close(amber[1].state[name], tensor, rtol=1e-4, atol=1e-6)


def test_teachers_are_not_changed_by_teaching() -> None:
    amber, birch = member("amber", 0), member("birch", 1)
    got = received(amber, birch)
    before = everything(birch[1]), bits(dict(got.knowledge.tensors))
    amber[2].absorb(amber[1], [got])
    amber[2].transfer(amber[1], epochs(1))
    assert everything(birch[1]) == before[0]
    assert bits(dict(got.knowledge.tensors)) == before[1]


def test_a_transfer_whose_loss_is_endless_is_survived() -> None:
    amber, birch = member("amber", 0, strategy=Distillation(loss="mse")), member("birch", 1)
    amber[2].absorb(amber[1], [received(amber, birch)])
    amber[1].loss = lambda logits, y: logits.sum() * torch.inf
    before = everything(amber[1])
    report = amber[2].transfer(amber[1], epochs(1))
    assert not report.committed
    assert everything(amber[1]) == before


# ---- the routes


def test_the_same_architecture_goes_by_parameters_and_another_by_outputs() -> None:
    amber, same, other = member("amber", 0), member("birch", 1), member("cedar", 2, hidden=(6, 9))
    by_params, by_outputs = received(amber, same), received(amber, other)
    assert isinstance(by_params.knowledge, Params)
    assert isinstance(by_outputs.knowledge, Outputs)
    assert set(by_params.knowledge.tensors) == set(amber[1].state)
    assert torch.equal(by_outputs.knowledge.ids, PUBLIC.ids)
    expected = snapshot(other[1], other[2]).module()(PUBLIC.x)
    assert torch.equal(by_outputs.knowledge.tensors["logits"], expected)
    amber[2].absorb(amber[1], [by_params, by_outputs])
    assert set(amber[2].transfer(amber[1], steps(2)).providers) == {tiny_id("birch"), tiny_id("cedar")}


def test_a_public_step_is_the_gradient_of_the_written_loss() -> None:
    amber, other = member("amber", 0), member("cedar", 2, hidden=(6, 9))
    twin = member("amber", 0)[1]
    amber[2].absorb(amber[1], [received(amber, other)])
    amber[2].transfer(amber[1], steps(1))
    rows = Sampler(len(PUBLIC), 64, seed=PUBLIC.fingerprint).next()
    (batch,) = twin.batches(steps(1))
    teacher = snapshot(other[1], other[2]).module()(PUBLIC.x[rows])
    kd = losses.distill_kl(teacher, twin.model(PUBLIC.x[rows]))
    twin.step(0.5 * F.cross_entropy(twin.model(batch.x), batch.y) + 0.5 * kd)
    for name, tensor in twin.state.items():
        torch.testing.assert_close(amber[1].state[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_fit_is_judged_from_the_cards_alone() -> None:
    amber = member("amber", 0)
    card = tiny_card(*member("birch", 1))
    other = tiny_card(*member("cedar", 2, hidden=(6, 9)))
    apart = tiny_card(*member("dahlia", 3, hidden=(6, 9), public=(OTHER,)))
    shows_nothing = frozenset({Exposure.HISTOGRAM})

    def why(provider: Card, strategy: Distillation | None = None) -> str | None:
        return (strategy or Distillation()).misfit(amber[1], provider)

    assert why(card) is None
    assert why(other) is None
    assert "Learner(public_sets=[...])" in str(why(apart))
    assert "another architecture" in str(why(apart))
    assert "does not show its outputs" in str(why(replace(other, exposes=shows_nothing)))
    assert "shows no parameters" in str(why(replace(card, exposes=shows_nothing)))
    assert why(replace(card, exposes=frozenset({Exposure.PUBLIC_OUTPUTS}))) is None
    assert "another architecture" in str(why(other, Distillation(via="params")))
    assert "does not show its parameters" in str(why(replace(card, exposes=shows_nothing), Distillation(via="params")))
    with pytest.raises(KnowledgeError, match="no public set in common"):
        amber[2].ask(amber[1], apart)


def test_via_outputs_never_asks_for_nor_shows_parameters() -> None:
    strategy = Distillation(via="outputs")
    amber, birch = member("amber", 0, strategy=strategy), member("birch", 1)
    question = strategy.ask(amber[1], tiny_card(*birch))
    assert isinstance(question, Question)
    assert question.query.want == "outputs"
    assert strategy.needs == {Exposure.PUBLIC_OUTPUTS}
    assert Exposure.PARAMS_FULL not in strategy.exposes
    with pytest.raises(ConfigError, match="public_sets"):
        strategy.check(tiny_learner())


# ---- that it teaches


def _half(learner: Learner, test: Dataset, classes: tuple[int, ...]) -> float:
    return learner.evaluate(test).scores(classes).remote


@pytest.mark.parametrize("hidden", [(8, 8), (12, 10)], ids=["same architecture", "another architecture"])
def test_a_student_learns_classes_that_it_never_saw_from_a_teacher_that_did(hidden) -> None:
    """Two halves of the classes; without a single label of the other half, by agreement on inputs alone."""
    test = tiny_data(samples=200, seed=50)
    public = tiny_data(samples=120, seed=51).unlabelled("public")
    strategy = Distillation(via="outputs", alpha=0.5)
    amber = tiny_learner(0, data=tiny_data(only=[0, 1]), public_sets=[public])
    birch = tiny_learner(1, data=tiny_data(only=[2, 3], seed=1), model=tiny_model(hidden=hidden), public_sets=[public])
    both = tiny_learner(2, data=tiny_data(seed=2), model=tiny_model(hidden=hidden), public_sets=[public])
    both.fit(epochs(60))
    amber.fit(epochs(20))
    birch.fit(epochs(20))
    assert _half(amber, test, (0, 1)) == 0
    me = ("amber", amber, strategy)
    strategy.absorb(amber, [received(me, ("cedar", both, Distillation()))])
    strategy.transfer(amber, epochs(60))
    assert _half(amber, test, (0, 1)) > 0.7
    assert amber.evaluate(test).scores((0, 1)).private > 0.7


def test_on_real_images_remote_accuracy_rises_above_isolation_and_private_stays() -> None:
    """A short half mesh on the packaged slice; the demo's own figures are measured by its script over 3 seeds."""
    peers = recipe.DEMO_PEERS[3]
    test = recipe.demo_test_set()
    alone, taught = (recipe.demo_learner("amber", peers, 0) for _ in range(2))
    teachers = [(name, recipe.demo_learner(name, peers, 0), Distillation()) for name in ("birch", "cedar")]
    for _, learner, _ in teachers:
        learner.fit(epochs(6))
    strategy = Distillation()
    me = ("amber", taught, strategy)
    strategy.absorb(taught, [received(me, teacher) for teacher in teachers])
    for _ in range(3):
        Isolated().local(alone, epochs(2))
        strategy.local(taught, epochs(1))
        strategy.transfer(taught, epochs(1))
    before, after = (learner.evaluate(test).scores(peers["amber"]) for learner in (alone, taught))
    assert after.remote > before.remote + 0.08
    assert after.private > before.private - 0.12


def test_a_convnet_and_an_mlp_teach_each_other_on_real_images() -> None:
    """As in examples/different_architectures.py, by direct calls: remote accuracy of both rises above isolation."""
    train, test = datasets.load("fashion-mnist-slice")
    everything = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    images, labelled = train.subset(everything[:600]).unlabelled("images"), train.subset(everything[600:3600])
    holds = {"conv": range(0, 5), "mlp": range(5, 10)}
    private = partition.by_classes(labelled.y, list(holds.values()))

    def pair() -> list[tuple[str, Learner, Distillation]]:
        nets = (models.Net(), models.MLP())
        parts = [labelled.subset(labelled.ids[rows]) for rows in private]
        return [
            (name, Learner(net, part, public_sets=[images], batch_size=32), Distillation())
            for name, net, part in zip(holds, nets, parts, strict=True)
        ]

    alone, taught = pair(), pair()
    for _ in range(3):
        for _, learner, _ in alone:
            learner.fit(epochs(2))
        for _, learner, strategy in taught:
            strategy.local(learner, epochs(1))
        shown = [snapshot(learner, strategy, 1 + learner.steps) for _, learner, strategy in taught]
        for me, other, its in zip(taught, taught[::-1], shown[::-1], strict=True):
            got = give(me, other, its)
            assert isinstance(got, Received)
            assert isinstance(got.knowledge, Outputs)
            me[2].absorb(me[1], [got])
        for _, learner, strategy in taught:
            strategy.transfer(learner, epochs(1))
    for (name, before, _), (_, after, _) in zip(alone, taught, strict=True):
        remote = [learner.evaluate(test).scores(holds[name]).remote for learner in (before, after)]
        assert remote[1] > remote[0] + 0.05, (name, remote)
