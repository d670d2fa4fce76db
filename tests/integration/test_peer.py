"""Whole peers: what happens when they ask at once, fall silent, come late, leave, do harm, differ, or are resumed."""

import asyncio
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from peerlearn.config import Timing, brisk
from peerlearn.errors import ConfigError, IdentityError, LearnerError, PeerUnreachable, StateError
from peerlearn.events import (
    Decided,
    Event,
    Fetched,
    FetchFailed,
    Gated,
    MemorySink,
    PeerChanged,
    Published,
    Tee,
    Trained,
    Unfit,
)
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.isolated import Isolated
from peerlearn.testing import PeerNetwork, blob_learner, blob_model, blobs, gathered, same, timed, until
from peerlearn.types import Exposure, Span, steps

PATIENT = Timing(beat=0.1, suspect_after=10.0, gone_after=40.0, base=3.0, stall=3.0, retry_first=0.05, retry_most=0.5)


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_two_peers_that_ask_each_other_at_once_both_get_their_answers(kind) -> None:
    village = PeerNetwork(kind)
    amber, birch = village.peer("amber", blob_learner([0, 1], 1)), village.peer("birch", blob_learner([2, 3], 2))
    async with gathered(amber, birch), asyncio.timeout(60), asyncio.TaskGroup() as both:
        for peer in (amber, birch):
            both.create_task(peer.run(20))
    for name, other in (("amber", "birch"), ("birch", "amber")):
        fetched = village.events[name].of(Fetched)
        assert len(fetched) == 20
        assert {e.provider for e in fetched} == {other}
        assert not village.events[name].of(FetchFailed)


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_a_provider_deep_in_a_long_local_phase_answers_at_once(kind) -> None:
    """Its learner's thread is held until the consumer has finished: an answer that waited for it would never come."""
    village = PeerNetwork(kind, PATIENT)
    consumer, provider = village.peer("amber", blob_learner([0, 1], 1)), village.peer("birch", blob_learner([2, 3], 2))
    finished = threading.Event()
    async with gathered(consumer, provider), asyncio.TaskGroup() as tasks:
        long_phase = tasks.create_task(provider.train(finished.wait, 60))
        report = await consumer.transfer()
        assert not long_phase.done()
        assert report.providers == (provider.id,)
        finished.set()


async def test_answers_travel_while_local_training_runs() -> None:
    """Prefetch: each local phase is held until the answer for this round has come."""
    village, held, said = PeerNetwork(timing=PATIENT), HeldLocal(), MemorySink()
    amber = village.peer("amber", blob_learner([0, 1], 1), strategy=held, record=Tee(said, held.hear))
    birch = village.peer("birch", blob_learner([2, 3], 2))
    async with gathered(amber, birch):
        await amber.run(3)
    assert len(said.of(Fetched)) == 3
    assert held.waited == [True, True, True]


@dataclass
class HeldLocal(Distillation):
    """Distillation whose local phases last until an answer has come."""

    name: ClassVar[str] = "distillation"
    came: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    waited: list[bool] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        if isinstance(event, Fetched):
            self.came.release()

    def local(self, learner: Learner, span: Span) -> Report:
        self.waited.append(self.came.acquire(timeout=20))
        return Report(steps=1, samples=1, loss=0.0)


async def test_a_silent_provider_costs_one_stall_window_once_and_is_used_again_when_it_is_back() -> None:
    village = PeerNetwork(timing=PATIENT)
    amber, birch = village.peer("amber", blob_learner([0, 1], 1)), village.peer("birch", blob_learner([2, 3], 2))
    async with gathered(amber, birch):
        await amber.run(1)
        village.network.cut(birch.address)
        with timed() as watch:
            await amber.run(3)
        failed = village.events["amber"].of(FetchFailed)
        assert len(failed) == 1, [e.why for e in failed]
        assert watch.seconds < PATIENT.base + PATIENT.stall + 1.0
        assert any("again in" in e.why for e in village.events["amber"].of(Decided))
        village.network.mend(birch.address)
        async with asyncio.timeout(30):
            while not (await amber.transfer()).providers:
                await until(lambda: True)


