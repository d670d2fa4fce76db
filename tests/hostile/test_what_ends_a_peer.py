"""Only a bug in the app's own code, the app's own wish or a signal ends a peer: what others send, a request that is
given up, and an app's measure or sink that fails do not."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peerlearn.events import Decided, Evaluated, FetchFailed, Trained
from peerlearn.knowledge import Params
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.strategies import registry
from peerlearn.testing.learners import blob_learner, blobs
from peerlearn.testing.network import PeerNetwork, gathered
from peerlearn.testing.waiting import until

OFF = Gate(metric="off")


class Indexed(nn.Module):
    """Reads a table by an index buffer, as windowed attention does, and whitens its input by a covariance."""

    def __init__(self, *, index: int = 0, variance: float = 1.0) -> None:
        super().__init__()
        self.index: Tensor
        self.covariance: Tensor
        self.register_buffer("index", torch.tensor([0, 1, index]))
        self.register_buffer("covariance", torch.eye(4) * variance)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table = nn.Parameter(torch.randn(3, 4) * 0.1)
            self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        white = torch.linalg.cholesky(self.covariance)
        logits: Tensor = self.fc(x @ white) + self.table[self.index].mean(dim=0)
        return logits


def indexed(classes: list[int], seed: int, **poison: Any) -> Learner:
    return Learner(Indexed(**poison), blobs(classes, seed), classes=4, batch_size=32, seed=seed)


def poisoned(strategy: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Any:
    """The strategy, with answers and questions that bring a changed state."""
    made: Any = registry.make(strategy)
    answer = made.answer

    def bent(snapshot: Any, asked: Any) -> Any:
        given = answer(snapshot, asked)
        if isinstance(given, Params) and given.tensors.keys() >= {"index", "covariance"}:
            tensors = {name: t for name, t in given.tensors.items() if isinstance(t, Tensor)}
            return Params(
                tensors=change(tensors), architecture=given.architecture, version=given.version, member=given.member
            )
        return given

    made.answer = bent
    return made


def far_index(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "index": torch.tensor([0, 1, 10**9])}


def no_covariance(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "covariance": -torch.eye(4)}


@pytest.mark.parametrize("strategy", ["fedavg", "distillation", "gossip"])
@pytest.mark.parametrize(
    ("change", "said"),
    [(far_index, "differs from this model's own"), (no_covariance, "makes this model fail")],
    ids=["index", "covariance"],
)
async def test_a_state_that_makes_the_model_raise_is_refused_and_its_receiver_learns_on(
    strategy: str, change: Any, said: str
) -> None:
    network = PeerNetwork()
    amber = network.peer("amber", indexed([0, 1], 1), strategy=strategy, gate=OFF)
    birch = network.peer("birch", indexed([2, 3], 2), strategy=poisoned(strategy, change), gate=OFF)
    async with gathered(amber, birch):
        await amber.run(2)
        failed = [event.why for event in network.events["amber"].of(FetchFailed)]
        assert any(said in why for why in failed), failed
        assert len(network.events["amber"].of(Trained)) >= 2
        assert torch.isfinite(await amber.predict(torch.randn(3, 4))).all()


async def test_the_apps_own_fault_is_not_laid_to_the_charge_of_others() -> None:
    class Broken(Indexed):
        works = True

        def forward(self, x: Tensor) -> Tensor:
            if not self.training and not Broken.works:
                raise ZeroDivisionError("mine")
            return super().forward(x)

    network = PeerNetwork()
    broken = Learner(Broken(), blobs([0, 1], 1), classes=4, batch_size=32, held_out=0)
    amber = network.peer("amber", broken, strategy="fedavg", gate=OFF)
    birch = network.peer("birch", indexed([2, 3], 2), strategy="fedavg", gate=OFF)

    async def breaking() -> None:
        async with birch, amber:
            await amber.meet(1, timeout=30)
            Broken.works = False
            await amber.run(2)

    with pytest.raises(ZeroDivisionError, match="mine"):
        await breaking()


async def test_a_request_that_is_given_up_while_it_waits_for_training_ends_nothing_else() -> None:
    network = PeerNetwork()
    amber = network.peer("amber", blob_learner([0, 1], 1, amount=60_000), strategy="isolated")
    async with amber, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(amber.run(1))
        await asyncio.sleep(0.1)
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await amber.predict(torch.randn(1, 4))
        await running
        assert amber.rounds_done == 1
        assert (await amber.predict(torch.randn(1, 4))).shape == (1, 4)


async def test_a_measure_that_fails_costs_its_metrics_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def measure(predict: object) -> dict[str, float]:
        raise KeyError("my metric")

    network = PeerNetwork()
    async with network.peer("amber", blob_learner([0, 1], 1), strategy="isolated", measure=measure) as amber:
        await amber.run(3)
        assert amber.rounds_done == 3
        assert not network.events["amber"].of(Evaluated)
    assert len([message for message in caplog.messages if "`measure` failed" in message]) == 1


async def test_a_sink_that_fails_costs_its_events_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def full(event: object) -> None:
        raise OSError(28, "No space left on device")

    network = PeerNetwork()
    amber = network.peer("amber", blob_learner([0, 1], 1), strategy="fedavg", record=full)
    birch = network.peer("birch", blob_learner([2, 3], 2), strategy="fedavg")
    async with gathered(amber, birch):
        await amber.run(2)
        await birch.run(1)
        assert amber.rounds_done == 2
        await until(lambda: bool(birch.others()))
    assert len([message for message in caplog.messages if "`record` failed" in message]) == 1


async def test_a_transfer_that_fails_by_what_was_absorbed_is_undone_and_its_givers_are_suspected() -> None:
    """The poison works only when it is used, so that no check before could see it."""
    network = PeerNetwork()
    made: Any = registry.make("fedavg")
    transfer = made.transfer

    def poisonous(learner: Learner, span: object) -> Any:
        report = transfer(learner, span)
        if report.providers:
            raise RuntimeError("an operator of the model does not take this")
        return report

    made.transfer = poisonous
    amber = network.peer("amber", blob_learner([0, 1], 1), strategy=made, gate=OFF)
    birch = network.peer("birch", blob_learner([2, 3], 2), strategy="fedavg", gate=OFF)
    async with gathered(amber, birch):
        for _ in range(4):
            await amber.run(1)
            await birch.run(1)
        said = [event.why for event in network.events["amber"].of(Decided) if "transfer abandoned" in event.why]
        assert said
        assert "makes this model fail: RuntimeError" in said[0]
        assert birch.id in amber.quarantined
