"""The same seed gives the same bits: by direct calls, over memory, and over gRPC."""

import asyncio
from collections.abc import Callable

import pytest
from torch import Tensor

from peerlearn.assembly import first_card
from peerlearn.knowledge import Question, Received
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.schedule import Local, Transfer
from peerlearn.strategies.base import Asked, Strategy
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.pairwise.strategy import Pairwise
from peerlearn.testing import PeerNetwork, blob_learner, gathered, same
from peerlearn.types import Card, PeerId

ROUNDS = 3
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "distillation": Distillation,
    "pairwise": lambda: Pairwise(layer="penult", map_lr=1e-2),
}
SEEDS = {"amber": ([0, 1], 1), "birch": ([2, 3], 2), "cedar": ([1, 2], 3)}


def directly(make: Callable[[], Strategy], ids: dict[str, PeerId]) -> dict[str, dict[str, Tensor]]:
    """The method without any fabric: two dozen lines that say what the fabric must come to."""
    learners = {name: blob_learner(*SEEDS[name]) for name in ids}
    strategies = {name: make() for name in ids}
    cards = {name: card_of(learners[name], strategies[name], ids[name], name) for name in ids}
    for version in range(ROUNDS):
        snapshots = {n: learners[n].snapshot(version, strategies[n].publish(learners[n])) for n in ids}
        for name in ids:
            (local, _, transfer, _) = strategies[name].schedule.phases
            assert isinstance(local, Local)
            assert isinstance(transfer, Transfer)
            me, strategy = learners[name], strategies[name]
            strategy.local(me, local.span)
            for other in sorted((n for n in ids if n != name), key=lambda n: ids[n]):
                question = strategy.ask(me, cards[other])
                assert isinstance(question, Question)
                answer = strategies[other].answer(snapshots[other], Asked(cards[name], question))
                strategy.absorb(me, [Received(cards[other], answer, question.query)])  # type: ignore[arg-type]
            strategy.transfer(me, transfer.span)
    return {name: {n: t.clone() for n, t in learners[name].state.items()} for name in ids}


def card_of(its: Learner, strategy: Strategy, peer: PeerId, name: str) -> Card:
    return first_card(its, strategy, id=peer, name=name, group_tag="", exposes=strategy.exposes)


async def by_fabric(kind: str, make: Callable[[], Strategy]) -> tuple[dict[str, PeerId], dict[str, dict[str, Tensor]]]:
    village = PeerNetwork(kind)  # type: ignore[arg-type]
    off = Gate(metric="off")
    peers = [village.peer(n, blob_learner(*s), strategy=make(), pace="lockstep", gate=off) for n, s in SEEDS.items()]
    async with gathered(*peers):
        async with asyncio.TaskGroup() as running:
            for peer in peers:
                running.create_task(peer.run(ROUNDS))
        return {p.name: p.id for p in peers}, {p.name: dict(p.learner.state) for p in peers}


@pytest.mark.parametrize("kind", ["memory", "grpc"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_network_changes_no_bit(kind: str, strategy: str) -> None:
    ids, networked = await by_fabric(kind, STRATEGIES[strategy])
    alone = directly(STRATEGIES[strategy], ids)
    start = blob_learner(*SEEDS["amber"]).state
    for name in ids:
        assert same(networked[name], alone[name]), f"{name} differs"
        assert not same(networked[name], start)


async def test_lockstep_peers_of_unequal_speed_stay_within_one_round() -> None:
    """The slow one has twenty times the data; nobody runs ahead, and nobody is refused a version."""
    village = PeerNetwork()
    quick = village.peer("quick", blob_learner([0, 1], 1, amount=64), pace="lockstep")
    slow = village.peer("slow", blob_learner([2, 3], 2, amount=1280), pace="lockstep")
    async with gathered(quick, slow), asyncio.TaskGroup() as running:
        running.create_task(quick.run(5))
        running.create_task(slow.run(5))
    for name in ("quick", "slow"):
        fetched = [e for e in village.events[name].events if e.kind == "fetched"]
        assert [e.version for e in fetched] == [0, 1, 2, 3, 4]  # type: ignore[attr-defined]
        assert not [e for e in village.events[name].events if e.kind == "fetch-failed"]
