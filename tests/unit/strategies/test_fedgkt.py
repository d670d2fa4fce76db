"""FedGKT: the rows of its specification, what every strategy must pass, and whole peers."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.errors import ConfigError, KnowledgeError, LearnerError
from peerlearn.events import Decided, Fetched, FetchFailed, Published, Trained
from peerlearn.experiments.run.cost import Cost, FeatureTraffic, averaging_bytes, cost
from peerlearn.knowledge import NotModified, Outputs, Params, Query, Question, Received, Refusal
from peerlearn.learning import checkpoint, losses
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.interruption import Interrupted
from peerlearn.learning.learner import Learner
from peerlearn.learning.models import MLP, initialise
from peerlearn.learning.sampler import Sampler, seeded_rng
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.strategies.base import Asked
from peerlearn.strategies.fedgkt import models as gkt_models
from peerlearn.strategies.fedgkt.feature_store import DATASET, FeatureStore, mark_of
from peerlearn.strategies.fedgkt.hub_training import HubTraining
from peerlearn.strategies.fedgkt.models import GKTLarge, GKTSmall, PatchEdge, PatchHub
from peerlearn.strategies.fedgkt.strategy import FedGKT
from peerlearn.testing import (
    CLASSES,
    DIMS,
    PeerNetwork,
    bits,
    everything,
    gathered,
    same,
    snapshot,
    tiny_card,
    tiny_data,
    tiny_id,
    until,
    weights,
)
from peerlearn.types import Card, Exposure, PeerId, epochs, steps
from tests.support.fedgkt import WIDTH, TinyEdge, edge_learner, edge_of, hub_learner, hub_of, tiny_hub_net

Who = tuple[str, Learner, FedGKT]


def an_edge(name: str = "edge", seed: int = 1, *, bn: bool = False, **more: Any) -> Who:
    return name, edge_learner(seed, bn=bn), edge_of(**more)


def a_hub(**more: Any) -> Who:
    return "hub", hub_learner(), hub_of(**more)


def questions(edge: Who, hub_card: Card) -> list[Question]:
    asked = edge[2].ask(edge[1], hub_card)
    assert not isinstance(asked, Question)
    return list(asked)


def brought_by(edge: Who) -> Outputs:
    brings = questions(edge, tiny_card("hub", hub_learner(), hub_of()))[0].brings
    assert isinstance(brings, Outputs)
    return brings


def one_round(hub: Who, edges: Sequence[Who], version: int, *, span: int = 2, local: int = 1) -> None:
    """Everybody trains and brings; the hub trains on each arrival if it is time; everybody takes what there is."""
    pulls = []
    for edge in edges:
        edge[2].local(edge[1], epochs(local))
        bring, *pull = questions(edge, tiny_card(*hub, version=version - 1))
        assert bring.brings is not None
        hub[2].absorb(hub[1], [Received(tiny_card(*edge), bring.brings)])
        hub[2].transfer(hub[1], epochs(span))
        pulls.append((edge, pull))
    shown = snapshot(hub[1], hub[2], version)
    for edge, pull in pulls:
        take(hub, edge, pull, shown, version)


def take(hub: Who, edge: Who, pull: Sequence[Question], shown: Any, version: int) -> list[Received]:
    card, came = tiny_card(*hub, version=version), []
    for question in pull:
        answer = hub[2].answer(shown, Asked(tiny_card(*edge), question))
        assert isinstance(answer, Outputs | Params), answer
        came.append(Received(card, answer, question.query))
        edge[2].absorb(edge[1], came[-1:])
    return came


def features_of(its: Learner, network: nn.Module | None = None) -> Tensor:
    model = network or its.model
    assert isinstance(model, gkt_models.EdgeNetwork)
    return torch.cat([its.logits(batch.x, model=model.extractor) for batch in its.one_pass()])


# ---- section 7.10


def reference(
    rounds: int, edge: Learner, data: Dataset, hub_epochs: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Alternating knowledge distillation of one small and one large net in one process, without strategies."""
    small, large = TinyEdge(), tiny_hub_net()
    of_small, of_large = (torch.optim.Adam(net.parameters(), lr=1e-3, fused=True) for net in (small, large))
    order, x, y = Sampler(len(data), 16, seed=edge.seed), data.x, data.y
    taught: Tensor | None = None
    for r in range(rounds):
        small.train()
        for _ in range(order.per_epoch):
            rows = order.next()
            z = small(x[rows])
            loss = F.cross_entropy(z, y[rows])
            if taught is not None:
                loss = loss + 1.0 * losses.distill_kl(taught[rows], z, 3.0)
            _step(of_small, loss)
        with torch.no_grad():
            h = small.eval().extractor(x)
            said = small.classifier(h)
        visits = Sampler(len(data), 16, seed=((0, r), "across"))
        large.train()
        for _ in range(hub_epochs * visits.per_epoch):
            rows = visits.next()
            z = large(h[rows])
            _step(of_large, F.cross_entropy(z, y[rows]) + 1.0 * losses.distill_kl(said[rows], z, 3.0))
        with torch.no_grad():
            taught = large.eval()(h)
    return small.state_dict(), large.state_dict()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_7_10_1_one_networked_edge_is_the_alternating_reference_to_the_bit(kind: Any) -> None:
    village = PeerNetwork(kind)
    hub = village.peer("hub", hub_learner(), strategy=hub_of())
    edge = village.peer("edge", edge_learner(), strategy=edge_of())
    async with gathered(hub, edge), asyncio.timeout(60):
        await edge.run(3)
    small, large = reference(3, edge.learner, tiny_data(samples=48, seed=1), hub_epochs=2)
    assert same(dict(edge.learner.state), small)
    assert same(dict(hub.learner.state), large)
    x = torch.randn(5, DIMS, generator=seeded_rng("x"))
    stacked = nn.Sequential(edge.learner.model.extractor, tiny_hub_net())  # type: ignore[arg-type]
    stacked[1].load_state_dict(large)
    with torch.no_grad():
        expected = stacked.eval()(x).softmax(1)
    assert torch.equal(edge.strategy.predict(edge.learner, x), expected)


