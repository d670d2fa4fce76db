"""A spy on every frame between whole peers: for each method, what crosses is what the method says it shows, no more."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from peerlearn import strategies
from peerlearn.config import Limits
from peerlearn.events import Fetched
from peerlearn.knowledge import Answer, Outputs
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.learner import Learner
from peerlearn.learning.snapshot import Snapshot
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.strategies.admm.strategy import AdmmGossip
from peerlearn.strategies.auto.strategy import Auto
from peerlearn.strategies.base import Asked, Strategy
from peerlearn.strategies.clue.strategy import Clue
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.fedavg import FedAvg, FedAvgShared
from peerlearn.strategies.gossip import Gossip
from peerlearn.strategies.isolated import Isolated, IsolatedBalanced
from peerlearn.strategies.mhd.strategy import MHD
from peerlearn.strategies.pairwise.strategy import Pairwise
from peerlearn.testing import PeerNetwork, blob_learner, blobs, gathered
from peerlearn.transport.exchange.dispatcher import read_introduction, read_notice
from peerlearn.transport.faults.queues import SimulatedLink
from peerlearn.transport.memory.transport import MemoryNetwork
from peerlearn.types import Address, Card, Exposure
from peerlearn.wire.cards import parse_card
from peerlearn.wire.frames import Assembler, Message, parse
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support import cloned as small_cloned
from tests.support import clue as streams
from tests.support import fedgkt as tiny_gkt
from tests.support import mhd as headed

LIMITS = Limits()
FULL, LAYERS, SIGNIFICANT = Exposure.PARAMS_FULL, Exposure.PARAMS_LAYERS, Exposure.PARAMS_SIGNIFICANT
FEATURES, LOGITS, LABELS = Exposure.PRIVATE_FEATURES, Exposure.PRIVATE_LOGITS, Exposure.PRIVATE_LABELS
PUBLIC = Exposure.PUBLIC_OUTPUTS

Who = tuple[str, Learner, Strategy]


# ---- the spy


@dataclass
class Heard:
    """All frames that went one way in one call."""

    kind: str
    source: Address
    up: bool
    frames: list[bytes] = field(default_factory=list)


class Tapped(SimulatedLink):
    def __init__(self, frames: list[bytes], *way: Any) -> None:
        super().__init__(*way)
        self._frames = frames

    async def put(self, data: bytes) -> bool:
        self._frames.append(data)
        return await super().put(data)


class Spy(MemoryNetwork):
    """The network in memory, with an ear at both directions of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Heard] = []

    def link(self, source: Address, target: Address, kind: str) -> SimulatedLink:
        heard = Heard(kind, source, up=len(self.heard) % 2 == 0)  # a call makes the way up, then the way down
        self.heard.append(heard)
        return Tapped(heard.frames, self._injector.way(source, target, kind), lambda: self.passage(source, target))


def messages(heard: Heard) -> Iterator[Message]:
    """Questions and answers that went through as a whole."""
    assembler = Assembler(LIMITS)
    for data in heard.frames:
        frame = parse(data, LIMITS)
        if isinstance(frame, pb.Frame) and frame.HasField("proceed"):
            continue
        message = assembler.feed(frame)
        if message is not None:
            yield message


def cards(heard: Heard) -> Iterator[Card]:
    for data in heard.frames:
        if heard.kind == "introduce":
            introduction = read_introduction(data, LIMITS)
            if introduction.HasField("card"):
                yield parse_card(introduction.card.card, LIMITS)
        elif heard.kind == "watch" and not heard.up:
            notice = read_notice(data, LIMITS)
            if notice.WhichOneof("body") == "card":
                yield parse_card(notice.card.card, LIMITS)


# ---- what it makes of what it hears: written a second time, apart from orchestrator/exposure.py


