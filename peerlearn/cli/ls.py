"""`peerlearn ls` and `peerlearn show`: who is on the LAN, seen without being a peer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.live import Live

from peerlearn.cli import cards, choices
from peerlearn.cli.output import Output
from peerlearn.config import Limits, Timing
from peerlearn.errors import PeerUnreachable
from peerlearn.suggest import did_you_mean
from peerlearn.text import listed
from peerlearn.types import Address, PeerId

if TYPE_CHECKING:
    from peerlearn.directory import Contact
    from peerlearn.membership import Observer


@dataclass(frozen=True, slots=True)
class Scope:
    """What to look at: for so many seconds, in this group, at these addresses beside what mDNS tells."""

    seconds: float
    group_tag: str
    peers: tuple[str, ...]
    group: Path | None = None

    def check(self) -> None:
        choices.above(0, self.seconds, "--seconds")
        choices.addresses(self.peers)


def ls(scope: Scope, output: Output, *, watch: bool) -> None:
    """Print the peers that are here. Raises NetworkError when this machine cannot look."""
    scope.check()
    asyncio.run(_watch(scope, output) if watch else _list(scope, output))


def show(who: str, scope: Scope, output: Output) -> None:
    """Print one card. Raises PeerUnreachable when no peer of that name or id is here, ConfigError when several are."""
    scope.check()
    contact, everybody = asyncio.run(_find(who, scope))
    output.result(cards.in_full(contact, everybody))
    if not output.as_json:
        output.console.print(cards.page(contact, everybody))


async def _list(scope: Scope, output: Output) -> None:
    async with observing(scope, watch=False) as observer:
        await asyncio.sleep(scope.seconds)
        here, problems = observer.directory.here(), observer.problems
    output.result({"peers": [cards.in_short(contact, here) for contact in here], "problems": list(problems)})
    if here and not output.as_json:
        output.console.print(cards.listing(here, output.console.width))
    elif not here:
        tag = f"of group tag {scope.group_tag!r}" if scope.group_tag else "without a group tag"
        group = f"of the group in {scope.group}, {tag}," if scope.group is not None else f"{tag} and without a group"
        output.say(f"Nobody {group} answered within {scope.seconds:g} s; if somebody should: peerlearn doctor")
    for problem in problems:
        output.warn(problem)


async def _watch(scope: Scope, output: Output) -> None:
    """Until interrupted. On a terminal the table is drawn over; else, and for programs, each change is a line."""
    async with observing(scope, watch=True) as observer:
        directory = observer.directory
        if output.live and not output.as_json:

            def now_here() -> RenderableType:
                return cards.listing(list(directory), output.console.width)

            with Live(console=output.console, get_renderable=now_here, refresh_per_second=2):
                await asyncio.Event().wait()
        said: object = None
        while True:
            everybody = list(directory)
            now = [cards.in_short(contact, everybody) for contact in everybody]
            if now != said:
                said = now
                output.result({"peers": now, "problems": list(observer.problems)})
                if everybody and not output.as_json:
                    output.console.print(cards.listing(everybody, output.console.width))
            await observer.changed()


async def _find(who: str, scope: Scope) -> tuple["Contact", list["Contact"]]:
    async with observing(scope, watch=False) as observer:
        directory = observer.directory

        def known() -> bool:
            """It is here, and so are those whom its card names: then they can be shown by name."""
            ids = {c.id for c in directory.here()}
            return any(who in (c.name, c.id) and ids >= set(c.card.learns_from) for c in directory.here())

        await _until(known, observer, scope.seconds)
        if not any(c.name == who or c.id.startswith(who.lower()) for c in directory.here()):
            names = [c.name for c in directory.here()]
            here = listed(names, empty="nobody")
            detail = f"nobody of that name or id within {scope.seconds:g} s, only {here}{did_you_mean(who, names)}"
            raise PeerUnreachable(repr(who), detail)
        return directory.find(who), list(directory)


async def _until(condition: Callable[[], bool], observer: "Observer", seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await observer.changed()
    except TimeoutError:
        return


@asynccontextmanager
async def observing(scope: Scope, *, watch: bool) -> AsyncIterator["Observer"]:
    """Inside the block other peers are seen. Raises GroupError, and NetworkError when this machine cannot look."""
    from peerlearn.directory import Directory
    from peerlearn.discovery.mdns import Mdns
    from peerlearn.membership import Observer
    from peerlearn.membership.transports import connections
    from peerlearn.security.group import Group

    timing, limits = Timing(), Limits()
    group = Group.load(scope.group) if scope.group is not None else None
    directory = Directory(PeerId(""), group_tag=scope.group_tag, timing=timing, limits=limits)
    transport, trust = connections(group, Address("127.0.0.1", 0), timing=timing, limits=limits)
    async with transport:
        observer = Observer(
            directory, transport, [Mdns()], timing=timing, limits=limits, group_tag=scope.group_tag,
            peers=[Address.parse(text) for text in scope.peers], watch=watch, trust=trust,
        )  # fmt: skip
        async with observer.looking():
            yield observer
