"""Cloned distillation: the rows of its specification, what every strategy must pass, and whole peers."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from peerlearn.errors import ConfigError, KnowledgeError, LearnerError
from peerlearn.events import Answered, Fetched, Published, Trained
from peerlearn.knowledge import Outputs, Params, Query, Question, Received, Refusal
from peerlearn.learning import checkpoint, losses
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.sampler import Sampler, seeded_rng
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.orchestrator.training.gated import gated_transfer
from peerlearn.strategies.base import Asked
from peerlearn.strategies.cloned import phases
from peerlearn.strategies.cloned.consensus import consensus
from peerlearn.strategies.cloned.phases import LogitTeacher, Recipe
from peerlearn.strategies.cloned.strategy import Cloned
from peerlearn.testing import (
    CLASSES,
    Normed,
    PeerNetwork,
    bits,
    blob_learner,
    everything,
    gathered,
    same,
    snapshot,
    tiny_card,
    tiny_data,
    tiny_learner,
    until,
    weights,
)
from peerlearn.types import Card, Exposure, epochs, steps
from tests.support.cloned import TURNS, edge_of, hub_of, made_of

RECIPE = Recipe(lr=0.05, momentum=0.9, weight_decay=1e-4, decay=0.1, clip=5.0)


def ready_hub(start: int = 0, **more: Any) -> tuple[str, Learner, Cloned]:
    """A hub that is past phase 0."""
    model = Normed(start) if more.pop("normed", False) else None
    its, strategy = tiny_learner(0, start=start, model=model), hub_of(**more)
    strategy.local(its, epochs(strategy.first_epochs))
    return "hub", its, strategy


def questions(edge: Cloned, its: Learner, hub: Card) -> list[Question]:
    asked = edge.ask(its, hub)
    assert not isinstance(asked, Question)
    return list(asked)


def take_clone(edge: tuple[str, Learner, Cloned], hub: tuple[str, Learner, Cloned], version: int = 1) -> Received:
    """The edge asks and absorbs."""
    shown = snapshot(hub[1], hub[2], version)
    card = tiny_card(*hub, version=version)
    (question,) = questions(edge[2], edge[1], card)
    answer = hub[2].answer(shown, Asked(tiny_card(*edge), question))
    assert isinstance(answer, Params), answer
    received = Received(card, answer, question.query)
    edge[2].absorb(edge[1], [received])
    return received


def bring(edge: tuple[str, Learner, Cloned], hub: tuple[str, Learner, Cloned], version: int = 1) -> list[Received]:
    """The hub absorbs the members that the edge brings; the edge gets its receipt."""
    card, shown = tiny_card(*hub, version=version), snapshot(hub[1], hub[2], version)
    brought = []
    for question in questions(edge[2], edge[1], card):
        assert question.brings is not None
        brought.append(Received(tiny_card(*edge), question.brings))
        hub[2].absorb(hub[1], brought[-1:])
        if question.query.want != "nothing":
            receipt = hub[2].answer(shown, Asked(tiny_card(*edge), question))
            assert isinstance(receipt, Params)
            edge[2].absorb(edge[1], [Received(card, receipt, question.query)])
    return brought


def visited(
    name: str, hub: tuple[str, Learner, Cloned], *, seed: int = 1, version: int = 1, span: int = 2, **more: Any
) -> tuple[str, Learner, Cloned]:
    """An edge that has taken a clone and trained its members."""
    model = Normed(9) if more.pop("normed", False) else None
    edge = (name, tiny_learner(seed, start=9, model=model), edge_of(**more))
    take_clone(edge, hub, version)
    edge[2].local(edge[1], epochs(span))
    return edge


def a_member(hub: tuple[str, Learner, Cloned], sender: str = "edge", **more: Any) -> Received:
    tensors = {name: t.detach().clone() for name, t in hub[1].state.items()}
    about = {"tensors": tensors, "architecture": hub[1].architecture, "version": 1, "member": 0, **more}
    return Received(tiny_card(sender, hub[1], edge_of()), Params(**about))


def made(edge: tuple[str, Learner, Cloned]) -> list[Mapping[str, Tensor]]:
    kept: list[Mapping[str, Tensor]] = edge[2].state_dict()["made"]
    return kept


# ---- section 6.9


def test_6_9_1_the_clone_is_the_hub_to_the_bit_and_untrained_members_are_the_clone() -> None:
    hub = ready_hub(normed=True)
    assert "norm.running_mean" in hub[1].state
    edge = ("edge", tiny_learner(1, model=Normed(9)), edge_of(members=3))
    received = take_clone(edge, hub)
    assert bits(received.knowledge.tensors) == weights(hub[1])
    edge[2].local(edge[1], epochs(0))
    assert [bits(member) for member in made(edge)] == [weights(hub[1])] * 3
    edge = visited("other", hub, normed=True)
    assert int(made(edge)[0]["norm.num_batches_tracked"]) > int(hub[1].state["norm.num_batches_tracked"])


def test_6_9_2_an_untouched_clone_teaches_nothing_the_first_update_is_that_of_labels_alone() -> None:
    by_labels, taught = tiny_learner(0), tiny_learner(0)
    clone = phases.teacher_of(taught, "edge", [dict(taught.state)] * 3)
    loss = phases.teaching_loss(taught, [clone] * 3, temperature=2.0, weight=1.0, reduce="sum")
    phases.run_phase(by_labels, steps(1), RECIPE)
    phases.run_phase(taught, steps(1), RECIPE, loss)
    for name, tensor in taught.state.items():
        torch.testing.assert_close(tensor, by_labels.state[name], atol=1e-6, rtol=0)
    logits = torch.randn(8, CLASSES, generator=seeded_rng("z"), requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.distill_kl(logits.detach(), logits, 2.0), logits)
    assert float(gradient.abs().max()) < 1e-6
    other = phases.teacher_of(taught, "edge", [dict(tiny_learner(0, start=5).state)])
    away = tiny_learner(0)
    phases.run_phase(
        away, steps(1), RECIPE, phases.teaching_loss(away, [other], temperature=2.0, weight=1.0, reduce="sum")
    )
    assert any(not torch.allclose(away.state[n], by_labels.state[n], atol=1e-4, rtol=0) for n in away.state)


def test_6_9_3_an_ensemble_is_the_mean_of_logits_whatever_the_order() -> None:
    its = tiny_learner(0)
    states = [dict(tiny_learner(0, start=start).state) for start in (1, 2, 3)]
    x = torch.cat([batch.x for batch in its.one_pass()])
    each = [its.logits(x, model=its.build(state)) for state in states]
    teacher = phases.teacher_of(its, "edge", states)
    torch.testing.assert_close(teacher.logits, (each[0] + each[1] + each[2]) / 3)
    assert torch.equal(teacher.logits, phases.teacher_of(its, "edge", states[::-1]).logits)
    assert torch.equal(phases.teacher_of(its, "edge", states[:1] * 3).logits, each[0])
    y = torch.cat([batch.y for batch in its.one_pass()])
    alone = [float((logits.argmax(dim=1) == y).double().mean()) for logits in each]
    assert len(set(alone)) > 1
    assert teacher.member_accuracy == pytest.approx(sum(alone) / 3)
    shuffled = torch.randperm(len(teacher.ids), generator=seeded_rng("ids"))
    assert torch.equal(teacher.of(teacher.ids[shuffled]), teacher.logits[shuffled])


def test_6_9_4_memory_keeps_the_last_entries_and_the_loss_adds_or_averages_their_terms() -> None:
    hub = ready_hub(memory=2, members=1)
    senders = []
    for nth in range(3):
        edge = visited(f"edge{nth}", hub, seed=nth + 1, version=1 + nth, members=1)
        bring(edge, hub, 1 + nth)
        report = hub[2].transfer(hub[1], epochs(1))
        assert report.committed
        senders.append(tiny_card(*edge).id)
    assert [teacher["sender"] for teacher in hub[2].state_dict()["teachers"]] == senders[1:]

    its = tiny_learner(0)
    batch = next(its.batches(steps(1)))
    teacher = phases.teacher_of(its, "edge", [dict(tiny_learner(0, start=5).state)])
    z = its.model(batch.x)
    ce, v = F.cross_entropy(z, batch.y), teacher.of(batch.ids)
    p = (v / 2).softmax(1)
    kd = 4 * (p * (p.log() - (z / 2).log_softmax(1))).sum(1).mean()

    def value(amount: int, reduce: phases.Reduce, weight: float = 1.0) -> Tensor:
        loss = phases.teaching_loss(its, [teacher] * amount, temperature=2.0, weight=weight, reduce=reduce)
        got = loss(its.model, batch)
        assert got is not None
        return got

    torch.testing.assert_close(value(1, "sum"), ce + kd)  # equation (1)
    torch.testing.assert_close(value(3, "sum"), ce + 3 * kd)
    torch.testing.assert_close(value(3, "mean"), ce + kd)
    torch.testing.assert_close(value(3, "sum", 0.5), ce + 1.5 * kd)
    assert torch.equal(value(3, "sum", 0.0), ce)


def test_6_9_5_members_differ_by_the_order_of_batches_alone() -> None:
    hub = ready_hub()
    first, again = visited("edge", hub, members=2), visited("edge", hub, members=2)
    assert [bits(m) for m in made(first)] == [bits(m) for m in made(again)]
    assert bits(made(first)[0]) != bits(made(first)[1])
    # a reference loop: member j trains on epochs 2j and 2j + 1 of the private set's order
    its = tiny_learner(1)
    data = tiny_data(seed=1)
    train = torch.cat([batch.ids for batch in its.one_pass()])
    order = Sampler(len(train), 16, seed=1)
    for member in made(first):
        its.overwrite(hub[1].state)
        optimizer = torch.optim.SGD(its.model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
        for nth in range(2 * order.per_epoch):
            optimizer.param_groups[0]["lr"] = 0.02 if nth < order.per_epoch else 0.02 * 0.1
            rows = train[order.next()]
            optimizer.zero_grad()
            F.cross_entropy(its.model(data.x[rows]), data.y[rows]).backward()
            torch.nn.utils.clip_grad_norm_(list(its.model.parameters()), 5.0)
            optimizer.step()
        assert bits(member) == weights(its)


class Watched:
    """A data set that says when it is read."""

    def __init__(self, seed: int) -> None:
        self.data = tiny_data(seed=seed)
        self.targets = self.data.y
        self.reads = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return self.data[row]


def test_6_9_6_the_hub_never_reads_an_edges_data_and_edges_never_read_the_hubs() -> None:
    core, private = Watched(0), Watched(1)
    hub = ("hub", tiny_learner(0, data=core), hub_of())
    edge = ("edge", tiny_learner(1, data=private), edge_of())
    private.reads = 0
    hub[2].local(hub[1], epochs(1))
    assert not private.reads
    shown = snapshot(hub[1], hub[2])
    core.reads = 0
    card = tiny_card(*hub, version=1)
    (question,) = questions(edge[2], edge[1], card)
    answer = hub[2].answer(shown, Asked(tiny_card(*edge), question))
    assert isinstance(answer, Params)
    edge[2].absorb(edge[1], [Received(card, answer, question.query)])
    edge[2].local(edge[1], epochs(1))
    brought = [Received(tiny_card(*edge), q.brings) for q in questions(edge[2], edge[1], card) if q.brings]
    assert not core.reads
    private.reads = 0
    hub[2].absorb(hub[1], brought)
    assert hub[2].transfer(hub[1], epochs(1)).steps
    assert (core.reads > 0, private.reads) == (True, 0)


def test_6_9_7_phases_2_follow_arrival_and_a_late_answer_is_used() -> None:
    hub = ready_hub(members=2, memory=5)
    late, early = visited("late", hub, seed=1), visited("early", hub, seed=2)
    bring(early, hub)
    first = hub[2].transfer(hub[1], epochs(1))
    assert first.providers == (tiny_card(*early).id,)
    assert first.events == ("settled",)
    bring(late, hub, version=2)  # made of the clone of version 1, while the hub is at version 2
    before = weights(hub[1])
    second = hub[2].transfer(hub[1], epochs(1))
    assert second.providers == (tiny_card(*late).id,)
    assert weights(hub[1]) != before
    # two that wait are taken in the order in which their ensembles became complete
    a, b = visited("a", hub, seed=3, version=3), visited("b", hub, seed=4, version=3)
    card = tiny_card(*hub)
    of_a, of_b = ([Received(tiny_card(*e), q.brings) for q in questions(e[2], e[1], card) if q.brings] for e in (a, b))
    hub[2].absorb(hub[1], [of_a[0], *of_b])
    hub[2].absorb(hub[1], of_a[1:])
    reports = [hub[2].transfer(hub[1], epochs(1)) for _ in range(3)]
    assert [r.providers for r in reports] == [(tiny_card(*b).id,), (tiny_card(*a).id,), ()]
    assert [r.events for r in reports] == [("settled", "received"), ("settled",), ()]


def test_6_9_8_consensus_is_an_intersection_over_a_union() -> None:
    y = torch.tensor([0, 1, 2, 0, 1])
    teacher = F.one_hot(torch.tensor([0, 1, 0, 0, 0]), 3).float()  # right on 0, 1, 3
    student = F.one_hot(torch.tensor([0, 0, 2, 0, 0]), 3).float()  # right on 0, 2, 3
    found = consensus(teacher, student, y)
    assert (found.intersection, found.union, found.student_exclusive, found.neither) == (2, 4, 1, 1)
    assert found.score == 0.5
    assert found.teacher_accuracy == found.student_accuracy == 0.6
    assert found.intersection + found.student_exclusive == 3  # |S| = |T and S| + |S without T|
    assert consensus(teacher, teacher, y).score == 1
    wrong = F.one_hot(torch.tensor([1, 2, 1, 1, 2]), 3).float()
    assert consensus(wrong, teacher, y).score == 0
    assert consensus(wrong, wrong, y).score != consensus(wrong, wrong, y).score  # nan: neither is ever right
    with pytest.raises(LearnerError, match="same samples"):
        consensus(teacher[:2], student, y)


async def test_6_9_9_one_message_in_and_so_many_members_out_per_edge() -> None:
    village = PeerNetwork()
    hub = village.peer("hub", blob_learner([0, 1, 2, 3], 0), strategy=hub_of(members=3, first_epochs=1, hub_epochs=1))
    edge = village.peer("edge", blob_learner([0, 1, 2, 3], 1), strategy=edge_of(members=3, edge_epochs=1, hub="hub"))
    async with gathered(hub, edge), asyncio.timeout(60):
        await hub.run(0)
        await edge.run(3)
        await until(lambda: len(village.events["hub"].of(Trained)) >= 2)
    size = sum(t.nbytes for t in edge.learner.state.values())
    clone, *later = village.events["edge"].of(Fetched)
    assert clone.body_bytes == size
    assert len(later) == 3
    assert all(fetched.body_bytes == 0 and fetched.sent_bytes > size for fetched in later)
    assert [answered.want for answered in village.events["hub"].of(Answered)] == [
        "params", "nothing", "nothing", "params"
    ]  # fmt: skip


# ---- phases


def test_a_phase_starts_anew_and_its_rate_falls_at_half_and_three_quarters() -> None:
    rates = [(piece.amount, round(rate, 6)) for piece, rate in RECIPE.pieces(epochs(12))]
    assert rates == [(6, 0.05), (3, 0.005), (3, 0.0005)]
    assert RECIPE.pieces(epochs(1)) == [(epochs(1), 0.05)]
    assert RECIPE.pieces(steps(0)) == []
    assert [p.amount for p, _ in replace(RECIPE, decay=1.0).pieces(steps(5))] == [3, 1, 1]
    its = tiny_learner(0)
    its.fit(steps(2))
    own, kept = its.optimizer, bits(its.optimizer.state_dict())
    assert phases.run_phase(its, epochs(4), RECIPE).steps == 4 * 6
    assert its.optimizer is own
    assert bits(own.state_dict()) == kept
    before = {name: t.detach().clone() for name, t in its.state.items()}
    phases.run_phase(its, steps(1), Recipe(lr=1.0, momentum=0.0, weight_decay=0.0, decay=1.0, clip=0.01))
    moved = torch.cat([(its.state[n].detach() - before[n]).reshape(-1) for n in before]).norm()
    torch.testing.assert_close(float(moved), 0.01, rtol=1e-3, atol=0)


def test_a_phase_2_that_diverges_leaves_model_and_memory_as_they_were_and_is_not_tried_again() -> None:
    hub = ready_hub(lr=1e30, clip=None, first_epochs=0)
    edge = ("edge", tiny_learner(1), edge_of())
    take_clone(edge, hub)
    edge[2].local(edge[1], epochs(1))
    bring(edge, hub)
    before = everything(hub[1])
    report = hub[2].transfer(hub[1], epochs(2))
    assert not report.committed
    assert report.events == ("settled",)
    assert everything(hub[1]) == before
    assert hub[2].state_dict()["teachers"] == []
    assert hub[2].transfer(hub[1], epochs(2)).providers == ()


def test_a_teacher_that_the_gate_rolls_back_is_not_tried_again() -> None:
    hub = ready_hub(weight=50.0, temperature=1.0, hub_epochs=4)
    bring(liar(hub), hub)
    before = weights(hub[1])
    outcome = gated_transfer(hub[2], hub[1], epochs(4), Gate(tolerance=0.0, metric="accuracy"))
    assert outcome.verdict is not None
    assert not outcome.verdict.kept
    assert weights(hub[1]) == before
    assert hub[2].state_dict()["teachers"] == []
    assert gated_transfer(hub[2], hub[1], epochs(4), Gate()).verdict is None
    good = visited("good", hub, version=2)
    bring(good, hub)
    assert hub[2].transfer(hub[1], epochs(1)).providers == (tiny_card(*good).id,)


def liar(hub: tuple[str, Learner, Cloned]) -> tuple[str, Learner, Cloned]:
    """An edge whose labels are all wrong."""
    data = tiny_data(seed=1)
    edge = (
        "liar",
        tiny_learner(1, data=replace(data, y=(data.y + 1) % CLASSES)),
        edge_of(lr=0.1, edge_epochs=10),
    )
    take_clone(edge, hub)
    edge[2].local(edge[1], epochs(10))
    return edge


def test_a_noisy_edge_is_found_by_the_fall_of_the_hubs_training_accuracy() -> None:
    trusting = ready_hub(weight=50.0)
    bring(liar(trusting), trusting)
    report = trusting[2].transfer(trusting[1], epochs(4))
    assert report.committed
    assert report.notes["accuracy_after"] < report.notes["accuracy_before"] - 0.2

    wary = ready_hub(weight=50.0, suspect=0.2)
    bring(liar(wary), wary)
    before = weights(wary[1])
    report = wary[2].transfer(wary[1], epochs(4))
    assert report.notes["suspect"] == 1
    assert not report.committed
    assert weights(wary[1]) == before
    assert wary[2].state_dict()["teachers"] == []
    honest = visited("honest", wary, version=2)
    bring(honest, wary)
    report = wary[2].transfer(wary[1], epochs(4))
    assert report.committed
    assert report.notes["suspect"] == 0


def test_the_hub_learns_from_what_it_never_saw() -> None:
    """Two of four classes are rare at the hub; the edge knows them all."""
    rare = tiny_data(samples=24, seed=3)
    test = tiny_data(samples=400, seed=99)
    hub = ("hub", tiny_learner(0, data=rare, held_out=0.0), hub_of(members=1, lr=0.05))
    hub[2].local(hub[1], epochs(2))
    edge = ("edge", tiny_learner(1, data=tiny_data(samples=400, seed=4)), edge_of(members=1, lr=0.05))
    take_clone(edge, hub)
    edge[2].local(edge[1], epochs(6))
    bring(edge, hub)
    everyone = Batch(test.x, test.y, test.ids)
    before = hub[1].evaluate(everyone)
    teacher = edge[1].evaluate(everyone, predict=lambda x: edge[2].predict(edge[1], x))
    hub[2].transfer(hub[1], epochs(6))
    after = hub[1].evaluate(everyone)
    assert teacher.accuracy > before.accuracy
    assert after.loss < before.loss


# ---- variants


def test_independent_edges_get_another_seeds_weights_trained_on_the_hubs_set() -> None:
    name, its, strategy = ready_hub(init="independent")
    plain = ready_hub()[1]
    assert weights(its) == weights(plain)  # the hub's own model is none the worse for it
    edge = ("edge", tiny_learner(1), edge_of())
    received = take_clone(edge, (name, its, strategy))
    assert bits(received.knowledge.tensors) != weights(its)
    other = its.build({n: t for n, t in received.knowledge.tensors.items() if isinstance(t, Tensor)})
    x, y = (torch.cat([getattr(b, part) for b in its.one_pass()]) for part in ("x", "y"))
    fresh = its.build(phases.afresh(its, 0, "independent"))
    loss = [float(F.cross_entropy(its.logits(x, model=model), y)) for model in (other, fresh)]
    assert loss[0] < loss[1]
    again = take_clone(("late", tiny_learner(2), edge_of()), (name, its, strategy), version=7)
    assert bits(again.knowledge.tensors) == bits(received.knowledge.tensors)


def test_edges_from_scratch_take_a_permission_without_weights() -> None:
    hub = ready_hub(init="scratch")
    edge = ("edge", tiny_learner(1), edge_of(init="scratch"))
    received = take_clone(edge, hub)
    assert received.knowledge.tensors == {}
    edge[2].local(edge[1], epochs(0))
    assert [bits(m) for m in made(edge)] == [bits(phases.afresh(edge[1], 1, 1))] * 2
    assert bits(made(edge)[0]) != weights(hub[1])
    bring(edge, hub)
    assert hub[2].transfer(hub[1], epochs(1)).providers == (tiny_card(*edge).id,)


def test_afresh_moves_no_generator_and_refuses_modules_that_cannot_start_anew() -> None:
    its = tiny_learner(0, model=Normed(0))
    before = everything(its)
    one = phases.afresh(its, 1)
    assert everything(its) == before
    assert bits(one) == bits(phases.afresh(its, 1)) != bits(phases.afresh(its, 2))

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(8, CLASSES, generator=seeded_rng("odd")))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    odd = tiny_learner(0, model=Odd())
    hub_of().check(odd)
    with pytest.raises(LearnerError, match="reset_parameters"):
        hub_of(init="independent").check(odd)
    with pytest.raises(LearnerError, match="Odd"):
        edge_of(init="scratch").check(odd)


# ---- every strategy's rows (9.1)


def test_answers_change_nothing_and_wait_for_phase_0() -> None:
    its, strategy = tiny_learner(0, model=Normed(0)), hub_of()
    consumer = tiny_card("edge", its, edge_of())
    question = Question(Query(want="params"))
    early = strategy.answer(snapshot(its, strategy, 0), Asked(consumer, question))
    assert isinstance(early, Refusal)
    assert early.reason == "version"
    strategy.local(its, epochs(1))
    shown, before, kept = snapshot(its, strategy), everything(its), bits(strategy.state_dict())
    assert isinstance(strategy.answer(shown, Asked(consumer, question)), Params)
    for odd in (Query(want="outputs"), Query(want="params", select={"layers": ["fc"]})):
        refused = strategy.answer(shown, Asked(consumer, Question(odd)))
        assert isinstance(refused, Refusal)
    assert everything(its) == before
    assert bits(strategy.state_dict()) == kept
    refused = edge_of().answer(shown, Asked(consumer, question))
    assert isinstance(refused, Refusal)
    assert "ask the hub" in refused.detail


def test_what_came_twice_counts_once() -> None:
    hub = ready_hub()
    edge = ("edge", tiny_learner(1), edge_of())
    clone = take_clone(edge, hub)
    once = bits(edge[2].state_dict())
    edge[2].absorb(edge[1], [clone])
    assert bits(edge[2].state_dict()) == once
    edge[2].local(edge[1], epochs(1))
    brought = bring(edge, hub)
    once = bits(hub[2].state_dict())
    for each in brought:
        hub[2].absorb(hub[1], [each])
    hub[2].absorb(hub[1], brought)
    assert bits(hub[2].state_dict()) == once
    assert hub[2].transfer(hub[1], epochs(1)).steps
    once = bits(hub[2].state_dict())
    hub[2].absorb(hub[1], brought)
    assert bits(hub[2].state_dict()) == once
    assert not hub[2].transfer(hub[1], epochs(1)).steps
    half = [Received(replace(each.sender, session="s2"), each.knowledge) for each in brought[:1]]
    hub[2].absorb(hub[1], half + half)
    once = bits(hub[2].state_dict())
    other = Params(tensors=brought[1].knowledge.tensors, architecture=hub[1].architecture, version=1, member=0)
    hub[2].absorb(hub[1], [replace(half[0], knowledge=other)])  # the same name for something else
    assert bits(hub[2].state_dict()) == once
    assert not hub[2].transfer(hub[1], epochs(1)).steps  # the other member is still missing


BAD: dict[str, dict[str, Any]] = {
    "architecture": {"architecture": "another"},
    "member": {"member": 2},
    "negative": {"member": -1},
    "missing": {"tensors": {}},
}


@pytest.mark.parametrize("what", [*BAD, "shape", "dtype", "not finite", "huge", "outputs"])
def test_bad_members_are_refused_and_change_nothing(what: str) -> None:
    hub = ready_hub()
    good = a_member(hub)
    tensors = dict(good.knowledge.tensors)
    weight = tensors["fc.weight"]
    assert isinstance(weight, Tensor)
    altered = {
        "shape": weight[:2],
        "dtype": weight.double(),
        "not finite": torch.full_like(weight, float("nan")),
        "huge": weight.sign() * 3e38,
    }
    if what in altered:
        bad = a_member(hub, tensors={**tensors, "fc.weight": altered[what]})
    elif what == "outputs":
        ids = torch.arange(2)
        bad = replace(good, knowledge=Outputs(dataset="x", fingerprint="", ids=ids, tensors={}, version=1))
    else:
        bad = a_member(hub, **BAD[what])
    before, kept = everything(hub[1]), bits(hub[2].state_dict())
    with pytest.raises(KnowledgeError):
        hub[2].absorb(hub[1], [good, bad])
    assert everything(hub[1]) == before
    assert bits(hub[2].state_dict()) == kept


def test_an_edge_refuses_what_it_has_not_asked_for_and_a_clone_of_another_kind() -> None:
    hub, its, strategy = ready_hub(), tiny_learner(1), edge_of()
    member = a_member(hub)
    for asked, knowledge in (
        (None, member.knowledge),
        (Query(want="params", select={"receipt": True}), member.knowledge),
        (Query(want="params"), Params(tensors={}, architecture=its.architecture, version=1)),
    ):
        with pytest.raises(KnowledgeError):
            strategy.absorb(its, [Received(tiny_card(*hub), knowledge, asked)])
    assert bits(strategy.state_dict()) == bits(edge_of().state_dict())


def test_going_on_from_saved_state_gives_the_same_bits(tmp_path: Any) -> None:
    def story(save_at: int | None) -> tuple[str, str]:
        hub = ready_hub(memory=2)
        edge: tuple[str, Learner, Cloned] = ("edge", tiny_learner(1), edge_of(visits=2))

        def saved(who: tuple[str, Learner, Cloned], at: int) -> tuple[str, Learner, Cloned]:
            if at != save_at:
                return who
            checkpoint.save(tmp_path, {"learner": who[1].state_dict(), "strategy": dict(who[2].state_dict())})
            kept = checkpoint.load(tmp_path)
            own = replace(who[2])
            its = tiny_learner(who[1].seed)
            its.load_state_dict(kept["learner"])
            own.load_state_dict(kept["strategy"])
            assert bits(own.state_dict()) == bits(who[2].state_dict())
            return who[0], its, own

        take_clone(edge, hub)
        edge = saved(edge, 0)
        edge[2].local(edge[1], epochs(1))
        edge = saved(edge, 1)
        bring(edge, hub)
        hub = saved(hub, 2)
        hub[2].transfer(hub[1], epochs(1))
        hub = saved(hub, 3)
        take_clone(edge, hub, version=2)
        edge[2].local(edge[1], epochs(1))
        bring(edge, hub, version=2)
        hub[2].transfer(hub[1], epochs(1))
        return weights(hub[1]) + weights(edge[1]), bits([hub[2].state_dict(), edge[2].state_dict()])

    straight = story(None)
    for at in range(4):
        assert story(at) == straight


def test_an_edge_without_a_hub_learns_alone_as_if_isolated() -> None:
    its, plain, strategy = tiny_learner(1), tiny_learner(1), edge_of()
    assert strategy.local(its, epochs(2)).steps == plain.fit(epochs(2)).steps
    assert everything(its) == everything(plain)
    assert strategy.prefer(its, []) == []
    assert not strategy.transfer(its, epochs(1)).steps


def test_an_edge_asks_once_and_brings_until_it_has_a_receipt() -> None:
    hub = ready_hub()
    card = tiny_card(*hub, version=1)
    stranger = replace(card, id="f" * 32, name="stranger")  # type: ignore[arg-type]
    edge = ("edge", tiny_learner(1), edge_of())
    assert edge[2].prefer(edge[1], [card, stranger]) == [card.id, stranger.id]
    take_clone(edge, hub)
    assert edge[2].prefer(edge[1], [card]) == []
    edge[2].local(edge[1], epochs(1))
    assert edge[2].prefer(edge[1], [card, stranger]) == [card.id]
    first, again = questions(edge[2], edge[1], card), questions(edge[2], edge[1], card)
    assert [bits(q.brings.tensors) for q in first if q.brings] == [bits(q.brings.tensors) for q in again if q.brings]
    bring(edge, hub)
    assert edge[2].prefer(edge[1], [card]) == []
    both = edge[2].predict(edge[1], torch.zeros(3, 8))
    mean = torch.stack([edge[1].logits(torch.zeros(3, 8), model=edge[1].build(m)) for m in made(edge)]).mean(0)
    torch.testing.assert_close(both, mean.softmax(1))
    edge[2].local(edge[1], steps(1))  # goes on alone: its own model is the latest now
    assert torch.equal(edge[2].predict(edge[1], torch.zeros(3, 8)), edge[1].predict(torch.zeros(3, 8)))


def test_edges_know_their_hub_and_their_turn() -> None:
    hub, its = ready_hub(), tiny_learner(1)
    card = tiny_card(*hub)
    assert edge_of().misfit(its, card) is None
    assert edge_of(hub="hub").misfit(its, card) is None
    assert edge_of(hub=card.id[:8]).misfit(its, card) is None
    assert "is not the hub" in str(edge_of(hub="core").misfit(its, card))
    assert "architecture" in str(edge_of().misfit(tiny_learner(1, model=Normed(0)), card))
    assert "asks nobody" in str(hub_of().misfit(its, card))
    assert questions(edge_of(turn=3), its, card)[0].after == 3
    assert edge_of().needs == {Exposure.PARAMS_FULL} == edge_of().exposes == hub_of().exposes
    assert not hub_of().needs


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "server"}, {"init": "copy"}, {"reduce": "max"}, {"members": 0}, {"memory": 0}, {"temperature": 0.0},
        {"weight": -1.0}, {"lr": 0.0}, {"decay": 0.0}, {"clip": 0.0}, {"momentum": 1.0}, {"suspect": 2.0}, {"turn": 0},
        {"visits": 0}, {"hub_epochs": -1}, {"weight_decay": -1.0},
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Cloned(**wrong)


def test_a_teacher_is_read_by_sample_id() -> None:
    teacher = LogitTeacher("edge", torch.tensor([3, 7, 20]), torch.eye(3))
    assert torch.equal(teacher.of(torch.tensor([20, 3])), torch.eye(3)[[2, 0]])


# ---- whole peers


def directly() -> dict[str, dict[str, Tensor]]:
    """Phase 0, then one edge after another, each from the clone of its turn."""
    hub = ("hub", *made_of("hub"))
    hub[2].local(hub[1], epochs(1))
    edges = [(name, *made_of(name)) for name in ("first", "second")]
    for version, edge in enumerate(edges, 1):
        take_clone(edge, hub, version)
        edge[2].local(edge[1], epochs(1))
        bring(edge, hub, version)
        hub[2].transfer(hub[1], epochs(2))
    return {name: dict(its.state) for name, its, _ in (hub, *edges)}


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_the_network_changes_no_bit(kind: Any) -> None:
    village, off = PeerNetwork(kind), Gate(metric="off")
    peers = {}
    for name in TURNS:
        its, strategy = made_of(name)
        pace = "lockstep" if name != "hub" and kind == "memory" else "free"
        peers[name] = village.peer(name, its, strategy=strategy, gate=off, pace=pace)
    async with gathered(*peers.values()), asyncio.timeout(60):
        async with asyncio.TaskGroup() as running:
            running.create_task(peers["hub"].run(0))
            running.create_task(peers["second"].run(1))
            running.create_task(peers["first"].run(1))
        await until(lambda: len(village.events["hub"].of(Published)) == 4)
    expected = directly()
    for name, peer in peers.items():
        assert same(dict(peer.learner.state), expected[name]), name
    taught = [e for e in village.events["hub"].of(Trained) if e.phase == "transfer" and e.steps]
    assert [e.providers for e in taught] == [("first",), ("second",)]
    assert [e.version for e in village.events["hub"].of(Published)] == [0, 1, 2, 3]
