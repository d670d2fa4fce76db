"""The invariants of a simulation, checked after every event. The first breach ends the run."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from peerlearn.directory import Change
from peerlearn.events import Event, Gated, PhaseStarted, Published, Trained
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.simulation.life import Life, sizes
from peerlearn.simulation.scenario import Scenario

if TYPE_CHECKING:
    from peerlearn.simulation.loop import VirtualLoop

_ROUNDING = 1e-6
"""Tolerance for differences in the order of summation."""


@dataclass(frozen=True, slots=True)
class Breach:
    """A broken invariant. `rule`: gate, version, ends, memory, reunion or quiet; `at`: virtual seconds."""

    rule: str
    sentence: str
    at: float

    def __str__(self) -> str:
        return f"{self.sentence} (rule {self.rule!r}, after {self.at:.3f} virtual seconds)"


class Invariants:
    """Checks the invariants. `broken` is done with the first breach; `checks` counts the checks made."""

    def __init__(self, loop: "VirtualLoop", scenario: Scenario) -> None:
        self._loop = loop
        self._scenario = scenario
        self._gate = Gate()
        self._before: dict[Life, float] = {}
        self._after: dict[Life, float] = {}
        self._published: dict[Life, int] = {}
        self._seen: dict[tuple[Life, str, str], int] = {}
        self.broken: asyncio.Future[Breach] = loop.create_future()
        self.checks = 0
        self.longest_call = 0.0

    def breach(self, rule: str, sentence: str) -> None:
        """Report a breach; only the first one counts."""
        if not self.broken.done():
            self.broken.set_result(Breach(rule, sentence, self._loop.time()))

    def _check(self, holds: bool, rule: str, sentence: Callable[[], str]) -> None:
        self.checks += 1
        if not holds:
            self.breach(rule, sentence())

    # ---------------------------------------------------------------- after every event of a peer

    def event(self, life: Life, event: Event) -> None:
        """Check after an event of a peer."""
        match event:
            case PhaseStarted(phase="transfer"):
                self._before[life] = held_out(life)
            case Trained(phase="transfer"):
                self._transferred(life)
            case Gated():
                self._gated(life, event)
            case Published(version=version):
                before = self._published.get(life, -1)
                self._published[life] = version
                self._check(
                    version > before, "version", lambda: f"{life.name} published version {version} after {before}"
                )
        self._sizes(life)

    def _transferred(self, life: Life) -> None:
        """A transfer, kept or rolled back, must leave the peer as good as before, up to the gate's tolerance."""
        before, after = self._before.get(life, float("nan")), held_out(life)
        self._after[life] = after
        self._check(
            not after < before - self._gate.tolerance - _ROUNDING,
            "gate",
            lambda: f"a transfer took {life.name} from {before:.3f} to {after:.3f} on its held-out data",
        )

    def _gated(self, life: Life, event: Gated) -> None:
        """The gate must have measured the true values, and a rollback must have restored the model."""
        before, after = self._before[life], self._after[life]
        now = event.after if event.kept else event.before
        self._check(
            abs(event.before - before) < _ROUNDING and abs(now - after) < _ROUNDING,
            "gate",
            lambda: (
                f"the gate of {life.name} says {event.before:.3f} -> {event.after:.3f} "
                f"({'kept' if event.kept else 'rolled back'}), and the model is at {before:.3f} -> {after:.3f}"
            ),
        )

    # ---------------------------------------------------------------- what other peers see of a peer

    def change(self, observer: Life, change: Change) -> None:
        """Check after a change in an observer's directory."""
        contact = change.contact
        key = (observer, contact.id, contact.session)
        before = self._seen.get(key, -1)
        self._seen[key] = contact.version
        self._check(
            contact.version >= before,
            "version",
            lambda: f"{observer.name} saw version {contact.version} of {contact.name} after {before}",
        )

    def forget(self, life: Life) -> None:
        """Drop the records of a life that has ended."""
        for kept in (self._before, self._after, self._published):
            kept.pop(life, None)
        self._seen = {key: version for key, version in self._seen.items() if key[0] is not life}

    # ---------------------------------------------------------------- deadlines

    def opened(self, life: Life, what: str, bound: float) -> Callable[[], None]:
        """Begin something that must end within `bound` seconds during which its machine is awake. Call the returned
        function when it has ended."""
        deadline = _Deadline(self, self._loop, life, what, bound)

        def ended() -> None:
            self.checks += 1
            self.longest_call = max(self.longest_call, deadline.end())

        return ended

    # ---------------------------------------------------------------- memory, reunion, quiet

    def _sizes(self, life: Life) -> None:
        found = sizes(life, self._scenario.limits) if life.joined else []
        self.checks += len(found)
        for what, amount, most in found:
            if amount > most:
                self.breach("memory", f"{life.name} holds {amount} {what}, at most {most}")

    def strangers(self, lives: list[Life]) -> list[str]:
        """One sentence for each pair of live peers of which one does not know the other."""
        found = []
        for observer in lives:
            for other in lives:
                contact = observer.peer._assembly.directory.get(other.identity.id) if other is not observer else None
                if other is observer or (contact is not None and contact.session == other.session and contact.alive):
                    continue
                known = f"{contact.status}, session {contact.session[:6]}" if contact is not None else "unknown"
                found.append(f"{other.name} is {known} to {observer.name}")
        return found

    def reunion(self, lives: list[Life]) -> None:
        """After the settling time all live peers must know each other."""
        found = self.strangers(lives)
        within = self._scenario.settling
        self._check(not found, "reunion", lambda: f"{within:.0f} s after the faults {found[0]} ({len(found)} such)")

    def quiet(self, failures: list[str], tasks: list[str]) -> None:
        """No exception may be uncaught, and no task left, when the run ends."""
        self._check(not failures, "quiet", lambda: f"an exception that nobody caught: {failures[0]}")
        self._check(not tasks, "quiet", lambda: f"{len(tasks)} tasks are left at the end: {', '.join(tasks[:5])}")


class _Deadline:
    """A deadline in seconds during which its machine is awake."""

    def __init__(self, invariants: Invariants, loop: "VirtualLoop", life: Life, what: str, bound: float) -> None:
        self._invariants = invariants
        self._loop = loop
        self._life = life
        self._what = what
        self._bound = bound
        self._began = self._awake()
        self._timer = loop.call_later(bound, self._late)

    def end(self) -> float:
        """Stop the deadline. Returns the seconds that passed."""
        self._timer.cancel()
        return self._awake() - self._began

    def _awake(self) -> float:
        now = self._loop.time()
        return now - self._life.machine.slept_by(now)

    def _late(self) -> None:
        left = self._began + self._bound - self._awake()
        if left > _ROUNDING or self._life.machine.asleep_since is not None:
            self._timer = self._loop.call_later(max(1.0, left), self._late)
        elif not self._life.dead:
            self._invariants.breach(
                "ends", f"{self._what}, by {self._life.name}, goes on after {self._bound:.1f} s, and that is the most"
            )


def held_out(life: Life) -> float:
    """Mean recall over the classes in the held-out data. Computed here, independently of the gate's code."""
    held = life.learner.held_out
    if held is None:
        return float("nan")
    right = life.peer.strategy.predict(life.learner, held.x).argmax(dim=1) == held.y
    return float(torch.stack([right[held.y == label].double().mean() for label in held.y.unique()]).mean())
