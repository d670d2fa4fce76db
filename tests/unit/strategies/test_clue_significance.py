"""Significant parameters: the invariants of algorithms.md, section 5.12, on what is selected and what is made of it."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError, RefusalReason
from peerlearn.knowledge import Params, Query, Question, Refusal, Sparse
from peerlearn.learning.learner import Learner
from peerlearn.learning.samples import Batch
from peerlearn.learning.stream import Stream, StreamLearner, steady
from peerlearn.strategies.base import Asked
from peerlearn.strategies.clue import significance
from peerlearn.strategies.clue.helpers import OPERATORS, filled, merged
from peerlearn.strategies.clue.significance import SignificanceView
from peerlearn.strategies.clue.strategy import Clue
from peerlearn.testing import (
    CLASSES,
    DIMS,
    Normed,
    bits,
    everything,
    snapshot,
    tiny_card,
    tiny_data,
    tiny_id,
    tiny_model,
)
from peerlearn.types import steps
from peerlearn.wire.codec import decode_answer, encode_answer

SHARES = [0, 1, 10, 30, 33.3, 50, 90, 99, 100]


def provider(strategy: Clue, *, model: nn.Module | None = None, batches: int = 2, seed: int = 1) -> Learner:
    """Has served some request batches of all classes."""
    stream = Stream(tiny_data(samples=200), steady(range(CLASSES), batches=8), batch_size=24, seed=seed)
    learner = StreamLearner(model or tiny_model(), stream, seed=seed)
    strategy.local(learner, steps(batches))
    return learner


def asked(learner: Learner, strategy: Clue, **select: object) -> Asked:
    whole = {"classes": [1, 2], "top_percent": 50, "picker": "sensitivity"} | select
    return Asked(tiny_card("c", learner, strategy), Question(Query(want="params", select=whole)))  # type: ignore[arg-type]


def given(learner: Learner, strategy: Clue, **select: object) -> Params:
    answer = strategy.answer(snapshot(learner, strategy), asked(learner, strategy, **select))
    assert isinstance(answer, Params), answer
    return answer


def sparse(params: Params) -> dict[str, Sparse]:
    return {name: t for name, t in params.tensors.items() if isinstance(t, Sparse)}


def masks(params: Params) -> dict[str, set[int]]:
    return {name: set(t.indices.tolist()) for name, t in sparse(params).items()}


def shown_batch(seed: int = 0, samples: int = 40, **more: object) -> Batch:
    data = tiny_data(samples=samples, seed=seed, **more)  # type: ignore[arg-type]
    return Batch(data.x, data.y, data.ids)


@pytest.mark.parametrize("share", SHARES)
def test_5_12_1_exactly_k_values_of_each_tensor(share: float) -> None:
    strategy = Clue(shows_percent=100)
    learner = provider(strategy)
    params = given(learner, strategy, top_percent=share)
    assert set(params.tensors) == set(learner.state)
    for name, t in sparse(params).items():
        count = learner.state[name].numel()
        k = -(-round(share * 10) * count // 1000)
        assert len(t.indices) == len(t.values) == k
        assert t.shape == tuple(learner.state[name].shape)


def test_5_12_1_the_ceiling_is_taken_in_exact_arithmetic() -> None:
    assert significance.amount(2.2, 3000) == 66  # 2.2 * 3000 / 100 is 66.00000000000001 in floats
    assert significance.amount(50, 3) == 2
    assert significance.amount(0, 7) == 0
    assert significance.amount(100.0, 7) == 7


@pytest.mark.parametrize("norm", [False, True])
def test_5_12_1_no_share_is_the_target_and_the_whole_is_the_provider(norm: bool) -> None:
    strategy = Clue(shows_percent=100)
    learner = provider(strategy, model=Normed() if norm else None)
    own = (Normed() if norm else tiny_model(seed=3)).state_dict()
    nothing = filled(own, given(learner, strategy, top_percent=0).tensors)
    everything_of_it = filled(own, given(learner, strategy, top_percent=100).tensors)
    assert bits(nothing) == bits(dict(own))
    assert bits(everything_of_it) == bits({n: t.detach() for n, t in learner.state.items()})


def test_5_12_2_the_helper_is_the_provider_where_significant_and_the_target_elsewhere() -> None:
    strategy = Clue()
    learner = provider(strategy)
    own = tiny_model(seed=3).state_dict()
    params = given(learner, strategy)
    helper = filled(own, params.tensors)
    for name, chosen in masks(params).items():
        mine, theirs = own[name].reshape(-1), learner.state[name].detach().reshape(-1)
        for i, value in enumerate(helper[name].reshape(-1)):
            assert torch.equal(value, theirs[i] if i in chosen else mine[i])
        assert 0 < len(chosen) < len(mine)


def test_5_12_2_the_zero_filled_helper_is_zero_elsewhere() -> None:
    strategy = Clue()
    learner = provider(strategy)
    params = given(learner, strategy)
    helper = filled(tiny_model(seed=3).state_dict(), params.tensors, zero=True)
    for name, t in sparse(params).items():
        dense = torch.zeros(t.shape).reshape(-1)
        dense[t.indices] = t.values
        assert torch.equal(helper[name].reshape(-1), dense)


@pytest.mark.parametrize("picker", ["sensitivity", "random"])
def test_5_12_3_masks_are_nested(picker: str) -> None:
    strategy = Clue(shows_percent=100)
    learner = provider(strategy)
    nest = [masks(given(learner, strategy, top_percent=share, picker=picker)) for share in SHARES]
    for smaller, larger in itertools.pairwise(nest):
        assert all(smaller[name] <= larger[name] for name in smaller)


def test_5_12_3_of_equal_scores_the_first_come_first() -> None:
    scores = torch.tensor([0.0, 2.0, 1.0, 1.0, 0.0, 1.0])
    picked = [significance.top(scores, k).tolist() for k in range(7)]
    assert picked == [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 5], [0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]


def test_5_12_4_the_gradient_of_a_linear_layer_in_closed_form() -> None:
    """d z_c / d W_c = sum of x over the samples labelled c; d z_c / d b_c = their number. Of the other rows the logit
    knows nothing, and what is left is the tie-break: a millionth of d log p_c / d W_k = - sum of p_k x."""
    model, batch = nn.Linear(DIMS, CLASSES), shown_batch()
    grads = significance.class_gradients(model, [batch], [2])[2]
    x = batch.x[batch.y == 2]
    torch.testing.assert_close(grads["weight"][2], x.sum(dim=0))
    torch.testing.assert_close(grads["bias"][2], torch.tensor(float(len(x))))
    others, p = [0, 1, 3], model(x).softmax(dim=1).detach()
    torch.testing.assert_close(grads["weight"][others], -1e-6 * p[:, others].T @ x, rtol=1e-4, atol=0)
    torch.testing.assert_close(grads["bias"][others], -1e-6 * p[:, others].sum(dim=0), rtol=1e-4, atol=0)


def test_of_what_no_logit_depends_on_the_rival_classes_come_first() -> None:
    """Half of an output layer: the row of the class itself, then the one that it is most taken for."""
    model, batch = nn.Linear(DIMS, CLASSES), shown_batch()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([-5.0, -5.0, 0.0, 1.0]))
    scores = significance.sensitivity([significance.class_gradients(model, [batch], [2])[2]])["weight"]
    picked = significance.top(scores, scores.numel() // 2)
    assert set((picked // DIMS).tolist()) == {2, 3}


@pytest.mark.parametrize("labelled", [True, False])
def test_5_12_4_finite_differences_confirm_the_gradient(labelled: bool) -> None:
    """With samples of the class: its logit on those; without: its softmax probability on all."""
    model = tiny_model(seed=5).double()
    one = shown_batch(only=None if labelled else [0, 1])
    batch = Batch(one.x.double(), one.y, one.ids)

    def score() -> Tensor:
        logits: Tensor = model(batch.x)
        return logits[batch.y == 3, 3].sum() if labelled else logits.softmax(dim=1)[:, 3].sum()

    grads = significance.class_gradients(model, [batch], [3])[3]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            for i in range(0, weight.numel(), 7):
                flat = weight.reshape(-1)
                flat[i] += 1e-6
                above = score()
                flat[i] -= 2e-6
                below = score()
                flat[i] += 1e-6
                torch.testing.assert_close(grads[name].reshape(-1)[i], (above - below) / 2e-6, rtol=1e-4, atol=1e-5)


def test_5_12_5_a_tensor_without_any_gradient_yields_exactly_k_all_the_same() -> None:
    """A layer behind a dead ReLU."""
    model = tiny_model()
    with torch.no_grad():
        model.penult.bias.fill_(-1e3)
    strategy = Clue()
    batch = shown_batch()
    grads = significance.class_gradients(model, [batch], [1])[1]
    assert not grads["penult.weight"].any()
    learner = Learner(model, tiny_data())
    params = significance.significant(snapshot(learner, strategy), significance.sensitivity([grads]), 30)
    assert sparse(params)["penult.weight"].indices.tolist() == list(range(20))  # ceil(.3 * 64)
    assert sparse(params)["penult.bias"].indices.tolist() == [0, 1, 2]


def test_5_12_6_the_same_class_twice_is_the_class_and_the_order_of_samples_does_not_matter() -> None:
    model, batch = tiny_model(), shown_batch(samples=200)
    grads = significance.class_gradients(model, [batch], [1, 2])
    alone, twice = significance.sensitivity([grads[1]]), significance.sensitivity([grads[1], grads[1]])
    assert bits(alone) == bits(twice)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shuffled = Batch(batch.x[order], batch.y[order], batch.ids[order])
    other = significance.class_gradients(model, [shuffled], [2, 1])
    for c in (1, 2):
        for name in grads[c]:
            torch.testing.assert_close(other[c][name], grads[c][name])


def test_5_12_6_absolute_per_class_first_and_then_the_mean() -> None:
    one, two = {"w": torch.tensor([1.0, -4.0, 0.0])}, {"w": torch.tensor([-1.0, 2.0, 1.0])}
    assert significance.sensitivity([one, two])["w"].tolist() == [1.0, 3.0, 0.5]


@pytest.mark.parametrize("norm", [False, True])
def test_5_12_7_the_wire_changes_no_bit_and_its_size_is_the_formula(norm: bool) -> None:
    strategy = Clue(shows_percent=100)
    learner = provider(strategy, model=Normed() if norm else None)
    sizes = []
    for share in SHARES:
        params = given(learner, strategy, top_percent=share)
        message = encode_answer(params, sender=tiny_id("a"), session="s", strategy="clue")
        back = decode_answer(message)
        assert isinstance(back, Params)
        came, sent = sparse(back), sparse(params)
        for name in sent:
            assert torch.equal(came[name].indices, sent[name].indices)
            assert torch.equal(came[name].values, sent[name].values)
        formula = 0
        for tensor in params.tensors.values():
            if isinstance(tensor, Sparse):
                k, n = len(tensor.values), torch.Size(tensor.shape).numel()
                formula += 4 * k + min(4 * k, -(-n // 8))
            else:
                formula += tensor.nbytes
        assert message.header.body_bytes == formula
        sizes.append(formula)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= len(sizes) - 1  # 99 % of less than a hundred values is all of them


@pytest.mark.parametrize("picker", ["sensitivity", "random"])
@pytest.mark.parametrize("selection", ["on-demand", "continuous"])
def test_5_12_8_answering_changes_nothing(picker: str, selection: str) -> None:
    strategy = Clue(selection=selection)  # type: ignore[arg-type]
    learner = provider(strategy, model=Normed())
    shot = snapshot(learner, strategy)
    before = everything(learner), bits(strategy.state_dict()), bits(dict(shot.module().state_dict()))
    first = strategy.answer(shot, asked(learner, strategy, picker=picker))
    second = strategy.answer(shot, asked(learner, strategy, picker=picker))
    assert (everything(learner), bits(strategy.state_dict()), bits(dict(shot.module().state_dict()))) == before
    assert not any(p.requires_grad or p.grad is not None for p in shot.module().parameters())
    assert isinstance(first, Params)
    assert isinstance(second, Params)
    assert masks(first) == masks(second)


@pytest.mark.parametrize("batches", [1, 3])
def test_5_12_11_continuous_and_on_demand_masks_agree_on_a_frozen_model(batches: int) -> None:
    model = tiny_model()
    served = tuple(shown_batch(seed) for seed in range(batches))
    sums: dict[int, significance.Gradients] = {}
    for batch in served:
        sums = significance.added(sums, model, batch)
    learner = Learner(model, tiny_data())
    shot = learner.snapshot(1)
    seen = (1,) * CLASSES
    looked_up = significance.by_sensitivity(shot, SignificanceView((), seen, sums), [0, 3])
    computed = significance.by_sensitivity(shot, SignificanceView(served, seen), [0, 3])
    assert bits(looked_up) == bits(computed)


def test_running_sums_that_were_published_do_not_change() -> None:
    strategy = Clue(selection="continuous")
    learner = provider(strategy)
    shown = strategy.publish(learner)
    before = bits({c: dict(g) for c, g in (shown.sums or {}).items()})
    strategy.local(learner, steps(2))
    assert bits({c: dict(g) for c, g in (shown.sums or {}).items()}) == before
    assert bits({c: dict(g) for c, g in (strategy.publish(learner).sums or {}).items()}) != before


def test_buffers_travel_whole_and_parameters_never_do() -> None:
    strategy = Clue()
    params = given(provider(strategy, model=Normed()), strategy)
    whole = {name for name, t in params.tensors.items() if isinstance(t, Tensor)}
    assert whole == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(DIMS, DIMS, bias=False), nn.Linear(DIMS, DIMS, bias=False)
        self.two.weight = self.one.weight
        self.fc = nn.Linear(DIMS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.two(torch.relu(self.one(x)))))
        return logits


def test_shared_weights_are_selected_from_under_both_names() -> None:
    strategy = Clue(top_percent=10)
    params = given(provider(strategy, model=Tied()), strategy, top_percent=10)
    chosen = sparse(params)
    assert chosen["one.weight"].indices.tolist() == chosen["two.weight"].indices.tolist()
    assert len(chosen["one.weight"].indices) == 7


def test_the_random_control_is_drawn_anew_for_other_classes_and_versions_and_is_repeatable() -> None:
    strategy = Clue()
    learner = provider(strategy)
    shots = [snapshot(learner, strategy, v) for v in (1, 1, 2)]
    picked = [bits(significance.by_lot(shot, classes)) for shot in shots for classes in ([1, 2], [2, 1], [3])]
    assert len(set(picked)) == 4  # two versions times two sets of classes
    assert masks(given(learner, strategy, picker="random")) != masks(given(learner, strategy))


def test_what_matters_for_one_class_is_not_what_matters_for_another() -> None:
    strategy = Clue()
    learner = provider(strategy)
    assert masks(given(learner, strategy, classes=[0])) != masks(given(learner, strategy, classes=[3]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": []}, {"classes": [1, 1]}, {"classes": [CLASSES]}, {"classes": [-1]}, {"classes": ["1"]},
        {"classes": [True]}, {"classes": 1}, {"top_percent": -1}, {"top_percent": 101}, {"top_percent": True},
        {"top_percent": "50"}, {"picker": "best"}, {"picker": 1},
    ],
)  # fmt: skip
def test_questions_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    strategy = Clue(shows_percent=100)
    learner = provider(strategy)
    with pytest.raises(KnowledgeError):
        strategy.answer(snapshot(learner, strategy), asked(learner, strategy, **wrong))


def test_more_than_is_shown_is_refused() -> None:
    strategy = Clue(shows_percent=20)
    learner = provider(strategy)
    answer = strategy.answer(snapshot(learner, strategy), asked(learner, strategy, top_percent=20.5))
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.EXPOSURE
    given(learner, strategy, top_percent=20)


def test_a_class_that_was_never_seen_is_refused_unless_the_control_wants_a_wrong_helper() -> None:
    for refuse in (True, False):
        strategy = Clue(refuse_unseen=refuse)
        stream = Stream(tiny_data(samples=200), steady([0, 1], batches=4), batch_size=24)
        learner = StreamLearner(tiny_model(), stream)
        strategy.local(learner, steps(2))
        if refuse:
            with pytest.raises(KnowledgeError, match="no sample of class 2"):
                strategy.answer(snapshot(learner, strategy), asked(learner, strategy, classes=[1, 2]))
        else:
            given(learner, strategy, classes=[1, 2])


def test_before_the_first_request_batch_there_is_nothing_to_answer_from() -> None:
    strategy = Clue()
    learner = provider(strategy, batches=0)
    answer = strategy.answer(snapshot(learner, strategy), asked(learner, strategy))
    assert isinstance(answer, Refusal)


def test_one_may_pick_otherwise_by_a_subclass() -> None:
    class Greatest(Clue):
        def scores(self, snapshot, shown, classes, picker):
            return {name: p.abs() for name, p in significance.weights_of(snapshot.module()).items()}

    strategy = Greatest(top_percent=10)
    learner = provider(strategy)
    chosen = sparse(given(learner, strategy, top_percent=10))["penult.weight"]
    rest = learner.state["penult.weight"].detach().reshape(-1).abs()
    assert float(chosen.values.abs().min()) >= float(rest.topk(8).values.min())


# ---------------------------------------------------------------- replacing, averaging, operators


def part(indices: list[int], values: list[float]) -> dict[str, Tensor | Sparse]:
    return {"w": Sparse((2, 2), torch.tensor(indices), torch.tensor(values))}


def test_replacing_and_averaging_in_closed_form() -> None:
    own = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    came = [part([0, 1], [5.0, 6.0]), part([1, 3], [8.0, 9.0])]
    assert merged(own, came, average=False)["w"].tolist() == [[5.0, 7.0], [3.0, 9.0]]
    torch.testing.assert_close(merged(own, came, average=True)["w"], torch.tensor([[3.0, (2 + 6 + 8) / 3], [3.0, 6.5]]))
    assert own["w"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_counters_are_never_mixed() -> None:
    own: dict[str, Tensor] = {"n": torch.tensor(4), "mean": torch.tensor([1.0])}
    made = merged(own, [{"n": torch.tensor(9), "mean": torch.tensor([3.0])}], average=True)
    assert "n" not in made
    assert made["mean"].tolist() == [2.0]


def test_the_operators() -> None:
    logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 5.0]]])
    p = logits.softmax(dim=2)
    torch.testing.assert_close(OPERATORS["mean"](logits), (p[0] + p[1]) / 2)
    torch.testing.assert_close(OPERATORS["mean-logit"](logits), (logits[0] + logits[1]).div(2).softmax(dim=1))
    assert torch.equal(OPERATORS["confident"](logits), torch.stack([p[0, 0], p[1, 1]]))
    same = copy.copy(logits[:1]).expand(3, -1, -1)
    assert torch.equal(OPERATORS["mean"](same), p[0])