def kinds(message: Message, sender: Learner) -> set[Exposure]:
    """What the knowledge in this message shows. Fails for a tensor that has no name among the exposures."""
    header = message.header
    names = {line.name for line in header.tensors}
    if not header.HasField("knowledge"):
        assert not names
        assert not header.body_bytes
        return set()
    if header.knowledge.HasField("params"):
        assert names <= set(sender.state), "a tensor that is no part of the model"
        if any(line.encoding != pb.TensorHeader.DENSE and not line.base for line in header.tensors):
            return {SIGNIFICANT}
        return ({FULL} if names == set(sender.state) else {LAYERS}) if names else set()
    outputs, named = header.knowledge.outputs, names - {"ids"}
    if outputs.fingerprint in {public.fingerprint for public in sender.public_sets}:
        assert all(name.partition("/")[0] in ("logits", "embedding") for name in named), named
        return {PUBLIC} if named else set()
    return {{"feature": FEATURES, "logits": LOGITS, "label": LABELS}[name] for name in named}


def raw_inputs(its: Learner) -> Iterator[bytes]:
    """Inputs of samples, private, held out and public, as they would look on the wire: in binary, or as text."""
    private = its.sample(12)
    samples = [private, *([its.held_out.x[:4]] if its.held_out else []), *(p.x[:4] for p in its.public_sets)]
    rows = torch.cat([x.reshape(len(x), -1) for x in samples])
    for sample in rows[rows.any(dim=1)]:  # a hub without data has a sample of zeros
        for dtype in (torch.float16, torch.float32, torch.float64):
            yield sample.to(dtype).numpy().tobytes()
        yield repr(float(sample[0]))[:8].encode()


def leaks(spy: Spy, learners: Iterable[Learner]) -> bool:
    """Whether a raw input of anybody is in any frame, or in any body once it is unpacked."""
    said = [b"".join(heard.frames) for heard in spy.heard]
    said += [b"".join(message.body) for heard in spy.heard if heard.kind == "exchange" for message in messages(heard)]
    return any(needle in text for its in learners for needle in raw_inputs(its) for text in said)


# ---- the methods


def member(name: str, strategy: Strategy, seed: int, *, hidden: int = 12) -> Who:
    public = Unlabelled(blobs([0, 1, 2, 3], 99, 60)[0], torch.arange(60), "shared")
    its = blob_learner([seed, seed + 1], seed, hidden=hidden, amount=120, public_sets=[public])
    return name, its, strategy


def pair(make: Callable[[], Strategy], *, unlike: bool = False) -> list[Who]:
    return [member("amber", make(), 0), member("birch", make(), 1, hidden=8 if unlike else 12)]


def fedavg_hub() -> list[Who]:
    peers = [member(name, FedAvg(role="peer", hub="hub"), seed) for seed, name in enumerate(("amber", "birch"))]
    return [member("hub", FedAvg(role="hub", cohort=2), 2), *peers]


def cloned() -> list[Who]:
    return [(name, *small_cloned.made_of(name)) for name in small_cloned.TURNS]


def fedgkt(predict_by: str) -> list[Who]:
    hub = tiny_gkt.hub_of(edges=2, predict_by=predict_by)
    edges = [(name, tiny_gkt.edge_learner(seed), tiny_gkt.edge_of(predict_by=predict_by))
             for seed, name in enumerate(("amber", "birch"), 1)]  # fmt: skip
    return [("hub", tiny_gkt.hub_learner(), hub), *edges]


def clue() -> list[Who]:
    return [(name, its, Clue()) for name, its in streams.learners().items()]


def mhd(mode: Literal["outputs", "checkpoint"]) -> list[Who]:
    """Of one architecture: checkpoints, and embeddings without a projection, need that."""
    strategy = partial(MHD, refresh=4, public_batch=32, warm_up=1, mode=mode)
    return [(name, headed.mhd_learner(headed.CLASSES_OF[name][0], 1), strategy()) for name in ("amber", "birch")]


