"""The blocking twin, for apps without asyncio: the same peer, its network in a thread of its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from torch import Tensor

from peerlearn.directory import Contact
from peerlearn.learning.prior import Dial, Prior
from peerlearn.learning.report import Report
from peerlearn.peer import Peer
from peerlearn.status import Status
from peerlearn.types import Address, Card, PeerId

P = ParamSpec("P")
T = TypeVar("T")


class BlockingPeer:
    """`with BlockingPeer(learner, ...) as peer`: takes what Peer takes, and each method blocks until it is done.

    The app's training may run on the app's own thread for as long as it likes: others are answered, and beats are
    sent, from the peer's thread meanwhile. Only one method may be called at a time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._peer = Peer(*args, **kwargs)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal: BlockingPortal = stack.enter_context(start_blocking_portal("asyncio", name=self._peer.name))
            opened: AbstractContextManager[Peer] = self._portal.wrap_async_context_manager(self._peer)
            stack.enter_context(opened)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(exc_type, exc, tb)

    @property
    def id(self) -> PeerId:
        return self._peer.id

    @property
    def name(self) -> str:
        return self._peer.name

    @property
    def address(self) -> Address:
        return self._peer.address

    @property
    def card(self) -> Card:
        return self._peer.card

    def others(self) -> tuple[Contact, ...]:
        """Confirmed peers, alive or suspect, in id order."""
        return self._portal.call(self._peer.others)

    def status(self) -> Status:
        """How this peer stands, for its owner."""
        return self._portal.call(self._peer.status)

    def meet(self, others: int, timeout: float | None = None) -> None:
        """Wait until at least `others` other peers are alive here; PeerUnreachable after `timeout` seconds."""
        self._portal.call(lambda: self._peer.meet(others, timeout=timeout))

    def run(self, rounds: int | None = None) -> None:
        """Do `rounds` rounds of the schedule; None: until the program is interrupted."""
        self._portal.call(self._peer.run, rounds)

    def transfer(self) -> Report:
        """Learn from whoever is there, now; a report of no steps when nobody is."""
        return self._portal.call(self._peer.transfer)

    def train(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the app's own training function on the learner's thread."""
        return self._portal.call(lambda: self._peer.train(func, *args, **kwargs))

    def predict(self, x: Tensor, prior: Prior = "local") -> Tensor:
        """Probabilities (B, C) for inputs (B, ...); `prior`: the class frequencies expected, see `Peer.predict`."""
        return self._portal.call(lambda: self._peer.predict(x, prior=prior))

    def calibrate(self) -> Dial:
        """Fit the dial of `predict(prior=...)` on what is held out of the private data."""
        return self._portal.call(self._peer.calibrate)
