"""The result of a span of training."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Result of a span of training. `steps`: optimizer steps; `samples`: private samples used; `loss`: mean per sample
    over the span, nan without steps. `events` trigger phases of the schedule. `notes`: numbers for the record.
    `providers`: ids of the peers whose knowledge was used. `committed`: False when a transfer rejected its own result,
    so that nothing changed."""

    steps: int = 0
    samples: int = 0
    loss: float = float("nan")
    events: tuple[str, ...] = ()
    notes: Mapping[str, float] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    committed: bool = True
