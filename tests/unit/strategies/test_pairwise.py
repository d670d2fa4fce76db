"""Pairwise layer transfer: the exact invariants of algorithms.md 4.13, one test per row, and what is refused."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.errors import LearnerError
from peerlearn.knowledge import Params, Question
from peerlearn.learning import losses
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.models import SmallCNN
from peerlearn.strategies.pairwise.layer_transfer import Objective, Rewriting
from peerlearn.strategies.pairwise.pipelines import Pipelines
from peerlearn.strategies.pairwise.strategy import Pairwise
from peerlearn.strategies.pairwise.transfer_maps import LinearLayer, MapSettings, TransferMap, mean_layer
from peerlearn.testing import (
    CLASSES,
    Normed,
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
from peerlearn.types import epochs, steps

OUT, IN = MapSettings("out", True, "own"), MapSettings("in", False, "own")
BOTH = pytest.mark.parametrize("settings", [OUT, IN, MapSettings("in", True, "own")], ids=["out", "in", "in+bias"])


def layer(seed: int, m: int = 5, n: int = 3, dtype: torch.dtype = torch.float32) -> LinearLayer:
    g = torch.Generator().manual_seed(seed)
    return LinearLayer(torch.randn(m, n, generator=g).to(dtype), torch.randn(m, generator=g).to(dtype))


def member(name: str, seed: int, strategy: Pairwise | None = None, *, trained: int = 3, model: nn.Module | None = None):
    learner = tiny_learner(seed, model=model or tiny_model())
    learner.fit(epochs(trained))
    return name, learner, strategy or Pairwise()


def taught(strategy: Pairwise, *, model: type[nn.Module] | None = None):
    """Amber with what birch and cedar have given it."""
    amber = member("amber", 0, strategy, model=model() if model else None)
    others = [member(n, s, model=model() if model else None) for n, s in (("birch", 1), ("cedar", 2))]
    strategy.absorb(amber[1], [received(amber, other) for other in others])
    return amber, others


def rewriting(learner: Learner, providers, objective: Objective, name: str = "penult") -> Rewriting:
    given = {n: {k: t.detach().clone() for k, t in p.state.items()} for n, p in sorted(providers.items())}
    return Rewriting(learner, name, given, objective=objective, by_layer=False)


def same(one: LinearLayer, two: LinearLayer) -> bool:
    assert one.bias is not None
    assert two.bias is not None
    return torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)


def gradients(map_: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in map_.named_parameters() if p.grad is not None}


# ---- row 1


@BOTH
@pytest.mark.parametrize("combine", ["mean", "joint", "sequence"])
def test_row_1_at_the_start_the_new_layer_is_the_own_layer_bit_for_bit(settings, combine) -> None:
    own = layer(0)
    theirs = [layer(1), layer(2), layer(3)]
    pipelines = Pipelines("abc", own, combine=combine, settings=settings, lr=1e-4)
    assert same(pipelines.layer(theirs, own), own)


def test_row_1_a_phase_of_no_steps_leaves_everything_as_it_was() -> None:
    amber, _ = taught(Pairwise())
    before = everything(amber[1])
    assert amber[2].transfer(amber[1], steps(0)).steps == 0
    assert everything(amber[1]) == before


# ---- row 2


@BOTH
def test_row_2_other_matrices_give_the_provider_s_layer_or_the_mean(settings) -> None:
    own, theirs = layer(0), layer(1)
    map_ = TransferMap(own, 1, settings)
    with torch.no_grad():
        for p in (map_.matrices, map_.bias_matrices):
            if p is not None:
                p.copy_(p.flip(0))
    made = map_([theirs], own)
    assert torch.equal(made.weight, theirs.weight)
    assert made.bias is not None
    assert own.bias is not None
    assert theirs.bias is not None
    assert torch.equal(made.bias, theirs.bias if settings.mix_bias else own.bias)
    average = TransferMap(own, 1, replace(settings, start="average"))([theirs], own)
    torch.testing.assert_close(average.weight, (own.weight + theirs.weight) / 2)
    if settings.mix_bias:
        assert own.bias is not None
        assert theirs.bias is not None
        torch.testing.assert_close(average.bias, (own.bias + theirs.bias) / 2)


def test_row_2_by_hand() -> None:
    """W* = A_s W_s + A_o W_o and b* likewise (out); W* = W_s A_s + W_o A_o + 1 c^T (in)."""
    own, theirs = layer(0, dtype=torch.float64), layer(1, dtype=torch.float64)
    g = torch.Generator().manual_seed(5)
    for settings, size in ((OUT, 5), (IN, 3)):
        map_ = TransferMap(own, 1, settings)
        nn.init.normal_(map_.matrices, generator=g)
        a_s, a_o = map_.matrices
        made = map_([theirs], own)
        assert a_s.shape == (size, size)
        assert own.bias is not None
        assert theirs.bias is not None
        if settings is OUT:
            torch.testing.assert_close(made.weight, a_s @ theirs.weight + a_o @ own.weight)
            torch.testing.assert_close(made.bias, a_s @ theirs.bias + a_o @ own.bias)
        else:
            assert map_.offset is not None
            nn.init.normal_(map_.offset, generator=g)
            made = map_([theirs], own)
            torch.testing.assert_close(made.weight, theirs.weight @ a_s + own.weight @ a_o + map_.offset)
            assert made.bias is own.bias


# ---- row 3


@pytest.mark.parametrize("mix", ["out", "in"])
def test_row_3_gradients_reach_the_map_only_and_a_step_moves_it(mix) -> None:
    amber, others = member("amber", 0), [member("birch", 1)]
    work = rewriting(amber[1], {"birch": others[0][1]}, Objective(0.5, 1.0, "forward", ""))
    theirs = [LinearLayer(others[0][1].state["penult.weight"].detach(), others[0][1].state["penult.bias"].detach())]
    pipelines = Pipelines(["birch"], work.own, combine="mean", settings=MapSettings(mix, mix == "out", "own"), lr=1e-4)
    before = pipelines.state_dict()
    (batch,) = amber[1].batches(steps(1))
    pipelines.step(work.loss(batch, pipelines.layer(theirs, work.own)))
    assert all(bool(grad.abs().sum() > 0) for grad in gradients(pipelines.maps["birch"]).values())
    assert [p.grad for p in amber[1].model.parameters()] == [None] * 6
    assert [p.grad for p in others[0][1].model.parameters()] == [None] * 6
    assert bits(pipelines.state_dict()["birch"]["map"]) != bits(before["birch"]["map"])
    assert pipelines.moved() > 0
    assert not torch.equal(pipelines.layer(theirs, work.own).weight, work.own.weight)


def test_row_3_the_provider_s_layer_counts() -> None:
    """Other W_s, same outputs: another new layer. Accuracy would not show it; the bits do."""
    amber, birch = member("amber", 0), member("birch", 1)
    made = []
    for control in ("", "random-weights"):
        one = member("amber", 0, Pairwise(control=control, guard=None))
        one[2].absorb(one[1], [received(amber, birch)])
        one[2].transfer(one[1], steps(4))
        made.append(one[1].state["penult.weight"].detach().clone())
    assert not torch.equal(*made)


# ---- row 4


@BOTH
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_row_4_finite_differences_confirm_the_gradient_of_the_map(settings, direction) -> None:
    """A net with 3 units in float64."""
    amber = tiny_learner(0, model=tiny_model(hidden=(3, 3)).double(), data=_double(), held_out=0)
    birch = tiny_learner(1, model=tiny_model(seed=1, hidden=(3, 3)).double(), data=_double(1), held_out=0)
    work = rewriting(amber, {"birch": birch}, Objective(0.4, 2.0, direction, ""))
    theirs = [LinearLayer(birch.state["penult.weight"].detach(), birch.state["penult.bias"].detach())]
    map_ = TransferMap(work.own, 1, settings)
    nn.init.normal_(map_.matrices, std=0.7, generator=torch.Generator().manual_seed(3))
    (batch,) = amber.batches(steps(1))

    def loss() -> Tensor:
        return work.loss(batch, map_(theirs, work.own))

    loss().backward()
    for parameter in map_.parameters():
        assert parameter.grad is not None
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            value = float(flat[i])
            with torch.no_grad():
                flat[i] = value + 1e-6
                up = float(loss())
                flat[i] = value - 1e-6
                down = float(loss())
                flat[i] = value
            assert float(parameter.grad.view(-1)[i]) == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-7)


def _double(seed: int = 0) -> tuple[Tensor, Tensor]:
    data = tiny_data(seed=seed)
    return data.x.double(), data.y


# ---- row 5


def test_row_5_without_l2_the_provider_s_outputs_do_not_matter() -> None:
    birch = member("birch", 1)
    seen = []
    for scale in (1.0, -3.0):
        amber = member("amber", 0, Pairwise(alpha=1.0, guard=None))
        got = received(amber, birch)
        assert isinstance(got.knowledge, Params)
        tensors = dict(got.knowledge.tensors)
        head = tensors["fc.weight"]
        assert isinstance(head, Tensor)
        tensors["fc.weight"] = head * scale
        amber[2].absorb(amber[1], [replace(got, knowledge=replace(got.knowledge, tensors=tensors))])
        amber[2].transfer(amber[1], steps(3))
        seen.append(weights(amber[1]))
    assert seen[0] == seen[1]


def test_row_5_without_l1_a_provider_equal_to_the_consumer_changes_nothing() -> None:
    """In exact arithmetic L2 = 0 and its gradient 0; Adam would blow up rounding errors, so both are looked at here."""
    amber = member("amber", 0)
    work = rewriting(amber[1], {"birch": amber[1]}, Objective(0.0, 1.0, "forward", ""))
    map_ = TransferMap(work.own, 1, OUT)
    (batch,) = amber[1].batches(steps(1))
    loss = work.loss(batch, map_([work.own], work.own))
    loss.backward()
    assert abs(loss.item()) < 1e-7
    assert all(float(grad.abs().max()) < 1e-6 for grad in gradients(map_).values())


# ---- row 6


@BOTH
def test_row_6_identical_providers_count_as_one(settings) -> None:
    amber, birch = member("amber", 0), member("birch", 1)
    (batch,) = amber[1].batches(steps(1))
    made, values = [], []
    for k in (1, 3):
        names = ["birch", "cedar", "dahlia"][:k]
        work = rewriting(amber[1], dict.fromkeys(names, birch[1]), Objective(0.0, 1.0, "forward", ""))
        theirs = [LinearLayer(birch[1].state["penult.weight"], birch[1].state["penult.bias"])] * k
        pipelines = Pipelines(names, work.own, combine="mean", settings=settings, lr=1e-4)
        for map_ in pipelines.maps.values():
            nn.init.normal_(map_.matrices, generator=torch.Generator().manual_seed(1))
        made.append(pipelines.layer(theirs, work.own))
        values.append(work.loss(batch, work.own).item())
    assert same(*made)
    assert values[0] == values[1]


def test_row_6_provider_order_never_matters() -> None:
    birch, cedar = member("birch", 1), member("cedar", 2)
    seen = set()
    for order in ((birch, cedar), (cedar, birch)):
        for combine in ("mean", "joint", "sequence"):
            amber = member("amber", 0, Pairwise(combine=combine))
            amber[2].absorb(amber[1], [received(amber, other) for other in order])
            amber[2].transfer(amber[1], steps(3))
            seen.add((combine, weights(amber[1])))
    assert len(seen) == 3


def test_the_mean_of_layers_is_the_mean() -> None:
    layers = [layer(seed) for seed in range(3)]
    made = mean_layer(layers)
    torch.testing.assert_close(made.weight, torch.stack([one.weight for one in layers]).mean(0))
    torch.testing.assert_close(made.bias, torch.stack([one.bias for one in layers if one.bias is not None]).mean(0))


# ---- row 7


def test_row_7_l2_is_the_closed_form_and_its_direction_matters() -> None:
    amber, birch = member("amber", 0, trained=20), member("birch", 1, trained=40)
    (batch,) = amber[1].batches(steps(1))
    mine, theirs = (snapshot(p[1], p[2]).module()(batch.x) for p in (amber, birch))
    p, q = theirs.softmax(1), mine.softmax(1)
    forward = float((p * (p.log() - q.log())).sum(1).mean())
    backward = float((q * (q.log() - p.log())).sum(1).mean())
    for objective, expected in (
        (Objective(0.0, 1.0, "forward", ""), forward),
        (Objective(0.0, 1.0, "reverse", ""), backward),
    ):
        work = rewriting(amber[1], {"birch": birch[1]}, objective)
        assert work.loss(batch, work.own).item() == pytest.approx(expected, rel=1e-4)
    assert forward != pytest.approx(backward, rel=1e-2)


def test_the_whole_loss_is_alpha_l1_plus_the_mean_of_l2() -> None:
    amber, birch, cedar = member("amber", 0), member("birch", 1), member("cedar", 2)
    (batch,) = amber[1].batches(steps(1))
    mine, *teachers = (snapshot(p[1], p[2]).module()(batch.x) for p in (amber, birch, cedar))
    work = rewriting(amber[1], {"birch": birch[1], "cedar": cedar[1]}, Objective(0.3, 2.0, "forward", ""))
    l2 = sum(losses.distill_kl(t, mine, 2.0) for t in teachers) / 2
    expected = 0.3 * F.cross_entropy(mine, batch.y) + 0.7 * l2
    assert work.loss(batch, work.own).item() == pytest.approx(float(expected), rel=1e-5)


# ---- row 8


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({}, ("penult.weight", "penult.bias")),
        ({"mix_bias": False}, ("penult.weight",)),
        ({"mix": "in"}, ("penult.weight",)),
        ({"mix": "in", "mix_bias": True}, ("penult.weight", "penult.bias")),
        ({"layer": "fc"}, ("fc.weight", "fc.bias")),
        ({"combine": "joint"}, ("penult.weight", "penult.bias")),
        ({"combine": "sequence"}, ("penult.weight", "penult.bias")),
        ({"commit": "step"}, ("penult.weight", "penult.bias")),
        ({"direction": "reverse", "temperature": 3.0}, ("penult.weight", "penult.bias")),
        ({"start": "average"}, ("penult.weight", "penult.bias")),
        ({"control": "uniform-teacher"}, ("penult.weight", "penult.bias")),
    ],
    ids=str,
)
def test_row_8_only_the_layer_differs_after_a_phase(settings, changed: tuple[str, ...]) -> None:
    amber, _ = taught(Pairwise(**settings, guard=None), model=Normed)
    before = {name: t.detach().clone() for name, t in amber[1].state.items()}
    report = amber[2].transfer(amber[1], epochs(1))
    assert report.committed
    assert {name for name, t in amber[1].state.items() if not torch.equal(t, before[name])} == set(changed)
    for name in changed:
        assert amber[1].state[name] not in amber[1].optimizer.state
    assert len(amber[1].optimizer.state) == len(list(amber[1].model.parameters())) - len(changed)


def test_row_8_with_rest_the_others_are_trained_too() -> None:
    amber, _ = taught(Pairwise(rest=True))
    before = {name: t.detach().clone() for name, t in amber[1].state.items()}
    assert amber[2].transfer(amber[1], epochs(1)).committed
    assert {name for name, t in amber[1].state.items() if not torch.equal(t, before[name])} == set(before)
    assert all(p.grad is None for p in amber[1].model.parameters())


# ---- row 9


def test_row_9_bytes_are_those_of_the_formula() -> None:
    """One layer: 4 (mn + m) bytes; the whole SmallCNN(n=64, w=16): 0.44 MB; one question per provider and phase."""
    data = (torch.zeros(8, 1, 28, 28), torch.arange(8))
    learner = Learner(SmallCNN(), data, classes=10)
    strategy = Pairwise()
    me = ("amber", learner, strategy)
    whole = received(me, me).knowledge
    assert whole.nbytes == 4 * sum(p.numel() for p in learner.model.parameters()) == 440_104
    by_layer = Pairwise(teacher="layer")
    layers = received(("amber", learner, by_layer), ("birch", learner, by_layer)).knowledge
    assert layers.nbytes == 4 * (64 * 64 + 64) + 4 * (10 * 64 + 10)
    only = received(("amber", learner, Pairwise(teacher="layer", layer="fc")), ("birch", learner, by_layer)).knowledge
    assert only.nbytes == 4 * (10 * 64 + 10)
    assert isinstance(strategy.ask(learner, tiny_card(*me)), Question)


# ---- row 10


def _rounds(learners: dict[str, tuple[str, Learner, Pairwise]], links: set[tuple[str, str]], rounds: int = 3) -> None:
    for version in range(1, rounds + 1):
        for _, learner, strategy in learners.values():
            strategy.local(learner, epochs(1))
        shown = {name: snapshot(learner, strategy, version) for name, learner, strategy in learners.values()}
        for consumer, provider in sorted(links):
            me = learners[consumer]
            got = give(me, learners[provider], shown[provider])
            me[2].absorb(me[1], [got])  # type: ignore[list-item]
        for _, learner, strategy in learners.values():
            strategy.transfer(learner, epochs(1))


def test_row_10_in_a_half_mesh_providers_do_not_feel_the_consumer() -> None:
    with_consumer = {n: member(n, s) for s, n in enumerate(("amber", "birch", "cedar"))}
    without = {n: member(n, s) for s, n in enumerate(("amber", "birch", "cedar"))}
    _rounds(with_consumer, {("amber", "birch"), ("amber", "cedar")})
    _rounds(without, set())
    for name in ("birch", "cedar"):
        assert everything(with_consumer[name][1]) == everything(without[name][1])
    assert weights(with_consumer["amber"][1]) != weights(without["amber"][1])


def test_row_10_in_a_chain_the_consumer_sees_only_its_provider_s_snapshots() -> None:
    """amber <- birch <- cedar: with birch's snapshots given, cedar does not matter to amber."""
    chain = {n: member(n, s) for s, n in enumerate(("amber", "birch", "cedar"))}
    replay = member("amber", 0)
    for version in (1, 2, 3):
        for _, learner, strategy in chain.values():
            strategy.local(learner, epochs(1))
        shown = {n: snapshot(m[1], m[2], version) for n, m in chain.items()}
        for consumer, provider in (("amber", "birch"), ("birch", "cedar")):
            me = chain[consumer]
            me[2].absorb(me[1], [give(me, chain[provider], shown[provider])])
        replay[2].local(replay[1], epochs(1))
        replay[2].absorb(replay[1], [give(replay, chain["birch"], shown["birch"])])
        for _, learner, strategy in [*chain.values(), replay]:
            strategy.transfer(learner, epochs(1))
    assert weights(replay[1]) == weights(chain["amber"][1])


