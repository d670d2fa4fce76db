"""All discoveries, through the suite that third parties run; and the suite finds what is wrong."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from peerlearn.discovery.base import Announcement, Discovery, Hint, Listener
from peerlearn.discovery.lobby import Lobby
from peerlearn.discovery.mdns import Mdns
from peerlearn.discovery.static import Static
from peerlearn.testing import conformance
from peerlearn.types import Address

OTHER = Address("127.0.0.1", 7412)
CHECKS = {
    **{f"lobby-{check}": check for check in conformance.discovery(Lobby().door, quiet=0.05)},
    **{f"mdns-{check}": check for check in conformance.discovery(lambda address: Mdns(address.host))},
    **{
        f"static-{check}": check
        for check in conformance.discovery(lambda address: Static([OTHER]), announces=False, quiet=0.05)
    },
}


@pytest.mark.parametrize("name", CHECKS)
def test_it_conforms(name: str) -> None:
    CHECKS[name]()


class Echoing:
    """Hints each peer at itself too, at peers of all groups and at those that only look, and withdraws nothing."""

    def __init__(self) -> None:
        self._here: list[tuple[Announcement, Listener]] = []

    def door(self, address: Address) -> "Echoing":
        return self

    @asynccontextmanager
    async def announcing(self, me: Announcement, listener: Listener) -> AsyncIterator[None]:
        self._here.append((me, listener))
        for who, _ in self._here:
            for _, other in self._here:
                address = Address("127.0.0.1", who.port)
                other.hinted(Hint(addresses=(address,), source="echo", key=str(who.port), id_prefix=who.id_prefix))
        yield


class Deaf:
    """Hints at nothing, and swallows errors."""

    @asynccontextmanager
    async def announcing(self, me: Announcement, listener: Listener) -> AsyncIterator[None]:
        with suppress(ZeroDivisionError):
            yield


BROKEN: dict[str, Callable[[Address], Discovery]] = {
    "ones-own-announcement-is-not-reported": Echoing().door,
    "one-that-only-looks-is-not-announced": Echoing().door,
    "other-groups-are-passed-over": Echoing().door,
    "the-callers-own-error-comes-out-as-it-went-in": lambda address: Deaf(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_discovery_that_breaks_a_law_is_found_by_it(name: str) -> None:
    check = next(check for check in conformance.discovery(BROKEN[name], quiet=0.01) if str(check) == name)
    with pytest.raises(AssertionError):
        check()
