"""The largest value of many tensors, looked at together or one by one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from peerlearn.errors import KnowledgeError
from peerlearn.learning import state

SIZES = st.lists(st.integers(0, 40), max_size=5)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])


def tensors(sizes: list[int], dtypes: list[torch.dtype], seed: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=draw).to(dtype) for n, dtype in zip(sizes, dtypes, strict=False)]


@given(SIZES, st.lists(DTYPES, min_size=5, max_size=5), st.integers(0, 9), st.booleans())
def test_it_is_the_greatest_of_all(sizes: list[int], dtypes: list[torch.dtype], seed: int, apart: bool) -> None:
    some = tensors(sizes, dtypes, seed)
    if apart:  # more than are looked at together
        some.append(torch.zeros(state._TOGETHER + 1))
    expected = max((float(t.abs().max()) for t in some if t.numel()), default=0.0)
    assert state.magnitude([*some, torch.tensor([1000])]) == expected


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [3, state._TOGETHER + 1])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_value_that_is_not_finite_is_seen_wherever_it_stands(odd: float, size: int, place: int) -> None:
    some = [torch.ones(size), torch.ones(2, 3), torch.ones(size)]
    some[place].view(-1)[-1] = odd
    assert not math.isfinite(state.magnitude(some))
    named = {f"t{n}": t for n, t in enumerate(some)}
    with pytest.raises(KnowledgeError, match=f"'t{place}' holds values that are not finite"):
        state.check_fit(named, {name: torch.zeros_like(t) for name, t in named.items()}, whole=True)