# ---- what is refused, and the guard


def test_a_model_without_the_layer_is_refused_with_the_layers_there_are() -> None:
    with pytest.raises(LearnerError, match=r"'penultimate', which the model does not have; .* body.0, penult, fc"):
        Pairwise(layer="penultimate").check(tiny_learner())
    with pytest.raises(LearnerError, match=r"'norm' is a BatchNorm1d, the dense layers of this model are body, penult"):
        Pairwise(layer="norm").check(tiny_learner(model=Normed()))
    Pairwise(layer="fc").check(tiny_learner())


def test_another_architecture_is_refused_with_a_sentence() -> None:
    amber = member("amber", 0)
    other = tiny_card(*member("birch", 1, model=tiny_model(hidden=(8, 9))))
    why = Pairwise().misfit(amber[1], other)
    assert why is not None
    assert "birch has another (layers body.0, penult, fc)" in why
    assert "distillation with a common public set" in why
    assert Pairwise().misfit(amber[1], tiny_card(*member("birch", 1))) is None


def test_by_layer_needs_a_common_start() -> None:
    by_layer = Pairwise(teacher="layer")
    amber = tiny_learner(0, start=0)
    assert by_layer.misfit(amber, tiny_card("birch", tiny_learner(1, start=0), by_layer)) is None
    why = by_layer.misfit(amber, tiny_card("birch", tiny_learner(1, start=5), by_layer))
    assert why is not None
    assert "common start" in why


