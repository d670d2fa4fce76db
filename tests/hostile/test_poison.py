"""Poison: what is refused before use, what the gate takes back, who is put aside for it, and what its owner hears.

Kinds of poison against methods, with whole peers: the liar is a peer whose strategy spoils what it answers and brings,
or whose labels are shuffled.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError
from peerlearn.events import Complaint, FetchFailed, Gated, Quarantined, Refused, Trained
from peerlearn.knowledge import Outputs, Params, Query, Received
from peerlearn.learning import plausible
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.learner import Learner
from peerlearn.learning.sampler import seeded_rng
from peerlearn.learning.state import copied
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.orchestrator.training.gated import gated_transfer
from peerlearn.peer import Peer
from peerlearn.strategies import registry
from peerlearn.strategies.base import Strategy
from peerlearn.strategies.cloned.strategy import Cloned
from peerlearn.strategies.clue import helpers, significance
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.fedavg import FedAvg
from peerlearn.strategies.fedgkt import edge as gkt_edge
from peerlearn.strategies.gossip import Gossip
from peerlearn.strategies.mhd.heads import MultiHead
from peerlearn.strategies.mhd.strategy import MHD
from peerlearn.strategies.pairwise.strategy import Pairwise
from peerlearn.strategies.shared import averaging, robust
from peerlearn.testing import (
    PeerNetwork,
    blob_learner,
    blob_model,
    blobs,
    gathered,
    same,
    tiny_card,
    tiny_learner,
    until,
)
from peerlearn.types import Card, epochs, steps
from tests.support.fedgkt import edge_learner, edge_of, hub_learner, hub_of
from tests.support.liars import PATIENT, Spoil, liar, onesided, scaled, skilled, spoilt

# ---- liars


def not_finite(name: str, tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor


def misshapen(name: str, tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor], dim=-1)


def accuracy(its: Learner, strategy: Strategy) -> float:
    assert its.held_out is not None
    return float((strategy.predict(its, its.held_out.x).argmax(dim=1) == its.held_out.y).double().mean())


def check_the_gate_kept_its_promise(village: PeerNetwork, peer: Peer, gate: Gate) -> None:
    for event in village.events[peer.name].of(Gated):
        assert not event.kept or event.after >= event.before - gate.tolerance
    assert all(bool(torch.isfinite(t).all()) for t in peer.learner.state.values() if t.is_floating_point())


# ---- kinds against methods

PUBLIC = Unlabelled(blobs([0, 1, 2, 3], 99)[0], torch.arange(240), "square")


def heads(seed: int) -> Learner:
    model = MultiHead.over(blob_model(), aux=2)
    return Learner(model, blobs([0, 1, 2], seed), classes=4, seed=seed, batch_size=32, public_sets=[PUBLIC])


METHODS: dict[str, tuple[Callable[[], Strategy], Callable[[int], Learner]]] = {
    "pairwise": (Pairwise, lambda seed: blob_learner([0, 1, 2], seed)),
    "distillation by parameters": (Distillation, lambda seed: blob_learner([0, 1, 2], seed)),
    "distillation by outputs": (
        lambda: Distillation(via="outputs"),
        lambda seed: blob_learner([0, 1, 2], seed, public_sets=[PUBLIC]),
    ),
    "gossip": (Gossip, lambda seed: blob_learner([0, 1, 2], seed)),
    "fedavg": (FedAvg, lambda seed: blob_learner([0, 1, 2], seed)),
    "mhd": (lambda: MHD(warm_up=2), heads),
    "admm": (lambda: registry.make("admm-gossip"), lambda seed: blob_learner([0, 1, 2], seed)),
}


@pytest.mark.parametrize("spoil", [scaled, not_finite, misshapen], ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("method", METHODS)
async def test_what_cannot_be_meant_is_refused_each_time_and_after_three_times_its_owner_hears_why(
    method: str, spoil: Spoil
) -> None:
    make, its = METHODS[method]
    village = PeerNetwork(timing=PATIENT)
    amber = village.peer("amber", its(1), strategy=make())
    birch = village.peer("birch", its(2), strategy=liar(make(), spoil))
    async with gathered(amber, birch), asyncio.timeout(60):
        for _ in range(3):
            await birch.run(1)  # something new to lie about, for those who listen but once
            await amber.run(1)
        await until(lambda: bool(village.events["birch"].of(Complaint)))
        (aside,) = village.events["amber"].of(Quarantined)[:1]
        assert aside.provider == "birch"
        assert amber.quarantined[birch.id].startswith("put aside until its version")
        said = village.events["birch"].of(Complaint)
        assert [complaint.by for complaint in said] == ["amber"]
        assert aside.why.startswith(said[0].why[:100])
        assert birch.complaints == tuple(said)
        heard = len(village.events["amber"].of(FetchFailed))
        await amber.run(2)
    assert heard == 3
    assert len(village.events["amber"].of(FetchFailed)) == heard, "it is asked no more"
    async with PeerNetwork(timing=PATIENT).peer("amber", its(1), strategy=make()) as alone:
        await alone.run(5)
    assert same(amber.learner.state, alone.learner.state), "as if it had never met anybody"


BY_PARAMETERS = {name: METHODS[name][0] for name in ("pairwise", "distillation by parameters", "gossip", "fedavg")}


@pytest.mark.parametrize("method", BY_PARAMETERS)
async def test_a_teacher_whose_labels_are_shuffled_is_refused_and_an_honest_one_beside_it_teaches(
    method: str,
) -> None:
    make, village = BY_PARAMETERS[method], PeerNetwork(timing=PATIENT)
    amber = village.peer("amber", skilled([0, 1, 2], 1), strategy=make())
    birch = village.peer("birch", skilled([0, 1, 2, 3], 2, shift=1), strategy=make())
    classes = [0, 1, 2, 3] if method in ("gossip", "fedavg") else [2, 3]  # a mean of strangers does harm by itself
    cedar = village.peer("cedar", skilled(classes, 3), strategy=make())
    before = accuracy(amber.learner, amber.strategy)
    async with gathered(amber, birch, cedar), asyncio.timeout(60):
        for _ in range(4):
            await cedar.run(1)
            await amber.run(1)
        failed = village.events["amber"].of(FetchFailed)
        assert {event.provider for event in failed} == {"birch"}
        assert all("sure and wrong about classes that both hold" in event.why for event in failed)
        if method != "gossip":  # which asks one of the two, by lot
            assert birch.id in amber.quarantined
        assert cedar.id not in amber.quarantined
    assert accuracy(amber.learner, amber.strategy) >= before - 0.15
    check_the_gate_kept_its_promise(village, amber, Gate())


# ---- what only the gate can see


async def test_of_three_providers_the_one_that_does_harm_is_found_by_the_gate_and_put_aside_alone() -> None:
    make: Callable[[], Strategy] = FedAvg
    village, gate = PeerNetwork(timing=PATIENT), Gate()
    amber = village.peer("amber", skilled([0, 1, 2], 1), strategy=make(), gate=gate)
    others = {
        "birch": village.peer("birch", skilled([0, 1, 2, 3], 2), strategy=make()),
        "cedar": village.peer("cedar", skilled([0, 1, 2, 3], 3), strategy=liar(make(), onesided)),
        "dogwood": village.peer("dogwood", skilled([0, 1, 2, 3], 4), strategy=make()),
    }
    before = accuracy(amber.learner, amber.strategy)
    async with gathered(amber, *others.values()), asyncio.timeout(90):
        for _ in range(11):  # the most that test_suspicion.py allows for three
            for peer in others.values():
                await peer.run(1)
            await amber.run(1)
            if amber.quarantined:
                break
        assert [event.provider for event in village.events["amber"].of(Quarantined)] == ["cedar"]
        assert not village.events["amber"].of(FetchFailed), "nothing was refused: the gate alone has found it"
        await until(lambda: bool(village.events["cedar"].of(Complaint)))
        heard = len(village.events["amber"].of(Gated))
        for _ in range(4):
            for peer in others.values():
                await peer.run(1)
            await amber.run(1)
        later = village.events["amber"].of(Gated)[heard:]
        assert any(event.kept and set(event.providers) == {"birch", "dogwood"} for event in later)
        assert not any("cedar" in event.providers for event in later)
    check_the_gate_kept_its_promise(village, amber, gate)
    assert accuracy(amber.learner, amber.strategy) >= before - 0.1


# ---- hubs, to whom others bring; a helper of CLUE's


def brought(hub: Learner, strategy: FedAvg, pieces: dict[str, Learner], spoil: dict[str, Spoil]) -> dict[str, Card]:
    """Each of these has brought its weights to the hub."""
    cards = {name: tiny_card(name, its, FedAvg(role="peer"), version=1) for name, its in pieces.items()}
    for name, its in pieces.items():
        params = averaging.brought(its.snapshot(1))
        params = spoilt(params, spoil[name]) if name in spoil else params
        strategy.absorb(hub, [Received(cards[name], params, Query(want="nothing"))])
    return cards


@pytest.mark.parametrize(("names", "liars"), [("abc", "b"), ("abc", ""), ("ab", "a"), ("abcde", "bd"), ("abc", "bc")])
def test_a_hub_averages_without_those_with_whom_the_gate_fails_and_blames_them_alone(names: str, liars: str) -> None:
    everybody = [0, 1, 2, 3]
    its, strategy = skilled(everybody, 1), FedAvg(role="hub", cohort=len(names))
    pieces = {name: skilled(everybody, 2 + n) for n, name in enumerate(names)}
    cards = brought(its, strategy, pieces, dict.fromkeys(liars, onesided))
    before = copied(its.state)
    outcome = gated_transfer(strategy, its, steps(0), Gate())
    assert outcome.verdict is not None
    honest = {cards[name].id for name in names if name not in liars}
    if 2 * len(liars) > len(names):
        assert not outcome.verdict.kept
        assert not outcome.harmful
        assert same(copied(its.state), before)
    else:
        assert outcome.verdict.kept
        assert set(outcome.harmful) == {cards[name].id for name in liars}
        assert set(outcome.report.providers) == honest
        left = sorted((name for name in names if name not in liars), key=lambda name: cards[name].id)
        weights = [sum(cards[name].histogram) for name in left]
        assert same(copied(its.state), robust.mean([copied(pieces[name].state) for name in left], weights))
        assert not liars or "without it" in outcome.harm
    assert not strategy._mixed, "what was brought is let go of"


async def test_a_hub_learns_on_beside_a_liar_puts_it_aside_alone_and_its_owner_hears_why() -> None:
    village, everybody = PeerNetwork(timing=PATIENT), [0, 1, 2, 3]
    hub = village.peer("hub", skilled(everybody, 1), strategy=FedAvg(role="hub", cohort=3))
    peers = {
        name: village.peer(name, skilled(everybody, 2 + n), strategy=liar(FedAvg(role="peer"), onesided)
                           if name == "birch" else FedAvg(role="peer"))
        for n, name in enumerate(("amber", "birch", "cedar"))
    }  # fmt: skip
    before = accuracy(hub.learner, hub.strategy)
    async with gathered(hub, *peers.values()), asyncio.timeout(90):
        for _ in range(4):
            async with asyncio.TaskGroup() as tasks:
                for peer in peers.values():
                    tasks.create_task(peer.run(1))
            if hub.quarantined:
                break
        assert list(hub.quarantined) == [peers["birch"].id]
        await until(lambda: bool(peers["birch"].complaints))
        assert "without it" in peers["birch"].complaints[0].why
        verdicts = village.events["hub"].of(Gated)
        assert len(verdicts) >= 3
        assert all(verdict.kept for verdict in verdicts), "no average was lost to the liar"
        assert not peers["amber"].complaints
        assert not peers["cedar"].complaints
    assert accuracy(hub.learner, hub.strategy) >= before - 0.1


async def test_a_hub_that_refused_three_clones_learns_nothing_of_them_and_says_why() -> None:
    village, classes = PeerNetwork(timing=PATIENT), [0, 1, 2, 3]
    hub = village.peer("hub", blob_learner(classes, 0), strategy=Cloned(role="hub", first_epochs=2, hub_epochs=1))
    false = liar(Cloned(edge_epochs=1, visits=9, hub="hub"), scaled)
    edge = village.peer("edge", blob_learner(classes, 1), strategy=false)
    async with gathered(hub, edge), asyncio.timeout(60):
        await hub.run(0)
        await edge.run(1)
        await until(lambda: bool(village.events["edge"].of(Complaint)))
    assert [event.provider for event in village.events["hub"].of(Quarantined)] == ["edge"]
    assert "times as large" in village.events["edge"].of(Complaint)[0].why
    assert not [event for event in village.events["hub"].of(Trained) if event.phase == "transfer"]


def louder(name: str, tensor: Tensor) -> Tensor:
    return tensor * 1e6 if name == "feature" else tensor


def blind(name: str, tensor: Tensor) -> Tensor:
    return torch.ones_like(tensor) if name == "feature" else tensor


def unlike_its_labels(name: str, tensor: Tensor) -> Tensor:
    return 20 * nn.functional.one_hot((torch.arange(len(tensor)) + 1) % 4, 4).float() if name == "logits" else tensor


@pytest.mark.parametrize("spoil", [louder, blind, unlike_its_labels], ids=lambda spoil: spoil.__name__)
async def test_a_hub_refuses_feature_maps_that_cannot_be_meant(spoil: Spoil) -> None:
    village = PeerNetwork(timing=PATIENT)
    hub = village.peer("hub", hub_learner(), strategy=hub_of())
    edge = village.peer("edge", edge_learner(), strategy=liar(edge_of(wait=False), spoil))
    async with gathered(hub, edge), asyncio.timeout(60):
        await edge.run(3)
        await until(lambda: bool(village.events["edge"].of(Complaint)))
        await edge.run(1)
    assert hub.learner.steps == 0
    assert [event.provider for event in village.events["hub"].of(Quarantined)] == ["edge"]
    assert any("put aside" in event.detail for event in village.events["hub"].of(Refused))


def test_feature_maps_are_measured_by_the_median_of_the_other_edges() -> None:
    honest = [torch.randn(40, 3, 2, 2, generator=seeded_rng(n)) * (1 + n) for n in range(3)]
    for factor in (1.0, 20.0, 0.05):
        plausible.check_features(honest[0] * factor, honest)
    for factor in (1e4, 1e-4):
        with pytest.raises(KnowledgeError, match="the measure of the others"):
            plausible.check_features(honest[0] * factor, honest)
        plausible.check_features(honest[0], [*honest, honest[0] * factor])  # one liar does not set the measure
    quiet = honest[0].clone()
    quiet[:, 1] = 0
    plausible.check_features(quiet, honest)
    plausible.check_features(honest[0] * 1e4, honest[:2])  # too few to say what is usual: the network's outputs decide


def test_a_hub_that_denies_an_edges_labels_is_refused() -> None:
    edge = edge_learner()
    own = gkt_edge.identity(edge)
    right = nn.functional.one_hot(own.label, 4).float() * 20
    for logits, why in ((right, ""), (right.roll(1, 1), "sure and wrong"), (right * 1e4, "times as large")):
        reply = Outputs(
            dataset="private", fingerprint=own.fingerprint, ids=own.ids, tensors={"logits": logits}, version=1
        )
        if not why:
            gkt_edge.check_reply(edge, own, reply)
            continue
        with pytest.raises(KnowledgeError, match=why):
            gkt_edge.check_reply(edge, own, reply)


def test_significant_parameters_out_of_all_scale_make_no_helper() -> None:
    consumer, provider = tiny_learner(1), tiny_learner(2)
    shown = provider.snapshot(1)
    sent = significance.significant(shown, significance.by_lot(shown, [0]), 50.0)
    helpers.check(consumer, sent, 50.0)
    for spoil, why in ((scaled, "times as large"), (not_finite, "not finite")):
        bad = spoilt(sent, spoil)
        assert isinstance(bad, Params)
        with pytest.raises(KnowledgeError, match=why):
            helpers.check(consumer, bad, 50.0)


# ---- who is not to be called poisonous


@pytest.mark.parametrize("seen", ["shown", "not shown"])
@pytest.mark.parametrize("classes", [[0, 1], [1, 2], [2, 3], [0, 1, 2, 3], [0], [3]], ids=str)
def test_an_honest_teacher_passes_at_every_stage_whatever_its_classes(classes: list[int], seen: str) -> None:
    """From untrained to trained for long, against a student that knows nothing and one that knows its classes."""
    students = [blob_learner([0, 1], 1, held_out=0.3), skilled([0, 1], 1, held_out=0.3)]
    teacher = blob_learner(classes, 7)
    for _ in range(12):
        known = teacher.describe().histogram if seen == "shown" else ()
        for student in students:
            plausible.check_scale(teacher.state, student.state)
            plausible.check_network(student, teacher.build(teacher.state), seen=known)
        teacher.fit(epochs(2))


@pytest.mark.parametrize("seen", ["shown", "not shown"])
def test_shuffled_labels_are_told_by_what_both_hold(seen: str) -> None:
    student, teacher = blob_learner([0, 1, 2, 3], 1, held_out=0.3), skilled([0, 1, 2, 3], 7, shift=1)
    known = teacher.describe().histogram if seen == "shown" else ()
    with pytest.raises(KnowledgeError, match=r"sure and wrong about classes that both hold: right for \d%"):
        plausible.check_network(student, teacher.build(teacher.state), seen=known)


def test_with_few_samples_held_out_nobody_is_called_wrong() -> None:
    student, teacher = blob_learner([0, 1, 2, 3], 1, held_out=0.03), skilled([0, 1, 2, 3], 7, shift=1)
    assert student.held_out is not None
    assert len(student.held_out) < plausible.FEWEST
    plausible.check_network(student, teacher.build(teacher.state), seen=(60,) * 4)


def test_statistics_of_inputs_that_are_not_normalised_pass_and_absurd_ones_do_not() -> None:
    norm = nn.BatchNorm1d(3)
    own = norm.state_dict(keep_vars=True)
    pixels = {"running_var": torch.full((3,), 255.0**2), "running_mean": torch.full((3,), 255.0)}
    plausible.check_scale({**own, **pixels}, own)
    with pytest.raises(KnowledgeError, match="'running_var' holds values up to 1e"):
        plausible.check_scale({**own, "running_var": torch.full((3,), 1e9)}, own)


# ---- robust averages


@pytest.mark.parametrize("lie", ["flipped", "scaled", "random"])
@pytest.mark.parametrize(("rule", "honest"), [("median", 3), ("trimmed-mean", 3), ("krum", 4)])
def test_one_liar_of_four_does_not_decide_a_robust_average(rule: Any, honest: int, lie: str) -> None:
    """Krum needs five. The mean of all is moved; the robust one stays within what the honest differ by."""
    true = {"w": torch.randn(50, generator=seeded_rng("w"))}
    spread = [{"w": true["w"] + 0.1 * torch.randn(50, generator=seeded_rng(n))} for n in range(honest)]
    lies = {
        "flipped": -spread[0]["w"],
        "scaled": 1000 * spread[0]["w"],
        "random": 100 * torch.randn(50, generator=seeded_rng("lie")),
    }
    states = [*spread, {"w": lies[lie]}]
    liars = 0 if rule == "median" else 1

    def off(rule: Any, liars: int = 0) -> float:
        made = robust.aggregated(rule, states, [1] * len(states), liars=liars)
        return float((made["w"] - true["w"]).abs().max())

    assert off(rule, liars) < 0.5
    assert off("mean") > 2 * off(rule, liars)


def test_what_a_hub_holds_of_an_edge_that_is_put_aside_is_used_no_more() -> None:
    hub, strategy = tiny_learner(0), Cloned(role="hub", members=1, first_epochs=1, hub_epochs=1)
    strategy.local(hub, epochs(1))
    edges = {name: ("edge " + name, tiny_learner(n), Cloned(members=1)) for n, name in enumerate("abc", 1)}
    for who in edges.values():
        params = Params(tensors=who[1].snapshot(1).state, architecture=hub.architecture, version=1)
        strategy.absorb(hub, [Received(tiny_card(*who), params)])
    first = strategy.transfer(hub, epochs(1)).providers
    assert first == (tiny_card(*edges["a"]).id,)
    for name in "ab":
        strategy.forget(tiny_card(*edges[name]).id)
    assert strategy.transfer(hub, epochs(1)).providers == (tiny_card(*edges["c"]).id,)
    assert [teacher["sender"] for teacher in strategy.state_dict()["teachers"]] == [tiny_card(*edges["c"]).id]
