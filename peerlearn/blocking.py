"""BlockingPeer: a Peer for apps without asyncio. Its event loop runs in a thread of its own."""

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
    """A Peer with blocking methods: `with BlockingPeer(learner, ...) as peer`. Takes the arguments of Peer.

    The app may train on its own thread for as long as it likes: the peer's thread answers other peers and sends
    heartbeats meanwhile. Call one method at a time, from one thread. Methods raise what those of Peer raise.
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
        """Fingerprint of the signing key, 32 hex digits. Known once the block is entered."""
        return self._peer.id

    @property
    def name(self) -> str:
        """The name that other peers see."""
        return self._peer.name

    @property
    def address(self) -> Address:
        """The address that this peer listens on."""
        return self._peer.address

    @property
    def card(self) -> Card:
        """The card that other peers see."""
        return self._peer.card

    def others(self) -> tuple[Contact, ...]:
        """Confirmed peers that are alive or suspect, in id order."""
        return self._portal.call(self._peer.others)

    def status(self) -> Status:
        """State of this peer, for its owner; other peers cannot read it."""
        return self._portal.call(self._peer.status)

    def meet(self, others: int, timeout: float | None = None) -> None:
        """Wait until at least `others` other peers are alive. Raises PeerUnreachable after `timeout` seconds."""
        self._portal.call(lambda: self._peer.meet(others, timeout=timeout))

    def run(self, rounds: int | None = None) -> None:
        """Do `rounds` rounds of the schedule. None: until the program is interrupted."""
        self._portal.call(self._peer.run, rounds)

    def transfer(self) -> Report:
        """Exchange, transfer and publish now. The report has no steps if no provider is there."""
        return self._portal.call(self._peer.transfer)

    def train(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the app's own training function on the learner's thread."""
        return self._portal.call(lambda: self._peer.train(func, *args, **kwargs))

    def predict(self, x: Tensor, prior: Prior = "local") -> Tensor:
        """Probabilities (B, C) for inputs (B, ...). `prior`: the expected class frequencies, see `Peer.predict`."""
        return self._portal.call(lambda: self._peer.predict(x, prior=prior))

    def calibrate(self) -> Dial:
        """Fit the dial of `predict(prior=...)` on the held-out private samples."""
        return self._portal.call(self._peer.calibrate)
