"""Memory of bodies goes round: it comes back when the last view is gone, fits who gets it, and is bounded when idle."""

import gc

import pytest
import torch

from peerlearn.config import MIB, Limits
from peerlearn.errors import Oversized
from peerlearn.wire import frames
from peerlearn.wire.buffer_pool import LEAST, BufferPool

MOST = 64 * MIB


def where(place: memoryview) -> int:
    return torch.frombuffer(place, dtype=torch.uint8).data_ptr()


def test_memory_comes_back_when_the_last_tensor_on_it_is_gone_and_not_before() -> None:
    arenas = BufferPool()
    place = arenas.take(8 * MIB, MOST)
    at = where(place)
    tensor = torch.frombuffer(place[MIB : 2 * MIB], dtype=torch.float32)
    del place
    assert arenas.idle_bytes == 0
    other = arenas.take(8 * MIB, MOST)
    assert where(other) != at
    tensor.fill_(3)
    other[:] = bytes(8 * MIB)
    assert bool((tensor == 3).all())
    del tensor
    assert arenas.idle_bytes == 8 * MIB
    assert where(arenas.take(8 * MIB, MOST)) == at


def test_who_gets_it_gets_no_more_than_it_asked_for_and_never_far_too_much() -> None:
    arenas = BufferPool()
    del (place := [arenas.take(8 * MIB, MOST)])[:]
    assert not place
    assert len(arenas.take(7 * MIB + 1, MOST)) == 7 * MIB + 1
    assert arenas.idle_bytes == 8 * MIB, "given back at once"
    small = arenas.take(5 * MIB, MOST)
    assert len(small) == 5 * MIB
    assert arenas.idle_bytes == 0, "of another size: it would lie beside the new one"


def test_what_lies_idle_is_bounded() -> None:
    arenas = BufferPool()
    held = [arenas.take(8 * MIB, 20 * MIB) for _ in range(4)]
    held.clear()
    gc.collect()
    assert arenas.idle_bytes == 16 * MIB
    arenas.drop()
    assert arenas.idle_bytes == 0


def test_small_memory_is_the_allocators_own_business() -> None:
    arenas = BufferPool()
    del (place := [arenas.take(LEAST - 1, MOST)])[:]
    assert not place
    assert arenas.idle_bytes == 0


def test_more_than_there_is_is_refused_and_named() -> None:
    with pytest.raises(MemoryError):
        BufferPool().take(1 << 60, MOST)
    with pytest.raises(Oversized, match="more than this machine has memory for"):
        frames._allocate(1 << 60, Limits())
