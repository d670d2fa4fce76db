"""Two transports that reach one another, for one check."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from peerlearn.config import Limits, Timing
from peerlearn.testing.messages import ScriptedService
from peerlearn.transport.base import Transport
from peerlearn.types import Address


class Maker(Protocol):
    """Makes transports that reach one another."""

    def __call__(self, *, timing: Timing = ..., limits: Limits = ...) -> Transport:
        """A transport that does not serve yet."""
        ...


@dataclass(frozen=True, slots=True)
class Pairs:
    """Makes the transports of a check."""

    make: Maker
    again: Callable[[Address], Transport] | None

    @asynccontextmanager
    async def two(
        self, service: ScriptedService | None = None, *, limits: Limits | None = None
    ) -> AsyncIterator[tuple[Transport, Transport, Address]]:
        """Two that serve, the first this service within these limits; yields both, and the address of the first."""
        a = self.make() if limits is None else self.make(limits=limits)
        b = self.make()
        async with a.serving(service or ScriptedService()) as at, b.serving(ScriptedService()):
            yield a, b, at


Law: TypeAlias = Callable[[Pairs], Awaitable[None]]
