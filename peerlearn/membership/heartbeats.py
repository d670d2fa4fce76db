"""Heartbeats: sent to all watching peers at regular times. At each one the silence of other peers is judged."""

import asyncio
import logging

from peerlearn.clock import now
from peerlearn.config import Timing
from peerlearn.directory import Directory
from peerlearn.membership.notices import Watchers

log = logging.getLogger("peerlearn")


async def beat_on(directory: Directory, watchers: Watchers | None, timing: Timing) -> None:
    """Send a beat every `timing.beat` seconds, and judge the silence of other peers, until cancelled. Beats fall on a
    fixed grid of the loop's clock, so that delays do not add up. `watchers`: None for an observer, which sends none."""
    start, count = now(), 0
    while True:
        late = now() - (start + count * timing.beat)
        if late > timing.beat:
            # The loop itself was held up (a debugger, a suspended machine): silence of others proves nothing then.
            directory.excuse(late, now())
            start += late
            if late > timing.suspect_after:
                log.warning(
                    "this program held its event loop up for %.1f s; nobody could reach this peer meanwhile: "
                    "train by `await peer.train(function)`, or use BlockingPeer",
                    late,
                )
        if watchers is not None:
            watchers.beat(count)
        directory.tick(now())
        count += 1
        await asyncio.sleep(max(0.0, start + count * timing.beat - now()))
