"""Whole peers under a virtual clock: the storm breaks nothing, the same seed gives the same bits, and each invariant
fires when what it guards is broken on purpose."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from peerlearn.cli.main import main
from peerlearn.config import Limits, brisk
from peerlearn.directory import Directory
from peerlearn.errors import ConfigError, IdentityError, PeerRefused, RefusalReason
from peerlearn.membership import Membership
from peerlearn.membership.resolving import Resolver
from peerlearn.orchestrator.consumer.exchange import Exchanges
from peerlearn.orchestrator.training.gate import Gate, Verdict
from peerlearn.security.identity import Identity
from peerlearn.simulation import fault_schedule
from peerlearn.simulation.environment import Witnessed
from peerlearn.simulation.loop import Machine, StandstillError, VirtualLoop, on
from peerlearn.simulation.scenario import Scenario
from peerlearn.simulation.world import SimulationResult, simulate
from peerlearn.transport.exchange.deadline import Deadline
from peerlearn.transport.memory.transport import MemoryNetwork

SMALL = Scenario(peers=5, hours=2, beat=120)
ARGUMENTS = ["simulate", "--peers", "5", "--hours", "2", "--beat", "120"]


def virtually(run: Callable[[VirtualLoop], Any]) -> Any:
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(run(loop))


# ---------------------------------------------------------------- the loop


def test_the_clock_jumps_and_timers_fire_in_order() -> None:
    async def run(loop: VirtualLoop) -> list[tuple[str, float]]:
        fired: list[tuple[str, float]] = []

        def note(name: str) -> None:
            fired.append((name, loop.time()))

        for name, when in (("late", 7200.0), ("first", 5.0), ("second", 5.0)):
            loop.call_at(when, note, name)
        loop.call_later(6.0, fired.append, ("never", 0.0)).cancel()
        await asyncio.sleep(86_400)
        return [*fired, ("end", loop.time())]

    assert virtually(run) == [("first", 5.0), ("second", 5.0), ("late", 7200.0), ("end", 86_400.0)]


def test_a_machine_that_sleeps_does_what_was_due_when_it_wakes_and_others_go_on() -> None:
    async def ticking(loop: VirtualLoop, ticks: list[float]) -> None:
        for _ in range(3):
            await asyncio.sleep(10)
            ticks.append(loop.time())

    async def run(loop: VirtualLoop) -> tuple[list[float], list[float], float]:
        laptop = Machine("laptop")
        mine: list[float] = []
        others: list[float] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticking(loop, mine), context=on(laptop))
            tasks.create_task(ticking(loop, others))
            await asyncio.sleep(15)
            loop.freeze(laptop)
            await asyncio.sleep(85)
            loop.thaw(laptop)
        return mine, others, laptop.slept

    assert virtually(run) == ([10.0, 100.0, 110.0], [10.0, 20.0, 30.0], 85.0)


def test_what_would_wait_for_ever_or_run_for_ever_is_an_error() -> None:
    async def waits(loop: VirtualLoop) -> None:
        await asyncio.Event().wait()

    with pytest.raises(StandstillError, match="everybody waits"):
        virtually(waits)


def test_what_is_sent_to_a_thread_is_done_here_and_a_thread_that_calls_in_is_refused() -> None:
    async def run(loop: VirtualLoop) -> int:
        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="cannot be repeated"):
                loop.call_soon_threadsafe(print)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return await asyncio.to_thread(threading.get_ident)

    assert virtually(run) == threading.get_ident()


def test_sockets_and_files_are_out_of_reach() -> None:
    async def run(loop: VirtualLoop) -> None:
        with pytest.raises(NotImplementedError):
            await asyncio.open_connection("127.0.0.1", 1)

    virtually(run)


# ---------------------------------------------------------------- what is drawn


def test_the_storm_has_everything_and_all_who_went_return_before_it_ends() -> None:
    scenario = Scenario(peers=50, seed=3)
    blows = fault_schedule.blows(scenario)
    kinds = {type(blow).__name__ for blow in blows}
    assert kinds == {"Kill", "Crash", "Leave", "Return", "Sleep", "Part", "Meet", "Flap", "ConditionsChange"}
    assert blows == fault_schedule.blows(scenario) != fault_schedule.blows(replace(scenario, seed=4))
    assert max(blow.at for blow in blows) <= scenario.storm_ends
    away: set[int] = set()
    for blow in blows:
        if isinstance(blow, fault_schedule.Kill | fault_schedule.Crash | fault_schedule.Leave):
            away.add(blow.place)
        if isinstance(blow, fault_schedule.Return):
            away.remove(blow.place)
    assert not away


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peers": 1}, "2 to 1000 peers"),
        ({"hours": 0}, "up to 10,000 hours"),
        ({"faults": "rain"}, "none, calm, storm"),
        ({"beat": 0}, "positive number of seconds"),
        ({"hours": 1, "beat": 600}, "take more hours, or a shorter beat"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Scenario(**settings)


# ---------------------------------------------------------------- it holds, and to the bit


@pytest.mark.parametrize("seed", range(20))
def test_the_storm_breaks_nothing(seed: int) -> None:
    outcome = simulate(replace(SMALL, seed=seed))
    assert outcome.breach is None, f"{outcome.breach}; {outcome.scenario.command}"
    assert outcome.rounds > 15
    assert outcome.counts["fetched"] > 15
    assert outcome.known_after <= outcome.scenario.settling


@pytest.mark.parametrize("strategy", ["gossip", "fedavg"])
def test_other_methods_hold_too(strategy: str) -> None:
    outcome = simulate(replace(SMALL, seed=5, strategy=strategy))
    assert outcome.breach is None, f"{outcome.breach}; {outcome.scenario.command}"
    assert outcome.rounds > 15


def test_the_same_seed_gives_the_same_bits_in_another_process_and_another_seed_does_not() -> None:
    """Another hash seed too: no result may hang on the order of a set."""
    here = [simulate(replace(SMALL, seed=seed)).digest for seed in (1, 1, 2)]
    done = subprocess.run(
        [sys.executable, "-m", "peerlearn", *ARGUMENTS, "--seed", "1", "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "77"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    elsewhere = json.loads(done.stdout.splitlines()[-1])["digest"]
    assert here[0] == here[1] == elsewhere != here[2]


def test_one_that_started_again_believes_only_who_goes_on_saying_that_it_is_alive_elsewhere() -> None:
    """Two who slept, one after the other, still have its former self in mind: that is no second process."""
    timing = brisk()

    async def run(loop: VirtualLoop) -> None:
        identity = Identity.of_seed("restarted")
        directory = Directory(identity.id, group_tag="", timing=timing, limits=Limits())
        transport = MemoryNetwork().transport(timing=timing)
        membership = Membership(identity, directory, transport, [], timing=timing, limits=Limits())

        def refused_by(who: str) -> None:
            membership._twins.refused(PeerRefused(who, RefusalReason.IDENTITY, "alive under another session"))

        refused_by("birch")
        await asyncio.sleep(2 * timing.suspect_after)
        refused_by("cedar")
        with pytest.raises(IdentityError, match="refused by birch"):
            refused_by("birch")

    virtually(run)


# ---------------------------------------------------------------- each invariant fires


def breach(**changes: Any) -> SimulationResult:
    outcome = simulate(replace(SMALL, **changes))
    assert outcome.breach is not None
    return outcome


def rule_of(**changes: Any) -> str:
    found = breach(**changes).breach
    assert found is not None
    return found.rule


def test_a_gate_that_keeps_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "judge", lambda self, before, after: Verdict(True, before, after, "as you like"))
    assert any(
        found.rule == "gate"
        for seed in range(20)
        if (found := simulate(replace(SMALL, seed=seed, strategy="gossip")).breach) is not None
    )


def test_a_gate_that_lies_about_what_it_measured_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Gate.judge
    monkeypatch.setattr(Gate, "judge", lambda self, before, after: replace(honest(self, before, after), after=2.0))
    assert rule_of() == "gate"


def test_a_version_that_goes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def noticed(self: Directory, peer: Any, session: str, version: int) -> None:
        contact = self._in_session(peer, session)
        if contact is not None and contact.version != version:
            self._put(replace(contact, version=version - contact.version), "version")

    monkeypatch.setattr(Directory, "noticed_version", noticed)
    assert rule_of() == "version"


def test_an_exchange_that_does_not_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def for_ever(self: Deadline, when: float, awaited: Any) -> Any:
        return await awaited

    monkeypatch.setattr(Deadline, "_until", for_ever)
    assert rule_of() == "ends"


def test_a_list_that_grows_without_bound_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    came = Exchanges._came

    def leaking(self: Exchanges, *args: Any) -> None:
        self._names |= {f"{len(self._names)}/{n}": "" for n in range(9)}
        came(self, *args)

    monkeypatch.setattr(Exchanges, "_came", leaking)
    assert rule_of() == "memory"


def test_peers_that_do_not_find_one_another_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resolver, "hinted", lambda self, hint: None)
    assert rule_of() == "reunion"


def test_an_exception_in_a_peer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Exchanges, *args: Any, **more: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Exchanges, "collect", broken)
    found = breach().breach
    assert found is not None
    assert (found.rule, "ZeroDivisionError" in found.sentence) == ("quiet", True)


def test_a_task_that_is_left_at_the_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    introduce, left = Witnessed.introduce, []

    async def leaking(self: Witnessed, *args: Any) -> Any:
        left.append(asyncio.get_running_loop().create_task(asyncio.sleep(1e9), name="leak"))
        return await introduce(self, *args)

    monkeypatch.setattr(Witnessed, "introduce", leaking)
    found = breach(faults="none").breach
    assert found is not None
    assert (found.rule, "leak" in found.sentence) == ("quiet", True)


# ---------------------------------------------------------------- the command


def test_a_breach_is_an_exit_code_a_sentence_and_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Resolver, "hinted", lambda self, hint: None)
    assert main([*ARGUMENTS, "--seeds", "4..6", "--json"]) == 11
    out, err = capsys.readouterr()
    replay = "peerlearn simulate --peers 5 --hours 2 --faults storm --seed 4 --beat 120"
    assert "seed 4 breaks the rule 'reunion' after 7200.000 virtual seconds" in err
    assert replay in err
    runs, error = (json.loads(line) for line in out.splitlines())
    assert [run["breach"]["replay"] for run in runs["runs"]] == [replay]
    assert error["error"]["exit_code"] == 11


def test_one_screen_of_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--faults", "calm", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "5 peers, 2.0 virtual hours" in out
    assert "every invariant held" in out
    assert len(out.splitlines()) < 20


@pytest.mark.parametrize("seeds", ["7", "9..3", "a..b"])
def test_seeds_are_a_span(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--seeds", seeds]) == 2
    assert "FIRST..LAST" in capsys.readouterr().err