def test_7_10_2_round_1_is_labels_alone_and_without_kd_the_hub_learns_supervised_on_fixed_features() -> None:
    edge, plain = an_edge(), edge_learner()
    edge[2].local(edge[1], epochs(1))
    plain.fit(epochs(1))
    assert everything(edge[1]) == everything(plain)

    frozen: Who = ("edge", edge_learner(), edge_of(alpha=0.0))
    for group in frozen[1].optimizer.param_groups:
        group["lr"] = 0.0
    hub = a_hub(alpha=0.0)
    for version in (1, 2):
        one_round(hub, [frozen], version)
    assert weights(frozen[1]) == weights(edge_learner())
    h, y = features_of(frozen[1]), tiny_data(samples=48, seed=1).y
    net = tiny_hub_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    for training in range(2):
        order = Sampler(48, 16, seed=((0, training), "across"))
        for _ in range(2 * order.per_epoch):
            rows = order.next()
            _step(optimizer, F.cross_entropy(net(h[rows]), y[rows]))
    assert same(dict(hub[1].state), net.state_dict())


def test_7_10_3_replies_are_the_hubs_outputs_by_id_whatever_the_order_of_samples() -> None:
    def replies(permute: bool) -> dict[str, Any]:
        normed = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
        initialise(normed, 0)
        normed[1].reset_parameters()  # type: ignore[operator]
        hub: Who = ("hub", hub_learner(normed), hub_of(edges=2))
        edges = [an_edge("a", 1), an_edge("b", 2)]
        for edge in edges:
            outputs = brought_by(edge)
            if permute:
                order = torch.randperm(len(outputs.ids), generator=seeded_rng("permute"))
                tensors = {name: t[order] for name, t in outputs.tensors.items()}
                outputs = replace(outputs, ids=outputs.ids[order], tensors=tensors)
            hub[2].absorb(hub[1], [Received(tiny_card(*edge), outputs)])
        assert hub[2].transfer(hub[1], epochs(2)).steps == 2 * 6
        shown: dict[str, Any] = {}
        for edge in edges:
            reply = hub[2].publish(hub[1]).by_edge[tiny_card(*edge).id]  # type: ignore[union-attr]
            assert torch.equal(reply.ids, torch.arange(48))
            assert torch.equal(reply.logits, hub[1].logits(features_of(edge[1])))
            shown[edge[0]] = reply.logits
        return shown

    assert bits(replies(False)) == bits(replies(True))


