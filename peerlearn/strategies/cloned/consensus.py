"""Prediction consensus: how far two models are right on the same samples (Lee, Yoo and Kwak 2020, section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from peerlearn.errors import LearnerError


@dataclass(frozen=True, slots=True)
class Consensus:
    """Numbers of samples by which of two models classify them correctly. Below, T are the teacher's correct samples and
    S the student's."""

    both: int
    teacher_only: int
    student_only: int
    neither: int

    @property
    def intersection(self) -> int:
        """|T and S|."""
        return self.both

    @property
    def union(self) -> int:
        """|T or S|."""
        return self.both + self.teacher_only + self.student_only

    @property
    def score(self) -> float:
        """|T and S| / |T or S|, in 0..1; nan when neither model is ever right."""
        return self.both / self.union if self.union else float("nan")

    @property
    def student_exclusive(self) -> int:
        """|S without T|."""
        return self.student_only

    @property
    def student_accuracy(self) -> float:
        """Share of samples that the student classifies correctly; nan without samples."""
        return _share(self.both + self.student_only, self._samples)

    @property
    def teacher_accuracy(self) -> float:
        """Share of samples that the teacher classifies correctly; nan without samples."""
        return _share(self.both + self.teacher_only, self._samples)

    @property
    def _samples(self) -> int:
        return self.union + self.neither


def consensus(teacher: Tensor, student: Tensor, y: Tensor) -> Consensus:
    """Compare logits or probabilities (N, C) of both models with labels int64 (N,). Raises LearnerError when the shapes
    differ."""
    if teacher.shape != student.shape or teacher.dim() != 2 or len(teacher) != len(y):
        raise LearnerError(
            f"consensus needs the outputs of both on the same samples, not {tuple(teacher.shape)} and "
            f"{tuple(student.shape)} for {len(y)} labels"
        )
    t, s = teacher.argmax(dim=1) == y, student.argmax(dim=1) == y
    counts = torch.stack([t & s, t & ~s, s & ~t, ~t & ~s]).sum(dim=1).tolist()
    return Consensus(*counts)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
