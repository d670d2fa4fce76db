"""Observer: looks for peers without being one. It fills a directory and appears in no other peer's."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from peerlearn.config import Limits, Timing
from peerlearn.directory import Change, Directory
from peerlearn.discovery.base import Discovery
from peerlearn.discovery.static import Static
from peerlearn.events import Record, discard
from peerlearn.membership.heartbeats import beat_on
from peerlearn.membership.introductions import Introductions, announcement
from peerlearn.membership.membership_tasks import MembershipTasks, recorder
from peerlearn.membership.ourselves import Ourselves, Reactions
from peerlearn.membership.problems import Problems
from peerlearn.membership.trust import Trust
from peerlearn.tasks import Notifier, background
from peerlearn.transport.base import Transport
from peerlearn.types import Address


class Observer:
    """Fills a directory that was made with the own id "". It calls peers over the transport and serves no calls.

    peers: addresses to try, in addition to those that the discoveries find.
    watch: True to notice also that peers fall silent, leave or publish.
    trust: certificates and revocations of a group; None without a group.
    """

    def __init__(
        self,
        directory: Directory,
        transport: Transport,
        discoveries: Sequence[Discovery],
        *,
        timing: Timing,
        limits: Limits,
        group_tag: str = "",
        peers: Sequence[Address] = (),
        watch: bool = False,
        record: Record = discard,
        trust: Trust | None = None,
    ) -> None:
        self.directory = directory
        self._transport = transport
        self._discoveries = discoveries
        self._timing = timing
        self._limits = limits
        self._group_tag = group_tag
        self._peers = tuple(peers)
        self._watch = watch
        self._trust = trust
        self._problems = Problems(record)
        self._say = recorder(record)
        self._turn = Notifier()

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence per address in `peers` that has not led to a peer: the reason, and what to do."""
        return tuple(self._problems)

    async def changed(self) -> None:
        """Wait for the next change of the directory."""
        await self._turn.wait()

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """A block in which the directory fills. Entering raises NetworkError if there is no way to find a peer."""
        async with background() as tasks:
            running = MembershipTasks(
                Ourselves(session=secrets.token_hex(16), timing=self._timing, limits=self._limits, trust=self._trust),
                self.directory,
                self._transport,
                Introductions(
                    self.directory, group_tag=self._group_tag, limits=self._limits, card=None, trust=self._trust
                ),
                tasks,
                problems=self._problems,
                reactions=Reactions(),
                watchers=None,
                follow=self._watch,
            )

            def heed(change: Change) -> None:
                if self._trust is not None:
                    self._trust.follow(change.contact)
                self._say(change)
                running.heed(change)
                self._turn.notify()

            async with AsyncExitStack() as stack:
                stack.callback(self.directory.listen(heed))
                if self._trust is not None:
                    self._trust.listen(partial(self._trust.enforce, self.directory))
                    trust = self._trust
                    tasks.supervise(
                        lambda: trust.keep_up(self._timing.beat, running.renew),
                        name="observer:trust",
                        lost="certificates are not renewed",
                    )
                if self._watch:
                    tasks.supervise(
                        lambda: beat_on(self.directory, None, self._timing),
                        name="observer:beats",
                        lost="silence is not noticed",
                    )
                ways = (*self._discoveries, Static(self._peers))
                me = announcement("", self._group_tag, 0, group=self._trust.group if self._trust is not None else "")
                await running.discover(stack, ways, me, told=bool(self._peers))
                yield
