"""Gossip by ADMM: the exact cases of its arithmetic, its pull, its meetings, and whole peers."""

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.events import FetchFailed
from peerlearn.knowledge import Outputs, Params, Query, Question, Received, Refusal
from peerlearn.learning import checkpoint
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.strategies.admm.edge_terms import EdgeState, Pull, coupling_of, settled
from peerlearn.strategies.admm.strategy import AdmmGossip
from peerlearn.strategies.base import Asked
from peerlearn.strategies.gossip import Gossip
from peerlearn.testing import (
    Normed,
    PeerNetwork,
    bits,
    blob_learner,
    everything,
    gathered,
    same,
    snapshot,
    tensors_of,
    tiny_card,
    tiny_id,
    tiny_learner,
    weights,
)
from peerlearn.types import Exposure, epochs, steps

Member = tuple[str, Learner, AdmmGossip]


def member(name: str, seed: int, *, normed: bool = False, start: int = 0, **options: Any) -> Member:
    learner = tiny_learner(seed, model=Normed(seed=start) if normed else None, start=start)
    learner.fit(epochs(1))
    return name, learner, AdmmGossip(**{"pairing": "pairs", **options})


def told(consumer: Member, provider: Member, version: int = 1) -> Received:
    """The provider's answer from its snapshot of this version; made when it is not there yet."""
    shown = provider[1].shown
    if shown is None or shown.version != version:
        shown = snapshot(provider[1], provider[2], version)
    question = consumer[2].ask(consumer[1], tiny_card(*provider))
    answer = provider[2].answer(shown, Asked(tiny_card(*consumer), question))
    assert isinstance(answer, Params), answer
    return Received(tiny_card(*provider, version=version), answer, question.query)


def meet(one: Member, two: Member, version: int = 1) -> None:
    """Both of a pair ask each other; then z-step and dual step."""
    for me in (one, two):
        snapshot(me[1], me[2], version)
    answers = told(one, two, version), told(two, one, version)
    for (_, learner, strategy), answer in zip((one, two), answers, strict=True):
        strategy.absorb(learner, [answer])
        assert strategy.transfer(learner, steps(0)).providers


def edge(me: Member, other: Member) -> EdgeState:
    return me[2]._edges[tiny_id(other[0])]


def trained(me: Member) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in me[1].model.named_parameters()}


# ---- the arithmetic (algorithms.md 4.10)


def test_4_10_without_weight_there_is_no_coupling_and_u_stays_zero() -> None:
    one, two = member("amber", 1, weight=0), member("birch", 2, weight=0)
    for version in (1, 2, 3):
        for me in (one, two):
            me[2].local(me[1], epochs(1))
        meet(one, two, version)
        for me, other in ((one, two), (two, one)):
            assert same(dict(edge(me, other).z), trained(me))  # z = q = theta, as u = 0
            assert all(not t.any() for t in edge(me, other).u.values())


def test_4_10_with_infinite_weight_both_are_drawn_to_the_mean_of_their_messages() -> None:
    one, two = member("amber", 1, weight=math.inf), member("birch", 2, weight=math.inf)
    meet(one, two)
    for me in (one, two):  # a second meeting, where u is not zero any more
        me[2].local(me[1], epochs(1))
    q = {me[0]: {n: t + edge(me, other).u[n] for n, t in trained(me).items()} for me, other in ((one, two), (two, one))}
    meet(one, two, 2)
    mean = {n: ((q["amber"][n].double() + q["birch"][n].double()) / 2).float() for n in q["amber"]}
    assert same(dict(edge(one, two).z), mean)
    assert same(dict(edge(two, one).z), mean)


def test_9_2_with_infinite_weight_and_no_dual_z_is_the_mean_of_gossip() -> None:
    one, two = member("amber", 1, weight=math.inf), member("birch", 2, weight=math.inf)
    meet(one, two)
    gossips = [("amber", tiny_learner(1), Gossip()), ("birch", tiny_learner(2), Gossip())]
    for _, learner, _ in gossips:
        learner.fit(epochs(1))
    shown = snapshot(gossips[1][1], gossips[1][2])
    card = tiny_card(*gossips[1])
    asked = Asked(tiny_card(*gossips[0]), Question(Query(want="params")))
    answer = gossips[1][2].answer(shown, asked)
    assert isinstance(answer, Params)
    gossips[0][2].absorb(gossips[0][1], [Received(card, answer)])
    gossips[0][2].transfer(gossips[0][1], steps(0))
    assert same(dict(edge(one, two).z), {n: t.detach() for n, t in gossips[0][1].state.items()})


