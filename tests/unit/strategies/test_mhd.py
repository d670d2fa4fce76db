"""Multi-headed distillation: the invariants of algorithms.md 8.11, the rows of 9.1 and 9.2, and whole peers."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from peerlearn.errors import ConfigError, KnowledgeError, LearnerError, RefusalReason, StateError
from peerlearn.knowledge import NotModified, Outputs, Params, Query, Question, Received, Refusal
from peerlearn.learning import checkpoint
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.orchestrator.training.gated import gated_transfer
from peerlearn.schedule import Exchange, Local, Transfer
from peerlearn.strategies import registry
from peerlearn.strategies.base import Asked
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.mhd.heads import MultiHead, heads_on_card
from peerlearn.strategies.mhd.loss import (
    Aims,
    confidence,
    embedding_distance,
    embedding_term,
    head_term,
    less_sure,
    soft_cross_entropy,
    target,
)
from peerlearn.strategies.mhd.public_window import Wanted, Window
from peerlearn.strategies.mhd.strategy import MHD
from peerlearn.strategies.shared.optim import cosine_share
from peerlearn.testing import (
    CLASSES,
    Normed,
    PeerNetwork,
    bits,
    blobs,
    everything,
    gathered,
    give,
    received,
    same,
    snapshot,
    tiny_card,
    tiny_data,
    tiny_id,
    tiny_learner,
    tiny_model,
    weights,
)
from peerlearn.types import Exposure, Span, epochs, steps
from tests.support.mhd import CLASSES_OF, mhd_learner, small_mhd

PUBLIC = tiny_data(samples=40, seed=77).unlabelled("public")
SMALL: dict[str, Any] = {"refresh": 3, "public_batch": 8, "warm_up": 0}
AIMS = Aims(
    heads=2, nu_emb=0.0, nu_aux=1.0, teacher="confident", include_self=True, same_level=False, skip_confident=False
)
Member = tuple[str, Learner, MHD]


def source() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def headed(seed: int = 0, *, aux: int = 2, inner: nn.Module | None = None, **more: Any) -> MultiHead:
    return MultiHead.over(inner or tiny_model(seed=seed), aux=aux, seed=seed, **more)


def member(name: str, seed: int, *, model: MultiHead | None = None, opt: str = "adam", **options: Any) -> Member:
    model = model or headed(seed)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05) if opt == "sgd" else None
    learner = tiny_learner(seed, model=model, public_sets=[PUBLIC], optimizer=sgd)
    strategy = MHD(**{**SMALL, **options})
    strategy.check(learner)
    return name, learner, strategy


def trio(**options: Any) -> list[Member]:
    made = [member(name, seed, **options) for seed, name in enumerate(("amber", "birch", "cedar"))]
    for _, learner, _ in made:
        learner.fit(epochs(2))
    return made


def a_round(me: Member, shown: dict[str, Any], others: list[Member]) -> Report:
    """What the fabric does in one round of the schedule, by direct calls."""
    name, learner, strategy = me
    there = {tiny_id(p[0]): p for p in others if p[0] != name}
    cards = [tiny_card(*there[peer], version=shown[there[peer][0]].version) for peer in sorted(there)]
    preferred = strategy.prefer(learner, cards)
    for peer in sorted(there if preferred is None else preferred):
        got = give(me, there[peer], shown[there[peer][0]])  # type: ignore[index]
        if not isinstance(got, NotModified):
            assert isinstance(got, Received), got
            strategy.absorb(learner, [got])
    strategy.local(learner, steps(strategy.refresh))
    return strategy.transfer(learner, steps(strategy.refresh))


def learn(peers: list[Member], rounds: int, *, first: int = 1) -> None:
    for version in range(first, first + rounds):
        shown = {name: snapshot(learner, strategy, version) for name, learner, strategy in peers}
        for me in peers:
            a_round(me, shown, peers)


# ---- 8.11.1


def test_8_11_1_no_heads_and_one_teacher_is_plain_distillation_bit_for_bit() -> None:
    amber = member("amber", 0, heads=0, nu_emb=0.0, nu_aux=0.7, opt="sgd")
    birch = member("birch", 1, heads=0, nu_emb=0.0)
    birch[1].fit(epochs(2))
    teacher = birch[1].build(birch[1].state)
    twin = member("amber", 0, opt="sgd")[1]
    amber[2].absorb(amber[1], [received(amber, birch)])
    assert amber[2].transfer(amber[1], steps(3)).steps == 3

    order = Window(PUBLIC.fingerprint, 0, 8, 0, 0, 3).order(PUBLIC)
    for batch in twin.batches(steps(3)):
        x = PUBLIC.x[order.next()]
        soft = teacher(x).softmax(dim=1)
        distilled = -(soft * twin.model(x).log_softmax(dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(distilled, F.cross_entropy(twin.model(x), soft))
        twin.step(F.cross_entropy(twin.model(batch.x), batch.y) + 0.7 * distilled)
    assert weights(amber[1]) == weights(twin)


@pytest.mark.parametrize("mode", ["outputs", "checkpoint"])
def test_8_11_1_and_9_1_row_9_without_teachers_it_is_isolated_training_bit_for_bit(mode) -> None:
    _, learner, strategy = member("amber", 0, mode=mode)
    twin = member("amber", 0)[1]
    for _ in range(3):
        strategy.local(learner, steps(3))
        assert strategy.transfer(learner, steps(3)).steps == 0
    twin.fit(steps(9))
    assert everything(learner) == everything(twin)
    plain = tiny_learner(0, model=tiny_model(seed=0))
    plain.fit(steps(9))
    x = tiny_data().x
    assert torch.equal(plain.logits(x), learner.logits(x)), "heads that nobody teaches change nothing"


# ---- 8.11.2


def test_8_11_2_a_head_term_reaches_its_head_and_the_trunk_only() -> None:
    model, teacher = headed(0), headed(1)
    x = PUBLIC.x[:8]
    for k in (1, 2):
        model.zero_grad(set_to_none=True)
        theirs = teacher.views(x)
        head_term(model.views(x).logits, [theirs.logits], k, AIMS, source()).backward()
        grads = [model.get_parameter(f"heads.{h}.weight").grad for h in range(3)]
        assert [grad is None for grad in grads] == [h != k for h in range(3)]
        for p in (*model.trunk.parameters(), *model.heads[k].parameters()):
            assert p.grad is not None
            assert bool(p.grad.abs().sum() > 0)
        assert all(p.grad is None for p in teacher.parameters())


def test_8_11_2_the_main_head_learns_from_own_labels_alone() -> None:
    amber, birch = member("amber", 0, nu_emb=1.0, opt="sgd"), member("birch", 1, nu_emb=1.0)
    twin = member("amber", 0, opt="sgd")[1]
    amber[2].absorb(amber[1], [received(amber, birch)])
    amber[2].transfer(amber[1], steps(1))
    twin.fit(steps(1))
    mine, alone = amber[1].state, twin.state
    assert torch.equal(mine["heads.0.weight"], alone["heads.0.weight"])
    for name in ("heads.1.weight", "heads.2.weight", "trunk.penult.weight"):
        assert not torch.equal(mine[name], alone[name]), name


# ---- 8.11.3 to 5: selection


def test_8_11_3_the_surest_teaches_each_sample_and_ties_go_to_the_first() -> None:
    one = torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    two = torch.tensor([[0.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 200.0]])
    chosen = target([one, two], "confident", source())
    expected = torch.stack([one[0], two[1], one[2], two[3]]).softmax(dim=1)
    assert torch.equal(chosen, expected)
    assert torch.equal(target([two, one], "confident", source())[2], two[2].softmax(dim=0))
    many = [torch.zeros(64, CLASSES)] * 17
    many[5] = torch.roll(F.one_hot(torch.zeros(64).long(), CLASSES).float() * 4, 1, dims=1)
    many[9] = F.one_hot(torch.zeros(64).long(), CLASSES).float() * 4
    assert bool((target(many, "confident", source()).argmax(dim=1) == 1).all())


def test_a_student_as_sure_as_its_surest_teacher_has_nothing_to_learn_of_that_sample() -> None:
    sure, unsure = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert less_sure(sure, [sure.clone(), unsure]).tolist() == [False], "a tie"
    assert less_sure(sure, [unsure]).tolist() == [False]
    assert less_sure(unsure, [unsure, sure]).tolist() == [True]


def test_8_11_3_ties_between_providers_go_to_the_lowest_peer_id() -> None:
    """Two providers as sure as one another of different classes: heads 1 of both arrivals learn from the lower id."""
    amber = member("amber", 0, nu_emb=0.0, include_self=False, heads=1)
    low, high = sorted(("birch", "cedar"), key=tiny_id)
    got = {name: received(amber, member(name, 1, nu_emb=0.0)) for name in (low, high)}
    for hot, name in enumerate((low, high)):
        said = got[name].knowledge
        assert isinstance(said, Outputs)
        sure = F.one_hot(torch.full((len(said.ids),), hot), CLASSES).float() * 9
        got[name] = replace(got[name], knowledge=replace(said, tensors={"logits/0": sure}))
    for arrivals in ((low, high), (high, low)):
        _, learner, strategy = member("amber", 0, nu_emb=0.0, include_self=False, heads=1, nu_aux=30.0)
        strategy.absorb(learner, [got[name] for name in arrivals])
        for _ in range(40):
            strategy.transfer(learner, steps(3))
            strategy.load_state_dict({**strategy.state_dict(), "position": [0, 0]})
        assert bool((strategy.predict(learner, PUBLIC.x, head=1).argmax(dim=1) == 0).float().mean() > 0.9)


def test_8_11_4_selection_feels_neither_a_constant_nor_the_teachers_order() -> None:
    logits = [torch.randn(32, CLASSES, generator=source()).mul(8).round() * scale for scale in (1, 2, 0.5)]
    plain = target(logits, "confident", source())
    assert torch.equal(target([each + 16 for each in logits], "confident", source()), plain)
    sure = torch.stack([confidence(each) for each in logits]).sort(dim=0).values
    apart = sure[-1] > sure[-2]
    assert int(apart.sum()) > 10
    assert torch.equal(target(logits[::-1], "confident", source())[apart], plain[apart])


def test_8_11_4_the_order_of_arrival_changes_no_bit() -> None:
    runs = []
    for order in ((1, 2), (2, 1)):
        peers = trio(teachers_per_step=1, pool=3)
        got = [received(peers[0], peers[i]) for i in order]
        for each in got:
            peers[0][2].absorb(peers[0][1], [each])
        peers[0][2].transfer(peers[0][1], steps(3))
        runs.append(weights(peers[0][1]))
    assert runs[0] == runs[1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-80, 80), min_size=2, max_size=12))
def test_8_11_5_confidence_lies_between_one_in_c_and_one(logits: list[float]) -> None:
    sure = float(confidence(torch.tensor([logits], dtype=torch.float64)))
    assert 1 / len(logits) - 1e-12 <= sure <= 1 + 1e-12


# ---- 8.11.6


def test_8_11_6_the_embedding_term_compares_directions() -> None:
    a, b = (torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    distance = embedding_distance(a, b)
    assert 0 < float(distance) < 4
    torch.testing.assert_close(distance, 2 - 2 * F.cosine_similarity(a, b).mean())
    scales = torch.tensor([[0.5], [2.0], [3.0], [7.0], [0.1], [1.0]])
    torch.testing.assert_close(embedding_distance(a * scales, b / scales), distance)
    assert float(embedding_distance(a, 2 * a)) < 1e-12
    assert float(embedding_distance(a, -a)) == pytest.approx(4)
    assert float(embedding_distance(torch.zeros(2, 3), torch.zeros(2, 3))) == 0
    torch.testing.assert_close(embedding_term([(a, b), (a, a), (a, -a)]), (distance + 0 + 4) / 3)
    a.requires_grad_()
    b.requires_grad_()
    embedding_distance(a, b).backward()
    assert a.grad is not None
    assert b.grad is None


# ---- 8.11.7


def test_8_11_7_in_a_cycle_knowledge_goes_one_head_per_hop() -> None:
    """amber asks birch, birch asks cedar. What cedar's main head says reaches amber's head-2 targets only, through
    birch's head 1; birch's trunk is held still, so that nothing else of birch could carry it."""

    def birchs_words(cedars_main: float) -> tuple[Outputs, Outputs]:
        amber, birch, cedar = (member(n, s, nu_emb=0.0) for s, n in enumerate(("amber", "birch", "cedar")))
        birch[1].model.trunk.requires_grad_(False)
        with torch.no_grad():
            cedar[1].model.heads[0].weight.mul_(cedars_main)  # type: ignore[index,union-attr]
        before = received(amber, birch).knowledge
        birch[2].absorb(birch[1], [received(birch, cedar)])
        birch[2].transfer(birch[1], steps(3))
        after = received(amber, birch, version=2).knowledge
        assert isinstance(before, Outputs)
        assert isinstance(after, Outputs)
        return before, after

    (before, after), (same_before, other_after) = birchs_words(1.0), birchs_words(-3.0)
    assert bits(before.tensors) == bits(same_before.tensors), "at once, nothing of cedar's can be heard by amber"
    assert torch.equal(after.tensors["logits/0"], other_after.tensors["logits/0"])
    assert not torch.equal(after.tensors["logits/1"], other_after.tensors["logits/1"])


def test_8_11_7_with_one_head_and_without_self_the_target_is_the_neighbours_main_prediction() -> None:
    x = PUBLIC.x[:8]
    mine, theirs = ([each.detach() for each in headed(seed).views(x).logits] for seed in (0, 1))
    aims = replace(AIMS, heads=1, include_self=False)
    term = head_term(mine, [theirs], 1, aims, source())
    torch.testing.assert_close(term, F.cross_entropy(mine[1], theirs[0].softmax(dim=1)))
    assert not torch.equal(head_term(mine, [theirs], 1, replace(aims, include_self=True), source()), term)


# ---- 8.11.8


@pytest.mark.parametrize(
    "options", [{}, {"pool": 2}, {"pool": 3, "teachers_per_step": 2}, {"teacher": "mean"}], ids=str
)
def test_8_11_8_outputs_and_checkpoints_train_to_the_same_bits(options: dict[str, Any]) -> None:
    """Providers stand still between refreshes; one of them stands still throughout."""
    runs = {}
    for mode in ("outputs", "checkpoint"):
        amber, birch, cedar = trio(mode=mode, **options)
        for version in range(1, 6):
            shown = {p[0]: snapshot(p[1], p[2], version if p is birch else 1) for p in (birch, cedar)}
            a_round(amber, shown, [birch, cedar])
            birch[1].fit(steps(2))
        runs[mode] = everything(amber[1])
        assert amber[1].steps > member("amber", 0)[1].fit(epochs(2)).steps
    assert runs["outputs"] == runs["checkpoint"]


# ---- 8.11.9 and 9.1.2


@pytest.mark.parametrize("mode", ["outputs", "checkpoint"])
def test_8_11_9_and_9_1_row_2_answering_and_teaching_change_no_provider(mode) -> None:
    amber, birch, _ = trio(mode=mode)
    shown = snapshot(birch[1], birch[2])
    before = everything(birch[1]), bits(dict(shown.state)), bits(birch[2].state_dict())
    questions = [amber[2].ask(amber[1], tiny_card(*birch)), Question(Query(want="params", select={"layers": ["fc"]}))]
    for _ in range(2):
        answers = [birch[2].answer(shown, Asked(tiny_card(*amber), question)) for question in questions]
        assert isinstance(answers[1], Refusal)
    got = give(amber, birch, shown)
    assert isinstance(got, Received)
    amber[2].absorb(amber[1], [got])
    assert amber[2].transfer(amber[1], steps(3)).steps == 3
    assert (everything(birch[1]), bits(dict(shown.state)), bits(birch[2].state_dict())) == before
    assert all(p.grad is None and not p.requires_grad for p in shown.module().parameters())


def test_all_who_walk_in_step_ask_alike_so_that_they_are_answered_once() -> None:
    amber, birch, cedar = trio()
    card = tiny_card(*birch)
    assert MHD.shares_answers
    assert cedar[2].ask(cedar[1], card) == amber[2].ask(amber[1], card)
    cedar[2].load_state_dict({**cedar[2].state_dict(), "position": [0, 2]})
    assert cedar[2].ask(cedar[1], card) != amber[2].ask(amber[1], card)


# ---- 8.11.10


def test_8_11_10_the_pool_is_bounded_and_its_oldest_is_replaced_at_each_refresh() -> None:
    amber, birch, cedar = trio(pool=2, mode="checkpoint")
    strategy = amber[2]
    held = []
    for version in range(1, 6):
        shown = {p[0]: snapshot(p[1], p[2], version) for p in (birch, cedar)}
        at = amber[1].steps
        a_round(amber, shown, [birch, cedar])
        assert amber[1].steps == at + strategy.refresh, "one refresh per S_P steps"
        held.append(sorted((e["version"], e["born"]) for e in strategy.state_dict()["pool"]["entries"]))
        birch[1].fit(steps(1))
        cedar[1].fit(steps(1))
    assert held == [[(1, 0), (1, 1)], [(1, 1), (2, 2)], [(2, 2), (3, 3)], [(3, 3), (4, 4)], [(4, 4), (5, 5)]]


def test_8_11_10_a_pool_of_outputs_covers_the_samples_of_its_entries_whole_life() -> None:
    """A larger public set, so that the windows of the intervals differ; two entries speak at each step."""
    public = tiny_data(samples=400, seed=78).unlabelled("large")
    amber, birch, cedar = (
        (name, tiny_learner(seed, model=headed(seed), public_sets=[public]), MHD(**{**SMALL, "pool": 2}))
        for seed, name in enumerate(("amber", "birch", "cedar"))
    )
    for version in range(1, 5):
        shown = {p[0]: snapshot(p[1], p[2], version) for p in (birch, cedar)}
        report = a_round(amber, shown, [birch, cedar])
        kept = amber[2].state_dict()["pool"]["entries"]
        assert [len(entry["ids"]) for entry in kept] == [2 * 3 * 8] * 2
        assert report.notes["teachers"] == 2
    assert amber[1].steps == 4 * 3


def test_intervals_walk_through_the_public_set_in_the_order_of_its_seed() -> None:
    """40 samples in batches of 8, 3 steps an interval: five intervals are three passes, each sample met once a pass."""
    amber, birch, _ = trio()
    asked = []
    for version in range(1, 6):
        shown = {birch[0]: snapshot(birch[1], birch[2], version)}
        question = amber[2].ask(amber[1], tiny_card(*birch))
        assert isinstance(question, Question)
        asked.append(Wanted.read(question.query.select).window)
        a_round(amber, shown, [birch])
    assert [(window.epoch, window.position) for window in asked] == [(0, 0), (0, 3), (1, 1), (1, 4), (2, 2)]
    order = asked[0].order(PUBLIC)
    for window in asked:
        met = torch.cat([order.next() for _ in range(3)]).unique()
        assert torch.equal(window.rows(PUBLIC), met)
    assert not torch.equal(replace(asked[0], seed=1).rows(PUBLIC), asked[0].rows(PUBLIC))


# ---- 8.11.12


def test_8_11_12_different_trunks_of_one_width_learn_from_one_another() -> None:
    amber = member("amber", 0, model=headed(0, inner=tiny_model(seed=0, hidden=(8, 8))))
    birch = member("birch", 1, model=headed(1, inner=Normed(seed=1)))
    cedar = member("cedar", 2, model=headed(2, inner=tiny_model(seed=2, hidden=(5, 6, 8)), aux=3), heads=2)
    for me in (amber, birch, cedar):
        assert all(me[2].misfit(me[1], tiny_card(*other)) is None for other in (amber, birch, cedar))
    learn([amber, birch, cedar], 2)
    assert all(learner.steps == 6 for _, learner, _ in (amber, birch, cedar))


def test_8_11_12_unequal_widths_need_a_projection() -> None:
    narrow, wide = headed(1, inner=tiny_model(seed=1, hidden=(8, 6))), headed(0)
    birch = member("birch", 1, model=narrow)
    why = member("amber", 0, model=wide)[2].misfit(tiny_learner(0, model=wide, public_sets=[PUBLIC]), tiny_card(*birch))
    assert why is not None
    assert "width 6, this model of 8" in why
    assert "projections=[6]" in why
    amber = member("amber", 0, model=headed(0, projections=[6]), nu_emb=1.0)
    assert amber[2].misfit(amber[1], tiny_card(*birch)) is None
    before = amber[1].state["projections.6.weight"].clone()
    amber[2].absorb(amber[1], [received(amber, (birch[0], birch[1], MHD(**SMALL)))])
    amber[2].transfer(amber[1], steps(3))
    assert not torch.equal(amber[1].state["projections.6.weight"], before)
    plain = member("cedar", 2, nu_emb=0.0)
    assert plain[2].misfit(plain[1], tiny_card(*birch)) is None, "without the embedding term any width will do"


def test_the_fit_is_judged_from_the_card() -> None:
    amber, birch = member("amber", 0), tiny_card(*member("birch", 1))
    strategy, learner = amber[2], amber[1]
    assert "classes apart" in str(strategy.misfit(learner, replace(birch, classes=7)))
    assert "does not hold the public set 'public'" in str(strategy.misfit(learner, replace(birch, public_sets=())))
    assert "has 0 heads, and 2 are wanted" in str(strategy.misfit(learner, replace(birch, layers=())))
    one = tiny_card(*member("birch", 1, model=headed(1, aux=1)))
    assert strategy.misfit(learner, one) is None, "head m teaches nobody"
    assert "has 2 heads, and 3 are wanted" in str(MHD(same_level=True).misfit(learner, one))
    assert "another architecture" in str(MHD(mode="checkpoint").misfit(learner, one))
    assert heads_on_card(learner.describe().layers) == (3, 8)


# ---- variants


def test_variants_choose_as_they_say() -> None:
    x = PUBLIC.x[:32]
    mine, *theirs = ([each.detach() for each in headed(seed).views(x).logits] for seed in range(3))

    def term(head: int = 2, **aims: Any) -> float:
        return float(head_term(mine, theirs, head, replace(AIMS, **aims), source()))

    def wanted(candidates: list[Tensor], counts: Tensor | None = None) -> float:
        return float(soft_cross_entropy(target(candidates, "confident", source()), mine[2], counts))

    before = [each[1] for each in theirs]
    level = [each[2] for each in theirs]
    assert term() == wanted([*before, mine[1]])
    assert term(include_self=False) == wanted(before)
    assert term(same_level=True) == wanted([*before, *level, mine[1]])
    mean = torch.stack([each.softmax(dim=1) for each in [*before, mine[1]]]).mean(dim=0)
    assert term(teacher="mean") == pytest.approx(float(F.cross_entropy(mine[2], mean)), rel=1e-6)
    surest = torch.stack([confidence(each) for each in [*before, mine[1]]]).amax(dim=0)
    counts = confidence(mine[2]) < surest
    assert 0 < int(counts.sum()) < 32
    assert term(skip_confident=True) == wanted([*before, mine[1]], counts)
    shares = torch.zeros(3)
    source_ = source()
    candidates = [torch.full((600, 3), float(k)).index_fill(1, torch.tensor(k), 9.0) for k in range(3)]
    drawn = target(candidates, "random", source_).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=3) / 600
    assert bool((shares > 0.25).all()), "each candidate about as often"
    assert not torch.equal(drawn, target(candidates, "random", source_).argmax(dim=1))


def test_teachers_per_step_draws_a_new_subset_for_each_step() -> None:
    runs = {}
    for drawn in (None, 2, 1):
        peers = trio(teachers_per_step=drawn)
        learn(peers, 2)
        runs[drawn] = weights(peers[0][1])
    assert runs[None] == runs[2]
    assert runs[1] != runs[None]


def test_steps_follow_a_cosine_and_gradients_are_clipped() -> None:
    _, learner, strategy = member("amber", 0, opt="sgd", cosine=6, clip=0.1)
    rates = []
    for _ in range(7):
        before = torch.cat([p.detach().reshape(-1) for p in learner.model.parameters()])
        strategy.local(learner, steps(1))
        moved = torch.cat([p.detach().reshape(-1) for p in learner.model.parameters()]) - before
        rates.append(learner.optimizer.param_groups[0]["lr"])
        assert float(moved.norm()) == pytest.approx(rates[-1] * 0.1, rel=1e-3, abs=1e-7)
    assert rates == pytest.approx([0.05 * cosine_share(step, 6) for step in range(7)])
    assert rates[0] == 0.05
    assert rates[6] == 0
    assert not learner.optimizer._optimizer_step_pre_hooks, "nothing stays behind on the user's optimizer"


def test_a_joint_step_is_paced_too_and_the_rate_is_saved_with_the_learner() -> None:
    amber, birch = member("amber", 0, cosine=10), member("birch", 1)
    amber[2].absorb(amber[1], [received(amber, birch)])
    amber[2].transfer(amber[1], steps(3))
    other = member("amber", 0, cosine=10)
    other[1].load_state_dict(amber[1].state_dict())
    other[2].load_state_dict(amber[2].state_dict())
    for each in (amber, other):
        each[2].absorb(each[1], [received(each, birch, version=2)])
        each[2].transfer(each[1], steps(3))
    assert amber[1].optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * cosine_share(5, 10))
    assert everything(amber[1]) == everything(other[1])


def test_half_asks_for_float16_on_the_wire() -> None:
    amber, birch = member("amber", 0, half=True), member("birch", 1)
    question = amber[2].ask(amber[1], tiny_card(*birch))
    assert isinstance(question, Question)
    assert question.query.cast == "float16"
    halved = received(amber, birch)
    assert isinstance(halved.knowledge, Outputs)
    rounded = {name: t.half().float() for name, t in halved.knowledge.tensors.items()}
    amber[2].absorb(amber[1], [replace(halved, knowledge=replace(halved.knowledge, tensors=rounded))])
    assert amber[2].transfer(amber[1], steps(3)).steps == 3


def test_prediction_is_by_the_head_that_is_named() -> None:
    _, learner, strategy = member("amber", 0)
    x = PUBLIC.x
    views = learner.build(learner.state).views(x)  # type: ignore[operator]
    for head, logits in enumerate(views.logits):
        assert torch.equal(strategy.predict(learner, x, head=head), logits.softmax(dim=1))
    assert torch.equal(strategy.predict(learner, x), views.logits[0].softmax(dim=1))
    assert torch.equal(MHD(predict_head=-1).predict(learner, x), views.logits[2].softmax(dim=1))
    assert torch.equal(MHD(predict_head=-1, heads=1).predict(learner, x), views.logits[1].softmax(dim=1))
    assert learner.model.training
    with pytest.raises(LearnerError, match="heads 0 to 2"):
        MHD(predict_head=3).check(learner)


# ---- 9.1


def test_9_1_row_3_absorbing_twice_is_absorbing_once_and_the_latest_stays() -> None:
    for options in ({}, {"pool": 2}, {"pool": 2, "mode": "checkpoint"}):
        amber, birch, _ = trio(**options)
        old = received(amber, birch, version=1)
        amber[2].absorb(amber[1], [old, old])
        once = bits(amber[2].state_dict())
        amber[2].absorb(amber[1], [old])
        assert bits(amber[2].state_dict()) == once
        birch[1].fit(steps(1))
        new = received(amber, birch, version=2)
        amber[2].absorb(amber[1], [new])
        latest = bits(amber[2].state_dict())
        assert latest != once
        amber[2].absorb(amber[1], [old])
        assert bits(amber[2].state_dict()) == latest
        restarted = replace(old, sender=replace(old.sender, session="s2"))
        amber[2].absorb(amber[1], [restarted])
        assert bits(amber[2].state_dict()) != latest


def test_9_1_row_3_a_version_held_is_named_where_it_would_be_of_use() -> None:
    amber, birch, _ = trio(mode="checkpoint")
    amber[2].absorb(amber[1], [received(amber, birch, version=4)])
    asked = amber[2].ask(amber[1], tiny_card(*birch, version=4))
    assert isinstance(asked, Question)
    assert (asked.query.have, asked.query.have_session) == (4, "s1")
    assert amber[2].ask(amber[1], tiny_card(*birch, session="s2")).query.have is None
    rolling = trio(mode="checkpoint", pool=2)
    rolling[0][2].absorb(rolling[0][1], [received(rolling[0], rolling[1], version=4)])
    assert rolling[0][2].ask(rolling[0][1], tiny_card(*birch)).query.have is None


def _spoil(name: str, tensor: Tensor) -> Callable[[Outputs], Outputs]:
    return lambda said: replace(said, tensors={**said.tensors, name: tensor})


BAD: dict[str, Callable[[Outputs], Any]] = {
    "another public set": lambda said: replace(said, fingerprint="0" * 64),
    "not the ids asked for": lambda said: replace(
        said, ids=said.ids[1:], tensors={n: t[1:] for n, t in said.tensors.items()}
    ),
    "not the ids asked": lambda said: replace(said, ids=said.ids + 1000),
    "logits/0 must be floats": _spoil("logits/0", torch.zeros(24, CLASSES + 1)),
    "logits/1 must be floats": _spoil("logits/1", torch.zeros(24, CLASSES, dtype=torch.int64)),
    "embedding must be floats": _spoil("embedding", torch.zeros(24, 5)),
    "'logits/1' holds values that are not finite": _spoil("logits/1", torch.full((24, CLASSES), torch.nan)),
    "'embedding' holds values that are not finite": _spoil("embedding", torch.full((24, 8), torch.inf)),
    "came, not embedding, logits/0, logits/1": _spoil("label", torch.zeros(24)),
    "named embedding, logits/0 came": lambda said: replace(
        said, tensors={n: t for n, t in said.tensors.items() if n != "logits/1"}
    ),
    "params came that nobody had asked for": lambda said: Params(tensors={}, architecture="", version=1),
}


@pytest.mark.parametrize("sentence", BAD)
def test_9_1_row_4_foreign_outputs_are_refused_and_change_nothing(sentence: str) -> None:
    amber, birch, cedar = trio()
    good, other = received(amber, birch), received(amber, cedar)
    assert isinstance(good.knowledge, Outputs)
    before = everything(amber[1]), bits(amber[2].state_dict())
    bad = replace(good, knowledge=BAD[sentence](good.knowledge))
    with pytest.raises(KnowledgeError, match=sentence):
        amber[2].absorb(amber[1], [other, bad])
    with pytest.raises(KnowledgeError, match="nobody had asked for"):
        amber[2].absorb(amber[1], [replace(good, asked=None)])
    assert (everything(amber[1]), bits(amber[2].state_dict())) == before


def test_9_1_row_4_foreign_checkpoints_are_refused_and_change_nothing() -> None:
    amber, birch, _ = trio(mode="checkpoint")
    good = received(amber, birch)
    assert isinstance(good.knowledge, Params)
    tensors = dict(good.knowledge.tensors)
    aux = tensors["heads.2.weight"]
    assert isinstance(aux, Tensor)
    bad = {
        "architecture": replace(good.knowledge, architecture="1" * 64),
        "missing": replace(good.knowledge, tensors={n: t for n, t in tensors.items() if n != "heads.1.bias"}),
        "has shape": replace(good.knowledge, tensors={**tensors, "heads.2.weight": aux[:, :3]}),
        "not finite": replace(good.knowledge, tensors={**tensors, "heads.2.weight": aux * torch.nan}),
        "'heads.1.bias' holds values up to 3e\\+38": replace(
            good.knowledge,
            tensors={
                **tensors,
                "heads.1.weight": torch.full_like(aux, 3e38),
                "heads.1.bias": torch.full((CLASSES,), 3e38),
            },
        ),
    }
    before = everything(amber[1]), bits(amber[2].state_dict())
    for sentence, knowledge in bad.items():
        with pytest.raises(KnowledgeError, match=sentence):
            amber[2].absorb(amber[1], [replace(good, knowledge=knowledge)])
    assert (everything(amber[1]), bits(amber[2].state_dict())) == before


def test_9_1_row_4_odd_questions_are_refused_with_a_reason() -> None:
    amber, birch, _ = trio()
    shown = snapshot(birch[1], birch[2])
    asked = amber[2].ask(amber[1], tiny_card(*birch))
    assert isinstance(asked, Question)
    good = dict(asked.query.select)
    odd: list[tuple[dict[str, Any], str]] = [
        ({"fingerprint": "f" * 64}, "I hold no public set"),
        ({"position": 40}, "none at 40"),
        ({"position": -1}, "position must be"),
        ({"steps": 0}, "steps must be"),
        ({"steps": 2**40}, "steps must be"),
        ({"batch": 0}, "batch must be"),
        ({"epoch": True}, "epoch must be"),
        ({"seed": "x"}, "seed must be"),
        ({"heads": 4}, "3 heads, not 4"),
        ({"embedding": 1}, "must name just"),
        ({"surprise": 1}, "must name just"),
    ]
    for change, sentence in odd:
        query = Query(want="outputs", select={**good, **change})
        answer = birch[2].answer(shown, Asked(tiny_card(*amber), Question(query)))
        assert isinstance(answer, Refusal), change
        assert answer.reason is RefusalReason.UNFIT
        assert sentence in answer.detail
    whole = Query(want="outputs", select={**good, "steps": 2**30})
    answer = birch[2].answer(shown, Asked(tiny_card(*amber), Question(whole)))
    assert isinstance(answer, Outputs)
    assert torch.equal(answer.ids, PUBLIC.ids)
    for query in (Query(want="params"), Query(want="outputs", select={"layers": ["fc"]})):
        assert isinstance(birch[2].answer(shown, Asked(tiny_card(*amber), Question(query))), Refusal)


def test_before_its_warm_up_is_over_a_peer_teaches_nobody() -> None:
    amber, birch = member("amber", 0), member("birch", 1, warm_up=2)
    early = give(amber, birch, snapshot(birch[1], birch[2], 0))
    assert isinstance(early, Refusal)
    assert early.reason is RefusalReason.VERSION
    assert isinstance(give(amber, birch, snapshot(birch[1], birch[2], 1)), Received)
    assert birch[2].schedule.first[0] == Local(epochs(2))
    assert not amber[2].schedule.first
    assert birch[2].schedule.cycle == (Exchange(), Local(steps(3)), Transfer(steps(3)))


@pytest.mark.parametrize(
    "options",
    [{"teacher": "random", "teachers_per_step": 1}, {"pool": 2}, {"pool": 2, "mode": "checkpoint"}, {"cosine": 40}],
    ids=str,
)
def test_9_1_row_5_resuming_from_disk_gives_the_same_bits(options: dict[str, Any], tmp_path) -> None:
    normed = [headed(seed, inner=Normed(seed=seed)) for seed in range(3)]
    peers = [member(n, s, model=normed[s], **options) for s, n in enumerate(("amber", "birch", "cedar"))]
    learn(peers, 2)
    name, learner, strategy = peers[0]
    checkpoint.save(tmp_path, {"learner": learner.state_dict(), "strategy": dict(strategy.state_dict())})
    again = member(name, 0, model=headed(0, inner=Normed(seed=0)), **options)
    kept = checkpoint.load(tmp_path)
    again[1].load_state_dict(kept["learner"])
    again[2].load_state_dict(kept["strategy"])
    shown = {p[0]: snapshot(p[1], p[2], 9) for p in peers[1:]}
    for me in (peers[0], again):
        a_round(me, shown, peers[1:])
        me[2].transfer(me[1], steps(2))
    assert everything(learner) == everything(again[1])
    assert bits(strategy.state_dict()) == bits(again[2].state_dict())
    with pytest.raises(StateError, match="public_batch 8, not 9"):
        MHD(public_batch=9).load_state_dict(kept["strategy"])


def test_9_1_row_6_a_lost_provider_is_left_out_and_training_goes_on() -> None:
    amber, birch, cedar = trio()
    for other in (birch, cedar):
        amber[2].absorb(amber[1], [received(amber, other)])
    amber[2].forget(tiny_id("birch"))
    assert amber[2].transfer(amber[1], steps(2)).providers == (tiny_id("cedar"),)
    amber[2].forget(tiny_id("cedar"))
    assert amber[2].transfer(amber[1], steps(2)).steps == 0
    assert amber[2].local(amber[1], steps(2)).steps == 2
    rolling = trio(pool=2)
    for other in rolling[1:]:
        rolling[0][2].absorb(rolling[0][1], [received(rolling[0], other)])
    rolling[0][2].prefer(rolling[0][1], [])
    rolling[0][2].forget(tiny_id("birch"))
    assert len(rolling[0][2].transfer(rolling[0][1], steps(1)).providers) == 2, "not asked this time: serves on"
    rolling[0][2].ask(rolling[0][1], tiny_card(*birch))
    rolling[0][2].forget(tiny_id("birch"))
    assert rolling[0][2].transfer(rolling[0][1], steps(1)).providers == (tiny_id("cedar"),)


@pytest.mark.parametrize(("m", "nu_emb"), [(0, 0.0), (1, 0.3), (2, 0.0), (2, 0.3)])
def test_9_1_rows_7_and_8_bytes_and_names_are_those_of_the_table(m: int, nu_emb: float) -> None:
    amber, birch = member("amber", 0, heads=m, nu_emb=nu_emb), member("birch", 1)
    said = received(amber, birch).knowledge
    assert isinstance(said, Outputs)
    heads, width = max(1, m), 8 if nu_emb else 0
    assert set(said.tensors) == {f"logits/{k}" for k in range(heads)} | ({"embedding"} if nu_emb else set())
    assert said.nbytes == len(said.ids) * (8 + 4 * (width + heads * CLASSES))
    assert len(said.ids) == 3 * 8, "the samples of the coming interval and no others"
    assert amber[2].needs == amber[2].exposes == {Exposure.PUBLIC_OUTPUTS}
    assert MHD(mode="checkpoint").exposes == {Exposure.PARAMS_FULL}


def test_9_1_row_10_the_same_seeds_give_the_same_bits() -> None:
    def run() -> list[str]:
        peers = trio(pool=2, teacher="random", teachers_per_step=1)
        learn(peers, 3)
        return [everything(learner) for _, learner, _ in peers]

    assert run() == run()


def test_9_1_row_11_private_and_public_batches_are_normalised_apart_and_buffers_stay_at_home() -> None:
    amber = member("amber", 0, model=headed(0, inner=Normed(seed=0)))
    birch = member("birch", 1, model=headed(1, inner=Normed(seed=1)))
    birch[1].fit(epochs(1))
    at_birch = bits({n: t for n, t in birch[1].state.items() if "norm" in n})
    amber[2].absorb(amber[1], [received(amber, birch)])
    amber[2].transfer(amber[1], steps(1))
    state = amber[1].state
    assert int(state["trunk.norm.num_batches_tracked"]) == 2, "one private pass, one public pass"
    twin = member("amber", 0, model=headed(0, inner=Normed(seed=0)))[1]
    h = [twin.model.trunk.body(b) for b in (next(twin.batches(steps(1))).x, PUBLIC.x[_first_rows()])]  # type: ignore[union-attr,operator]
    mean = torch.zeros(8)
    for each in h:
        mean = 0.9 * mean + 0.1 * each.mean(dim=0)
    torch.testing.assert_close(state["trunk.norm.running_mean"], mean)
    assert bits({n: t for n, t in birch[1].state.items() if "norm" in n}) == at_birch


def _first_rows() -> Tensor:
    return Window(PUBLIC.fingerprint, 0, 8, 0, 0, 1).order(PUBLIC).next()


# ---- 9.2


def test_9_2_plain_distillation_has_the_gradient_of_the_kd_baseline_up_to_scale() -> None:
    """One batch that is both private and public. KD: a CE + (1-a) KL; here CE + nu H with nu = (1-a)/a: the same
    gradient divided by a, so one step of SGD with a times the learning rate lands in the same place."""
    alpha, data = 0.4, tiny_data(samples=16, seed=3)
    public = data.unlabelled("all of it")

    def start(lr: float) -> Learner:
        model = headed(0, aux=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        return Learner(
            model, data, optimizer=optimizer, classes=CLASSES, batch_size=16, held_out=0, public_sets=[public]
        )

    teacher = start(0.1)
    teacher.fit(steps(5))
    kd, mhd = Distillation(alpha=alpha), MHD(heads=0, nu_emb=0, nu_aux=(1 - alpha) / alpha, public_batch=16, warm_up=0)
    by_kd, by_mhd = ("amber", start(0.5), kd), ("amber", start(0.5 * alpha), mhd)
    kd.absorb(by_kd[1], [received(by_kd, ("birch", teacher, Distillation()))])
    mhd.absorb(by_mhd[1], [received(by_mhd, ("birch", teacher, MHD(warm_up=0)))])
    kd.transfer(by_kd[1], steps(1))
    mhd.transfer(by_mhd[1], steps(1))
    fresh = start(0.5).state
    for name, tensor in by_kd[1].state.items():
        torch.testing.assert_close(by_mhd[1].state[name], tensor, atol=1e-7, rtol=1e-6)
        assert not torch.equal(tensor, fresh[name])


# ---- in the fabric


def test_after_a_rolled_back_transfer_the_peer_goes_on_alone_instead_of_standing_still() -> None:
    amber, birch = member("amber", 0), member("birch", 1)
    amber[1].fit(epochs(6))
    said = received(amber, birch)
    assert isinstance(said.knowledge, Outputs)
    amber[2].absorb(amber[1], [said])
    harm = Gate(tolerance=0.0)
    spoiled = Harm(**SMALL)
    spoiled.load_state_dict(amber[2].state_dict())
    assert spoiled.local(amber[1], steps(3)).steps == 0
    at = everything(amber[1]), bits(spoiled.state_dict())
    outcome = gated_transfer(spoiled, amber[1], steps(3), harm)
    assert outcome.verdict is not None
    assert not outcome.verdict.kept
    assert (everything(amber[1]), bits(spoiled.state_dict())) == at
    assert spoiled.local(amber[1], steps(3)).steps == 3, "private steps, since the joint ones came to nothing"
    assert gated_transfer(spoiled, amber[1], steps(3), Gate(metric="off")).report.steps == 3
    said = received((amber[0], amber[1], spoiled), birch, version=2)
    spoiled.absorb(amber[1], [said])
    assert spoiled.local(amber[1], steps(3)).steps == 0, "the transfer was kept: no reason to step aside"


class Harm(MHD):
    """Its transfers ruin the model."""

    def transfer(self, learner: Learner, span: Span) -> Report:
        report = super().transfer(learner, span)
        with torch.no_grad():
            for p in learner.model.parameters():
                p.zero_()
        return report


def directly(ids: dict[str, Any], rounds: int, **options: Any) -> dict[str, dict[str, Tensor]]:
    peers = {name: (mhd_learner(*CLASSES_OF[name]), small_mhd(**options)) for name in ids}
    cards = {name: replace(tiny_card(name, *peers[name]), id=ids[name]) for name in ids}
    for learner, strategy in peers.values():
        strategy.local(learner, epochs(1))
    for version in range(1, rounds + 1):
        shown = {
            name: learner.snapshot(version, strategy.publish(learner)) for name, (learner, strategy) in peers.items()
        }
        for name, (learner, strategy) in peers.items():
            others = sorted((n for n in ids if n != name), key=lambda n: ids[n])
            wanted = strategy.prefer(learner, [cards[n] for n in others])
            for other in (n for n in others if wanted is None or ids[n] in wanted):
                question = strategy.ask(learner, cards[other])
                assert isinstance(question, Question)
                answer = peers[other][1].answer(shown[other], Asked(cards[name], question))
                assert isinstance(answer, Outputs)
                strategy.absorb(learner, [Received(cards[other], answer, question.query)])
            strategy.local(learner, steps(4))
            strategy.transfer(learner, steps(4))
    return {name: {n: t.detach().clone() for n, t in learner.state.items()} for name, (learner, _) in peers.items()}


@pytest.mark.parametrize(("kind", "pool"), [("memory", None), ("grpc", None), ("memory", 2)])
async def test_9_1_row_1_the_network_changes_no_bit(kind, pool) -> None:
    """Three peers of three architectures in lockstep, whole, against the same strategies called directly."""
    village, off = PeerNetwork(kind), Gate(metric="off")
    peers = [
        village.peer(name, mhd_learner(*its), strategy=small_mhd(pool=pool), pace="lockstep", gate=off)
        for name, its in CLASSES_OF.items()
    ]
    async with gathered(*peers):
        async with asyncio.TaskGroup() as running:
            for peer in peers:
                running.create_task(peer.run(3))
        ids = {peer.name: peer.id for peer in peers}
    alone = directly(ids, 3, pool=pool)
    for peer in peers:
        assert same(dict(peer.learner.state), alone[peer.name]), f"{peer.name} differs"
        assert peer.learner.steps == 7 + 3 * 4


async def test_whole_peers_in_a_cycle_teach_a_class_unseen_while_the_main_head_keeps_its_own() -> None:
    """Each lacks one class, and asks one neighbour. Its main head never hears of that class; its auxiliary ones do."""
    village = PeerNetwork()
    links = {"amber": "birch", "birch": "cedar", "cedar": "amber"}
    peers = [
        village.peer(
            name,
            mhd_learner(*CLASSES_OF[name], lr=4e-3),
            learn_from=[links[name]],
            strategy=small_mhd(warm_up=4, refresh=20, half=True),
            pace="lockstep",
            gate=Gate(metric="off"),
        )
        for name in CLASSES_OF
    ]
    async with gathered(*peers):
        async with asyncio.TaskGroup() as running:
            for peer in peers:
                running.create_task(peer.run(10))
        for peer in peers:
            fetched = [e for e in village.events[peer.name].events if e.kind == "fetched"]
            assert {e.provider for e in fetched} == {links[peer.name]}  # type: ignore[attr-defined]
    for peer in peers:
        own, _ = CLASSES_OF[peer.name]
        foreign = next(c for c in range(4) if c not in own)
        x, y = blobs([foreign], 5)
        shared = (peer.strategy.predict(peer.learner, x, head=-1).argmax(dim=1) == y).float().mean()  # type: ignore[call-arg]
        assert float(shared) > 0.6, f"{peer.name}: {float(shared)}"
        main = peer.strategy.predict(peer.learner, x).argmax(dim=1) == y
        assert float(main.float().mean()) < 0.2
        x, y = blobs(own, 6)
        assert float((peer.strategy.predict(peer.learner, x).argmax(dim=1) == y).float().mean()) > 0.85


# ---- options, heads


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": -1}, "heads must be at least 0"),
        ({"teacher": "loud"}, "teacher 'loud' is not one of confident, random, mean"),
        ({"mode": "params"}, "mode 'params'"),
        ({"nu_aux": -1.0}, "nu_aux must be at least 0"),
        ({"nu_emb": float("nan")}, "nu_emb must be"),
        ({"clip": 0.0}, "clip 0"),
        ({"cosine": 0}, "cosine must be at least 1"),
        ({"pool": 0}, "pool must be"),
        ({"refresh": 0}, "refresh must be"),
        ({"teachers_per_step": 0}, "teachers_per_step"),
        ({"warm_up": -1}, "warm_up"),
        ({"heads": 0, "same_level": True}, "same_level"),
    ],
)
def test_a_setting_that_cannot_work_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        MHD(**options)


def test_it_is_found_by_name_and_checks_the_learner() -> None:
    strategy = registry.make("mhd", heads=1, pool=2)
    assert isinstance(strategy, MHD)
    with pytest.raises(LearnerError, match=r"wrap it, MultiHead\.over"):
        strategy.check(tiny_learner(0, public_sets=[PUBLIC]))
    with pytest.raises(ConfigError, match="needs a public set"):
        strategy.check(tiny_learner(0, model=headed()))
    with pytest.raises(ConfigError, match="public set named 'other'"):
        MHD(public_set="other").check(tiny_learner(0, model=headed(), public_sets=[PUBLIC]))
    with pytest.raises(LearnerError, match="heads=3, but the model has 2"):
        MHD(heads=3).check(tiny_learner(0, model=headed(), public_sets=[PUBLIC]))


def test_a_headed_network_begins_as_the_network_it_is_made_of() -> None:
    plain = tiny_model(seed=3)
    model = MultiHead.over(plain, aux=2, seed=3, projections=[5])
    x = PUBLIC.x
    views = model.views(x)
    assert torch.equal(model(x), plain(x))
    assert torch.equal(views.logits[0], plain(x))
    assert len(model.views(x, heads=1).logits) == 1
    assert views.embedding.shape == (40, model.width) == (40, 8)
    assert (model.aux, model.classes) == (2, CLASSES)
    assert torch.equal(model.by_head(2)(x), views.logits[2])
    assert model.projected(views.embedding, 8) is views.embedding
    assert model.projected(views.embedding, 5).shape == (40, 5)
    assert [model.follows(width) for width in (8, 5, 6)] == [True, True, False]
    twin = MultiHead.over(plain, aux=2, seed=3, projections=[5])
    assert bits(model.state_dict()) == bits(twin.state_dict())
    assert not torch.equal(views.logits[1], views.logits[2])
    with pytest.raises(LearnerError, match="no dense layer 'top'"):
        MultiHead.over(plain, last="top")
    with pytest.raises(LearnerError, match="cannot be negative"):
        MultiHead.over(plain, aux=-1)
    with pytest.raises(LearnerError, match="different widths"):
        MultiHead.over(plain, projections=[8])
    with pytest.raises(LearnerError, match="no head 3"):
        model.by_head(3)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 3), st.integers(0, 100), st.integers(1, 50))
def test_a_window_names_just_the_samples_of_its_batches(length, batch, epoch, position, span) -> None:
    public = tiny_data(samples=length, classes=2).unlabelled("p")
    window = Window(public.fingerprint, 7, batch, epoch, 0, span)
    window = replace(window, position=position % window.order(public).per_epoch)
    order = window.order(public)
    met = torch.cat([order.next() for _ in range(span)]).unique()
    rows = window.rows(public)
    if span < 2 * order.per_epoch:
        assert torch.equal(rows, met)
    else:
        assert torch.equal(rows, torch.arange(length))
    later = replace(window, epoch=order.epoch, position=order.position)
    assert window.reaches(window, public)
    assert not window.reaches(later, public)
    assert not later.reaches(window, public)
    assert Wanted.read(Wanted(window, 2, True).select()) == Wanted(window, 2, True)