async def test_late_joiners_and_leavers_need_no_restart_of_others() -> None:
    village = PeerNetwork()
    amber, birch = village.peer("amber", blob_learner([0, 1], 1)), village.peer("birch", blob_learner([2, 3], 2))
    async with amber:
        await amber.run(2)
        assert not village.events["amber"].of(Fetched)  # alone: learning went on all the same
        assert len([e for e in village.events["amber"].of(Trained) if e.phase == "local"]) == 2
        async with birch:
            await amber.meet(1, timeout=30)
            await amber.run(2)
            assert {e.provider for e in village.events["amber"].of(Fetched)} == {"birch"}
        await until(lambda: not amber.others())
        assert "left" in [e.status for e in village.events["amber"].of(PeerChanged)]
        report = await amber.transfer()
        assert not report.providers
        assert not report.steps
        again = village.peer("birch", blob_learner([2, 3], 2))
        async with again:
            await amber.meet(1, timeout=30)
            assert (await amber.transfer()).providers == (again.id,)


async def test_knowledge_that_has_not_changed_is_not_sent_again() -> None:
    village = PeerNetwork()
    amber, birch = village.peer("amber", blob_learner([0, 1], 1)), village.peer("birch", blob_learner([2, 3], 2))
    async with gathered(amber, birch):
        await amber.run(3)  # birch does not run: its snapshot stays version 0
    first, *later = village.events["amber"].of(Fetched)
    assert not first.not_modified
    assert first.body_bytes == sum(t.nbytes for t in birch.learner.state.values())
    assert len(later) == 2
    assert all(e.not_modified and e.body_bytes == 0 and e.received_bytes < 200 for e in later)
    assert [e.providers for e in village.events["amber"].of(Trained) if e.phase == "transfer"] == [("birch",)] * 3


async def test_pairwise_between_architectures_is_refused_at_start_in_one_sentence() -> None:
    village = PeerNetwork()
    amber = village.peer("amber", blob_learner([0, 1], 1), strategy="pairwise")
    birch = village.peer("birch", blob_learner([2, 3], 2, hidden=20), strategy="pairwise")
    async with gathered(amber, birch):
        await amber.run(1)
        await amber.run(2)
    assert not village.events["amber"].of(Fetched)
    (unfit,) = village.events["amber"].of(Unfit)  # said once
    assert unfit.provider == "birch"
    assert "pairwise transfer needs one architecture" in unfit.why
    assert "not birch" in village.events["amber"].of(Decided)[0].why


async def test_a_peer_of_another_strategy_is_not_asked_and_its_questions_are_refused() -> None:
    village = PeerNetwork()
    amber = village.peer("amber", blob_learner([0, 1], 1))
    birch = village.peer("birch", blob_learner([2, 3], 2), strategy="isolated")
    async with gathered(amber, birch):
        await amber.run(1)
    assert "answers by isolated" in village.events["amber"].of(Decided)[0].why
    assert not village.events["amber"].of(Fetched)


async def test_exposure_is_an_allow_list_and_both_lists_are_printed() -> None:
    with pytest.raises(ConfigError, match=r"shows card.histogram, outputs.public, params.full.*only card.histogram"):
        PeerNetwork().peer("amber", blob_learner([0, 1], 1), expose=[Exposure.HISTOGRAM])
    village = PeerNetwork()
    hidden = village.peer("birch", blob_learner([2, 3], 2), strategy="isolated")
    async with hidden:
        assert hidden.card.histogram == ()
        assert hidden.card.exposes == frozenset()


async def test_the_gate_rolls_harm_back_to_the_bit() -> None:
    village = PeerNetwork()
    amber = village.peer("amber", blob_learner([0, 1], 1), strategy=Harmful(), gate=Gate(tolerance=0.05))
    birch = village.peer("birch", blob_learner([2, 3], 2), strategy=Harmful())
    async with gathered(amber, birch):
        await amber.run(4)
        good, at = {n: t.clone() for n, t in amber.learner.state.items()}, amber.learner.mark().sampler
        report = await amber.transfer()
        assert report.providers
        gated = village.events["amber"].of(Gated)[-1]
        assert not gated.kept
        assert gated.after < gated.before - 0.05
        assert "beyond the tolerance" in gated.why
        assert same(good, amber.learner.state)
        assert amber.learner.mark().sampler == at


