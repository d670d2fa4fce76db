"""What a span of training came to."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`loss` is the mean per sample over the span (nan when there was no step); `events` feed the schedule's triggers;
    `committed` is False when a transfer refused its own result (a guard), so that nothing was changed."""

    steps: int = 0
    samples: int = 0
    loss: float = float("nan")
    events: tuple[str, ...] = ()
    notes: Mapping[str, float] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    committed: bool = True