def test_by_layer_the_teacher_is_the_provider_s_layers_on_own_features() -> None:
    amber, birch = member("amber", 0), member("birch", 1)
    given = {k: t.detach() for k, t in birch[1].state.items() if not k.startswith("body")}
    objective = Objective(0.0, 1.0, "forward", "")
    work = Rewriting(amber[1], "penult", {"birch": given}, objective=objective, by_layer=True)
    (batch,) = amber[1].batches(steps(1))
    body = {k: t.detach() for k, t in amber[1].state.items() if k.startswith("body")}
    teacher = amber[1].build({**body, **given})(batch.x)
    expected = losses.distill_kl(teacher, amber[1].model(batch.x)).item()
    assert work.loss(batch, work.own).item() == pytest.approx(expected, rel=1e-5)


def test_the_guard_refuses_a_phase_that_makes_it_worse_and_nothing_has_changed() -> None:
    amber, _ = taught(Pairwise(map_lr=3.0))
    before = everything(amber[1])
    report = amber[2].transfer(amber[1], epochs(1))
    assert not report.committed
    assert report.notes["loss_after"] > 1.2 * report.notes["loss_before"]
    assert everything(amber[1]) == before
    reckless, _ = taught(Pairwise(map_lr=3.0, guard=None))
    assert reckless[2].transfer(reckless[1], epochs(1)).committed
    assert weights(reckless[1]) != weights(amber[1])


