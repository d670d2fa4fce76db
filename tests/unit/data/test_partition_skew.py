"""The skewed partition of multi-headed distillation (algorithms.md 8.5, 8.11.11)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peerlearn.data.partition_skew import primary_classes, skewed
from peerlearn.errors import ConfigError

Y = torch.arange(4000) % 10
FOUR = primary_classes(10, 4, 5)


def counts(parts: list[torch.Tensor], y: torch.Tensor = Y) -> torch.Tensor:
    """(peers, classes)."""
    return torch.stack([torch.bincount(y[part], minlength=10) for part in parts]).double()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(10, 200), st.sampled_from([0.0, 3.0, 100.0]), st.integers(0, 99))
def test_every_sample_goes_to_exactly_one_peer(peers: int, samples: int, skew: float, seed: int) -> None:
    y = torch.arange(samples) % 10
    try:
        parts = skewed(y, primary_classes(10, peers, 10), skew=skew, seed=seed)
    except ConfigError as exc:
        assert "left without samples" in str(exc)  # noqa: PT017 - a small set may well miss a peer
        return
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(samples))
    assert all(bool((part[1:] > part[:-1]).all()) for part in parts)


def test_8_11_11_without_skew_the_label_does_not_matter() -> None:
    """Chi-square of the class counts against independence: 27 degrees of freedom, 99.9 % point 55.5."""
    for seed in range(3):
        have = counts(skewed(Y, FOUR, skew=0, seed=seed))
        expected = have.sum(dim=1, keepdim=True) * have.sum(dim=0) / have.sum()
        assert float(((have - expected) ** 2 / expected).sum()) < 55.5
        assert bool(((have.sum(dim=1) - 1000).abs() < 120).all()), "equal parts but for chance"


def test_8_11_11_an_infinite_skew_leaves_primary_holders_only() -> None:
    have = counts(skewed(Y, FOUR, skew=math.inf, seed=1))
    for peer, its in enumerate(FOUR):
        own = torch.zeros(10, dtype=torch.bool)
        own[list(its)] = True
        assert bool((have[peer][own] > 150).all())
        assert not bool(have[peer][~own].any())


def test_skew_weighs_a_primary_holder_one_plus_s_to_one() -> None:
    y = torch.zeros(40_000, dtype=torch.int64)
    parts = skewed(y, [[0], [1], [1]], skew=8, seed=0)
    shares = [len(part) / len(y) for part in parts]
    assert shares == pytest.approx([9 / 11, 1 / 11, 1 / 11], abs=0.01)
    strong = counts(skewed(Y, FOUR, skew=100, seed=0))
    foreign = sum(float(strong[p].sum() - strong[p][list(its)].sum()) for p, its in enumerate(FOUR))
    assert foreign / len(Y) == pytest.approx(2 / 204, abs=0.006)


def test_the_same_seed_deals_the_same() -> None:
    one, two, other = (skewed(Y, FOUR, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("peers", "each"), [(4, 5), (8, 5), (5, 4), (5, 2), (10, 1), (3, 10)])
def test_primary_classes_are_dealt_evenly(peers: int, each: int) -> None:
    dealt = primary_classes(10, peers, each)
    holders = torch.bincount(torch.tensor(dealt).reshape(-1), minlength=10)
    assert all(len(set(its)) == each for its in dealt)
    assert holders.tolist() == [peers * each // 10] * 10


@pytest.mark.parametrize(
    ("primary", "options", "sentence"),
    [
        ([[0]], {"skew": -1.0}, "skew must be at least 0"),
        ([[0]], {"skew": math.nan}, "skew must be at least 0"),
        ([], {}, "among 0 peers"),
        ([[-1]], {}, "negative primary class"),
        ([[0], [1]], {"skew": math.inf}, "class 2 is primary for nobody"),
        ([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], []], {"skew": math.inf}, "peer 1 is left without samples"),
    ],
)
def test_what_cannot_be_dealt_is_one_sentence(primary, options, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        skewed(Y, primary, **options)


def test_too_few_primary_classes_are_refused() -> None:
    for peers, each in ((0, 5), (4, 0), (4, 11), (3, 3)):
        with pytest.raises(ConfigError, match="do not cover 10 classes"):
            primary_classes(10, peers, each)
