"""torch's global generators, borrowed: what is drawn inside a block depends on its seed alone.

They belong to the whole process, and several learners may train in it, each in a thread of its own. So one block at a
time holds them; those in which nothing is ever drawn, which are most, pass without.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

_ONE = threading.RLock()
"""Also keeps threads from waiting for a generator's own lock, which torch does with Python's lock held: whoever has the
generator may need that one to go on, when the collector runs within `get_rng_state`, and then both wait for ever."""

_DRAW = (_DropoutNd, nn.RReLU, nn.RNNBase, nn.MultiheadAttention, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[list[Tensor]]:
    """Seeded inside the block, afterwards as they were: the CPU's, and the device's if it is another. One block at a
    time in this process. Gives their states as seeded."""
    with _ONE:
        mine, *its = _states(device)
        torch.default_generator.manual_seed(seed)
        if device is not None and its:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield _states(device)
        finally:
            torch.set_rng_state(mine)
            if device is not None and its:
                torch.cuda.set_rng_state(its[0], device)


def _states(device: torch.device | None) -> list[Tensor]:
    """Of the CPU's generator, and of the device's if it is another."""
    if device is None or device.type != "cuda":
        return [torch.get_rng_state()]
    return [torch.get_rng_state(), torch.cuda.get_rng_state(device)]


class RngGuard:
    """The use of torch's global generators by one learner.

    The first block of each epoch shows whether its steps draw at all. If not, the other blocks of the epoch need no
    guard, and do not wait for those of other learners. A model with dropout, and a data set of the user's own, may
    always draw.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._draws = any(isinstance(module, _DRAW) for module in model.modules())
        self._still: dict[str, int] = {}
        """By purpose, the epoch in which the first block drew nothing."""

    def needless(self, purpose: str, epoch: int) -> bool:
        """Whether a block of this purpose is known to draw nothing in this epoch."""
        return self._still.get(purpose) == epoch

    @contextmanager
    def block(self, purpose: str, epoch: int, seed: int, *, foreign: bool) -> Iterator[None]:
        """Inside the block the global generators are those of this seed. `foreign`: code of the user's that may draw
        now and then."""
        with seeded(seed, self._device) as states:
            yield
            still = all(torch.equal(one, other) for one, other in zip(states, _states(self._device), strict=True))
        if still and not self._draws and not foreign:
            self._still[purpose] = epoch