def test_a_map_that_blows_up_is_survived() -> None:
    amber, _ = taught(Pairwise(map_lr=1e30, commit="step", guard=None))
    before = everything(amber[1])
    assert not amber[2].transfer(amber[1], epochs(2)).committed
    assert everything(amber[1]) == before


def test_maps_start_anew_unless_they_persist() -> None:
    reset, _ = taught(Pairwise(guard=None))
    kept, _ = taught(Pairwise(persist=True, guard=None))
    for amber in (reset, kept):
        amber[2].transfer(amber[1], epochs(1))
    assert weights(reset[1]) == weights(kept[1])
    for amber in (reset, kept):
        amber[2].transfer(amber[1], epochs(1))
    assert weights(reset[1]) != weights(kept[1])
    assert not reset[2].state_dict()["maps"]
    assert set(kept[2].state_dict()["maps"]) == {tiny_id("birch"), tiny_id("cedar")}


def test_persisting_maps_outlive_a_change_of_providers() -> None:
    amber, _ = taught(Pairwise(persist=True, guard=None))
    amber[2].transfer(amber[1], epochs(1))
    amber[2].forget(tiny_id("birch"))
    assert amber[2].transfer(amber[1], epochs(1)).providers == (tiny_id("cedar"),)
    dahlia = member("dahlia", 3)
    amber[2].absorb(amber[1], [received(amber, dahlia)])
    assert set(amber[2].transfer(amber[1], epochs(1)).providers) == {tiny_id("cedar"), tiny_id("dahlia")}


