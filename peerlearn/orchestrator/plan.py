"""plan(): the next step of a peer. A pure function of View and Schedule: no tensors, no clock, no asyncio."""

from dataclasses import dataclass

from peerlearn.schedule import Exchange, Local, Phase, Publish, Schedule, Transfer
from peerlearn.types import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """State of a run, as far as the next step depends on it."""

    round: int = 0
    """Rounds completed."""
    goal: int | None = None
    """Rounds to complete; None: go on until stopped."""
    cursor: int = 0
    """Index of the due phase in `schedule.phases`."""
    triggered: tuple[Phase, ...] = ()
    """Phases that events have put before the cycle, oldest first."""
    arrivals: int = 0
    """Pieces of knowledge that consumers brought with their questions and that the strategy has not yet received."""
    asked: bool = False
    """True if the questions of the next exchange have been sent."""
    nobody: bool = False
    """True if an early attempt to ask found no provider; the next attempt is made when the exchange is due."""
    in_flight: int = 0
    """Questions whose answers have not arrived yet."""
    behind: tuple[PeerId, ...] = ()
    """Lockstep: peers to wait for before a new round begins."""
    app_trains: bool = False
    """True if the app trains by its own loop: local phases are skipped, and questions are sent ahead."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Hand knowledge that a consumer brought to the strategy."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Choose providers and send them questions. Other steps may go on while the answers travel."""

    exchange: Exchange


@dataclass(frozen=True, slots=True)
class Collect:
    """Hand the answers to the strategy, and end the exchange."""


@dataclass(frozen=True, slots=True)
class Train:
    """Run a local or transfer span."""

    phase: Local | Transfer


@dataclass(frozen=True, slots=True)
class MakeSnapshot:
    """Publish a snapshot: from then on consumers are answered from it."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Pass over the due phase: the app does this training itself."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until something changes."""

    reason: str
    peers: tuple[PeerId, ...] = ()
    """Peers that are waited for, where these are known."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Do nothing: the goal is reached. The peer still answers questions."""


Step = Receive | Ask | Collect | Train | MakeSnapshot | Skip | Wait | Rest


def plan(view: View, schedule: Schedule) -> Step:
    """The next step. Knowledge that was brought comes first, then triggered phases, then the cycle."""
    if view.arrivals:
        return Receive()
    if view.triggered:
        return _perform(view.triggered[0], view, in_cycle=False)
    if view.goal is not None and view.round >= view.goal:
        return _look_ahead(view, schedule) or Rest()
    if not schedule.cycle:
        return Wait("an event: this schedule has no cycle of its own")
    # `asked` at cursor 0: the round has begun with an early exchange, and a round that has begun is finished.
    if view.behind and view.cursor == 0 and not view.asked:
        return Wait("the others: lockstep", view.behind)
    return _ask_early(view, schedule) or _perform(schedule.phases[view.cursor], view, in_cycle=True)


def _perform(phase: Phase, view: View, *, in_cycle: bool) -> Step:
    match phase:
        case Exchange():
            if not view.asked:
                return Ask(phase)
            return Wait("answers") if view.in_flight else Collect()
        case Local() if view.app_trains and in_cycle:
            return Skip()
        case Local() | Transfer():
            return Train(phase)
        case Publish():
            return MakeSnapshot()


def _ask_early(view: View, schedule: Schedule) -> Ask | None:
    """Prefetch: ask the next exchange now if only local training stands before it and the schedule allows it."""
    if view.asked or view.nobody:
        return None
    for phase in schedule.phases[view.cursor :]:
        if isinstance(phase, Exchange):
            return Ask(phase) if phase.early else None
        if not isinstance(phase, Local):
            return None
    return None


def _look_ahead(view: View, schedule: Schedule) -> Ask | None:
    """Ask the next exchange while the app trains by its own loop, so that its next transfer need not wait."""
    return _ask_early(view, schedule) if view.app_trains and not view.behind else None