def test_7_10_3_the_control_mixes_up_whose_reply_is_whose_and_nothing_else() -> None:
    """003-3b: each sample is taught by the hub's logits on another, always the same one; all logits are used."""
    edge = an_edge()
    mixed = "edge", edge_learner(1), edge_of(control="misaligned")
    for each in (edge, mixed):
        one_round(a_hub(), [each], 1)
    ids = torch.cat([batch.ids for batch in edge[1].one_pass()])
    straight, crossed = edge[2]._held.logits(ids), mixed[2]._held.logits(ids, "misaligned")
    assert torch.equal(straight, mixed[2]._held.logits(ids))
    assert (straight != crossed).any(dim=1).double().mean() > 0.8
    assert sorted(map(tuple, straight.tolist())) == sorted(map(tuple, crossed.tolist()))
    half = ids[: len(ids) // 2]
    assert torch.equal(mixed[2]._held.logits(half, "misaligned"), crossed[: len(half)])
    for each in (edge, mixed):
        each[2].local(each[1], epochs(1))
    assert weights(edge[1]) != weights(mixed[1])


def test_7_10_4_no_gradient_crosses_the_cut_and_a_hubs_step_changes_no_edge() -> None:
    hub, edge = a_hub(), an_edge(bn=True)
    edge[2].local(edge[1], epochs(1))
    before = everything(edge[1])
    bring, *_ = questions(edge, tiny_card(*hub))
    assert everything(edge[1]) == before  # what is shown is read in eval mode
    assert isinstance(bring.brings, Outputs)
    assert not any(t.requires_grad for t in bring.brings.tensors.values())
    hub[2].absorb(hub[1], [Received(tiny_card(*edge), bring.brings)])
    hub[2].transfer(hub[1], epochs(1))
    assert all(p.grad is None for p in edge[1].model.parameters())
    assert everything(edge[1]) == before
    replies = hub[2].publish(hub[1])
    assert replies is not None
    assert not any(reply.logits.requires_grad for reply in replies.by_edge.values())


def test_7_10_5_a_hub_that_says_what_the_edge_says_teaches_it_nothing() -> None:
    edge, plain = an_edge(), edge_learner()
    logits = torch.cat([edge[1].logits(batch.x) for batch in edge[1].one_pass()])
    teach(edge, logits)
    batch = next(edge[1].batches(steps(1)))
    term = edge[2].extra_loss(edge[1].model, batch)
    assert term is not None
    gradients = torch.autograd.grad(term, list(edge[1].model.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-6
    teach(edge, logits.flip(0), version=2)
    edge[1].restore(plain.mark())
    (value,) = (edge[2].extra_loss(edge[1].model, b) for b in edge[1].batches(steps(1)))
    assert value is not None
    assert float(value.detach()) > 0.01


def teach(edge: Who, logits: Tensor, version: int = 1) -> None:
    """Give the edge this reply."""
    outputs, query = brought_by(edge), Query(want="outputs")
    reply = Outputs(
        dataset=DATASET, fingerprint=outputs.fingerprint, ids=outputs.ids, tensors={"logits": logits}, version=version
    )
    edge[2].absorb(edge[1], [Received(tiny_card("hub", hub_learner(), hub_of()), reply, query)])


def test_7_10_6_without_the_upward_term_the_hub_does_not_read_the_edges_logits() -> None:
    def trained(distil: str, shift: float) -> str:
        hub, edge = a_hub(distil=distil), an_edge()
        outputs = brought_by(edge)
        noise = shift * torch.randn(48, CLASSES, generator=seeded_rng("noise"))
        tensors = {**outputs.tensors, "logits": outputs.tensors["logits"] + noise}
        hub[2].absorb(hub[1], [Received(tiny_card(*edge), replace(outputs, tensors=tensors))])
        assert hub[2].transfer(hub[1], epochs(1)).steps == 3
        return weights(hub[1])

    for distil in ("down", "none"):
        assert trained(distil, 0.0) == trained(distil, 3.0)
    for distil in ("both", "up"):
        assert trained(distil, 0.0) != trained(distil, 0.5)


@pytest.mark.parametrize(("features", "labels"), [("float32", "uint8"), ("float16", "int64")])
async def test_7_10_7_the_bytes_are_those_of_the_formula_and_each_edge_gets_its_own_ids(
    features: Any, labels: Any
) -> None:
    village = PeerNetwork()
    hub = village.peer("hub", hub_learner(), strategy=hub_of(edges=2, predict_by="own"))
    spans = {"a": slice(0, 40), "b": slice(40, 48)}
    edges = []
    for name, span in spans.items():
        whole = tiny_data(samples=48, seed=1)
        part = Dataset(whole.x[span], whole.y[span], whole.ids[span], CLASSES, name)
        strategy = edge_of(features=features, labels=labels, predict_by="own")
        edges.append(village.peer(name, edge_learner(data=part), strategy=strategy))
    async with gathered(hub, *edges), asyncio.timeout(60), asyncio.TaskGroup() as running:
        for edge in edges:
            running.create_task(edge.run(2))
    for edge, samples in zip(edges, (40, 8), strict=True):
        traffic = FeatureTraffic(
            samples=samples, feature=WIDTH, classes=CLASSES,
            feature_bytes=4 if features == "float32" else 2, label_bytes=1 if labels == "uint8" else 8,
        )  # fmt: skip
        fetched = village.events[edge.name].of(Fetched)
        assert len(fetched) == 4
        known = 0
        for bring, pull in zip(fetched[::2], fetched[1::2], strict=True):
            assert bring.body_bytes == 0
            assert traffic.up <= bring.sent_bytes <= traffic.up + 1200  # headers
            assert pull.body_bytes == traffic.down - known
            known = 8 * samples  # ids, which an answer repeats bit for bit, come once: the next names them by content
        ids = edge.strategy.state_dict()["held"]["reply"]["ids"]
        assert torch.equal(ids, torch.arange(48)[spans[edge.name]])


def test_7_10_8_kd_has_its_closed_form() -> None:
    v, z = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    p = torch.tensor([torch.e, 1.0]) / (torch.e + 1)
    expected = 9 * ((p * p.log()).sum() - (p * p.flip(0).log()).sum())
    torch.testing.assert_close(losses.distill_kl(v, z, 3.0), expected)
    training = HubTraining(alpha=2.0, temperature=3.0, batch_size=4, shuffle="across", reply_by="eval")
    both = training.loss(hub_learner(), z.expand(2, 2), v.expand(2, 2), torch.tensor([0, 1]))
    ce = F.cross_entropy(z.expand(2, 2), torch.tensor([0, 1]))
    torch.testing.assert_close(both, ce + 2 * expected)


def test_7_10_9_asynchronous_with_one_edge_is_synchronous_with_one_edge() -> None:
    ends = []
    for scope in ("store", "arrival"):
        hub, edge = a_hub(scope=scope, edges=1), an_edge()
        for version in (1, 2, 3):
            one_round(hub, [edge], version)
        ends.append((weights(hub[1]), weights(edge[1])))
    assert ends[0] == ends[1]


async def test_7_10_10_an_edge_whose_hub_is_gone_goes_on_with_labels_alone() -> None:
    village = PeerNetwork()
    hub = village.peer("hub", hub_learner(), strategy=hub_of())
    edge = village.peer("edge", edge_learner(), strategy=edge_of())
    async with edge, asyncio.timeout(60):
        async with hub:
            await edge.meet(1)
            await edge.run(2)
            assert edge.strategy.state_dict()["held"]["reply"]
        await until(lambda: not edge.others())
        await edge.run(1)  # still with the logits held
        at = edge.learner.state_dict()
        assert not edge.strategy.state_dict()["held"]["reply"]
        await edge.run(1)
    plain = edge_learner()
    plain.load_state_dict(at)
    plain.fit(epochs(1))
    assert same(dict(plain.state), dict(edge.learner.state))
    assert any("nobody" in e.why for e in village.events["edge"].of(Decided))


def test_an_empty_reply_degrades_to_labels_alone() -> None:
    hub, edge, plain = a_hub(), an_edge(), edge_learner()
    pull = questions(edge, tiny_card(*hub))[1:]
    reply, _ = take(hub, edge, pull, snapshot(hub[1], hub[2], 0), 0)  # the hub has not trained yet
    assert isinstance(reply.knowledge, Outputs)
    assert len(reply.knowledge.ids) == 0
    assert edge[2].extra_loss(edge[1].model, next(edge[1].batches(steps(1)))) is None
    edge[1].restore(plain.mark())
    edge[2].local(edge[1], epochs(1))
    plain.fit(epochs(1))
    assert weights(edge[1]) == weights(plain)


def test_7_9_a_linear_decoder_reads_the_image_from_a_stride_1_stem() -> None:
    """The documented risk: what edges show is close to their pictures."""
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())
    initialise(stem, 0)
    images = torch.rand(200, 1, 8, 8, generator=seeded_rng("images"))
    with torch.no_grad():
        patches = F.unfold(stem(images), 3, padding=1).transpose(1, 2)  # (images, pixels, 16 * 9)
    h = torch.cat([patches, torch.ones(200, 64, 1)], dim=2).double()
    pixels = images.reshape(200, 64, 1).double()
    decoder = torch.linalg.lstsq(h[:150].reshape(-1, 145), pixels[:150].reshape(-1, 1)).solution
    error = (h[150:] @ decoder - pixels[150:]).pow(2).mean()
    assert float(error) < 0.05 * float(pixels[150:].var())


# ---- the hub


def test_the_hub_waits_for_all_edges_unless_one_loses_patience() -> None:
    hub = a_hub(edges=3)
    a, b = an_edge("a", 1), an_edge("b", 2)

    def comes(edge: Who) -> tuple[str, ...]:
        hub[2].absorb(hub[1], [Received(tiny_card(*edge), brought_by(edge))])
        report = hub[2].transfer(hub[1], epochs(1))
        assert bool(report.steps) == bool(report.events)
        return report.providers

    both = tuple(sorted((tiny_id("a"), tiny_id("b"))))
    assert comes(a) == ()
    assert comes(b) == ()
    assert comes(a) == both
    assert comes(a) == ()


def test_scope_arrival_trains_on_what_came_and_keeps_the_other_replies() -> None:
    a, b = an_edge("a", 1), an_edge("b", 2)
    for scope, expected in (("arrival", (tiny_id("b"),)), ("store", tuple(sorted((tiny_id("a"), tiny_id("b")))))):
        hub = a_hub(scope=scope)
        hub[2].absorb(hub[1], [Received(tiny_card(*a), brought_by(a))])
        assert hub[2].transfer(hub[1], epochs(1)).providers == (tiny_id("a"),)
        first = hub[2].publish(hub[1]).by_edge[tiny_id("a")]  # type: ignore[union-attr]
        hub[2].absorb(hub[1], [Received(tiny_card(*b), brought_by(b))])
        assert hub[2].transfer(hub[1], epochs(1)).providers == expected
        replies = hub[2].publish(hub[1])
        assert replies is not None
        assert set(replies.by_edge) == {tiny_id("a"), tiny_id("b")}
        assert (bits(replies.by_edge[tiny_id("a")].logits) == bits(first.logits)) == (scope == "arrival")


def test_batches_go_across_edges_or_through_one_after_another_and_see_each_sample_once_an_epoch() -> None:
    sizes = [20, 7]
    for shuffle in ("across", "within"):
        training = HubTraining(alpha=1.0, temperature=3.0, batch_size=8, shuffle=shuffle, reply_by="eval")
        batches = list(training.batches(sizes, epochs(2), "seed"))
        half = batches[: len(batches) // 2]
        assert torch.equal(torch.cat(half).sort().values, torch.arange(27))
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(27).repeat_interleave(2))
        assert not torch.equal(torch.cat(half), torch.cat(batches[len(half) :]))
        mixed = [bool((rows < 20).any() and (rows >= 20).any()) for rows in batches]
        assert any(mixed) == (shuffle == "across")
        if shuffle == "within":
            assert all(int(rows.max()) < 20 for rows in half[:3])
        assert len(list(training.batches(sizes, steps(5), "seed"))) == 5


def test_replies_of_the_last_epoch_are_what_was_said_before_each_step() -> None:
    edge = an_edge()
    by_last, by_eval = a_hub(reply_by="last-epoch", batch_size=48), a_hub(batch_size=48)
    for hub in (by_last, by_eval):
        hub[2].absorb(hub[1], [Received(tiny_card(*edge), brought_by(edge))])
        hub[2].transfer(hub[1], epochs(2))
    assert weights(by_last[1]) == weights(by_eval[1])
    one_less = a_hub(batch_size=48)
    one_less[2].absorb(one_less[1], [Received(tiny_card(*edge), brought_by(edge))])
    one_less[2].transfer(one_less[1], epochs(1))
    said = [hub[2].publish(hub[1]).by_edge[tiny_id("edge")].logits for hub in (by_last, one_less, by_eval)]  # type: ignore[union-attr]  # fmt: skip
    torch.testing.assert_close(said[0], said[1])
    assert not torch.allclose(said[0], said[2])


def test_a_training_that_diverges_leaves_the_hub_as_it_was() -> None:
    hub: Who = ("hub", hub_learner(optimizer=None), hub_of())
    edge = an_edge()
    hub[1].optimizer = torch.optim.SGD(hub[1].model.parameters(), lr=1e30)
    hub[2].absorb(hub[1], [Received(tiny_card(*edge), brought_by(edge))])
    before = everything(hub[1])
    report = hub[2].transfer(hub[1], epochs(2))
    assert (report.committed, report.events) == (False, ("replied",))
    assert everything(hub[1]) == before
    assert not hub[2].transfer(hub[1], epochs(2)).providers


def test_a_hub_deep_in_training_can_be_interrupted() -> None:
    hub, edge = a_hub(), an_edge()
    hub[2].absorb(hub[1], [Received(tiny_card(*edge), brought_by(edge))])
    before = everything(hub[1])
    hub[1].interrupt()
    with pytest.raises(Interrupted), hub[1].tentative():
        hub[2].transfer(hub[1], epochs(1000))
    assert everything(hub[1]) == before


def test_a_pass_shows_every_private_sample_once_and_moves_nothing() -> None:
    its = Learner(TinyEdge(), tiny_data(samples=600), classes=CLASSES, held_out=0.1, batch_size=16)
    its.fit(steps(3))  # in the middle of an epoch
    before = everything(its)
    ids = torch.cat([batch.ids for batch in its.one_pass()])
    assert torch.equal(ids, torch.cat([batch.ids for batch in its.batches(epochs(2))]).unique())
    assert len(ids) == 540
    its = Learner(TinyEdge(), tiny_data(samples=600), classes=CLASSES, held_out=0.1, batch_size=16)
    its.fit(steps(3))
    assert list(its.one_pass())
    assert everything(its) == before


def test_the_hub_counts_the_classes_it_was_shown_and_how_many_starts_it_has_to_read() -> None:
    hub, a = a_hub(edges=2), an_edge("a", 1)
    assert hub[2].histogram(hub[1]) == (0, 0, 0, 0)
    b: Who = ("b", Learner(TinyEdge(5), tiny_data(samples=24, seed=2), classes=CLASSES, held_out=0), edge_of())
    for edge in (a, b):
        hub[2].absorb(hub[1], [Received(tiny_card(*edge), brought_by(edge))])
    assert hub[2].histogram(hub[1]) == (18, 18, 18, 18)
    assert hub[2].transfer(hub[1], epochs(1)).notes == {"edges": 2.0, "starts": 2.0}


def test_features_as_float16_come_close_and_never_overflow() -> None:
    whole, half = brought_by(an_edge()), brought_by(an_edge(features="float16"))
    assert half.tensors["feature"].dtype == torch.float16
    torch.testing.assert_close(half.tensors["feature"].float(), whole.tensors["feature"], rtol=1e-3, atol=1e-3)
    big = an_edge(features="float16")
    big[1].overwrite({"extractor.0.weight": torch.full((WIDTH, DIMS), 1e5)})
    assert bool(torch.isfinite(brought_by(big).tensors["feature"]).all())


# ---- the edge


def test_misaligned_logits_teach_something_else() -> None:
    """Ids are honoured: the same logits under permuted ids make another model."""
    logits = F.one_hot(tiny_data(samples=48, seed=1).y, CLASSES).float() * 2  # surer ones are refused as shuffled
    ends = []
    for shift in (0, 1):
        edge = an_edge(alpha=5.0)
        teach(edge, logits.roll(shift, 0))
        edge[2].local(edge[1], epochs(12))
        ends.append(edge[1].evaluate(next(edge[1].batches(steps(1)))).loss)
    assert ends[0] < ends[1]


def test_what_users_get_is_the_hubs_network_on_the_edges_features() -> None:
    hub, edge = a_hub(), an_edge(bn=True)
    x = torch.randn(5, DIMS, generator=seeded_rng("x"))
    assert torch.equal(edge[2].predict(edge[1], x), edge[1].predict(x))
    for version in (1, 2):
        one_round(hub, [edge], version)
        before = everything(edge[1])
        got = edge[2].predict(edge[1], x)
        assert everything(edge[1]) == before
        expected = hub[1].predict(edge[1].logits(x, model=edge[1].model.extractor))  # type: ignore[arg-type]
        assert torch.equal(got, expected)
    own = an_edge(predict_by="own")
    assert len(questions(own, tiny_card(*hub))) == 2
    assert Exposure.PARAMS_FULL not in own[2].needs | hub_of(predict_by="own").exposes
    ask = Asked(tiny_card(*own), Question(Query(want="params")))
    refused = hub_of(predict_by="own").answer(snapshot(hub[1], hub[2]), ask)
    assert isinstance(refused, Refusal)


def test_an_edge_waits_for_the_hubs_next_version_or_takes_the_latest() -> None:
    hub, edge = a_hub(), an_edge()
    card = tiny_card(*hub, version=4)
    assert [q.after for q in questions(edge, card)] == [0, 5, 5]
    one_round(hub, [edge], 5)
    assert [q.after for q in questions(edge, card)] == [0, 6, 6]  # the card may be older than what came
    assert [q.after for q in questions(edge, replace(card, session="s2", version=1))] == [0, 2, 2]
    assert [q.query.have for q in questions(edge, card)] == [None, 5, 5]
    eager = an_edge(wait=False)
    assert [q.after for q in questions(eager, card)] == [0, 0, 0]
    assert [q.query.want for q in questions(an_edge(distil="up"), card)] == ["nothing", "params"]
    first, second = brought_by(edge), brought_by(edge)
    assert second.version == first.version + 1


def test_edges_know_a_hub_by_what_it_shows() -> None:
    hub, edge = a_hub(), an_edge()
    card = tiny_card(*hub)
    assert edge[2].misfit(edge[1], card) is None
    assert "it is an edge" in str(edge[2].misfit(edge[1], tiny_card(*an_edge("other"))))
    assert "classes" in str(edge[2].misfit(edge[1], replace(card, classes=3)))
    other = tiny_card("hub", hub_learner(MLP(WIDTH, (5, 5), classes=CLASSES)), hub_of())
    assert "MLP" in str(edge[2].misfit(edge[1], other))
    assert "asks nobody" in str(hub[2].misfit(hub[1], tiny_card(*edge)))
    assert edge[2].needs == hub[2].exposes == {Exposure.PRIVATE_LOGITS, Exposure.PARAMS_FULL}
    assert edge[2].exposes == {Exposure.PRIVATE_FEATURES, Exposure.PRIVATE_LOGITS, Exposure.PRIVATE_LABELS}
    two = [card, replace(card, id=PeerId("f" * 32))]
    assert edge[2].prefer(edge[1], two) == [card.id]
    assert edge[2].prefer(edge[1], []) == []
    one_round(hub, [edge], 1)
    assert edge[2].prefer(edge[1], two[::-1]) == [card.id]


def test_a_model_that_is_not_cut_is_refused() -> None:
    with pytest.raises(LearnerError, match="extractor"):
        edge_of().check(Learner(tiny_hub_net(), gkt_models.no_samples((WIDTH,), CLASSES)))

    class More(TinyEdge):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    with pytest.raises(LearnerError, match="more than classifier after extractor"):
        edge_of().check(Learner(More(), tiny_data(), classes=CLASSES))
    with pytest.raises(ConfigError, match="GKTLarge"):
        edge_of(network="Huge").check(edge_learner())
    edge_of().check(edge_learner())


# ---- every strategy's rows (9.1)


def test_answers_change_nothing_and_show_only_ones_own() -> None:
    hub, a, b = a_hub(edges=2), an_edge("a", 1), an_edge("b", 2)
    one_round(hub, [a, b], 1)
    shown, before, kept = snapshot(hub[1], hub[2]), everything(hub[1]), bits(hub[2].state_dict())
    for edge in (a, b):
        (_, pull, params) = questions(edge, tiny_card(*hub))
        reply = hub[2].answer(shown, Asked(tiny_card(*edge), pull))
        assert isinstance(reply, Outputs)
        assert torch.equal(reply.tensors["logits"], hub[1].logits(features_of(edge[1])))
        stolen = hub[2].answer(shown, Asked(tiny_card("thief", edge[1], edge[2]), pull))
        assert isinstance(stolen, Outputs)
        assert len(stolen.ids) == 0
        other = replace(pull, query=replace(pull.query, select={**pull.query.select, "fingerprint": "0" * 64}))
        elsewhere = hub[2].answer(shown, Asked(tiny_card(*edge), other))
        assert isinstance(elsewhere, Outputs)
        assert (len(elsewhere.ids), elsewhere.fingerprint) == (0, "0" * 64)
        network = hub[2].answer(shown, Asked(tiny_card(*edge), params))
        assert isinstance(network, Params)
        assert bits(network.tensors) == weights(hub[1])
    for odd in (Query(want="outputs"), Query(want="params", select={"layers": ["fc"]})):
        assert isinstance(hub[2].answer(shown, Asked(tiny_card(*a), Question(odd))), Refusal)
    refused = a[2].answer(snapshot(a[1], a[2]), Asked(tiny_card(*b), Question(Query(want="params"))))
    assert isinstance(refused, Refusal)
    assert everything(hub[1]) == before
    assert bits(hub[2].state_dict()) == kept


def test_what_came_twice_counts_once() -> None:
    hub, edge = a_hub(edges=2), an_edge()
    came = Received(tiny_card(*edge), brought_by(edge))
    hub[2].absorb(hub[1], [came])
    once = bits(hub[2].state_dict())
    hub[2].absorb(hub[1], [came])
    hub[2].absorb(hub[1], [came, came])
    assert bits(hub[2].state_dict()) == once
    assert not hub[2].transfer(hub[1], epochs(1)).steps  # no impatience either
    one = a_hub()
    pull = questions(edge, tiny_card(*one))[1:]
    one[2].absorb(one[1], [came])
    one[2].transfer(one[1], epochs(1))
    answers = take(one, edge, pull, snapshot(one[1], one[2]), 1)
    once = bits(edge[2].state_dict())
    edge[2].absorb(edge[1], answers)
    assert bits(edge[2].state_dict()) == once
    for older in (replace(each, knowledge=replace(each.knowledge, version=0)) for each in answers):
        edge[2].absorb(edge[1], [older])
    assert bits(edge[2].state_dict()) == once
    assert questions(edge, tiny_card(*one))[1].after == 2


def altered(outputs: Outputs, name: str, change: Callable[[Tensor], Tensor]) -> Outputs:
    return replace(outputs, tensors={**outputs.tensors, name: change(outputs.tensors[name])})


BAD: dict[str, Callable[[Outputs], Any]] = {
    "parameters": lambda o: Params(tensors={}, architecture="", version=1),
    "another data set": lambda o: replace(o, dataset="public"),
    "fingerprint": lambda o: replace(o, fingerprint="0" * 64),
    "ids": lambda o: replace(o, ids=o.ids + 1),
    "ids twice": lambda o: replace(o, ids=torch.zeros_like(o.ids)),
    "no ids": lambda o: replace(o, ids=o.ids[:0], tensors={n: t[:0] for n, t in o.tensors.items()}),
    "names": lambda o: replace(o, tensors={**o.tensors, "x": o.tensors["label"]}),
    "feature shape": lambda o: altered(o, "feature", lambda t: t[:, 1:]),
    "feature dtype": lambda o: altered(o, "feature", lambda t: t.double()),
    "feature not finite": lambda o: altered(o, "feature", lambda t: t / 0),
    "logits shape": lambda o: altered(o, "logits", lambda t: t[:, 1:]),
    "logits not finite": lambda o: altered(o, "logits", lambda t: t * float("nan")),
    "labels": lambda o: altered(o, "label", lambda t: t + 4),
    "label dtype": lambda o: altered(o, "label", lambda t: t.float()),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_outputs_are_refused_and_change_nothing(what: str) -> None:
    hub, edge, other = a_hub(), an_edge(), an_edge("other", 2)
    good, bad = brought_by(other), BAD[what](brought_by(edge))
    before, kept = everything(hub[1]), bits(hub[2].state_dict())
    with pytest.raises(KnowledgeError):
        hub[2].absorb(hub[1], [Received(tiny_card(*other), good), Received(tiny_card(*edge), bad)])
    assert everything(hub[1]) == before
    assert bits(hub[2].state_dict()) == kept


BAD_REPLIES: dict[str, Callable[[Outputs], Any]] = {
    "data set": lambda o: replace(o, dataset="public"),
    "fingerprint": lambda o: replace(o, fingerprint="0" * 64),
    "ids": lambda o: replace(o, ids=o.ids + 1),
    "some ids": lambda o: replace(o, ids=o.ids[:9], tensors={"logits": o.tensors["logits"][:9]}),
    "names": lambda o: replace(o, tensors={**o.tensors, "label": o.ids}),
    "shape": lambda o: altered(o, "logits", lambda t: t[:, 1:]),
    "dtype": lambda o: altered(o, "logits", lambda t: t.double()),
    "not finite": lambda o: altered(o, "logits", lambda t: t * float("inf")),
    "another kind": lambda o: Params(tensors={}, architecture="", version=1),
}


@pytest.mark.parametrize("what", BAD_REPLIES)
def test_bad_replies_are_refused_and_change_nothing(what: str) -> None:
    hub, edge = a_hub(), an_edge()
    one_round(hub, [edge], 1)
    pull = questions(edge, tiny_card(*hub, version=1))[1]
    answer = hub[2].answer(snapshot(hub[1], hub[2], 2), Asked(tiny_card(*edge), pull))
    assert isinstance(answer, Outputs)
    before, kept = everything(edge[1]), bits(edge[2].state_dict())
    card = tiny_card(*hub, version=2)
    with pytest.raises(KnowledgeError):
        edge[2].absorb(edge[1], [Received(card, BAD_REPLIES[what](answer), pull.query)])
    with pytest.raises(KnowledgeError):
        edge[2].absorb(edge[1], [Received(card, answer, None)])
    assert everything(edge[1]) == before
    assert bits(edge[2].state_dict()) == kept


@pytest.mark.parametrize("what", ["architecture", "missing", "huge", "nan"])
def test_a_bad_hub_network_is_refused(what: str) -> None:
    edge, state = an_edge(), {n: t.detach() for n, t in hub_learner().state.items()}
    architecture = hub_learner().architecture if what != "architecture" else "another"
    if what == "missing":
        del state["fc.bias"]
    elif what == "nan":
        state["fc.weight"] = state["fc.weight"] * float("nan")
    elif what == "huge":  # finite weights, outputs that are not
        state |= {"fc.weight": torch.full_like(state["fc.weight"], 3e38), "penult.bias": state["penult.bias"].abs() + 9}
    bad = Params(tensors=state, architecture=architecture, version=1)
    with pytest.raises(KnowledgeError):
        edge[2].absorb(edge[1], [Received(tiny_card(*a_hub()), bad, Query(want="params"))])
    assert edge[2].state_dict()["held"]["network"] == {}


def test_going_on_from_saved_state_gives_the_same_bits(tmp_path: Any) -> None:
    def saved(who: Who) -> Who:
        checkpoint.save(tmp_path, {"learner": who[1].state_dict(), "strategy": dict(who[2].state_dict())})
        kept = checkpoint.load(tmp_path)
        its = hub_learner() if who[0] == "hub" else edge_learner(who[1].seed, bn=True)
        strategy = replace(who[2])
        its.load_state_dict(kept["learner"])
        strategy.load_state_dict(kept["strategy"])
        assert bits(strategy.state_dict()) == bits(who[2].state_dict())
        return who[0], its, strategy

    def story(stop: bool) -> tuple[str, ...]:
        hub, edges = a_hub(edges=2), [an_edge("a", 1, bn=True), an_edge("b", 2, bn=True)]
        one_round(hub, edges, 1)
        hub[2].absorb(hub[1], [Received(tiny_card(*edges[0]), brought_by(edges[0]))])  # half a round is waiting
        if stop:
            hub, edges = saved(hub), [saved(edge) for edge in edges]
        hub[2].absorb(hub[1], [Received(tiny_card(*edges[1]), brought_by(edges[1]))])
        assert hub[2].transfer(hub[1], epochs(1)).steps
        one_round(hub, edges, 3)
        x = torch.ones(2, DIMS)
        return (*(weights(w[1]) for w in (hub, *edges)), bits([e[2].predict(e[1], x) for e in edges]))

    assert story(True) == story(False)


def test_a_rolled_back_training_is_not_repeated() -> None:
    store, edge = FeatureStore(), an_edge()
    store.keep(Received(tiny_card(*edge), brought_by(edge)), brought_by(edge))
    before = store.state_dict()
    assert store.due(1)
    store.settle()
    store.load_state_dict(before)
    assert not store.due(1)
    assert [entry.sender for entry in store.all()] == [tiny_id("edge")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "server"}, {"distil": "sideways"}, {"alpha": -1.0}, {"temperature": 0.0}, {"edges": 0},
        {"scope": "some"}, {"shuffle": "no"}, {"reply_by": "first"}, {"batch_size": 0}, {"features": "int8"},
        {"labels": "float32"}, {"predict_by": "query"}, {"local_epochs": -1}, {"hub_epochs": -1},
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FedGKT(**wrong)


# ---- networks and costs


@pytest.mark.parametrize(
    ("edge", "hub", "parameters"), [(GKTSmall, GKTLarge, (770, 23_498)), (PatchEdge, PatchHub, (2_754, 230_362))]
)
def test_the_networks_fit_each_other_and_have_the_sizes_of_the_paper_and_the_prototypes(
    edge: type[gkt_models.EdgeNetwork], hub: Any, parameters: tuple[int, int]
) -> None:
    small, large = edge(), hub()
    x = torch.rand(3, 1, 28, 28, generator=seeded_rng("x"))
    h = small.extractor(x)
    assert h.shape == (3, *hub.feature_shape)
    assert large(h).shape == small(x).shape == (3, 10)
    of_small, of_large = cost(small, x), cost(large, h.detach())
    assert (of_small.parameters, of_large.parameters) == parameters
    assert of_large.parameters >= 9 * of_small.parameters
    assert of_large.flops > of_small.flops > 0
    assert same(dict(edge(seed=3).state_dict()), dict(edge(seed=3).state_dict()))
    assert not same(dict(edge(seed=3).state_dict()), dict(edge(seed=4).state_dict()))
    its = Learner(hub(), gkt_models.no_samples(hub.feature_shape, 10), held_out=0)
    assert its.classes == 10
    FedGKT(network=hub.__name__).check(Learner(edge(), (x, torch.arange(3)), classes=10, held_out=0))


def test_costs_are_counted() -> None:
    assert cost(nn.Linear(3, 5), torch.zeros(4, 3)) == Cost(parameters=20, flops=30)
    conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    assert cost(conv, torch.zeros(2, 2, 5, 5)) == Cost(parameters=72, flops=2 * 72 * 25)
    traffic = FeatureTraffic(samples=10, feature=1568, classes=10, label_bytes=8)
    assert traffic.up == 10 * (6272 + 40 + 8 + 8)
    assert traffic.down == 10 * (40 + 8)
    assert traffic.split_learning(2) == 2 * 10 * 2 * 6272
    assert averaging_bytes(nn.BatchNorm1d(2)) == 2 * (4 * 8 + 8)


# ---- whole peers

SEEDS = {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_the_network_changes_no_bit(kind: Any) -> None:
    """Three edges and a synchronous hub, in lockstep and without: the hub's version orders everything."""
    village, off = PeerNetwork(kind), Gate(metric="off")
    hub = village.peer("hub", hub_learner(), strategy=hub_of(edges=3), gate=off)
    edges = {n: village.peer(n, edge_learner(s, bn=True), strategy=edge_of(), gate=off) for n, s in SEEDS.items()}
    async with gathered(hub, *edges.values()), asyncio.timeout(60):
        async with asyncio.TaskGroup() as running:
            for edge in edges.values():
                running.create_task(edge.run(3))
    assert not [e for n in SEEDS for e in village.events[n].of(FetchFailed)]
    assert [e.version for e in village.events["hub"].of(Published)] == [0, 1, 2, 3]
    taught = [e for e in village.events["hub"].of(Trained) if e.steps]
    assert [sorted(e.providers) for e in taught] == [["a", "b", "c"]] * 3

    ids = {edge.id: name for name, edge in edges.items()}
    alone: Who = ("hub", hub_learner(), hub_of(edges=3))
    direct = {name: (name, edge_learner(seed, bn=True), edge_of()) for name, seed in SEEDS.items()}
    for version in (1, 2, 3):
        by_id(alone, direct, {name: peer for peer, name in ids.items()}, version)
    assert same(dict(hub.learner.state), dict(alone[1].state))
    for name, edge in edges.items():
        assert same(dict(edge.learner.state), dict(direct[name][1].state))
        x = torch.ones(2, DIMS)
        assert torch.equal(edge.strategy.predict(edge.learner, x), direct[name][2].predict(direct[name][1], x))


def by_id(hub: Who, edges: dict[str, Who], ids: dict[str, PeerId], version: int) -> None:
    """A round by direct calls under the ids that the peers had on the network."""
    pulls = {}
    for name, edge in edges.items():
        edge[2].local(edge[1], epochs(1))
        bring, *pulls[name] = questions(edge, tiny_card(*hub, version=version - 1))
        assert bring.brings is not None
        hub[2].absorb(hub[1], [Received(replace(tiny_card(*edge), id=ids[name]), bring.brings)])
    hub[2].transfer(hub[1], epochs(2))
    shown, card = snapshot(hub[1], hub[2], version), tiny_card(*hub, version=version)
    for name, edge in edges.items():
        for question in pulls[name]:
            answer = hub[2].answer(shown, Asked(replace(tiny_card(*edge), id=ids[name]), question))
            assert not isinstance(answer, Refusal | NotModified)
            edge[2].absorb(edge[1], [Received(card, answer, question.query)])


async def test_edges_in_lockstep_and_a_hub_that_trains_on_each_arrival() -> None:
    village = PeerNetwork()
    hub = village.peer("hub", hub_learner(), strategy=hub_of(edges=1, scope="arrival"))
    edges = [village.peer(n, edge_learner(s), strategy=edge_of(), pace="lockstep") for n, s in SEEDS.items()]
    async with gathered(hub, *edges), asyncio.timeout(60), asyncio.TaskGroup() as running:
        for edge in edges:
            running.create_task(edge.run(3))
    for edge in edges:
        assert not village.events[edge.name].of(FetchFailed)
        assert edge.strategy.state_dict()["held"]["network"]
    assert mark_of(torch.arange(2), torch.zeros(2)) == mark_of(torch.arange(2), torch.zeros(2, dtype=torch.uint8))