@pytest.mark.parametrize(("rho", "weight"), [(1e-2, 1.0), (1.0, 0.25), (4.0, 0.5), (3.0, 1e-3)])
def test_4_10_the_z_step_and_the_dual_step_are_those_of_the_formula(rho: float, weight: float) -> None:
    draw = torch.Generator().manual_seed(0)
    theta, u = ([torch.randn(50, generator=draw, dtype=torch.float64) for _ in range(2)] for _ in range(2))
    q = [t + d for t, d in zip(theta, u, strict=True)]
    s, d = (q[0] + q[1]) / 2, (q[0] - q[1]) / 2 * rho / (rho + 4 * weight)
    ends = [
        settled({"w": q[i]}, {"w": q[1 - i]}, session="s", coupling=coupling_of(rho, weight)) for i in range(2)
    ]  # fmt: skip
    for i, z in enumerate((s + d, s - d)):
        torch.testing.assert_close(ends[i].z["w"], z)
        torch.testing.assert_close(ends[i].u["w"], u[i] + theta[i] - z)
    assert torch.equal(ends[0].u["w"], -ends[1].u["w"])


def test_the_z_step_minimises_the_coupled_objective() -> None:
    """z_i, z_j = argmin of w |z_i - z_j|^2 + rho/2 (|q_i - z_i|^2 + |q_j - z_j|^2)."""
    rho, weight, q = 0.3, 0.7, torch.tensor([2.0, -1.0], dtype=torch.float64)
    z = torch.stack([
        settled({"w": q[i]}, {"w": q[1 - i]}, session="s", coupling=coupling_of(rho, weight)).z["w"] for i in range(2)
    ]).requires_grad_()  # fmt: skip
    objective = weight * (z[0] - z[1]).square() + rho / 2 * (q - z).square().sum()
    (gradient,) = torch.autograd.grad(objective, z)
    torch.testing.assert_close(gradient, torch.zeros(2, dtype=torch.float64))


# ---- the pull


def test_the_pull_and_its_gradient_are_those_of_the_sum_over_the_edges() -> None:
    me, others = member("amber", 1), [member("birch", 2), member("cedar", 3)]
    for version, other in enumerate(others, 1):
        meet(me, other, version)
        me[2].local(me[1], epochs(1))
    model, batch = me[1].model, me[1].preview(epochs(1))[0]
    edges = [edge(me, other) for other in others]
    named = dict(model.named_parameters())
    naive = sum(
        ((named[n].double() - e.z[n].double() + e.u[n].double()) ** 2).sum() for e in edges for n in named
    ) * (me[2].rho / 2)  # fmt: skip
    value = me[2].extra_loss(model, batch)
    assert value is not None
    assert isinstance(naive, Tensor)
    assert float(value.detach()) > 0
    torch.testing.assert_close(value.double(), naive, rtol=1e-4, atol=1e-9)
    ours = torch.autograd.grad(value, list(named.values()))
    theirs = torch.autograd.grad(naive, list(named.values()))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-7)


def test_training_under_a_strong_pull_brings_two_peers_nearer() -> None:
    def apart(rho: float) -> float:
        one, two = member("amber", 1, rho=rho), member("birch", 2, rho=rho)
        for version in range(1, 6):
            meet(one, two, version)
            for me in (one, two):
                me[2].local(me[1], epochs(1))
        a, b = trained(one), trained(two)
        return sum(float((a[n] - b[n]).square().sum()) for n in a)

    assert apart(1.0) < apart(1e-6) / 2


def test_an_edge_to_a_peer_that_is_away_rests_until_it_is_back() -> None:
    me, here, away = member("amber", 1), member("birch", 2), member("cedar", 3)
    meet(me, here, 1)
    meet(me, away, 2)
    batch = me[1].preview(epochs(1))[0]

    def pull(*others: Member) -> float:
        assert me[2].prefer(me[1], [tiny_card(*other) for other in others]) is None  # type: ignore[func-returns-value]
        value = me[2].extra_loss(me[1].model, batch)
        return 0.0 if value is None else float(value.detach())

    both = pull(here, away)
    assert 0 < pull(here) < both
    assert pull() == 0
    assert pull(here, away) == both


def test_a_peer_that_has_begun_anew_gets_a_new_edge() -> None:
    one, two = member("amber", 1), member("birch", 2)
    meet(one, two)
    shown = snapshot(one[1], one[2], 2)
    query = Query(want="params", select={"edge": "q"})
    known = one[2].answer(shown, Asked(tiny_card(*two), Question(query)))
    anew = one[2].answer(shown, Asked(tiny_card(*two, session="s2"), Question(query)))
    assert isinstance(known, Params)
    assert isinstance(anew, Params)
    assert not same(tensors_of(known), trained(one))
    assert same(tensors_of(anew), trained(one))


