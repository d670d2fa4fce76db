"""A sink that cannot end its peer: what it raises is logged once, and the peer goes on without that event."""

import logging

from peerlearn.errors import InvariantBroken
from peerlearn.events.kinds import Event
from peerlearn.events.sinks import Record

log = logging.getLogger("peerlearn")


class GuardedSink:
    """Calls the app's sink. Recording is a convenience: an error in it costs events, never the peer."""

    def __init__(self, sink: Record) -> None:
        self._sink = sink
        self._said: set[str] = set()

    def __call__(self, event: Event) -> None:
        try:
            self._sink(event)
        except InvariantBroken:  # a simulation has found a fault of ours, and is to end
            raise
        except Exception as exc:
            kind = type(exc).__name__
            if kind not in self._said:
                self._said.add(kind)
                log.warning("the sink given as `record` failed, and such events are lost: %s: %s", kind, exc)
                log.debug("in the sink given as `record`", exc_info=exc)
