"""The calls for help of a peer that serves a stream: when, for which classes, and which peers have helped."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peerlearn.learning import evaluate
from peerlearn.strategies.clue.drift import Watch


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One request batch in counts per class, int64 (C,) each: requests, wrong answers, and wrong answers of the own
    model alone."""

    requests: Tensor
    wrong: Tensor
    own_wrong: Tensor


class HelpCalls:
    """Decides when to call for help. The first call goes out `delay` batches after the drift. While the error is still
    high it is repeated: `cool_down` batches after a call that brought help, `window` batches after one that brought
    none.

    A call names the classes that had at least `min_samples` requests in the last `window` batches, more than a share
    `missed` of them answered wrongly. If there is none, it names the classes that did worse than average. `keep`:
    number of batches that are remembered.
    """

    def __init__(
        self, watch: Watch, *, window: int, delay: int, cool_down: int, min_samples: int, missed: float, keep: int
    ) -> None:
        self.watch = watch
        self._window, self._delay, self._cool_down = window, delay, cool_down
        self._min_samples, self._missed, self._keep = min_samples, missed, keep
        self._served: list[Served] = []
        self._due: int | None = None
        self._tried: list[str] = []
        self.now = 0
        """Number of request batches served."""
        self.number = 0
        """Number of the latest call."""
        self.wanted: tuple[int, ...] = ()
        """Classes of the latest call; empty after recovery."""

    @property
    def served(self) -> tuple[Served, ...]:
        """The latest request batches, oldest first."""
        return tuple(self._served)

    @property
    def tried(self) -> Collection[str]:
        """Ids of the peers that have helped against the present drift."""
        return self._tried

    def observe(self, y: Tensor, given: Tensor, own: Tensor) -> list[str]:
        """Add one batch: labels int64 (B,), and the outputs (B, C) of the ensemble and of the own model. Returns
        events: "drift" is a call for help, "recovered" ends it."""
        self.now += 1
        together, alone = (evaluate.confusion(p, y, classes=p.shape[1]) for p in (given, own))
        requests = together.sum(dim=1)
        self._served.append(Served(requests, requests - together.diagonal(), requests - alone.diagonal()))
        del self._served[: -self._keep]
        change = self.watch.observe(given.argmax(dim=1) != y, own.argmax(dim=1) != y)
        if change == "recovered":
            self._due, self.wanted, self._tried = None, (), []
            return ["recovered"]
        if change == "drift":
            self._due = self.now + self._delay
        urgent = change == "drift" or self.watch.high
        return self._call() if urgent and self._due is not None and self.now >= self._due else []

    def helped(self, sender: str) -> None:
        """Note that this peer has answered the latest call."""
        self._due = self.now + self._cool_down if self._due is not None else None
        if sender not in self._tried:
            self._tried.append(sender)

    def learned(self, classes: Sequence[int], batches: int) -> bool:
        """True if the own model has recovered on these classes, over the last `batches` batches."""
        chosen = list(classes)
        requests = sum(int(served.requests[chosen].sum()) for served in self._served[-batches:])
        wrong = sum(int(served.own_wrong[chosen].sum()) for served in self._served[-batches:])
        return requests > 0 and wrong / requests <= self.watch.level

    def gained(self, batches: int) -> bool:
        """True if the ensemble made fewer mistakes than the own model alone, over the last `batches` batches."""
        recent = self._served[-batches:]
        return sum(int((served.own_wrong - served.wrong).sum()) for served in recent) > 0

    def counts(self, batches: int) -> tuple[int, ...]:
        """Requests per class in the last `batches` batches; empty before the first."""
        recent = [served.requests for served in self._served[-batches:]]
        return tuple(torch.stack(recent).sum(dim=0).tolist()) if recent else ()

    def _call(self) -> list[str]:
        wanted = self._failing()
        if not wanted:
            return []
        self.wanted, self.number, self._due = wanted, self.number + 1, self.now + self._window
        return ["drift"]

    def _failing(self) -> tuple[int, ...]:
        recent = self._served[-self._window :]
        requests = torch.stack([served.requests for served in recent]).sum(dim=0)
        wrong = torch.stack([served.wrong for served in recent]).sum(dim=0)
        share, often = wrong.double() / requests.clamp(min=1), requests >= self._min_samples
        failing = often & (share > self._missed)
        if not bool(failing.any()):
            failing = often & (share > float(wrong.sum()) / float(requests.sum()))
        return tuple(torch.nonzero(failing).reshape(-1).tolist())

    def state_dict(self) -> dict[str, Any]:
        return {
            "watch": self.watch.state_dict(),
            "served": [[served.requests, served.wrong, served.own_wrong] for served in self._served],
            "due": self._due,
            "tried": list(self._tried),
            "now": self.now,
            "number": self.number,
            "wanted": list(self.wanted),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.watch.load_state_dict(saved["watch"])
        self._served = [Served(*counts) for counts in saved["served"]]
        self._due, self._tried = saved["due"], list(saved["tried"])
        self.now, self.number, self.wanted = saved["now"], saved["number"], tuple(saved["wanted"])
