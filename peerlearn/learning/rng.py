"""Blocks in which torch's global generators are seeded, so that their random draws depend on the seed alone.

The generators belong to the whole process, in which several learners may train, each in its own thread. Only one block
at a time may therefore use them. Most blocks draw nothing, and do without.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

_ONE = threading.RLock()
"""Held by the block that uses the global generators. It also prevents a deadlock inside torch, which waits for a
generator's own lock while it holds Python's: the thread that has the generator may need Python's lock to go on, when
garbage collection runs within `get_rng_state`."""

_DRAW = (_DropoutNd, nn.RReLU, nn.RNNBase, nn.MultiheadAttention, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
"""Modules that draw random numbers in train mode."""

_NUMBERED = "0123456789 "
"""Characters stripped from the end of a purpose, so that "member 3" and "member 4" count as one kind: both draw, or
neither."""


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[list[Tensor]]:
    """A block in which the CPU's generator, and the device's if it is another, have this seed; afterwards they are
    restored. One block at a time in this process. Yields the seeded states."""
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
    """State of the CPU's generator, and of the device's if it is another."""
    if device is None or device.type != "cuda":
        return [torch.get_rng_state()]
    return [torch.get_rng_state(), torch.cuda.get_rng_state(device)]


class RngGuard:
    """One learner's use of torch's global generators.

    The first block of each epoch shows whether its steps draw at all. If not, the other blocks of the epoch run without
    a guard, and need not wait for other learners. A model with dropout, and a user's own data set, may draw at any time
    and are always guarded.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._draws = any(isinstance(module, _DRAW) for module in model.modules())
        self._still: dict[str, int] = {}
        """Per purpose, the epoch whose first block drew nothing."""

    def needless(self, purpose: str, epoch: int) -> bool:
        """True if blocks of this purpose are known to draw nothing in this epoch."""
        return self._still.get(purpose.rstrip(_NUMBERED)) == epoch

    @contextmanager
    def block(self, purpose: str, epoch: int, seed: int, *, foreign: bool) -> Iterator[None]:
        """A block in which the global generators have this seed. `foreign`: user code in the block may draw in some
        calls and not in others."""
        with seeded(seed, self._device) as states:
            yield
            still = all(torch.equal(one, other) for one, other in zip(states, _states(self._device), strict=True))
        if still and not self._draws and not foreign:
            self._still[purpose.rstrip(_NUMBERED)] = epoch