@dataclass
class Harmful(Distillation):
    """Distillation that ends its transfer by destroying the last layer."""

    name: ClassVar[str] = "distillation"

    def transfer(self, learner: Learner, span: Span) -> Report:
        report = super().transfer(learner, span)
        if report.providers:
            learner.state["fc.weight"].detach().mul_(-1)
        return report


async def test_the_callers_own_exception_comes_out_as_it_went_in() -> None:
    class Mine(Exception):
        pass

    village = PeerNetwork()
    with pytest.raises(Mine):
        async with village.peer("amber", blob_learner([0, 1], 1)), village.peer("birch", blob_learner([2, 3], 2)):
            raise Mine


async def test_a_bug_in_a_strategy_ends_the_peer_visibly() -> None:
    village = PeerNetwork()
    with pytest.raises(ZeroDivisionError):
        async with village.peer("amber", blob_learner([0, 1], 1), strategy=Buggy()) as amber:
            await amber.run(1)


@dataclass
class Buggy(Isolated):
    name: ClassVar[str] = "isolated"

    def local(self, learner: Learner, span: Span) -> Report:
        raise ZeroDivisionError


async def test_leaving_mid_step_ends_the_step_and_leaves_the_learner_to_the_app() -> None:
    village = PeerNetwork()
    amber = village.peer("amber", blob_learner([0, 1], 1, amount=20_000), strategy="isolated")
    with pytest.raises(TimeoutError):
        async with amber, asyncio.timeout(0.3):
            await amber.run(1000)
    after = {n: t.clone() for n, t in amber.learner.state.items()}
    await asyncio.sleep(0.1)
    assert same(after, dict(amber.learner.state))
    assert amber.learner.fit(steps(3)).steps == 3  # no interruption is left behind for the app to meet


async def test_cancelling_run_stops_training_and_another_run_goes_on() -> None:
    village = PeerNetwork()
    async with village.peer("amber", blob_learner([0, 1], 1), strategy="isolated") as amber:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await amber.run()
        done = amber.rounds_done
        await amber.run(2)
        assert amber.rounds_done >= done + 2


async def test_a_peer_is_driven_by_one_call_at_a_time() -> None:
    village = PeerNetwork()
    async with (
        village.peer("amber", blob_learner([0, 1], 1), strategy="isolated") as amber,
        asyncio.TaskGroup() as tasks,
    ):
        first = tasks.create_task(amber.run(3))
        await until(lambda: amber.rounds_done > 0)
        with pytest.raises(ConfigError, match="one run"):
            await amber.transfer()
        await first
        await amber.transfer()


async def test_a_program_that_holds_its_loop_up_is_told_and_blames_nobody(caplog: pytest.LogCaptureFixture) -> None:
    village = PeerNetwork(timing=brisk())
    amber, birch = village.peer("amber", blob_learner([0, 1], 1)), village.peer("birch", blob_learner([2, 3], 2))
    async with gathered(amber, birch):
        time.sleep(village.timing.gone_after + 0.2)  # noqa: ASYNC251  what an app does that trains on the loop
        await asyncio.sleep(2 * village.timing.beat)
        assert [c.name for c in amber.others() if c.alive] == ["birch"]
    assert "held its event loop up" in caplog.text


async def test_an_app_keeps_its_own_loop_and_its_next_answers_travel_while_it_trains() -> None:
    village = PeerNetwork()
    amber, birch = village.peer("amber", blob_learner([0, 1], 1)), village.peer("birch", blob_learner([2, 3], 2))
    async with gathered(amber, birch):
        for _ in range(3):
            before = amber.learner.steps
            await amber.train(amber.learner.fit, steps(5))
            assert amber.learner.steps == before + 5
            report = await amber.transfer()
            assert report.providers == (birch.id,)
        phases = [e.phase for e in village.events["amber"].of(Trained)]
        assert phases == ["transfer"] * 3  # local phases are the app's own
        assert [e.version for e in village.events["amber"].of(Published)] == [0, 1, 2, 3]
        predicted = await amber.predict(torch.eye(4) * 3)
        torch.testing.assert_close(predicted.sum(1), torch.ones(4))


