"""Kind of fault x moment x strategy: the consumer goes on within one stall window, each failure is one clear line,
nothing hangs, nothing is left behind, and no model is touched by what went wrong."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch

from peerlearn.config import Timing
from peerlearn.events import Decided, Fetched, FetchFailed, Trained
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.peer import Peer
from peerlearn.security import Identity
from peerlearn.strategies.base import Strategy
from peerlearn.strategies.clue.strategy import Clue
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.fedavg import FedAvg
from peerlearn.strategies.gossip import Gossip
from peerlearn.strategies.pairwise.strategy import Pairwise
from peerlearn.testing import PeerNetwork, bits, blob_learner, gathered, nothing_left, until
from peerlearn.transport.exchange.unary import UnaryHistory
from tests.hostile.faults import CASES, KINDS, Moment, Plan, badly
from tests.support.clue import DRIFTING, KNOWING, QUIET, stream_learner
from tests.support.mhd import mhd_learner, small_mhd

TIMING = Timing(beat=0.1, suspect_after=5.0, gone_after=15.0, base=1.2, stall=0.4, retry_first=0.05, retry_most=0.5)
OFF = Gate(metric="off")
"""What goes wrong must not get as far as the gate."""
SLACK = 5.0
"""Seconds that a loaded machine may add to a stall window."""


@dataclass(frozen=True)
class Way:
    """One way of exchanging: what it asks for, and how long until it has asked."""

    strategy: Callable[[], Strategy]
    consumer: Callable[[], Learner]
    provider: Callable[[], Learner]
    rounds: int = 2
    ahead: int = 0
    """Rounds that the provider does before."""


def ours(classes: list[int], seed: int) -> Callable[[], Learner]:
    return lambda: blob_learner(classes, seed, hidden=32)


WAYS = {
    "distillation": Way(Distillation, ours([0, 1], 1), ours([2, 3], 2)),  # asks for all parameters
    "pairwise": Way(Pairwise, ours([0, 1], 1), ours([2, 3], 2)),  # asks for one layer
    "fedavg": Way(FedAvg, ours([0, 1], 1), ours([2, 3], 2)),  # overwrites its own weights
    "gossip": Way(Gossip, ours([0, 1], 1), ours([2, 3], 2)),  # brings knowledge of its own
    "clue": Way(  # asks when its data drift, for sparse parameters
        Clue,
        lambda: stream_learner(DRIFTING, 1, lr=1e-5),
        lambda: stream_learner(KNOWING, 2),
        rounds=QUIET + 8,
        ahead=10,
    ),
    "mhd": Way(small_mhd, lambda: mhd_learner([0, 1, 2], 1), lambda: mhd_learner([1, 2, 3], 2)),  # asks for outputs
}

LONG = ("clue", "mhd")
"""Their answers do not fit into one frame."""

_lonely: dict[str, str] = {}


async def alone(name: str) -> str:
    """The model of a consumer that never met anybody, after the same rounds."""
    if name not in _lonely:
        way = WAYS[name]
        async with PeerNetwork(timing=TIMING).peer("amber", way.consumer(), strategy=way.strategy(), gate=OFF) as peer:
            await peer.run(way.rounds)
            _lonely[name] = model_of(peer)
    return _lonely[name]


def model_of(peer: Peer) -> str:
    return bits(dict(peer.learner.state))


def matrix() -> Iterator[object]:
    """All cases for the plainest way and for the one that brings a body; each kind once for the others, and the rest of
    these among the slow."""
    for name in WAYS:
        seen: set[str] = set()
        for kind, moment in CASES:
            if moment == "whole" and name in LONG:
                continue
            usual = name in ("distillation", "gossip") or kind not in seen
            seen.add(kind)
            yield pytest.param(name, kind, moment, marks=() if usual else pytest.mark.slow)


@pytest.mark.parametrize(("name", "kind", "moment"), [*matrix()])
async def test_whatever_a_provider_does_the_consumer_goes_on(name: str, kind: str, moment: Moment) -> None:
    await one_case(name, kind, moment, "memory")


@pytest.mark.parametrize(("kind", "moment"), [case for case in CASES if case[1] in ("before", "body", "whole")])
@pytest.mark.parametrize("name", ["gossip"])
async def test_whatever_a_provider_does_over_grpc_the_consumer_goes_on(name: str, kind: str, moment: Moment) -> None:
    await one_case(name, kind, moment, "grpc")


IN_UNARY_CALLS = [case for case in CASES if case[1] in ("before", "whole") and case[0] != "says twice"]
"""The answer to a unary call has no room for a second frame."""


@pytest.mark.parametrize(("kind", "moment"), IN_UNARY_CALLS)
async def test_whatever_a_provider_does_when_asked_by_a_unary_call_the_consumer_goes_on(
    kind: str, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first question on, so that nothing good has come before."""
    monkeypatch.setattr(UnaryHistory, "expected", lambda self, to, question, partial=None: True)
    plan = await one_case("gossip", kind, moment, "grpc")
    assert plan.in_unary_calls == plan.strikes