METHODS: dict[str, tuple[Callable[[], list[Who]], set[Exposure], int]] = {
    "isolated": (lambda: pair(Isolated), set(), 2),
    "isolated-balanced": (lambda: pair(IsolatedBalanced), set(), 2),
    "distillation": (lambda: pair(Distillation), {FULL}, 2),
    "distillation outputs": (lambda: pair(lambda: Distillation(via="outputs")), {PUBLIC}, 2),
    "pairwise": (lambda: pair(Pairwise), {FULL}, 2),
    "pairwise layer": (lambda: pair(lambda: Pairwise(teacher="layer")), {LAYERS}, 2),
    "gossip": (lambda: pair(Gossip), {FULL}, 2),
    "gossip pairs": (lambda: pair(lambda: Gossip(pairing="pairs")), {FULL}, 2),
    "admm-gossip": (lambda: pair(AdmmGossip), {FULL}, 2),
    "fedavg": (lambda: pair(FedAvg), {FULL}, 2),
    "fedavg hub": (fedavg_hub, {FULL}, 2),
    "fedavg-shared": (lambda: pair(FedAvgShared), {FULL}, 2),
    "clue": (clue, {SIGNIFICANT}, 22),
    "cloned": (cloned, {FULL}, 1),
    "fedgkt": (lambda: fedgkt("own"), {FEATURES, LOGITS, LABELS}, 2),
    "fedgkt download": (lambda: fedgkt("download"), {FEATURES, LOGITS, LABELS, FULL}, 2),
    "mhd": (lambda: mhd("outputs"), {PUBLIC}, 2),
    "mhd checkpoint": (lambda: mhd("checkpoint"), {FULL}, 2),
    "auto": (lambda: pair(Auto), {FULL}, 2),
    "auto unlike": (lambda: pair(Auto, unlike=True), {PUBLIC}, 2),
    "auto outputs": (lambda: pair(lambda: Auto(via="outputs")), {PUBLIC}, 2),
}
"""Peers, the exposures that are seen between them, and rounds. A hub makes no rounds of its own."""


async def spied_on(people: list[Who], rounds: int) -> tuple[Spy, PeerNetwork]:
    village, spy = PeerNetwork(), Spy()
    village.network = spy
    pace = "free" if people[0][0] == "hub" else "lockstep"
    peers = [
        village.peer(name, its, strategy=strategy, pace=pace, gate=Gate(metric="off")) for name, its, strategy in people
    ]
    async with gathered(*peers), asyncio.timeout(60), asyncio.TaskGroup() as running:
        for peer in peers:
            running.create_task(peer.run(0 if peer.name == "hub" else rounds))
    return spy, village


def test_every_method_is_spied_on() -> None:
    assert {name.partition(" ")[0] for name in METHODS} == set(strategies.names())
    for name, (make, _, _) in METHODS.items():
        assert {strategy.name for _, _, strategy in make()} == {name.partition(" ")[0]}


@pytest.mark.parametrize("name", METHODS)
async def test_what_crosses_is_what_the_method_says_it_shows(name: str) -> None:
    make, expected, rounds = METHODS[name]
    people = make()
    spy, village = await spied_on(people, rounds)
    by_address = {Address("memory", place): who for place, who in enumerate(people, 1)}
    seen: set[Exposure] = set()
    assert {heard.kind for heard in spy.heard} <= {"introduce", "watch", "exchange"}
    for heard in spy.heard:
        _, its, strategy = by_address[heard.source]
        if heard.kind == "exchange":
            for message in messages(heard):
                shown = kinds(message, its)
                assert shown <= strategy.exposes, (heard.source, shown)
                seen |= shown
        for card in cards(heard):
            counts = Exposure.HISTOGRAM in strategy.exposes
            assert card.exposes == strategy.exposes
            assert bool(card.histogram) == counts
    assert seen == expected
    assert any(village.events[who].of(Fetched) for who, _, _ in people) == bool(expected)
    assert not leaks(spy, [its for _, its, _ in people])


# ---- the spy can hear


class Leaky(Distillation):
    """Answers with private inputs where logits were asked for."""

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        answer = super().answer(snapshot, asked)
        assert isinstance(answer, Outputs)
        return replace(answer, tensors={"logits": STOLEN[: len(answer.ids)]})


STOLEN: Tensor = blob_learner([0, 1], 0, amount=120).sample(60)


async def test_the_spy_finds_a_raw_input_that_crosses() -> None:
    people = [member("amber", Leaky(via="outputs"), 0), member("birch", Distillation(via="outputs"), 1)]
    spy, _ = await spied_on(people, 1)
    assert torch.equal(people[0][1].sample(12), STOLEN[:12])
    assert leaks(spy, [people[0][1]])
    assert not leaks(spy, [people[1][1]])
