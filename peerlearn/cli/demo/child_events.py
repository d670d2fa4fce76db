"""What a process of the demo says to its parent beside its peer's events."""

from dataclasses import dataclass

from peerlearn.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Event):
    """The first word of a child."""

    kind = "hello"
    name: str
    """Name of its peer."""
    classes: tuple[int, ...]
    """The classes that its peer holds."""
    rounds: int
    """How many rounds it will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The results are written; the child serves the others until its parent lets it go."""

    kind = "finished"


CHILD_EVENTS: tuple[type[Event], ...] = (Hello, Finished)
