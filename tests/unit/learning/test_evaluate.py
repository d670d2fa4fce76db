"""Metrics that count samples, and losses against their closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from peerlearn.errors import LearnerError
from peerlearn.learning import evaluate, losses
from peerlearn.learning.sampler import seeded_rng


def _logits(seed: int, rows: int = 5, classes: int = 4) -> torch.Tensor:
    return 3 * torch.randn(rows, classes, generator=seeded_rng("logits", seed), dtype=torch.float64)


def test_confusion_counts_true_by_predicted() -> None:
    predictions = F.one_hot(torch.tensor([0, 1, 1, 2, 0]), 3).float()
    confusion = evaluate.confusion(predictions, torch.tensor([0, 0, 1, 1, 0]), classes=3)
    assert confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert confusion.dtype == torch.int64
    with pytest.raises(LearnerError, match=r"must be \(5, 4\)"):
        evaluate.confusion(predictions, torch.zeros(5).long(), classes=4)


def test_scores_by_hand() -> None:
    confusion = torch.tensor([[8, 2, 0], [1, 1, 0], [0, 3, 1]])
    scores = evaluate.scores(confusion, [0, 1])
    assert scores == evaluate.Scores(private=9 / 12, remote=1 / 4, shared=10 / 16)
    assert evaluate.accuracy(confusion) == 10 / 16
    assert evaluate.recall(confusion).tolist() == [0.8, 0.5, 0.25]
    assert math.isclose(evaluate.balanced_accuracy(confusion), (0.8 + 0.5 + 0.25) / 3)


def test_absent_classes_do_not_count_and_no_samples_give_nan() -> None:
    confusion = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 2]])
    assert evaluate.balanced_accuracy(confusion) == (0.75 + 1) / 2
    assert math.isnan(evaluate.scores(confusion, [0, 2]).remote)
    assert math.isnan(evaluate.accuracy(torch.zeros(3, 3).long()))
    assert math.isnan(evaluate.balanced_accuracy(torch.zeros(3, 3).long()))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60), st.integers(1, 60))
def test_accuracy_does_not_depend_on_how_samples_are_batched(pairs: list[tuple[int, int]], size: int) -> None:
    y, predicted = (torch.tensor(part) for part in zip(*pairs, strict=True))
    p = F.one_hot(predicted, 5).float()
    parts = zip(p.split(size), y.split(size), strict=True)
    whole = torch.stack([evaluate.confusion(a, b, classes=5) for a, b in parts]).sum(0)
    assert evaluate.accuracy(whole) == float((y == predicted).double().mean())
    assert int(whole.sum()) == len(pairs)


def test_the_loss_of_an_evaluation_is_the_mean_over_samples() -> None:
    p = torch.tensor([[0.5, 0.5], [0.1, 0.9], [1.0, 0.0]])
    done = evaluate.evaluation(p, torch.tensor([0, 1, 0]), classes=2)
    assert math.isclose(done.loss, -(math.log(0.5) + math.log(0.9)) / 3, rel_tol=1e-6)
    assert done.samples == 3


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_distill_kl_is_the_closed_form(temperature: float) -> None:
    teacher, student = _logits(0), _logits(1)
    p = [[math.exp(v / temperature) for v in row] for row in teacher.tolist()]
    q = [[math.exp(v / temperature) for v in row] for row in student.tolist()]
    expected = 0.0
    for a, b in zip(p, q, strict=True):
        expected += sum(x / sum(a) * math.log((x / sum(a)) / (y / sum(b))) for x, y in zip(a, b, strict=True))
    actual = losses.distill_kl(teacher, student, temperature)
    assert math.isclose(float(actual), temperature**2 * expected / len(p), rel_tol=1e-9)
    assert not math.isclose(float(losses.distill_kl(student, teacher, temperature)), float(actual), rel_tol=1e-3)


def test_distill_kl_for_two_classes_at_temperature_three() -> None:
    """C=2, T=3: KL of two Bernoullis with sigmoid((z0 - z1) / 3)."""
    a, b = torch.tensor([[3.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 1.5]], dtype=torch.float64)
    p, q = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(0.5))
    expected = 9 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert math.isclose(float(losses.distill_kl(a, b, 3.0)), expected, rel_tol=1e-12)


def test_distill_kl_gradient_is_t_times_the_difference_of_probabilities() -> None:
    """d/dz = T (softmax(z/T) - softmax(v/T)) / B, for the student; the teacher gets none."""
    teacher, student = _logits(0).requires_grad_(), _logits(1).requires_grad_()
    losses.distill_kl(teacher, student, 2.0).backward()
    expected = 2.0 * ((student / 2).softmax(1) - (teacher / 2).softmax(1)) / len(student)
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, expected.detach())


def test_distill_kl_survives_a_teacher_without_doubt() -> None:
    teacher = torch.tensor([[1e4, -1e4, 0.0]])
    assert torch.isfinite(losses.distill_kl(teacher, torch.zeros(1, 3)))


def test_logit_mse_is_the_mean_over_batch_and_classes() -> None:
    teacher, student = _logits(0).requires_grad_(), _logits(1).requires_grad_()
    loss = losses.logit_mse(teacher, student)
    loss.backward()
    assert math.isclose(loss.item(), (teacher - student).square().sum().item() / 20, rel_tol=1e-12)
    assert teacher.grad is None


def test_balanced_weights_give_every_class_present_the_same_say() -> None:
    histogram = torch.tensor([30, 10, 0, 60])
    weights = losses.balanced_weights(histogram)
    torch.testing.assert_close(weights * histogram, torch.tensor([1, 1, 0, 1]) * 100 / 3)
    assert weights[2] == 0