def test_a_layer_without_bias_can_be_rewritten() -> None:
    def without(seed: int) -> nn.Module:
        model = tiny_model(seed=seed)
        model.penult = nn.Linear(8, 8, bias=False)
        nn.init.uniform_(model.penult.weight, -0.3, 0.3, generator=torch.Generator().manual_seed(seed))
        return model

    amber = member("amber", 0, Pairwise(guard=None), model=without(0))
    birch = member("birch", 1, model=without(1))
    amber[2].absorb(amber[1], [received(amber, birch)])
    assert amber[2].transfer(amber[1], epochs(1)).committed


def test_transfer_brings_the_student_nearer_to_its_teachers() -> None:
    """Claim 000-8: the map moves, and the loss falls during the phase."""
    amber = ("amber", tiny_learner(0), Pairwise(map_lr=1e-2))
    amber[1].fit(epochs(5))
    knows = ("birch", tiny_learner(1), Pairwise())
    knows[1].fit(epochs(60))
    amber[2].absorb(amber[1], [received(amber, knows)])
    x = tiny_data(samples=80, seed=9).x
    teacher = knows[1].logits(x)
    before = losses.distill_kl(teacher, amber[1].logits(x)).item()
    report = amber[2].transfer(amber[1], epochs(8))
    assert report.committed
    assert report.notes["map_moved"] > 0
    assert report.notes["loss_after"] < report.notes["loss_before"]
    assert losses.distill_kl(teacher, amber[1].logits(x)).item() < 0.9 * before


def test_batches_of_a_phase_are_the_private_set_once() -> None:
    amber, _ = taught(Pairwise())
    seen: list[Tensor] = []

    def spy(logits: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return F.cross_entropy(logits, y)

    amber[1].loss = spy
    report = amber[2].transfer(amber[1], epochs(1))
    assert report.samples == sum(amber[1].describe().histogram)
    assert report.steps == len(seen) - 4  # first and last batch, before and after
    assert isinstance(amber[1].preview(steps(1))[0], Batch)
    assert amber[1].classes == CLASSES
