"""What a peer does next. Pure: same view, same step. No tensors, no clock, no asyncio."""

from dataclasses import dataclass

from peerlearn.schedule import Exchange, Local, Phase, Publish, Schedule, Transfer
from peerlearn.types import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that the next step depends on."""

    round: int = 0
    """Rounds completed."""
    goal: int | None = None
    """Rounds to complete; None: go on until stopped."""
    cursor: int = 0
    """The phase of the cycle that is due."""
    triggered: tuple[Phase, ...] = ()
    """Phases that events have put before the cycle, oldest first."""
    arrivals: int = 0
    """Pieces of knowledge that others brought and that nobody has looked at."""
    asked: bool = False
    """Whether the exchange that is due next has been asked."""
    nobody: bool = False
    """Asked early, and nobody was there to be asked: not again before the exchange itself is due."""
    in_flight: int = 0
    """Answers still travelling."""
    behind: tuple[PeerId, ...] = ()
    """Lockstep: peers that I must not run further ahead of."""
    app_trains: bool = False
    """The app keeps its own loop: local phases are its business, and asking ahead is ours."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Hand what others brought to the strategy."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Choose providers and send them questions. The answers come as events; nothing waits for them here."""

    exchange: Exchange


@dataclass(frozen=True, slots=True)
class Collect:
    """Hand the answers to the strategy; the exchange is over."""


@dataclass(frozen=True, slots=True)
class Train:
    """A local or transfer span."""

    phase: Local | Transfer


@dataclass(frozen=True, slots=True)
class MakeSnapshot:
    """Publish: from now on others get this state."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The phase is somebody else's business: go on to the next."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Until something changes."""

    reason: str
    peers: tuple[PeerId, ...] = ()


@dataclass(frozen=True, slots=True)
class Rest:
    """The goal is reached. Others are still answered."""


Step = Receive | Ask | Collect | Train | MakeSnapshot | Skip | Wait | Rest


def plan(view: View, schedule: Schedule) -> Step:
    if view.arrivals:
        return Receive()
    if view.triggered:
        return _perform(view.triggered[0], view, in_cycle=False)
    if view.goal is not None and view.round >= view.goal:
        return _look_ahead(view, schedule) or Rest()
    if not schedule.cycle:
        return Wait("an event: this schedule has no cycle of its own")
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
    """Prefetch: the next exchange may be asked now when only local training stands before it."""
    if view.asked or view.nobody:
        return None
    for phase in schedule.phases[view.cursor :]:
        if isinstance(phase, Exchange):
            return Ask(phase) if phase.early else None
        if not isinstance(phase, Local):
            return None
    return None


def _look_ahead(view: View, schedule: Schedule) -> Ask | None:
    """While the app trains by its own loop, the answers for its next transfer already travel."""
    return _ask_early(view, schedule) if view.app_trains and not view.behind else None