async def one_case(name: str, kind: str, moment: Moment, network: Literal["memory", "grpc"]) -> Plan:
    way, plan, expected = WAYS[name], Plan(kind, moment), await alone(name)
    async with nothing_left(more_fds=0 if network == "memory" else 32):
        village = PeerNetwork(network, TIMING)
        amber = village.peer("amber", way.consumer(), strategy=way.strategy(), gate=OFF)
        birch = village.peer("birch", way.provider(), strategy=way.strategy(), gate=OFF)
        async with asyncio.timeout(90):
            with badly(plan):
                await birch.__aenter__()
            try:
                async with amber:
                    await amber.meet(1, timeout=30)
                    await birch.run(way.ahead)
                    shown = model_of(birch)
                    await amber.run(way.rounds)
                    await judge(village, amber, way, plan, expected)
                    assert name == "gossip" or model_of(birch) == shown, "only gossip brings what changes the provider"
                    await until(lambda: plan.at_rest)
                    await recover(village, amber, plan)
            finally:
                await birch.__aexit__(None, None, None)
    return plan


async def judge(village: PeerNetwork, amber: Peer, way: Way, plan: Plan, expected: str) -> None:
    said = village.events["amber"]
    local = [event.round for event in said.of(Trained) if event.phase == "local"]
    assert sorted(set(local)) == list(range(way.rounds)), "every round was made"
    failed = said.of(FetchFailed)
    assert plan.strikes, "the provider was never asked"
    if plan.moment in KINDS[plan.kind].harmless:
        assert len(failed) <= plan.strikes
    else:
        assert len(failed) == plan.strikes, [event.why for event in failed]
        assert not said.of(Fetched)
        assert model_of(amber) == expected, "nothing that went wrong has touched the model"
    for event in failed:
        assert event.provider == "birch"
        assert event.why
        assert "\n" not in event.why
        assert event.seconds < TIMING.base + TIMING.stall + SLACK
    assert all(
        bool(torch.isfinite(tensor).all()) for tensor in amber.learner.state.values() if tensor.is_floating_point()
    )


async def recover(village: PeerNetwork, amber: Peer, plan: Plan) -> None:
    """From now on the provider is honest: it is asked again, and what it says is taken."""
    plan.heal()
    if amber.strategy.name == "clue":
        return  # it asks only while its data drift
    while not village.events["amber"].of(Fetched):
        await amber.run(1)


@pytest.mark.parametrize("network", ["memory", "grpc"])
@pytest.mark.parametrize("name", ["distillation", "pairwise", "gossip"])
async def test_one_that_dies_between_rounds_and_returns_elsewhere_with_an_older_snapshot_is_used_as_it_is(
    name: str, network: Literal["memory", "grpc"]
) -> None:
    way, identity = WAYS[name], Identity.ephemeral()
    village = PeerNetwork(network, replace(TIMING, suspect_after=1.0, gone_after=4.0))
    amber = village.peer("amber", way.consumer(), strategy=way.strategy(), gate=OFF)
    first = village.peer("birch", way.provider(), strategy=way.strategy(), gate=OFF, identity=identity)
    async with amber, asyncio.timeout(90):
        async with first:
            await amber.meet(1, timeout=30)
            await first.run(3)
            await until(lambda: [contact.version >= 3 for contact in amber.others()] == [True])
            while not village.events["amber"].of(Fetched):
                await amber.run(1)
            assert village.events["amber"].of(Fetched)[0].version >= 3
        second = village.peer("birch", way.provider(), strategy=way.strategy(), gate=OFF, identity=identity)
        async with second:
            await until(lambda: [c.session for c in amber.others() if c.alive] == [second.card.session])
            assert second.address != first.address
            while len(village.events["amber"].of(Fetched)) < 2:
                await amber.run(1)
        fetched = village.events["amber"].of(Fetched)[1]
        assert (fetched.version, fetched.not_modified) == (0, False), (
            "the old one's version says nothing of the new one"
        )
        assert not village.events["amber"].of(FetchFailed)


async def test_a_bad_provider_keeps_nobody_from_learning_from_a_good_one() -> None:
    """Three peers: the liar costs its own answers and no one else's; the two others go on teaching each other."""
    plan = Plan("flips bits", "body")
    village = PeerNetwork(timing=TIMING)
    amber, cedar = village.peer("amber", blob_learner([0, 1], 1)), village.peer("cedar", blob_learner([2, 3], 3))
    birch = village.peer("birch", blob_learner([2, 3], 2))
    with badly(plan):
        await birch.__aenter__()
    try:
        async with gathered(amber, cedar), asyncio.timeout(90):
            await amber.meet(2, timeout=30)
            await amber.run(4)
    finally:
        await birch.__aexit__(None, None, None)
    said = village.events["amber"]
    assert {event.provider for event in said.of(Fetched)} == {"cedar"}
    assert {event.provider for event in said.of(FetchFailed)} == {"birch"}
    transfers = [event.providers for event in said.of(Trained) if event.phase == "transfer"]
    assert transfers == [("cedar",)] * 4
    assert any("again in" in event.why for event in said.of(Decided)), "it says why birch is not asked, and until when"
