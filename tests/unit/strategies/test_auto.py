"""auto: the way per provider, average and proof, pool, committee, accounts; by direct calls and on the wire."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.events import FetchFailed, Trained
from peerlearn.knowledge import Outputs, Params, Received
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.interruption import Interrupted
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.sampler import Sampler, seeded_rng
from peerlearn.orchestrator.training.gate import Gate, Verdict
from peerlearn.orchestrator.training.gated import gated_transfer
from peerlearn.strategies import registry
from peerlearn.strategies.auto.ensemble import Ensemble, as_it_is
from peerlearn.strategies.auto.logit_adjustment import AdjustedLoss
from peerlearn.strategies.auto.model_selection import select_models
from peerlearn.strategies.auto.pooling import pooled
from peerlearn.strategies.auto.strategy import Auto
from peerlearn.strategies.auto.utility import Utility
from peerlearn.strategies.base import Asked
from peerlearn.strategies.shared import robust
from peerlearn.strategies.shared.public_teachers import BATCH
from peerlearn.testing import (
    CLASSES,
    Normed,
    PeerNetwork,
    bits,
    blob_learner,
    blobs,
    everything,
    gathered,
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
from peerlearn.types import Card, Exposure, epochs, steps

OFF = Gate(metric="off")
PUBLIC = tiny_data(samples=40, seed=77).unlabelled("public")
Who = tuple[str, Learner, Auto]


def member(name: str, seed: int, *, unlike: bool = False, auto: dict[str, Any] | None = None, **more: Any) -> Who:
    """`unlike`: of another architecture."""
    model = tiny_model(hidden=(6, 8)) if unlike else None
    options = {"public_sets": [PUBLIC], "model": model, **more}
    return name, tiny_learner(seed, **options), Auto(**(auto or {}))


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in state.items()}


def taught(*others: Who, **more: Any) -> Who:
    """A peer with knowledge of all of these waiting."""
    me = member("amber", 1, **more)
    for other in others:
        me[2].absorb(me[1], [received(me, other)])
    return me


# ---- (a) the average


async def test_one_transfer_of_three_leaves_all_with_the_samples_weighted_mean_to_the_bit() -> None:
    amounts = {"amber": ([0, 1], 240), "birch": ([2, 3], 120), "cedar": ([1, 2], 184)}

    def made(name: str) -> Learner:
        classes, amount = amounts[name]
        return blob_learner(classes, len(name) + amount, amount=amount, held_out=0)

    village = PeerNetwork()
    peers = [village.peer(name, made(name), strategy="auto", pace="lockstep", gate=OFF) for name in amounts]
    async with gathered(*peers), asyncio.timeout(60), asyncio.TaskGroup() as running:
        for peer in peers:
            running.create_task(peer.run(1))
    alone = {name: made(name) for name in amounts}
    for its in alone.values():
        Auto().local(its, epochs(1))
    total = sum(amount for _, amount in amounts.values())
    for name in alone["amber"].state:
        summed = sum(its.state[name].detach().double() * amounts[who][1] for who, its in alone.items())
        assert isinstance(summed, Tensor)
        for peer in peers:
            assert torch.equal(peer.learner.state[name], (summed / total).float()), (peer.name, name)
    (transfer,) = [e for e in village.events["amber"].of(Trained) if e.phase == "transfer"]
    assert (transfer.steps, transfer.notes["averaged"], transfer.notes["left_out"]) == (0, 3, 0)


def test_without_counts_everybody_counts_once() -> None:
    me, other = member("amber", 1, held_out=0), member("birch", 2, data=tiny_data(samples=32, seed=2))
    for who in (me, other):
        who[1].fit(epochs(1))
    came = received(me, other)
    mean = robust.mean([copied(me[1].state), copied(other[1].state)])
    me[2].absorb(me[1], [replace(came, sender=replace(came.sender, histogram=()))])
    me[2].transfer(me[1], epochs(1))
    assert same(copied(me[1].state), mean)


# ---- (b) the way per provider


def test_the_way_is_the_first_that_fits() -> None:
    me, alike, unlike = member("amber", 1), member("birch", 2), member("cedar", 3, unlike=True)
    other_start = member("dill", 4, start=5)

    def way(me: Who, card: Card) -> str:
        why = me[2].misfit(me[1], card)
        if why is not None:
            with pytest.raises(KnowledgeError, match=r"\w+"):
                me[2].ask(me[1], card)
            return why
        return me[2].ask(me[1], card).query.want

    for provider, wanted in ((alike, "params"), (unlike, "outputs"), (other_start, "outputs")):
        assert way(me, tiny_card(*provider)) == wanted
    secret = replace(tiny_card(*alike), exposes=frozenset({Exposure.PUBLIC_OUTPUTS}))
    assert way(me, secret) == "outputs"
    question = me[2].ask(me[1], tiny_card(*unlike)).query.select
    assert question == {"dataset": "public", "fingerprint": PUBLIC.fingerprint, "ids": None}

    stranger = tiny_card(*member("cedar", 3, unlike=True, public_sets=[]))
    assert "cannot be averaged with, and the two hold no public set in common; give both" in way(me, stranger)
    assert "does not show its parameters, and the two hold no" in way(me, replace(secret, public_sets=()))
    assert "neither parameters that fit nor outputs" in way(me, replace(stranger, exposes=frozenset()))
    assert "5 classes" in way(me, replace(tiny_card(*alike), classes=5))


def test_via_allows_one_way_only_and_shows_nothing_of_the_other() -> None:
    alike, unlike = member("birch", 2), member("cedar", 3, unlike=True)
    params, outputs = (member("amber", 1, auto={"via": via}) for via in ("params", "outputs"))
    assert params[2].misfit(params[1], tiny_card(*alike)) is None
    assert "one architecture" in (params[2].misfit(params[1], tiny_card(*unlike)) or "")
    hidden = replace(tiny_card(*alike), exposes=frozenset({Exposure.PUBLIC_OUTPUTS}))
    assert "does not show its parameters" in (params[2].misfit(params[1], hidden) or "")
    assert outputs[2].ask(outputs[1], tiny_card(*alike)).query.want == "outputs"
    why = outputs[2].misfit(outputs[1], replace(tiny_card(*alike), public_sets=()))
    assert why == (
        "birch teaches by outputs, but the two hold no public set in common; "
        "give both peers the same public set: Learner(public_sets=[...])"
    )
    assert Exposure.PUBLIC_OUTPUTS not in params[2].exposes | params[2].needs
    assert Exposure.PARAMS_FULL not in outputs[2].exposes | outputs[2].needs
    with pytest.raises(ConfigError, match="public set"):
        Auto(via="outputs").check(tiny_learner(1))


MIXED = {"amber": ([0, 1], 12), "birch": ([2, 3], 12), "cedar": ([1, 2], 8)}
"""Classes and width: cedar can be averaged with nobody."""


def mixed(name: str) -> Learner:
    public = Unlabelled(blobs([0, 1, 2, 3], 99, 60)[0], torch.arange(60), "common")
    classes, hidden = MIXED[name]
    return blob_learner(classes, hidden + classes[0], hidden=hidden, public_sets=[public])


def directly(ids: dict[str, Any], rounds: int) -> dict[str, tuple[Learner, Auto]]:
    """Lockstep rounds without any fabric, among peers of these ids."""
    peers = {name: (mixed(name), Auto(ensemble=1)) for name in ids}
    cards = {name: replace(tiny_card(name, *peers[name]), id=ids[name]) for name in ids}
    for version in range(1, rounds + 1):
        for learner, strategy in peers.values():
            strategy.local(learner, epochs(1))
        shown = {name: snapshot(learner, strategy, version) for name, (learner, strategy) in peers.items()}
        for name, (learner, strategy) in peers.items():
            for other in sorted((n for n in ids if n != name), key=lambda n: ids[n]):
                question = strategy.ask(learner, cards[other])
                answer = peers[other][1].answer(shown[other], Asked(cards[name], question))
                assert isinstance(answer, Params | Outputs)
                strategy.absorb(learner, [Received(cards[other], answer, question.query)])
        for learner, strategy in peers.values():
            strategy.transfer(learner, epochs(1))
    return peers


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_the_network_changes_no_bit_whichever_the_ways(kind: Any) -> None:
    village = PeerNetwork(kind)
    peers = [village.peer(name, mixed(name), strategy=Auto(ensemble=1), pace="lockstep", gate=OFF) for name in MIXED]
    x = blobs([0, 1, 2, 3], 5, 50)[0]
    async with gathered(*peers), asyncio.timeout(60):
        async with asyncio.TaskGroup() as running:
            for peer in peers:
                running.create_task(peer.run(3))
        said = {peer.name: await peer.predict(x) for peer in peers}
    alone = directly({peer.name: peer.id for peer in peers}, 3)
    for peer in peers:
        learner, strategy = alone[peer.name]
        assert not village.events[peer.name].of(FetchFailed)
        assert same(dict(peer.learner.state), dict(learner.state)), peer.name
        assert torch.equal(said[peer.name], strategy.predict(learner, x))
        last = [e for e in village.events[peer.name].of(Trained) if e.phase == "transfer"][-1]
        assert len(last.providers) == 2
        assert ("averaged" in last.notes) == (peer.name != "cedar")
        assert last.steps == learner.count(epochs(1))  # the pool: cedar's, or of amber and birch
        assert last.notes["cost_megabytes"] > 0


def test_a_provider_that_can_be_averaged_with_by_now_has_no_voice_in_the_pool_any_more() -> None:
    before, after = member("birch", 2, unlike=True), member("birch", 2)
    me = taught(before, after)
    report = me[2].transfer(me[1], epochs(1))
    assert (report.steps, report.notes["averaged"]) == (0, 2)
    assert report.providers == (tiny_id("birch"),)


# ---- (c) the own loss


def test_the_own_loss_is_cross_entropy_of_logits_and_log_prior() -> None:
    its = tiny_learner(1, data=tiny_data(samples=60, only=[0, 0, 1]), held_out=0)
    counts = its.describe().histogram
    assert sorted(counts) == [0, 0, 20, 40]
    prior = [math.log((n + 1) / (60 + CLASSES)) for n in counts]
    batch = next(its.batches(steps(1)))
    logits = its.logits(batch.x)
    for smoothing in (0.0, 0.1):
        expected = 0.0
        for row, y in zip(logits.tolist(), batch.y.tolist(), strict=True):
            shifted = [value + extra for value, extra in zip(row, prior, strict=True)]
            logs = [value - math.log(sum(map(math.exp, shifted))) for value in shifted]
            expected -= (1 - smoothing) * logs[y] + smoothing * sum(logs) / CLASSES
        found = float(AdjustedLoss(its, smoothing)(its.model, batch).detach())
        assert found == pytest.approx(expected / len(batch), rel=1e-5)


def test_local_training_is_by_the_own_loss_and_a_loss_of_ones_own_is_not_smoothed() -> None:
    for loss in (None, nn.MultiMarginLoss()):
        its, plain = tiny_learner(1, loss=loss), tiny_learner(1, loss=loss)
        counts = torch.tensor(plain.describe().histogram).double() + 1
        prior = (counts / counts.sum()).log().float()

        def by_hand(model: nn.Module, batch: Batch, loss: Any = loss, prior: Tensor = prior) -> Tensor:
            logits = model(batch.x) + prior
            return loss(logits, batch.y) if loss else F.cross_entropy(logits, batch.y, label_smoothing=0.1)

        Auto().local(its, epochs(2))
        plain.fit(epochs(2), loss=by_hand)
        assert weights(its) == weights(plain)


# ---- (d) the proof


def honest(seed: int, classes: Sequence[int]) -> Learner:
    """Has learned these classes well."""
    its = tiny_learner(seed, data=tiny_data(samples=400, seed=seed, only=classes))
    Auto().local(its, epochs(4))
    return its


def proven(me: Learner, *others: dict[str, Tensor]) -> Any:
    everybody = [copied(me.state), *others]
    return select_models(me, lambda places: robust.mean([everybody[p] for p in places]), len(everybody), mine=0)


def test_a_liar_is_left_out_and_honest_ones_with_other_classes_are_kept() -> None:
    me, other, third = honest(1, [0, 1]), honest(2, [2, 3]), honest(3, [0, 1, 2, 3])
    good = [copied(other.state), copied(third.state)]
    flipped = {name: -2 * t for name, t in copied(me.state).items()}
    noise = {name: 3 * torch.randn(t.shape, generator=seeded_rng(name)) for name, t in me.state.items()}
    assert proven(me, *good).keep == (0, 1, 2)
    for liar in (flipped, noise):
        proof = proven(me, *good, liar)
        assert proof.keep == (0, 1, 2)
        assert proof.gains[3] < 0
        assert proof.gains[0] == 0


def test_a_transfer_leaves_the_liar_out_and_counts_it() -> None:
    me, other = ("amber", honest(1, [0, 1]), Auto()), ("birch", honest(2, [2, 3]), Auto())
    liar: Who = ("cedar", honest(3, [0, 1, 2, 3]), Auto())
    answer, lie = received(me, other), received(me, liar)
    worse = {name: -2 * t.detach() for name, t in me[1].state.items()}
    mine, theirs = (sum(who[1].describe().histogram) for who in (me, other))
    mean = robust.mean([copied(me[1].state), copied(other[1].state)], [mine, theirs])
    me[2].absorb(me[1], [answer])
    me[2]._inbox.put(lie, worse)  # absorb would refuse so clumsy a lie
    report = me[2].transfer(me[1], epochs(1))
    assert (report.notes["averaged"], report.notes["left_out"]) == (2, 1)
    assert same(copied(me[1].state), mean)
    accounts = me[2].state_dict()["utility"]["accounts"]
    assert accounts[tiny_id("cedar")]["gain"] < 0
    assert accounts[tiny_id("cedar")]["gain"] < accounts[tiny_id("birch")]["gain"]


def test_gains_are_what_leaving_out_costs_per_class() -> None:
    me = tiny_learner(1, data=tiny_data(samples=240, seed=1, only=[0, 0, 0, 0, 0, 1, 2, 2]))
    other, third = tiny_learner(2), tiny_learner(3)
    for its in (me, other, third):
        its.fit(epochs(2))
    states = [copied(its.state) for its in (me, other, third)]
    held = me.held_out
    assert held is not None

    def value(places: Sequence[int]) -> float:
        net = me.build(robust.mean([states[p] for p in places]))
        logs = me.logits(held.x, model=net).double().log_softmax(dim=1)
        of_class = [[float(row[y]) for row, y in zip(logs, held.y.tolist(), strict=True) if y == c] for c in range(4)]
        present = [sum(values) / len(values) for values in of_class if values]
        return sum(present) / len(present)

    whole = value([0, 1, 2])
    gains = proven(me, *states[1:]).gains
    assert gains == pytest.approx((0, whole - value([0, 2]), whole - value([0, 1])), abs=1e-9)
    assert max(map(abs, gains)) > 1e-4


def test_without_held_out_data_all_are_kept_and_nothing_is_claimed() -> None:
    me = tiny_learner(1, held_out=0)
    proof = proven(me, {name: -9 * t for name, t in copied(me.state).items()})
    assert proof.keep == (0, 1)
    assert all(math.isnan(gain) for gain in proof.gains)


# ---- (e) the accounts


def cards(*names: str) -> list[Card]:
    return [Card(id=tiny_id(name), name=name, session="s") for name in names]


def booked(per: Any = "byte", **accounts: tuple[float, int, float]) -> Utility:
    """Gain, bytes and seconds of each, by one exchange."""
    ledger = Utility(per)
    for name, (_, nbytes, seconds) in accounts.items():
        ledger.cost(tiny_id(name), nbytes=nbytes, seconds=seconds)
    ledger.gained({tiny_id(name): gain for name, (gain, _, _) in accounts.items()})
    return ledger


def order(ledger: Utility, *names: str) -> list[str]:
    by_id: dict[str, str] = {tiny_id(name): name for name in names}
    return [by_id[found] for found in ledger.ranked(cards(*names))]


def test_whom_to_ask_first() -> None:
    accounts = {"amber": (0.2, 1000, 1.0), "birch": (0.3, 3000, 0.5), "cedar": (-0.1, 10, 0.1)}
    assert order(booked(**accounts), "cedar", "birch", "amber") == ["amber", "birch", "cedar"]
    assert order(booked("second", **accounts), "cedar", "birch", "amber") == ["birch", "amber", "cedar"]
    assert order(booked(**accounts), "amber", "zinnia", "dill") == ["zinnia", "dill", "amber"]
    ledger = booked(**accounts)
    for _ in range(4):
        assert order(ledger, "amber", "birch", "cedar") == ["amber", "birch", "cedar"]
        ledger.gained({tiny_id("amber"): 0.2, tiny_id("birch"): 0.3})
    assert order(ledger, "amber", "birch", "cedar") == ["cedar", "amber", "birch"]  # not asked 4 times running
    assert ledger.worth(tiny_id("amber")) == pytest.approx(0.2 / 0.001)


def test_gains_fade_and_what_was_not_measured_changes_none() -> None:
    ledger = booked(amber=(0.4, 1000, 1.0))
    ledger.gained({tiny_id("amber"): 0.1})
    assert ledger.totals() == pytest.approx((0.7 * 0.4 + 0.3 * 0.1, 1000, 1.0))
    ledger.gained({tiny_id("amber"): float("nan")})
    assert ledger.totals()[0] == pytest.approx(0.31)
    ledger.cost(tiny_id("amber"), nbytes=500, seconds=0.5)
    assert ledger.totals()[1:] == (1500, 1.5)
    again = Utility("byte")
    again.load_state_dict(ledger.state_dict())
    assert again.state_dict() == ledger.state_dict()
    assert again.ranked(cards("amber", "birch")) == ledger.ranked(cards("amber", "birch"))


def test_one_transfer_by_both_ways_counts_as_one() -> None:
    me = taught(member("birch", 2), member("cedar", 3, unlike=True))
    came = me[2].state_dict()["utility"]["accounts"]
    assert [account["exchanges"] for account in came.values()] == [1, 1]
    me[2].transfer(me[1], epochs(1))
    ledger = me[2].state_dict()["utility"]
    assert ledger["now"] == 1
    assert [account["asked"] for account in ledger["accounts"].values()] == [1, 1]


def test_what_came_is_charged_once() -> None:
    me, other = member("amber", 1), member("birch", 2)
    came = replace(received(me, other), received_bytes=700, seconds=0.25)
    me[2].absorb(me[1], [came])
    me[2].absorb(me[1], [came])
    account = me[2].state_dict()["utility"]["accounts"][tiny_id("birch")]
    assert (account["bytes"], account["seconds"], account["exchanges"]) == (700, 0.25, 1)
    assert list(me[2].prefer(me[1], cards("birch", "cedar")) or ()) == [tiny_id("birch"), tiny_id("cedar")]
    me[2].transfer(me[1], epochs(1))
    assert list(me[2].prefer(me[1], cards("birch", "cedar")) or ()) == [tiny_id("cedar"), tiny_id("birch")]


# ---- (f) the committee


def test_a_committee_predicts_the_normalised_geometric_mean() -> None:
    its, committee, x = tiny_learner(1), Ensemble(2), tiny_data(seed=9).x
    torch.testing.assert_close(committee.predict(its, x), its.predict(x))
    voices = []
    for _ in range(4):
        its.fit(epochs(1))
        committee.join(as_it_is(its))
        voices.append(its.predict(x).double())
        mean_of = voices[-2:]  # the newest is the present model, which has one voice
        product = torch.stack(mean_of).prod(dim=0) ** (1 / len(mean_of))
        expected = (product / product.sum(dim=1, keepdim=True)).float()
        torch.testing.assert_close(committee.predict(its, x), expected, rtol=1e-4, atol=1e-6)
    its.fit(epochs(1))
    product = torch.stack([*voices[-2:], its.predict(x).double()]).prod(dim=0) ** (1 / 3)
    expected = (product / product.sum(dim=1, keepdim=True)).float()
    torch.testing.assert_close(committee.predict(its, x), expected, rtol=1e-4, atol=1e-6)


def test_a_model_changed_from_outside_is_not_taken_for_the_newest_member() -> None:
    """An average takes no steps."""
    its, committee, x = tiny_learner(1), Ensemble(1), tiny_data(seed=9).x
    committee.join(as_it_is(its))
    first = its.predict(x)
    its.overwrite({name: -t.detach() for name, t in its.state.items()})
    product = (first * its.predict(x)).sqrt()
    torch.testing.assert_close(committee.predict(its, x), product / product.sum(dim=1, keepdim=True))


def test_a_committee_that_was_saved_predicts_the_same_and_so_does_one_of_many_changes() -> None:
    its, committee, x = tiny_learner(1), Ensemble(3), tiny_data(seed=9).x
    for _ in range(5):
        committee.join(as_it_is(its))
        its.fit(steps(2))
        committee.join(as_it_is(its))
        again = Ensemble(3)
        again.load_state_dict(committee.state_dict())
        assert len(again) == len(committee)
        assert torch.equal(again.predict(its, x), committee.predict(its, x))


def test_size_0_is_the_present_model_alone() -> None:
    me = taught(member("birch", 2), auto={"ensemble": 0})
    me[2].transfer(me[1], epochs(1))
    assert not me[2].state_dict()["members"]["states"]
    x = tiny_data(seed=9).x
    torch.testing.assert_close(me[2].predict(me[1], x), me[1].predict(x))


def test_a_transfer_seats_the_model_before_and_after_an_average() -> None:
    me, other = member("amber", 1), member("birch", 2)
    seats = []
    for version in (1, 2):
        other[1].fit(steps(2))
        me[2].absorb(me[1], [received(me, other, version=version)])
        seats.append((me[1].steps, weights(me[1])))
        me[2].transfer(me[1], epochs(1))
        seats.append((me[1].steps, weights(me[1])))
    found = [(seat["steps"], bits(seat["tensors"])) for seat in me[2].state_dict()["members"]["states"]]
    assert found == seats
    assert seats[0] != seats[1], "the average has moved it"


def test_who_learns_from_the_pool_alone_predicts_alone() -> None:
    me, x = taught(member("birch", 2)), tiny_data(seed=9).x
    me[2].transfer(me[1], epochs(1))
    assert len(me[2].state_dict()["members"]["states"]) == 2
    me[2].absorb(me[1], [received(me, member("cedar", 3, unlike=True))])
    me[2].transfer(me[1], epochs(1))
    assert not me[2].state_dict()["members"]["states"]
    torch.testing.assert_close(me[2].predict(me[1], x), me[1].predict(x))


class Never(Gate):
    def judge(self, before: float, after: float) -> Verdict:
        return Verdict(False, before, after, "never")


def test_what_the_gate_takes_back_the_committee_and_the_accounts_never_saw() -> None:
    me = taught(member("birch", 2), member("cedar", 3, unlike=True))
    me[2].transfer(me[1], epochs(1))
    for name, seed, unlike in (("birch", 2, False), ("cedar", 3, True)):
        me[2].absorb(me[1], [received(me, member(name, seed, unlike=unlike), version=2)])
    x = tiny_data(seed=9).x
    state = me[2].state_dict()
    kept = bits([state[part] for part in ("members", "utility", "positions", "memory")])
    before = everything(me[1]), bits(me[2].predict(me[1], x))
    outcome = gated_transfer(me[2], me[1], epochs(1), Never())
    assert outcome.verdict is not None
    assert outcome.report.steps
    state = me[2].state_dict()
    assert bits([state[part] for part in ("members", "utility", "positions", "memory")]) == kept
    assert (everything(me[1]), bits(me[2].predict(me[1], x))) == before
    assert not state["inbox"]["waiting"]  # what did harm is not tried again


# ---- (g) the pool


def test_the_pool_is_the_mean_of_all_log_probabilities_times_the_sharpness() -> None:
    me, others = tiny_learner(1, public_sets=[PUBLIC]), [tiny_learner(2), tiny_learner(3)]
    outputs = [
        Outputs(dataset="public", fingerprint=PUBLIC.fingerprint, ids=PUBLIC.ids, version=1,
                tensors={"logits": other.logits(PUBLIC.x)})
        for other in others
    ]  # fmt: skip
    found = pooled(me, outputs, 2.0)
    logs = [its.predict(PUBLIC.x).log() for its in (me, *others)]
    assert set(found) == {PUBLIC.fingerprint}
    torch.testing.assert_close(found[PUBLIC.fingerprint], 2 * (logs[0] + logs[1] + logs[2]) / 3)


def test_a_transfer_by_outputs_is_the_own_loss_and_the_distance_to_the_pool() -> None:
    other = member("birch", 2, unlike=True)
    me, plain = taught(other), member("amber", 1)
    came = received(plain, other).knowledge
    assert isinstance(came, Outputs)
    teacher = ((plain[1].logits(PUBLIC.x).log_softmax(1) + came.tensors["logits"].log_softmax(1)) / 2).softmax(1)
    own, rows = AdjustedLoss(plain[1], 0.1), iter(_rows(me[1].count(epochs(1))))

    def by_hand(model: nn.Module, batch: Batch) -> Tensor:
        at = next(rows)
        student = model(PUBLIC.x[at]).log_softmax(1)
        distance = (teacher[at] * (teacher[at].log() - student)).sum(dim=1).mean()
        value: Tensor = own(model, batch) + distance
        return value

    report = me[2].transfer(me[1], epochs(1))
    plain[1].fit(epochs(1), loss=by_hand)
    assert report.steps == me[1].count(epochs(1))
    for name, tensor in me[1].state.items():
        torch.testing.assert_close(tensor, plain[1].state[name], rtol=1e-3, atol=1e-5)


def _rows(amount: int) -> list[Tensor]:
    draw = Sampler(len(PUBLIC), BATCH, seed=PUBLIC.fingerprint)
    return [draw.next() for _ in range(amount)]


def test_the_position_in_the_public_set_goes_on_from_transfer_to_transfer() -> None:
    public = tiny_data(samples=640, seed=77).unlabelled("large")
    other = member("birch", 2, unlike=True, public_sets=[public])
    ends = []
    for spans in ((3, 2), (5,)):
        me = taught(other, public_sets=[public])
        for span in spans:
            me[2].transfer(me[1], steps(span))
        ends.append(me[2].state_dict()["positions"])
    assert ends[0] == ends[1] == {public.fingerprint: [0, 5]}


def test_a_pool_that_makes_it_diverge_is_given_up_and_nothing_changes() -> None:
    model = tiny_model()
    wild = torch.optim.SGD(model.parameters(), lr=1e30)
    me = taught(member("birch", 2, unlike=True), model=model, optimizer=wild)
    before = everything(me[1])
    accounts = me[2].state_dict()["utility"]["accounts"]
    report = me[2].transfer(me[1], epochs(2))
    assert not report.committed
    assert report.providers == (tiny_id("birch"),)
    assert everything(me[1]) == before
    assert not me[2].state_dict()["positions"]
    assert me[2].state_dict()["utility"]["accounts"] == accounts


# ---- (h) going on


def test_a_local_span_that_is_cut_in_two_comes_to_the_same_bits() -> None:
    whole, first, second = (tiny_learner(1, model=Normed()) for _ in range(3))
    assert Auto().resumable
    Auto().local(whole, epochs(2))
    Auto().local(first, steps(3))
    second.load_state_dict(first.state_dict())
    Auto().local(second, steps(whole.count(epochs(2)) - 3))
    assert weights(second) == weights(whole)


def test_a_transfer_that_is_stopped_in_the_middle_has_not_happened_and_can_be_made_again() -> None:
    """Stopped in the pool's span, when the average is made: what was averaged waits again."""
    providers = member("birch", 2), member("cedar", 3, unlike=True)
    straight, me = taught(*providers), taught(*providers)
    before = everything(me[1]), bits(me[2].state_dict())
    me[1].interrupt()
    with pytest.raises(Interrupted):
        gated_transfer(me[2], me[1], epochs(1), Gate(tolerance=1))
    assert (everything(me[1]), bits(me[2].state_dict())) == before
    ends = []
    for _, learner, strategy in (straight, me):
        report = gated_transfer(strategy, learner, epochs(1), Gate(tolerance=1)).report
        assert (report.notes["averaged"], bool(report.steps)) == (2, True)
        ends.append((weights(learner), bits(strategy.state_dict())))
    assert ends[0] == ends[1]


# ---- (i) options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"via": "post"}, "auto: via 'post' is not one of 'auto', 'params', 'outputs'"),
        ({"per": "euro"}, "auto: per 'euro' is not one of 'byte', 'second'"),
        ({"ensemble": -1}, "auto: ensemble must be at least 0, not -1"),
        ({"smoothing": 1}, "auto: smoothing must be at least 0 and below 1, not 1"),
        ({"smoothing": float("nan")}, "auto: smoothing must be"),
        ({"sharpness": 0}, "auto: sharpness must be positive and at most 100, not 0"),
        ({"sharpness": math.inf}, "auto: sharpness must be"),
        ({"smooth": 0.1}, "did you mean 'smoothing'"),
    ],
)
def test_a_bad_option_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.make("auto", **options)
    assert sentence in str(caught.value)


def test_it_is_found_by_name() -> None:
    made = registry.make("auto", ensemble=0, via="params")
    assert isinstance(made, Auto)
    assert (made.ensemble, made.via, made.per) == (0, "params", "byte")
