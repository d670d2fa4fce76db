"""Who is under suspicion or put aside is part of a saved run: a peer that was killed judges its teachers as before."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peerlearn.errors import StateError
from peerlearn.events import FetchFailed, Gated, Quarantined
from peerlearn.learning import checkpoint
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.checkpointing.store import FOLDER, SPAN
from peerlearn.peer import Peer
from peerlearn.security import Identity
from peerlearn.strategies.base import Strategy
from peerlearn.strategies.fedavg import FedAvg
from peerlearn.strategies.pairwise.strategy import Pairwise
from peerlearn.testing import PeerNetwork, blob_learner, gathered
from tests.support.liars import PATIENT, liar, onesided, scaled, skilled


def as_a_kill_leaves_it(state: Path, copy: Path) -> Path:
    """What is on disk now: nothing is said or saved on the way out."""
    shutil.copytree(state / FOLDER, copy / FOLDER)
    return copy


def rewritten(state: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Its latest checkpoint, changed, with a right checksum."""
    checkpoint.remove(state / FOLDER, name=SPAN)
    tree = checkpoint.load(state / FOLDER)
    change(tree["progress"])
    checkpoint.save(state / FOLDER, tree)


async def test_after_a_kill_the_liar_is_still_put_aside_and_is_asked_no_more(tmp_path: Path) -> None:
    village, its = PeerNetwork(timing=PATIENT), Identity.of_seed("amber")
    birch = village.peer("birch", blob_learner([0, 1, 2], 2), strategy=liar(Pairwise(), scaled))

    def amber(state: Path) -> Peer:
        return village.peer("amber", blob_learner([0, 1, 2], 1), strategy=Pairwise(), state=state, identity=its)

    async with birch, asyncio.timeout(60):
        async with amber(tmp_path / "first") as first:
            await first.meet(1)
            for _ in range(3):
                await first.run(1)
                await birch.run(1)
            barred = first.quarantined
            assert list(barred) == [birch.id]
            killed = as_a_kill_leaves_it(tmp_path / "first", tmp_path / "killed")
            older = as_a_kill_leaves_it(tmp_path / "first", tmp_path / "older")
        async with amber(killed) as second:
            assert second.quarantined == barred, "known before anybody is met"
            await second.meet(1)
            await second.run(2)
            assert not village.events["amber"].of(FetchFailed), "it was not asked"
            assert not village.events["amber"].of(Quarantined), "and its owner is not told once more"
        rewritten(older, lambda progress: progress.pop("reputation"))  # as it was written before there was such a thing
        async with amber(older) as third:
            assert third.rounds_done == 3
            assert not third.quarantined
            await third.meet(1)
            await third.run(1)
            assert village.events["amber"].of(FetchFailed), "it is judged anew"


async def test_nonsense_in_place_of_who_was_put_aside_is_said_and_not_taken_for_nobody(tmp_path: Path) -> None:
    village = PeerNetwork()
    async with village.peer("amber", blob_learner([0, 1], 1), state=tmp_path) as amber:
        await amber.run(1)
    rewritten(
        tmp_path, lambda progress: progress.update(reputation={"givers": [], "group_testing": {"standing": [["x"]]}})
    )
    with pytest.raises(StateError, match="who was quarantined cannot be read"):
        async with village.peer("amber", blob_learner([0, 1], 1), state=tmp_path):
            pass


async def test_stopped_after_each_round_a_peer_tries_its_suspects_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, cut = await trials(tmp_path / "whole", lives=1), await trials(tmp_path / "cut", lives=9)
    assert len(whole) == 9
    assert [who for who, _ in cut] == [who for who, _ in whole]
    assert cut == whole


async def trials(state: Path, *, lives: int) -> list[tuple[tuple[str, ...], float]]:
    """Nine rounds beside three teachers, of whom one lies: who taught in each, and what the gate measured after."""
    village = PeerNetwork(timing=PATIENT)

    def peer(name: str, its: Learner, strategy: Strategy, **more: Any) -> Peer:
        return village.peer(name, its, strategy=strategy, identity=Identity.of_seed(name), **more)

    others = [
        peer("birch", skilled([0, 1, 2, 3], 2), FedAvg()),
        peer("cedar", skilled([0, 1, 2, 3], 3), liar(FedAvg(), onesided)),
        peer("dogwood", skilled([0, 1, 2, 3], 4), FedAvg()),
    ]
    found: list[tuple[tuple[str, ...], float]] = []
    async with gathered(*others), asyncio.timeout(120):
        for _ in range(lives):
            its = blob_learner([0, 1, 2], 1, held_out=0.2) if found else skilled([0, 1, 2], 1)
            async with peer("amber", its, FedAvg(), state=state) as amber:
                await amber.meet(3)
                for _ in range(9 // lives):
                    for other in others:
                        await other.run(1)
                    await amber.run(1)
                found += [(event.providers, event.after) for event in village.events["amber"].of(Gated)]
        assert amber.quarantined.keys() == {Identity.of_seed("cedar").id}
    return found
