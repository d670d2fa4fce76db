"""What many ask alike is worked out once, is the same for all, and is kept no longer than its snapshot."""

import asyncio
import gc
import weakref
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from peerlearn.errors import RefusalReason
from peerlearn.knowledge import Answer, Params, Refusal, Sparse
from peerlearn.learning.snapshot import Snapshot
from peerlearn.orchestrator.provider.answer_cache import AnswerCache
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.strategies.base import Asked
from peerlearn.strategies.distillation import Distillation
from peerlearn.testing import PeerNetwork, blob_learner, gathered, same, tiny_learner
from peerlearn.wire.v1 import fabric_pb2 as pb


class Maker:
    """Answers of a certain size, and how many of them it has made."""

    def __init__(self, values: int = 10) -> None:
        self.made = 0
        self._values = values

    def __call__(self) -> Answer:
        self.made += 1
        return Params(tensors={"w": torch.zeros(self._values)}, architecture="a", version=1)


def query(want: str = "params", select: bytes = b"") -> pb.Query:
    return pb.Query(want=want, select=select)


def snapshot(version: int = 1) -> Snapshot:
    return tiny_learner().snapshot(version)


def test_who_asks_alike_is_given_the_same() -> None:
    alike, shown, make = AnswerCache(1 << 20), snapshot(), Maker()
    one = alike.once(shown, query(), make)
    assert alike.once(shown, query(), make) is one
    assert alike.get(shown, pb.Query(want="params", have=3, at=1, held=b"x" * 16)) is one
    assert make.made == 1


@pytest.mark.parametrize("other", [query("outputs"), query(select=b'{"layers":["fc"]}'), query(select=b"{}")])
def test_who_asks_otherwise_is_given_its_own(other: pb.Query) -> None:
    alike, shown, make = AnswerCache(1 << 20), snapshot(), Maker()
    one = alike.once(shown, query(), make)
    assert alike.get(shown, other) is None
    assert alike.once(shown, other, make) is not one


def test_another_snapshot_is_answered_from_anew() -> None:
    alike, make, shown, newer = AnswerCache(1 << 20), Maker(), snapshot(1), snapshot(1)
    assert alike.once(shown, query(), make) is not alike.once(newer, query(), make)


def test_nothing_is_kept_of_a_snapshot_that_is_gone() -> None:
    alike, shown = AnswerCache(1 << 20), snapshot()
    memory = weakref.ref(alike.once(shown, query(), Maker()).answer.tensors["w"])  # type: ignore[union-attr]
    gc.collect()
    assert memory() is not None
    del shown
    gc.collect()
    assert memory() is None


@pytest.mark.parametrize(("values", "kept"), [(1024, True), (1025, False)])
def test_what_is_too_large_is_made_anew(values: int, kept: bool) -> None:
    alike, shown, make = AnswerCache(4096), snapshot(), Maker(values)
    alike.once(shown, query(), make)
    assert (alike.get(shown, query()) is not None) is kept
    alike.once(shown, query(), make)
    assert make.made == (1 if kept else 2)


def test_sparse_values_count_with_their_indices() -> None:
    half = Sparse((100,), torch.arange(50), torch.zeros(50))
    alike, shown = AnswerCache(50 * 12 - 1), snapshot()
    alike.once(shown, query(), lambda: Params(tensors={"w": half}, architecture="a", version=1))
    assert alike.get(shown, query()) is None


def test_the_oldest_goes_first_by_number_and_by_size() -> None:
    shown = snapshot()
    many, queries = AnswerCache(1 << 20), [query(select=b"%d" % number) for number in range(AnswerCache.MOST + 1)]
    for each in queries:
        many.once(shown, each, Maker())
    assert [many.get(shown, each) is not None for each in queries] == [False] + [True] * AnswerCache.MOST
    large = AnswerCache(4096)
    for each in queries[:3]:
        large.once(shown, each, Maker(500))
    assert [large.get(shown, each) is not None for each in queries[:3]] == [False, True, True]


def test_a_refusal_is_not_kept() -> None:
    alike, shown = AnswerCache(1 << 20), snapshot()
    alike.once(shown, query(), lambda: Refusal(RefusalReason.UNFIT, "not yet"))
    assert alike.get(shown, query()) is None


@dataclass
class Counting(Distillation):
    """Says how often it was asked for an answer from each version."""

    name: ClassVar[str] = "counting"
    asked: dict[int, int] = field(default_factory=dict)

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        self.asked[snapshot.version] = self.asked.get(snapshot.version, 0) + 1
        return super().answer(snapshot, asked)


@dataclass
class Personal(Counting):
    name: ClassVar[str] = "personal"
    shares_answers: ClassVar[bool] = False


@pytest.mark.parametrize("kind", ["memory", "grpc"])
@pytest.mark.parametrize(("method", "times"), [(Counting, 1), (Personal, 3)])
async def test_a_provider_answers_once_for_all_who_walk_in_step(kind: Any, method: Any, times: int) -> None:
    village, off = PeerNetwork(kind), Gate(metric="off")
    names = ("amber", "birch", "cedar", "dogwood")
    peers = [
        village.peer(name, blob_learner([n, (n + 1) % 4], n, amount=96), strategy=method(), pace="lockstep", gate=off)
        for n, name in enumerate(names)
    ]
    async with gathered(*peers):
        async with asyncio.TaskGroup() as running:
            for peer in peers:
                running.create_task(peer.run(2))
    for peer in peers:
        assert isinstance(peer.strategy, Counting)
        assert peer.strategy.asked == {0: times, 1: times}
    assert not same(dict(peers[0].learner.state), dict(peers[1].learner.state))