async def test_a_resumed_run_comes_to_the_same_bits_as_one_that_was_never_interrupted(tmp_path: Path) -> None:
    village = PeerNetwork()
    whole = village.peer("amber", blob_learner([0, 1, 2, 3], 1), strategy="isolated")
    async with whole:
        await whole.run(4)
    first = village.peer("amber", blob_learner([0, 1, 2, 3], 1), strategy="isolated", state=tmp_path / "amber")
    async with first:
        await first.run(2)
        who = first.id
    second = village.peer("amber", blob_learner([0, 1, 2, 3], 1), strategy="isolated", state=tmp_path / "amber")
    async with second:
        assert second.id == who
        assert second.rounds_done == 2
        assert second.card.version == 2  # versions never go back
        await second.run(2)
    assert same(dict(whole.learner.state), dict(second.learner.state))


async def test_a_state_directory_that_does_not_fit_is_refused_with_the_way_out(tmp_path: Path) -> None:
    village = PeerNetwork()
    async with village.peer("amber", blob_learner([0, 1], 1), strategy="isolated", state=tmp_path) as amber:
        await amber.run(1)
    with pytest.raises(StateError, match="another state directory"):
        async with village.peer("amber", blob_learner([0, 1], 1), strategy="distillation", state=tmp_path):
            pass
    with pytest.raises(StateError, match=r"architecture|another model"):
        async with village.peer("amber", blob_learner([0, 1], 1, hidden=20), strategy="isolated", state=tmp_path):
            pass
    for name in ("state", "previous"):
        (tmp_path / "checkpoint" / f"{name}.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(StateError):
        async with village.peer("amber", blob_learner([0, 1], 1), strategy="isolated", state=tmp_path):
            pass


async def test_one_identity_is_held_by_one_peer(tmp_path: Path) -> None:
    village = PeerNetwork()
    async with village.peer("amber", blob_learner([0, 1], 1), state=tmp_path):
        with pytest.raises(IdentityError, match="in use"):
            async with village.peer("twin", blob_learner([0, 1], 1), state=tmp_path):
                pass


async def test_another_group_tag_is_another_world() -> None:
    village, elsewhere = PeerNetwork(), PeerNetwork()
    elsewhere.network, elsewhere.lobby = village.network, village.lobby
    async with (
        village.peer("amber", blob_learner([0, 1], 1)) as amber,
        elsewhere.peer("birch", blob_learner([2, 3], 2)),
    ):
        with pytest.raises(PeerUnreachable, match="met nobody"):
            await amber.meet(1, timeout=0.5)


async def test_listening_beyond_loopback_fails_closed() -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        PeerNetwork("grpc").peer("amber", blob_learner([0, 1], 1), listen="0.0.0.0:0")


async def test_only_named_providers_are_asked() -> None:
    village = PeerNetwork()
    amber = village.peer("amber", blob_learner([0, 1], 1), learn_from=["cedar"])
    others = [village.peer(n, blob_learner([2, 3], s)) for n, s in (("birch", 2), ("cedar", 3))]
    async with gathered(amber, *others):
        await amber.run(2)
        assert [c.name for c in others[0].others() if amber.id in c.card.learns_from] == []
    assert {e.provider for e in village.events["amber"].of(Fetched)} == {"cedar"}


async def test_the_card_says_who_learns_from_whom() -> None:
    village = PeerNetwork()
    amber, birch = village.peer("amber", blob_learner([0, 1], 1)), village.peer("birch", blob_learner([2, 3], 2))
    async with gathered(amber, birch):
        await amber.run(1)
        await until(lambda: any(birch.id in c.card.learns_from for c in birch.others()))


async def test_a_model_without_the_named_layer_is_refused_before_anything_is_opened() -> None:
    plain = Learner(nn.Sequential(nn.Linear(4, 4)), blobs([0, 1], 1), classes=4)
    with pytest.raises(LearnerError, match="penult"):
        PeerNetwork().peer("amber", plain, strategy="pairwise")


def test_net_has_a_common_start() -> None:
    assert same(blob_model().state_dict(), blob_model().state_dict())
    assert brisk().beat < Timing().beat
