"""Gossip and federated averaging: the law of the mean, to the bit, by direct calls and through whole peers."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peerlearn.assembly import first_card
from peerlearn.data.partition_shared import shared_subset, with_shared
from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.events import Fetched, FetchFailed, Published
from peerlearn.knowledge import Outputs, Params, Query, Question, Received, Refusal
from peerlearn.learning import checkpoint
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.consumer.selection import choose
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.orchestrator.training.gated import gated_transfer
from peerlearn.peer import Peer
from peerlearn.schedule import Local
from peerlearn.strategies.admm.strategy import AdmmGossip
from peerlearn.strategies.base import Asked, Strategy
from peerlearn.strategies.fedavg import FedAvg, FedAvgShared
from peerlearn.strategies.gossip import Gossip
from peerlearn.strategies.isolated import Isolated
from peerlearn.strategies.shared import robust
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
    tiny_data,
    tiny_learner,
    tiny_model,
    until,
    weights,
)
from peerlearn.types import Card, Exposure, PeerId, epochs, steps

Member = tuple[str, Learner, Strategy]
OFF = Gate(metric="off")
MAKERS: dict[str, Callable[[], Strategy]] = {"gossip": Gossip, "fedavg": FedAvg}


def member(name: str, strategy: Strategy, seed: int, *, normed: bool = False, start: int = 0, **more: Any) -> Member:
    learner = tiny_learner(seed, model=Normed(seed=start) if normed else None, start=start, **more)
    learner.fit(epochs(1))
    return name, learner, strategy


def bring(consumer: Member, provider: Member, version: int = 1) -> list[Received]:
    """What the questions of the one bring to the other."""
    snapshot(consumer[1], consumer[2], version)
    asked = consumer[2].ask(consumer[1], tiny_card(*provider))
    questions = [asked] if isinstance(asked, Question) else asked
    card = tiny_card(*consumer, version=version)
    return [Received(card, question.brings) for question in questions if question.brings is not None]


def told(consumer: Member, provider: Member, version: int = 1) -> Received:
    """What the provider answers from a fresh snapshot to the last of the consumer's questions."""
    shown = snapshot(provider[1], provider[2], version)
    asked = consumer[2].ask(consumer[1], tiny_card(*provider))
    question = asked if isinstance(asked, Question) else asked[-1]
    answer = provider[2].answer(shown, Asked(tiny_card(*consumer), question))
    assert isinstance(answer, Params), answer
    return Received(tiny_card(*provider, version=version), answer, question.query)


def meet(one: Member, two: Member, version: int = 1) -> None:
    """One meeting of gossip: `one` asks and brings; both use what came."""
    answer, brought = told(one, two, version), bring(one, two, version)
    for (_, learner, strategy), received in ((one, [answer]), (two, brought)):
        strategy.absorb(learner, received)
    for _, learner, strategy in (one, two):
        strategy.transfer(learner, steps(0))


def copy_of(learner: Learner) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in learner.state.items()}