def test_weights_from_far_out_cost_the_edges_and_not_the_peer() -> None:
    me, other = member("amber", 1), member("birch", 2)
    answer = told(me, other)
    assert isinstance(answer.knowledge, Params)
    far = {n: torch.full_like(t, 1e30) for n, t in tensors_of(answer.knowledge).items()}
    snapshot(me[1], me[2], 1)
    plain = tiny_learner(1)
    plain.load_state_dict(me[1].state_dict())
    with pytest.raises(KnowledgeError, match="times as large"):
        me[2].absorb(me[1], [replace(answer, knowledge=replace(answer.knowledge, tensors=far))])
    me[2]._inbox.put(answer, far)  # as if it had come by small steps
    me[2].transfer(me[1], steps(0))
    report = me[2].local(me[1], epochs(1))
    plain.fit(epochs(1))
    assert report.notes == {"edges_dropped": 1}
    assert everything(me[1]) == everything(plain)
    assert me[2].extra_loss(me[1].model, me[1].preview(epochs(1))[0]) is None


def test_the_pull_of_one_edge_at_its_own_point_is_nothing() -> None:
    model = tiny_learner(1).model
    here = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert (
        float(Pull([EdgeState("s", here, {n: torch.zeros_like(t) for n, t in here.items()})], model)(model).detach())
        == 0
    )


# ---- the contract (9.1)


def test_a_meeting_leaves_the_weights_as_they_are() -> None:
    one, two = member("amber", 1, normed=True), member("birch", 2, normed=True)
    before = weights(one[1]), weights(two[1])
    meet(one, two)
    assert (weights(one[1]), weights(two[1])) == before


def test_in_a_lot_the_asker_brings_its_message_and_both_ends_are_the_same_as_in_a_pair() -> None:
    lots = member("amber", 1, pairing="lot"), member("birch", 2, pairing="lot")
    pairs = member("amber", 1), member("birch", 2)
    meet(*pairs)
    for name, learner, strategy in lots:
        snapshot(learner, strategy, 1)
        assert name
    one, two = lots
    question = one[2].ask(one[1], tiny_card(*two))
    assert question.brings is not None
    brought = Received(tiny_card(*one, version=1), question.brings)
    one[2].absorb(one[1], [told(one, two)])
    two[2].absorb(two[1], [brought])
    for me, other, paired in ((one, two, pairs), (two, one, pairs[::-1])):
        me[1].fit(epochs(1))  # training on meanwhile does not change what was said
        me[2].transfer(me[1], steps(0))
        assert bits(edge(me, other).state_dict()) == bits(edge(*paired).state_dict())


def test_9_1_2_answer_is_pure_and_refuses_other_questions() -> None:
    one, two = member("amber", 1, normed=True), member("birch", 2, normed=True)
    meet(one, two)
    shown = snapshot(two[1], two[2], 2)
    question = one[2].ask(one[1], tiny_card(*two))
    before = everything(two[1]), bits(two[2].state_dict()), bits(dict(shown.state))
    answers = [two[2].answer(shown, Asked(tiny_card(*one), question)) for _ in range(2)]
    assert bits(tensors_of(answers[0])) == bits(tensors_of(answers[1]))  # type: ignore[arg-type]
    assert (everything(two[1]), bits(two[2].state_dict()), bits(dict(shown.state))) == before
    assert isinstance(two[2].answer(shown, Asked(tiny_card(*one), Question(Query(want="params")))), Refusal)


def test_9_1_3_absorbing_twice_is_absorbing_once() -> None:
    one, two = member("amber", 1), member("birch", 2)
    snapshot(one[1], one[2], 1)
    answer = told(one, two)
    one[2].absorb(one[1], [answer, answer])
    one[2].transfer(one[1], steps(0))
    once = bits(one[2].state_dict())
    one[2].absorb(one[1], [answer])
    assert not one[2].transfer(one[1], steps(0)).providers
    assert bits(one[2].state_dict()) == once