def mean_of(states: Sequence[dict[str, Tensor]], counts: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Written out a second time, naively, in float64."""
    counts = counts or [1] * len(states)
    names = [name for name, t in states[0].items() if t.is_floating_point()]
    return {
        name: (sum(s[name].double() * n for s, n in zip(states, counts, strict=True)) / sum(counts)).float()  # type: ignore[union-attr]
        for name in names
    }


# ---- gossip: the law of the mean


def test_gossip_leaves_both_with_the_mean_to_the_bit() -> None:
    one, two = member("amber", Gossip(), 1), member("birch", Gossip(), 2)
    mean = mean_of([copy_of(one[1]), copy_of(two[1])])
    meet(one, two)
    assert same(copy_of(one[1]), mean)
    assert same(copy_of(two[1]), mean)


def test_the_one_who_is_asked_averages_with_its_present_weights() -> None:
    one, two = member("amber", Gossip(), 1), member("birch", Gossip(), 2)
    before, brought = copy_of(one[1]), bring(one, two)
    two[1].fit(epochs(1))
    mean = mean_of([copy_of(two[1]), before])
    two[2].absorb(two[1], brought)
    two[2].transfer(two[1], steps(0))
    assert same(copy_of(two[1]), mean)


def test_one_version_is_averaged_once_whichever_way_it_comes() -> None:
    """Two who ask each other at once get the same weights twice, by answer and by question."""
    one, two = member("amber", Gossip(), 1), member("birch", Gossip(), 2)
    mean = mean_of([copy_of(one[1]), copy_of(two[1])])
    answer, brought = told(one, two, version=3), bring(two, one, version=3)
    one[2].absorb(one[1], [answer])
    one[2].transfer(one[1], steps(0))
    one[2].absorb(one[1], brought)
    report = one[2].transfer(one[1], steps(0))
    assert not report.providers
    assert same(copy_of(one[1]), mean)


def test_arrival_order_does_not_matter() -> None:
    results = []
    for order in ((0, 1), (1, 0)):
        me, others = member("amber", Gossip(), 1), [member(n, Gossip(), s) for n, s in (("birch", 2), ("cedar", 3))]
        answers = [told(me, other) for other in others]
        for place in order:
            me[2].absorb(me[1], [answers[place]])
        me[2].transfer(me[1], steps(0))
        results.append(weights(me[1]))
    assert results[0] == results[1]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_9_1_11_running_statistics_are_averaged_and_the_counter_of_batches_never(make: Callable[[], Strategy]) -> None:
    one, two = member("amber", make(), 1, normed=True), member("birch", make(), 2, normed=True)
    two[1].fit(epochs(2))
    before = copy_of(one[1])
    mean = mean_of([before, copy_of(two[1])])
    one[2].absorb(one[1], [told(one, two)])
    one[2].transfer(one[1], steps(0))
    after = copy_of(one[1])
    assert int(before["norm.num_batches_tracked"]) != int(two[1].state["norm.num_batches_tracked"])
    assert torch.equal(after["norm.num_batches_tracked"], before["norm.num_batches_tracked"])
    assert torch.equal(after["norm.running_mean"], mean["norm.running_mean"])
    assert torch.equal(after["norm.running_var"], mean["norm.running_var"])


def test_what_the_optimizer_gathered_for_overwritten_tensors_is_dropped() -> None:
    one, two = member("amber", Gossip(), 1), member("birch", Gossip(), 2)
    assert one[1].optimizer.state
    meet(one, two)
    assert not one[1].optimizer.state
    assert not two[1].optimizer.state


def test_a_version_that_is_held_is_not_asked_for_again() -> None:
    me, other = member("amber", FedAvg(), 1), member("birch", FedAvg(), 2)
    me[2].absorb(me[1], [told(me, other, version=4)])
    question = me[2].ask(me[1], tiny_card(*other))
    assert isinstance(question, Question)
    assert (question.query.have, question.query.have_session) == (4, "s1")
    anew = me[2].ask(me[1], tiny_card(*other, session="s2"))
    assert isinstance(anew, Question)
    assert anew.query.have is None


def test_in_pairs_nothing_is_brought_and_in_lots_the_snapshot_is() -> None:
    two = member("birch", Gossip(), 2)
    assert bring(member("amber", Gossip(pairing="pairs"), 1), two) == []
    one = member("amber", Gossip(), 1)
    shown = snapshot(one[1], one[2], 7)
    one[1].fit(epochs(1))
    question = one[2].ask(one[1], tiny_card(*two))
    assert isinstance(question, Question)
    assert isinstance(question.brings, Params)
    assert question.brings.version == 7
    assert same(tensors_of(question.brings), dict(shown.state))
    assert "received" in Gossip().schedule.on
    assert "received" not in Gossip(pairing="pairs").schedule.on


# ---- what the gate rolls back, and what does not fit


def test_what_the_gate_rolled_back_is_not_tried_again() -> None:
    one, two = member("amber", Gossip(), 1), member("birch", Gossip(), 2)
    answer = told(one, two)
    assert isinstance(answer.knowledge, Params)
    one[1].fit(epochs(20))
    harm = {name: -2 * t.detach() for name, t in one[1].state.items()}
    one[2].absorb(one[1], [replace(answer, knowledge=replace(answer.knowledge, tensors=harm))])
    before = everything(one[1])
    outcome = gated_transfer(one[2], one[1], steps(0), Gate(tolerance=0.05))
    assert outcome.verdict is not None
    assert not outcome.verdict.kept
    assert everything(one[1]) == before
    assert not one[2].transfer(one[1], steps(0)).providers
    assert not one[2].state_dict()["waiting"]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_another_start_or_architecture_is_a_misfit_that_says_so(make: Callable[[], Strategy]) -> None:
    me, stranger = member("amber", make(), 1), member("birch", make(), 2, start=5)
    why = me[2].misfit(me[1], tiny_card(*stranger))
    assert why is not None
    assert "common start" in why
    with pytest.raises(KnowledgeError, match="common start"):
        me[2].absorb(me[1], [told(me, stranger)])
    other = member("birch", make(), 2, normed=True)
    assert "one architecture" in (me[2].misfit(me[1], tiny_card(*other)) or "")


def spoiled(good: Params) -> dict[str, object]:
    tensors = tensors_of(good)
    name = next(iter(tensors))
    return {
        "shape": replace(good, tensors={**tensors, name: tensors[name][:1]}),
        "dtype": replace(good, tensors={**tensors, name: tensors[name].double()}),
        "infinite": replace(good, tensors={**tensors, name: torch.full_like(tensors[name], float("inf"))}),
        "huge": replace(good, tensors={n: torch.full_like(t, 1e30) for n, t in tensors.items()}),
        "missing": replace(good, tensors={n: t for n, t in tensors.items() if n != name}),
        "unknown": replace(good, tensors={**tensors, "strange": tensors[name]}),
        "architecture": replace(good, architecture="0" * 64),
        "member": replace(good, member=1),
        "outputs": Outputs(dataset="d", fingerprint="f", ids=torch.arange(1), tensors={}, version=2),
    }


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_9_1_4_knowledge_that_does_not_fit_is_refused_and_changes_nothing(make: Callable[[], Strategy]) -> None:
    me, other = member("amber", make(), 1), member("birch", make(), 2)
    answer = told(me, other)
    assert isinstance(answer.knowledge, Params)
    before = everything(me[1]), bits(me[2].state_dict())
    for what, bad in spoiled(answer.knowledge).items():
        with pytest.raises(KnowledgeError):
            me[2].absorb(me[1], [answer, replace(answer, knowledge=bad)])  # type: ignore[arg-type]
        assert (everything(me[1]), bits(me[2].state_dict())) == before, what


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_9_1_2_answer_is_pure(make: Callable[[], Strategy]) -> None:
    me, other = member("amber", make(), 1, normed=True), member("birch", make(), 2, normed=True)
    shown = snapshot(other[1], other[2])
    question = me[2].ask(me[1], tiny_card(*other))
    assert isinstance(question, Question)
    before = everything(other[1]), bits(other[2].state_dict()), bits(dict(shown.state))
    other[1].fit(epochs(0))
    one, two = (other[2].answer(shown, Asked(tiny_card(*me), question)) for _ in range(2))
    assert isinstance(one, Params)
    assert isinstance(two, Params)
    assert bits(dict(one.tensors)) == bits(dict(two.tensors)) == bits(dict(shown.state))
    assert (everything(other[1]), bits(other[2].state_dict()), bits(dict(shown.state))) == before
    strange = Question(Query(want="params", select={"layers": ["fc"]}))
    assert isinstance(other[2].answer(shown, Asked(tiny_card(*me), strange)), Refusal)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_9_1_3_absorbing_twice_is_absorbing_once(make: Callable[[], Strategy]) -> None:
    me, other = member("amber", make(), 1), member("birch", make(), 2)
    old = told(me, other, version=1)
    other[1].fit(epochs(1))
    new = told(me, other, version=2)
    me[2].absorb(me[1], [old, old])
    once = bits(me[2].state_dict())
    me[2].absorb(me[1], [old])
    assert bits(me[2].state_dict()) == once
    me[2].absorb(me[1], [new])
    latest = bits(me[2].state_dict())
    assert latest != once
    me[2].absorb(me[1], [old])
    assert bits(me[2].state_dict()) == latest
    me[2].absorb(me[1], [replace(old, sender=replace(old.sender, session="s2"))])
    assert bits(me[2].state_dict()) != latest


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_9_1_5_state_saved_and_loaded_goes_on_to_the_same_bits(make: Callable[[], Strategy], tmp_path: Path) -> None:
    me, other = member("amber", make(), 1, normed=True), member("birch", make(), 2, normed=True)
    me[2].absorb(me[1], [told(me, other)])
    checkpoint.save(tmp_path, {"learner": me[1].state_dict(), "strategy": dict(me[2].state_dict())})
    kept = checkpoint.load(tmp_path)
    again = "amber", tiny_learner(1, model=Normed()), make()
    again[1].load_state_dict(kept["learner"])
    again[2].load_state_dict(kept["strategy"])
    for _, learner, strategy in (me, again):
        assert strategy.transfer(learner, steps(0)).providers
        strategy.local(learner, epochs(1))
    assert bits(me[1].state_dict()) == bits(again[1].state_dict())
    assert bits(me[2].state_dict()) == bits(again[2].state_dict())


@pytest.mark.parametrize("make", [Gossip, FedAvg, lambda: FedAvg(role="peer")])
def test_9_1_9_without_links_it_is_plain_local_training(make: Callable[[], Strategy]) -> None:
    alone, plain = tiny_learner(1), tiny_learner(1)
    strategy = make()
    for _ in range(2):
        strategy.local(alone, epochs(1))
        report = strategy.transfer(alone, steps(0))
        assert not report.providers
    plain.fit(epochs(2))
    assert everything(alone) == everything(plain)


# ---- federated averaging


def test_fedavg_weighs_by_samples_and_all_come_to_the_same_bits() -> None:
    amounts = {"amber": 96, "birch": 48, "cedar": 160}
    peers = [
        member(n, FedAvg(), s, data=tiny_data(samples=amounts[n], seed=s), held_out=0) for s, n in enumerate(amounts)
    ]
    states = [copy_of(learner) for _, learner, _ in peers]
    answers = {(a[0], b[0]): told(a, b) for a in peers for b in peers if a is not b}
    for me in peers:
        me[2].absorb(me[1], [answers[me[0], other[0]] for other in peers if other is not me])
    for _, learner, strategy in peers:
        strategy.transfer(learner, steps(0))
    assert len({weights(learner) for _, learner, _ in peers}) == 1
    expected = mean_of(states, list(amounts.values()))
    for name, t in copy_of(peers[0][1]).items():
        torch.testing.assert_close(t, expected[name])
    unweighted = mean_of(states)
    assert not torch.allclose(peers[0][1].state["fc.weight"], unweighted["fc.weight"], atol=1e-6)


def test_all_come_to_the_same_bits_though_each_knows_its_own_model_by_no_id() -> None:
    """In float64 the order of a sum shows in its last bit."""
    peers: list[Member] = []
    for seed, name in enumerate(("amber", "birch", "cedar", "dill")):
        data = tiny_data(seed=seed)
        data = replace(data, x=data.x.double())
        learner = tiny_learner(seed, model=tiny_model().double(), data=data)
        learner.fit(epochs(1))
        peers.append((name, learner, FedAvg()))
    answers = {(a[0], b[0]): told(a, b) for a in peers for b in peers if a is not b}
    for me in peers:
        me[2].absorb(me[1], [answers[me[0], other[0]] for other in peers if other is not me])
    for _, learner, strategy in peers:
        strategy.transfer(learner, steps(0))
    assert len({weights(learner) for _, learner, _ in peers}) == 1


def test_unweighted_averaging_counts_everybody_once_and_shows_no_counts() -> None:
    strategy = FedAvg(aggregate="mean")
    assert Exposure.HISTOGRAM not in strategy.exposes | strategy.needs
    assert Exposure.HISTOGRAM in FedAvg().exposes & FedAvg().needs
    assert Exposure.HISTOGRAM not in FedAvg(role="hub", cohort=1).exposes
    one = member("amber", strategy, 1, data=tiny_data(samples=96, seed=1))
    two = member("birch", FedAvg(aggregate="mean"), 2, data=tiny_data(samples=32, seed=2))
    mean = mean_of([copy_of(one[1]), copy_of(two[1])])
    answer = told(one, two)
    one[2].absorb(one[1], [replace(answer, sender=replace(answer.sender, histogram=()))])
    one[2].transfer(one[1], steps(0))
    assert same(copy_of(one[1]), mean)
    weighted = member("cedar", FedAvg(), 3)
    with pytest.raises(KnowledgeError, match="how many samples"):
        weighted[2].absorb(weighted[1], [replace(answer, sender=replace(answer.sender, histogram=()))])


def hub_and_peers(cohort: int, **options: Any) -> tuple[Member, list[Member]]:
    hub: Member = ("hub", tiny_learner(9), FedAvg(role="hub", cohort=cohort, **options))
    return hub, [member(n, FedAvg(role="peer"), s) for n, s in (("amber", 1), ("birch", 2), ("cedar", 3))]


def test_the_hub_averages_when_its_cohort_is_complete_and_says_so() -> None:
    hub, peers = hub_and_peers(cohort=3)
    states = {name: copy_of(learner) for name, learner, _ in peers}
    for n, peer in enumerate(peers, 1):
        hub[2].absorb(hub[1], bring(peer, hub))
        report = hub[2].transfer(hub[1], steps(0))
        assert report.events == (("averaged",) if n == 3 else ())
        assert len(report.providers) == (3 if n == 3 else 0)
    counts = [sum(peer[1].describe().histogram) for peer in peers]
    for name, t in copy_of(hub[1]).items():
        torch.testing.assert_close(t, mean_of(list(states.values()), counts)[name])
    shown = snapshot(hub[1], hub[2], 1)
    for peer in peers:
        question = peer[2].ask(peer[1], tiny_card(*hub))[-1]  # type: ignore[index]
        assert question.after == 1
        answer = hub[2].answer(shown, Asked(tiny_card(*peer), question))
        assert isinstance(answer, Params)
        peer[2].absorb(peer[1], [Received(tiny_card(*hub, version=1), answer, question.query)])
        peer[2].transfer(peer[1], steps(0))
        assert same(copy_of(peer[1]), copy_of(hub[1]))
        assert peer[2].ask(peer[1], tiny_card(*hub))[-1].after == 2  # type: ignore[index]
        assert peer[2].ask(peer[1], tiny_card(*hub, session="s2"))[-1].after == 1  # type: ignore[index]


def test_a_later_contribution_takes_the_place_of_an_earlier_one_of_the_same_peer() -> None:
    hub, peers = hub_and_peers(cohort=2, aggregate="mean")
    hub[2].absorb(hub[1], bring(peers[0], hub, version=1))
    peers[0][1].fit(epochs(1))
    hub[2].absorb(hub[1], bring(peers[0], hub, version=2))
    assert not hub[2].transfer(hub[1], steps(0)).providers  # one peer, not two
    hub[2].absorb(hub[1], bring(peers[1], hub, version=1))
    hub[2].transfer(hub[1], steps(0))
    assert same(copy_of(hub[1]), mean_of([copy_of(peers[0][1]), copy_of(peers[1][1])]))


def test_a_peer_begins_from_the_hub_and_never_goes_back_to_its_untrained_model() -> None:
    hub, _ = hub_and_peers(cohort=1)
    fresh: Member = ("amber", tiny_learner(1), FedAvg(role="peer"))
    snapshot(fresh[1], fresh[2], 0)
    question = fresh[2].ask(fresh[1], tiny_card(*hub))
    assert isinstance(question, Question)
    assert question.brings is None
    assert question.after == 0
    hub[1].fit(epochs(1))  # as a hub that has come far
    begun = told(fresh, hub, version=4)
    fresh[2].absorb(fresh[1], [begun])
    fresh[2].transfer(fresh[1], steps(0))
    assert same(copy_of(fresh[1]), copy_of(hub[1]))
    trained: Member = ("birch", tiny_learner(2), FedAvg(role="peer"))
    snapshot(trained[1], trained[2], 0)
    trained[1].fit(epochs(1))
    before = weights(trained[1])
    trained[2].absorb(trained[1], [replace(begun, knowledge=replace(begun.knowledge, version=0))])
    assert not trained[2].transfer(trained[1], steps(0)).providers
    assert weights(trained[1]) == before


def test_roles_do_not_answer_for_one_another() -> None:
    hub, peers = hub_and_peers(cohort=1)
    everybody = member("dill", FedAvg(), 4)
    for consumer, provider in ((peers[0], peers[1]), (peers[0], everybody), (everybody, hub), (everybody, peers[0])):
        shown = snapshot(provider[1], provider[2], 1)
        asked = consumer[2].ask(consumer[1], tiny_card(*provider))
        question = asked if isinstance(asked, Question) else asked[-1]
        assert isinstance(provider[2].answer(shown, Asked(tiny_card(*consumer), question)), Refusal)
    named = member("amber", FedAvg(role="peer", hub="hub"), 1)
    assert named[2].misfit(named[1], tiny_card(*hub)) is None
    assert "not the hub" in (named[2].misfit(named[1], tiny_card(*peers[1])) or "")


@pytest.mark.parametrize(
    "options",
    [
        {"role": "server"}, {"role": "hub"}, {"local_epochs": 0}, {"local_steps": 0}, {"aggregate": "mode"},
        {"liars": 1}, {"liars": -1},
        {"cohort": 2}, {"hub": "amber"}, {"role": "hub", "cohort": 4, "aggregate": "krum", "liars": 1},
        {"role": "hub", "cohort": 2, "aggregate": "trimmed-mean", "liars": 1},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FedAvg(**options)
    with pytest.raises(ConfigError):
        Gossip(pairing="crowd")  # type: ignore[arg-type]


# ---- 9.2: identities between methods


def test_9_2_gossip_with_two_peers_is_fedavg_with_equal_weights() -> None:
    ends = []
    for make in (lambda: Gossip(pairing="pairs"), lambda: FedAvg(aggregate="mean")):
        one, two = member("amber", make(), 1, normed=True), member("birch", make(), 2, normed=True)
        for version in range(1, 4):
            for _, learner, strategy in (one, two):
                strategy.local(learner, epochs(1))
            answers = told(one, two, version), told(two, one, version)
            for (_, learner, strategy), answer in zip((one, two), answers, strict=True):
                strategy.absorb(learner, [answer])
                strategy.transfer(learner, steps(0))
        ends.append((weights(one[1]), weights(two[1])))
    assert ends[0] == ends[1]


def test_a_round_may_be_counted_in_steps() -> None:
    local, *_ = FedAvg(local_steps=3).schedule.cycle
    assert local == Local(steps(3))
    assert FedAvg(local_epochs=2).schedule.cycle[0] == Local(epochs(2))


def test_9_2_fedavg_with_one_peer_is_isolated_training_with_a_fresh_optimizer_per_round() -> None:
    hub: Member = ("hub", tiny_learner(9), FedAvg(role="hub", cohort=1))
    peer: Member = ("amber", tiny_learner(1), FedAvg(role="peer"))
    alone = tiny_learner(1)
    for version in range(1, 4):
        peer[2].local(peer[1], epochs(1))
        hub[2].absorb(hub[1], bring(peer, hub, version))
        assert hub[2].transfer(hub[1], steps(0)).events
        peer[2].absorb(peer[1], [told(peer, hub, version)])
        peer[2].transfer(peer[1], steps(0))
        Isolated(passes=1).local(alone, epochs(1))
        alone.optimizer.state.clear()
        assert everything(peer[1]) == everything(alone)


# ---- rules that bear liars


def states_of(*rows: list[float]) -> list[dict[str, Tensor]]:
    return [{"w": torch.tensor(row), "n": torch.tensor(5)} for row in rows]


def test_the_median_and_the_trimmed_mean_are_taken_coordinate_by_coordinate() -> None:
    states = states_of([1.0, 9.0], [2.0, -50.0], [3.0, 8.0], [900.0, 7.0])
    assert robust.aggregated("median", states, [1] * 4)["w"].tolist() == [2.5, 7.5]
    assert robust.aggregated("median", states[:3], [1] * 3)["w"].tolist() == [2.0, 8.0]
    assert robust.aggregated("trimmed-mean", states, [1] * 4, liars=1)["w"].tolist() == [2.5, 7.5]
    assert robust.aggregated("trimmed-mean", states, [1] * 4)["w"].tolist() == pytest.approx([226.5, -6.5])
    assert "n" not in robust.aggregated("median", states, [1] * 4)


def test_krum_gives_one_whole_model_from_the_densest_place() -> None:
    states = states_of([0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.2, 0.2], [100.0, 100.0])
    chosen = robust.aggregated("krum", states, [1] * 5, liars=1)
    assert torch.equal(chosen["w"], states[3]["w"])
    assert robust.krum(states, 1) == 3
    cloud_and_pair = states_of([0.0], [1.0], [2.0], [50.0], [51.0])
    assert robust.krum(cloud_and_pair, 1) == 1  # by its 2 nearest; by all others it would be 2
    twins = states_of([7.0], [0.0], [0.0], [7.0], [0.0])
    assert robust.krum(twins, 1) == 1  # of equals the first


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum"])
def test_one_liar_among_five_does_not_move_a_robust_average_far(rule: robust.Rule) -> None:
    draw = torch.Generator().manual_seed(0)
    honest = [{"w": torch.randn(40, generator=draw)} for _ in range(4)]
    truth = robust.mean(honest)["w"]
    liar = {"w": torch.full((40,), 1e6)}
    samples = [10, 10, 10, 10, 10**12]
    liars = 1 if rule != "median" else 0
    assert float((robust.aggregated(rule, [*honest, liar], samples, liars=liars)["w"] - truth).norm()) < 10
    assert float((robust.aggregated("weighted", [*honest, liar], samples)["w"] - truth).norm()) > 1e5


def test_the_mean_is_summed_in_float64_and_kept_in_its_own_dtype() -> None:
    big = [{"w": torch.tensor([v], dtype=torch.float32)} for v in (2.0**25, 1.0, -(2.0**25))]
    assert robust.mean(big)["w"].item() == pytest.approx(1 / 3)
    halves = [{"w": torch.tensor([v], dtype=torch.bfloat16)} for v in (1.0, 2.0)]
    assert robust.mean(halves)["w"].dtype == torch.bfloat16
    weighted = robust.aggregated("weighted", states_of([0.0], [4.0]), [3, 1])
    assert weighted["w"].tolist() == [1.0]
    with pytest.raises(KnowledgeError, match="nobody"):
        robust.aggregated("weighted", states_of([0.0]), [0])


def test_too_few_models_for_a_rule_change_nothing() -> None:
    me = member("amber", FedAvg(aggregate="krum"), 1)
    other = member("birch", FedAvg(aggregate="krum"), 2)
    me[2].absorb(me[1], [told(me, other)])
    before = everything(me[1])
    with pytest.raises(KnowledgeError, match="needs 3 models, 2 are here"):
        me[2].transfer(me[1], steps(0))
    assert everything(me[1]) == before


# ---- the shared subset


def test_the_shared_subset_has_equally_many_of_each_class_and_is_in_every_part() -> None:
    y = torch.arange(400) % 4
    y[:40] = 0  # unequal classes
    shared = shared_subset(y, share=0.1, seed=3)
    assert torch.bincount(y[shared]).tolist() == [10, 10, 10, 10]
    assert torch.equal(shared, shared_subset(y, share=0.1, seed=3))
    assert not torch.equal(shared, shared_subset(y, share=0.1, seed=4))
    parts = [torch.arange(0, 100), torch.arange(100, 400)]
    for part, before in zip(with_shared(parts, shared), parts, strict=True):
        assert set(part.tolist()) == set(before.tolist()) | set(shared.tolist())
        assert bool((part[1:] > part[:-1]).all())
    with pytest.raises(ConfigError):
        shared_subset(y, share=0)
    with pytest.raises(ConfigError, match="class 0 has 1"):
        shared_subset(torch.tensor([0, 1, 1, 1, 1, 1]), share=0.9)


def test_fedavg_shared_needs_one_shared_subset_at_all() -> None:
    whole = tiny_data(samples=80, seed=5)
    rows = shared_subset(whole.y, share=0.2)
    public = whole.subset(rows).unlabelled("shared")
    strategy = FedAvgShared()
    with pytest.raises(ConfigError, match="shared"):
        strategy.check(tiny_learner(1))
    me, other = (member(n, FedAvgShared(), s, public_sets=[public]) for n, s in (("amber", 1), ("birch", 2)))
    strategy.check(me[1])
    assert strategy.misfit(me[1], tiny_card(*other)) is None
    me[2].absorb(me[1], [told(me, other)])
    assert me[2].transfer(me[1], steps(0)).providers
    foreign = whole.subset(shared_subset(whole.y, share=0.2, seed=8)).unlabelled("shared")
    stranger = member("cedar", FedAvgShared(), 3, public_sets=[foreign])
    assert "shared subset" in (strategy.misfit(me[1], tiny_card(*stranger)) or "")
    with pytest.raises(KnowledgeError, match="shared subset"):
        me[2].absorb(me[1], [told(me, stranger)])


# ---- drawn into pairs


def test_pairs_are_the_same_seen_from_everybody_and_change_from_draw_to_draw() -> None:
    cards = [Card(id=PeerId(f"{n:032x}"), name=f"p{n}", session="s") for n in range(5)]
    seen = set()
    for draw in ("1", "2", "3", "4"):
        partner = {}
        for me in cards:
            others = [card for card in cards if card is not me]
            choice = choose(me, others, unavailable={}, most=1, pairs=draw)
            partner[me.id] = choice.providers
            assert choice == choose(me, others[::-1], unavailable={}, most=1, pairs=draw)
            assert choice.providers or "odd" in choice.why
        alone = [peer for peer, found in partner.items() if not found]
        assert len(alone) == 1
        assert all(partner[found[0]] == (peer,) for peer, found in partner.items() if found)
        seen.add(tuple(sorted(partner.items())))
    assert len(seen) > 1


# ---- whole peers

SEEDS = {"amber": ([0, 1], 1), "birch": ([2, 3], 2), "cedar": ([1, 2], 3)}


def directly(strategy: Callable[[], Strategy], names: Sequence[str], rounds: int) -> dict[str, dict[str, Tensor]]:
    """Rounds without any fabric: local, then each asks each, then the mean."""
    learners = {name: blob_learner(*SEEDS[name]) for name in names}
    strategies = {name: strategy() for name in names}
    ids = {name: PeerId(f"{n:032x}") for n, name in enumerate(names)}
    for version in range(1, rounds + 1):
        for name in names:
            strategies[name].local(learners[name], epochs(1))
        cards = {n: card_of(n, learners[n], strategies[n], ids[n]) for n in names}
        shown = {n: snapshot(learners[n], strategies[n], version) for n in names}
        for me in names:
            for other in (n for n in names if n != me):
                question = strategies[me].ask(learners[me], cards[other])
                assert isinstance(question, Question)
                answer = strategies[other].answer(shown[other], Asked(cards[me], question))
                strategies[me].absorb(learners[me], [Received(cards[other], answer, question.query)])  # type: ignore[arg-type]
        for name in names:
            strategies[name].transfer(learners[name], steps(0))
    return {name: copy_of(learners[name]) for name in names}


def card_of(name: str, learner: Learner, strategy: Strategy, peer: PeerId) -> Card:
    return first_card(learner, strategy, id=peer, name=name, group_tag="", exposes=strategy.exposes)


async def by_fabric(
    strategy: Callable[[], Strategy], names: Sequence[str], rounds: int
) -> dict[str, dict[str, Tensor]]:
    village = PeerNetwork()
    peers = [village.peer(n, blob_learner(*SEEDS[n]), strategy=strategy(), pace="lockstep", gate=OFF) for n in names]
    async with gathered(*peers), asyncio.timeout(60), asyncio.TaskGroup() as running:
        for peer in peers:
            running.create_task(peer.run(rounds))
    for name in names:
        assert not village.events[name].of(FetchFailed)
    return {peer.name: copy_of(peer.learner) for peer in peers}


@pytest.mark.parametrize("pairing", ["lot", "pairs"])
async def test_9_1_1_gossip_of_two_in_lockstep_is_the_mean_of_direct_calls(pairing: Any) -> None:
    names = ["amber", "birch"]
    networked = await by_fabric(lambda: Gossip(pairing=pairing), names, 3)
    alone = directly(lambda: Gossip(pairing="pairs"), names, 3)
    assert same(networked["amber"], networked["birch"])
    assert all(same(networked[name], alone[name]) for name in names)


@pytest.mark.parametrize("aggregate", ["weighted", "median"])
async def test_9_1_1_decentralised_fedavg_over_the_network_is_that_of_direct_calls(aggregate: Any) -> None:
    networked = await by_fabric(lambda: FedAvg(aggregate=aggregate), list(SEEDS), 3)
    alone = directly(lambda: FedAvg(aggregate=aggregate), list(SEEDS), 3)
    assert same(networked["amber"], networked["birch"])
    assert all(same(networked[name], alone[name]) for name in SEEDS)


async def test_9_1_10_gossip_in_pairs_comes_to_the_same_bits_twice_whatever_the_ids() -> None:
    one, two = [await by_fabric(lambda: Gossip(pairing="pairs"), list(SEEDS), 4) for _ in range(2)]
    assert all(same(one[name], two[name]) for name in SEEDS)


@pytest.mark.parametrize("make", [Gossip, AdmmGossip], ids=["gossip", "admm-gossip"])
async def test_in_lockstep_the_default_draws_pairs_so_that_runs_can_be_repeated(make: Any) -> None:
    one, two = [await by_fabric(make, list(SEEDS), 4) for _ in range(2)]
    assert all(same(one[name], two[name]) for name in SEEDS)
    chosen = make()
    chosen.paced(lockstep=False)
    assert "received" in chosen.schedule.on, "at their own pace peers draw lots"
    chosen.paced(lockstep=True)
    assert "received" not in chosen.schedule.on


def test_lots_in_lockstep_are_allowed_and_said(caplog: pytest.LogCaptureFixture) -> None:
    for quiet in (Gossip(), Gossip(pairing="pairs")):
        quiet.paced(lockstep=True)
    Gossip(pairing="lot").paced(lockstep=False)
    assert not caplog.messages
    chosen = Gossip(pairing="lot")
    chosen.paced(lockstep=True)
    assert "received" in chosen.schedule.on
    assert len(caplog.messages) == 1
    assert "set pairing='pairs'" in caplog.messages[0]


async def test_gossip_with_a_quiet_neighbour_leaves_both_with_the_mean() -> None:
    village = PeerNetwork()
    amber = village.peer("amber", blob_learner([0, 1], 1), strategy="gossip", gate=OFF)
    birch = village.peer("birch", blob_learner([2, 3], 2), strategy="gossip", gate=OFF)
    async with gathered(amber, birch):
        start = copy_of(birch.learner)
        await amber.run(1)
        alone = blob_learner([0, 1], 1)
        alone.fit(epochs(1))
        mean = mean_of([copy_of(alone), start])
        await until(lambda: not same(copy_of(birch.learner), start))
        assert same(copy_of(amber.learner), mean)
        assert same(copy_of(birch.learner), mean)


@contextlib.asynccontextmanager
async def hub_at_work(hub: Peer) -> Any:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(hub.run())
        yield
        running.cancel()


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_fedavg_with_a_hub_is_that_of_direct_calls_and_a_late_peer_begins_from_the_hub(kind: Any) -> None:
    village = PeerNetwork(kind)
    hub = village.peer("hub", blob_learner([0, 1, 2, 3], 9), strategy=FedAvg(role="hub", cohort=2), gate=OFF)
    peers = [
        village.peer(n, blob_learner(*SEEDS[n]), strategy=FedAvg(role="peer", hub="hub"), gate=OFF)
        for n in ("amber", "birch")
    ]
    late = village.peer("cedar", blob_learner(*SEEDS["cedar"]), strategy=FedAvg(role="peer", hub="hub"), gate=OFF)
    async with gathered(hub, *peers), hub_at_work(hub), asyncio.timeout(60):
        async with asyncio.TaskGroup() as running:
            for peer in peers:
                running.create_task(peer.run(3))
        alone = directly(FedAvg, ["amber", "birch"], 3)
        for peer in peers:
            assert same(copy_of(peer.learner), alone[peer.name])
        assert same(copy_of(hub.learner), alone["amber"])
        assert [e.version for e in village.events["hub"].of(Published)] == [0, 1, 2, 3]
        assert {e.provider for e in village.events["amber"].of(Fetched)} == {"hub"}
        assert not village.events["hub"].of(Fetched)
        async with late:
            await late.meet(3, timeout=30)
            async with asyncio.TaskGroup() as running:
                running.create_task(late.run(1))
                running.create_task(peers[0].run(1))
            assert village.events["cedar"].of(Fetched)[0].version == 3
            assert same(copy_of(late.learner), copy_of(hub.learner))


async def test_9_1_6_a_peer_whose_hub_is_gone_learns_alone() -> None:
    village = PeerNetwork()
    hub = village.peer("hub", blob_learner([0, 1, 2, 3], 9), strategy=FedAvg(role="hub", cohort=2))
    amber = village.peer("amber", blob_learner(*SEEDS["amber"]), strategy=FedAvg(role="peer", hub="hub"))
    async with amber, asyncio.timeout(60), asyncio.TaskGroup() as running:
        async with hub, hub_at_work(hub):
            await amber.meet(1, timeout=30)
            round_ = running.create_task(amber.run(2))  # waits for an average that one peer does not make
            await until(lambda: bool(village.events["amber"].of(Published)[1:]))
            assert not round_.done()
    assert amber.rounds_done == 2
    assert village.events["amber"].of(FetchFailed)