def test_9_1_4_messages_that_do_not_fit_are_refused_and_change_nothing() -> None:
    one, two = member("amber", 1, normed=True), member("birch", 2, normed=True)
    answer = told(one, two)
    good = answer.knowledge
    assert isinstance(good, Params)
    tensors = tensors_of(good)
    bad = {
        "shape": replace(good, tensors={**tensors, "fc.bias": tensors["fc.bias"][:1]}),
        "dtype": replace(good, tensors={**tensors, "fc.bias": tensors["fc.bias"].double()}),
        "nan": replace(good, tensors={**tensors, "fc.bias": tensors["fc.bias"] * float("nan")}),
        "missing": replace(good, tensors={n: t for n, t in tensors.items() if n != "fc.bias"}),
        "buffer": replace(good, tensors={**tensors, "norm.running_mean": two[1].state["norm.running_mean"]}),
        "architecture": replace(good, architecture="0" * 64),
        "outputs": Outputs(dataset="d", fingerprint="f", ids=torch.arange(1), tensors={}, version=2),
    }
    before = everything(one[1]), bits(one[2].state_dict())
    for what, knowledge in bad.items():
        with pytest.raises(KnowledgeError):
            one[2].absorb(one[1], [answer, replace(answer, knowledge=knowledge)])  # type: ignore[arg-type]
        assert (everything(one[1]), bits(one[2].state_dict())) == before, what
    stranger = member("cedar", 3, normed=True, start=7)
    assert "common start" in (one[2].misfit(one[1], tiny_card(*stranger)) or "")
    with pytest.raises(KnowledgeError, match="common start"):
        one[2].absorb(one[1], [told(one, stranger)])


def test_9_1_5_state_saved_and_loaded_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    one, two, three = member("amber", 1), member("birch", 2), member("cedar", 3)
    meet(one, two, 1)
    one[2].prefer(one[1], [tiny_card(*two)])
    one[2].absorb(one[1], [told(one, three)])
    checkpoint.save(tmp_path, {"learner": one[1].state_dict(), "strategy": dict(one[2].state_dict())})
    kept = checkpoint.load(tmp_path)
    again: Member = ("amber", tiny_learner(1), AdmmGossip(pairing="pairs"))
    again[1].load_state_dict(kept["learner"])
    again[2].load_state_dict(kept["strategy"])
    for _, learner, strategy in (one, again):
        snapshot(learner, strategy, 2)
        assert strategy.transfer(learner, steps(0)).providers == (tiny_id("cedar"),)
        strategy.local(learner, epochs(1))
    assert bits(one[1].state_dict()) == bits(again[1].state_dict())
    assert bits(one[2].state_dict()) == bits(again[2].state_dict())


def test_9_1_8_and_11_only_parameters_travel_and_buffers_stay_at_home() -> None:
    one, two = member("amber", 1, normed=True), member("birch", 2, normed=True)
    two[1].model.get_parameter("body.bias").requires_grad_(False)
    answer = told(one, two).knowledge
    assert set(answer.tensors) == {n for n, _ in two[1].model.named_parameters()} - {"body.bias"}
    assert one[2].exposes == one[2].needs == {Exposure.PARAMS_FULL}


def test_9_1_9_without_links_it_is_plain_local_training() -> None:
    alone, plain, strategy = tiny_learner(1), tiny_learner(1), AdmmGossip()
    for _ in range(2):
        strategy.local(alone, epochs(1))
        assert not strategy.transfer(alone, steps(0)).providers
    plain.fit(epochs(2))
    assert everything(alone) == everything(plain)


@pytest.mark.parametrize(
    "options",
    [{"rho": 0}, {"rho": math.inf}, {"rho": math.nan}, {"weight": -1}, {"weight": math.nan}, {"pairing": "all"}],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        AdmmGossip(**options)


# ---- whole peers


@pytest.mark.parametrize("pairing", ["lot", "pairs"])
async def test_9_1_1_two_peers_over_the_network_come_to_the_bits_of_direct_calls(pairing: Any) -> None:
    seeds = {"amber": ([0, 1], 1), "birch": ([2, 3], 2)}
    village, rounds, off = PeerNetwork(), 4, Gate(metric="off")
    peers = [
        village.peer(
            n, blob_learner(*s), strategy=AdmmGossip(rho=0.5, pairing=pairing), pace="lockstep", gate=off
        )
        for n, s in seeds.items()
    ]  # fmt: skip
    async with gathered(*peers), asyncio.timeout(60), asyncio.TaskGroup() as running:
        for peer in peers:
            running.create_task(peer.run(rounds))
    direct: list[Member] = [(n, blob_learner(*s), AdmmGossip(rho=0.5, pairing="pairs")) for n, s in seeds.items()]
    for version in range(1, rounds + 1):
        for _, learner, strategy in direct:
            strategy.local(learner, epochs(1))
        meet(direct[0], direct[1], version)
    for peer, (name, learner, _) in zip(peers, direct, strict=True):
        assert not village.events[name].of(FetchFailed)
        assert same(dict(peer.learner.state), dict(learner.state))
    alone = blob_learner([0, 1], 1)
    alone.fit(epochs(rounds))
    assert not same(dict(alone.state), dict(peers[0].learner.state))
