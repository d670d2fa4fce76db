"""CLUE: peers learn from streams, and on drift borrow the few parameters that matter for the classes they lack.

Daga et al., "CLUE: Systems Support for Knowledge Transfer in Collaborative Learning with Neural Nets". No knowledge
moves without drift. Parts: drift.py (when), neighbours.py (from which peers), significance.py (what), helpers.py (its
use).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from peerlearn.errors import ConfigError, RefusalReason
from peerlearn.knowledge import Answer, Json, Query, Question, Received, Refusal
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.learning.stream import learn
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.clue import significance
from peerlearn.strategies.clue.drift import Method, Watch
from peerlearn.strategies.clue.help_calls import HelpCalls, Served
from peerlearn.strategies.clue.helpers import (
    OPERATORS,
    Came,
    Helper,
    HelperPool,
    Operator,
    came_of,
    check,
    filled,
    merged,
)
from peerlearn.strategies.clue.neighbours import Likeness, covered, to_ask
from peerlearn.strategies.clue.significance import Gradients, Picker, SignificanceView
from peerlearn.strategies.shared import answers
from peerlearn.types import Card, Exposure, Span, steps

Fill = Literal["target", "zero", "replace", "average"]  # what becomes of received values, see `Clue`


@dataclass
class Clue(Base):
    """A local step is one request batch: answer it by the ensemble, measure the error, test for drift, train on it.
    Peers need one architecture and a common ancestor, since parameters of models that started apart do not mix.

    Drift: `detector`, `window` (W), `reference`, `margin`, `threshold`, `tolerance` as in drift.py. `delay`: batches
    from drift to request. `cool_down`: batches before the next request, to the next-best provider, while the error is
    still high; an unanswered request is repeated after `window` batches. Requests name the classes with at least
    `min_samples` requests in the last W batches, of which more than a share `missed` went wrong.

    Providers: at most `providers` of those that have all these classes, ranked by `likeness`. They send the top
    `top_percent` of each tensor by `picker` (`random`: a control), and at most `shows_percent` (default:
    `top_percent`). `selection` continuous: sensitivities are summed over all batches (memory: classes x parameters);
    on-demand: computed for each query from the last `stored_batches`. `refuse_unseen`: refuse queries for a class
    without samples. Override `scores` to select otherwise.

    Helpers: `fill` target, as in the paper; controls: zero (the rest of the helper is zero), replace and average (no
    helper: the own model gets the received values, or means with its own). `operator` combines the logits of several
    models. `retry` replace: when a further request brings help for the same classes, helpers leave that made the last
    `memory` batches no better than the own model alone; add: they stay. At most `pool` helpers live. `discard` dynamic:
    when the own model has recovered, or, with several helpers, has done so on a helper's classes over `memory` batches
    (L), but not before the helper is W batches old; static: after `lifetime` batches.

    Training: `passes` over each request batch, in steps on `minibatch` samples (0: the whole batch). Cards show the
    class counts of the last `card_window` batches, and are published every `card_every` batches.
    """

    name: ClassVar[str] = "clue"
    shares_answers: ClassVar[bool] = True

    detector: Method = "threshold"
    window: int = 3
    reference: int = 10
    margin: float = 0.1
    threshold: float | None = None
    tolerance: float = 0.02
    delay: int = 0
    cool_down: int = 10
    min_samples: int = 5
    missed: float = 0.5
    likeness: Likeness = "similar"
    providers: int = 1
    top_percent: float = 50.0
    shows_percent: float | None = None
    picker: Picker = "sensitivity"
    selection: Literal["on-demand", "continuous"] = "on-demand"
    stored_batches: int = 1
    refuse_unseen: bool = True
    fill: Fill = "target"
    operator: str | Operator = "mean"
    retry: Literal["replace", "add"] = "replace"
    pool: int = 8
    discard: Literal["dynamic", "static"] = "dynamic"
    lifetime: int = 20
    memory: int = 5
    passes: int = 1
    minibatch: int = 0
    card_window: int = 10
    card_every: int = 1

    _calls: HelpCalls = field(init=False, repr=False)
    _helpers: HelperPool = field(default_factory=HelperPool, init=False, repr=False)
    _stored: tuple[Batch, ...] = field(default=(), init=False, repr=False)
    _sums: dict[int, Gradients] = field(default_factory=dict, init=False, repr=False)
    _absorbed: dict[str, list[Any]] = field(default_factory=dict, init=False, repr=False)
    _pending: dict[str, Came] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        choices = {
            "likeness": get_args(Likeness),
            "picker": get_args(Picker),
            "selection": ("on-demand", "continuous"),
            "fill": get_args(Fill),
            "retry": ("replace", "add"),
            "discard": ("dynamic", "static"),
        }
        for option, allowed in choices.items():
            if getattr(self, option) not in allowed:
                raise ConfigError(f"clue: {option} {getattr(self, option)!r} is not one of {', '.join(allowed)}")
        if isinstance(self.operator, str) and self.operator not in OPERATORS:
            raise ConfigError(f"clue: operator {self.operator!r} is not one of {', '.join(OPERATORS)}")
        least = {"cool_down": 1, "min_samples": 1, "providers": 1, "stored_batches": 1, "pool": 1, "lifetime": 1,
                 "memory": 1, "passes": 1, "card_window": 1, "card_every": 1, "delay": 0, "minibatch": 0}  # fmt: skip
        for option, bound in least.items():
            if getattr(self, option) < bound:
                raise ConfigError(f"clue: {option} must be at least {bound}, not {getattr(self, option)}")
        for option in ("top_percent", "shows_percent"):
            if (share := getattr(self, option)) is not None and not 0 <= share <= 100:
                raise ConfigError(f"clue: {option} must lie between 0 and 100, not {share}")
        if not 0 <= self.missed < 1:
            raise ConfigError(f"clue: missed is a share from 0 to below 1, not {self.missed}")
        watch = Watch(
            self.detector, window=self.window, reference=self.reference, margin=self.margin,
            threshold=self.threshold, tolerance=self.tolerance,
        )  # fmt: skip
        self._calls = HelpCalls(
            watch, window=self.window, delay=self.delay, cool_down=self.cool_down, min_samples=self.min_samples,
            missed=self.missed, keep=max(self.window, self.memory, self.card_window),
        )  # fmt: skip

    # ---- exposures, schedule and choice of providers

    @property
    def needs(self) -> frozenset[Exposure]:
        return frozenset({Exposure.HISTOGRAM, Exposure.PARAMS_SIGNIFICANT})

    @property
    def exposes(self) -> frozenset[Exposure]:
        return self.needs

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            cycle=(*[Local(steps(1))] * self.card_every, Publish()),
            on={"drift": (Exchange(early=False), Transfer(steps(0)))},
        )

    @property
    def helpers(self) -> tuple[Helper, ...]:
        """The helpers alive, oldest first."""
        return tuple(self._helpers)

    @property
    def history(self) -> tuple[Served, ...]:
        """The latest request batches, oldest first, as many as the longest window needs."""
        return self._calls.served

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        if provider.architecture != learner.architecture:
            return f"clue mixes parameters of one architecture; {provider.name} has another"
        if provider.classes != learner.classes:
            return f"{provider.name} tells {provider.classes} classes apart, this learner {learner.classes}"
        return None

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str]:
        """No provider without drift. Providers that have helped against this drift come last; once all have, the
        ranking starts again, since their models have moved on."""
        if not self._calls.wanted:
            return []
        fresh = [card for card in candidates if card.id not in self._calls.tried]
        likeness = "similar" if self.likeness == "least-first" and self._calls.tried else self.likeness
        return self._nearest(learner, fresh, likeness) or self._nearest(learner, candidates, likeness)

    def _nearest(self, learner: Learner, cards: Sequence[Card], likeness: Likeness) -> list[str]:
        lot = f"{learner.seed}:{self._calls.number}"
        prior, wanted = self.histogram(learner), self._calls.wanted
        return to_ask(prior, wanted, cards, likeness=likeness, most=self.providers, lot=lot)

    def ask(self, learner: Learner, provider: Card) -> Question:
        if not (wanted := self._calls.wanted):
            return Question(Query(want="nothing"))
        classes: list[Json] = [*(covered(provider, wanted) or wanted)]
        select: dict[str, Json] = {"classes": classes, "top_percent": self.top_percent, "picker": self.picker}
        return Question(Query(want="params", select=select))

    def histogram(self, learner: Learner) -> tuple[int, ...]:
        return self._calls.counts(self.card_window) or learner.describe().histogram

    def publish(self, learner: Learner) -> SignificanceView:
        sums = self._sums if self.selection == "continuous" else None
        return SignificanceView(self._stored, learner.describe().histogram, sums)

    # ---- the provider's side

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query, shown = asked.question.query, snapshot.extras
        if query.want != "params" or set(query.select) != {"classes", "top_percent", "picker"}:
            return answers.not_mine(self.name, query)
        if not isinstance(shown, SignificanceView) or not shown.batches:
            return Refusal(RefusalReason.UNFIT, "I have served no request batch yet")
        wanted = significance.read(query.select, shown.seen, unseen=not self.refuse_unseen)
        most = self.top_percent if self.shows_percent is None else self.shows_percent
        if wanted.top_percent > most:
            detail = f"I show at most {most:g} % of my parameters, not {wanted.top_percent:g} %"
            return Refusal(RefusalReason.EXPOSURE, detail)
        scores = self.scores(snapshot, shown, wanted.classes, wanted.picker)
        return significance.significant(snapshot, scores, wanted.top_percent)

    def scores(
        self, snapshot: Snapshot, shown: SignificanceView, classes: Sequence[int], picker: Picker
    ) -> Mapping[str, Tensor]:
        """Scores by parameter name, each of its parameter's shape; values with higher scores are selected. Must be
        pure."""
        if picker == "random":
            return significance.by_lot(snapshot, classes)
        return significance.by_sensitivity(snapshot, shown, classes)

    # ---- the consumer's side

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        new: dict[str, tuple[list[Any], Came]] = {}
        for each in received:
            came = came_of(each, self._calls.number)
            key = [each.sender.session, came.knowledge.version, came.knowledge.member, came.call, *came.classes]
            if self._absorbed.get(each.sender.id) != key:
                check(learner, came.knowledge, self.top_percent)
                new[each.sender.id] = key, came
        for sender, (key, came) in new.items():
            self._absorbed[sender], self._pending[sender] = key, came
            self._calls.helped(sender)

    def forget(self, provider: str) -> None:
        """Drop unused knowledge of this provider. Its helpers stay: they are models of this peer."""
        self._pending.pop(provider, None)

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Make helpers of the answers to the latest call. Makes no optimizer steps, whatever the span."""
        pending, self._pending = self._pending, {}
        came = {sender: pending[sender] for sender in sorted(pending) if pending[sender].call == self._calls.number}
        if not came:
            return Report()
        if self.fill in ("replace", "average"):
            given = [each.knowledge.tensors for each in came.values()]
            learner.overwrite(merged(learner.state, given, average=self.fill == "average"))
        else:
            self._make_helpers(learner, came)
        return Report(providers=tuple(came), notes={"helpers": len(self._helpers)})

    def _make_helpers(self, learner: Learner, came: Mapping[str, Came]) -> None:
        if self.retry == "replace" and not self._calls.gained(self.memory):
            again = {c for each in came.values() for c in each.classes}
            self._helpers.keep_if(lambda helper: again.isdisjoint(helper.classes))
        for sender, each in came.items():
            whole = filled(learner.state, each.knowledge.tensors, zero=self.fill == "zero")
            helper = Helper(sender, each.knowledge.version, each.classes, self._calls.now, whole)
            self._helpers.add(helper, most=self.pool)

    # ---- one request batch

    def local(self, learner: Learner, span: Span) -> Report:
        """Serve and learn a span of request batches. Events: "drift" to request help, "recovered". Notes, means per
        batch: `error`, `own_error` (of the own model alone); and at the end `base`, `drifting`, `helpers`."""
        events: list[str] = []
        taken = samples = made = 0
        loss = error = own_error = 0.0
        for batch in learner.batches(span):
            events += self._serve(learner, batch)
            steps_made, mean = learn(learner, batch, passes=self.passes, minibatch=self.minibatch)
            self._discard_helpers()
            self._store(learner, batch)
            served = self._calls.served[-1]
            error += int(served.wrong.sum()) / len(batch)
            own_error += int(served.own_wrong.sum()) / len(batch)
            loss += mean * len(batch)
            taken, samples, made = taken + 1, samples + len(batch), made + steps_made
        if not taken:
            return Report()
        watch = self._calls.watch
        notes = {"error": error / taken, "own_error": own_error / taken, "base": watch.base,
                 "drifting": float(watch.drifting), "helpers": float(len(self._helpers))}  # fmt: skip
        return Report(steps=made, samples=samples, loss=loss / samples, events=tuple(events), notes=notes)

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Probabilities (B, C) by the own model and all helpers."""
        return self._combined(learner.logits(x), self._helpers.logits(learner, x))

    def _combined(self, own: Tensor, others: Sequence[Tensor]) -> Tensor:
        if not others:
            return own.softmax(dim=1)
        operator = OPERATORS[self.operator] if isinstance(self.operator, str) else self.operator
        return operator(torch.stack([own, *others]))

    def _serve(self, learner: Learner, batch: Batch) -> list[str]:
        own = learner.logits(batch.x)
        given = self._combined(own, self._helpers.logits(learner, batch.x))
        return self._calls.observe(batch.y.cpu(), given, own)

    def _discard_helpers(self) -> None:
        several = len(self._helpers) > 1

        def stays(helper: Helper) -> bool:
            age = self._calls.now - helper.born
            if self.discard == "static":
                return age < self.lifetime
            learned = several and self._calls.learned(helper.classes, self.memory)
            return age < self.window or not (learned or self._calls.watch.back)

        self._helpers.keep_if(stays)

    def _store(self, learner: Learner, batch: Batch) -> None:
        """Keep the batch for the answers to consumers."""
        kept = Batch(batch.x.cpu(), batch.y.cpu(), batch.ids)
        self._stored = (*self._stored, kept)[-self.stored_batches :]
        if self.selection == "continuous":
            self._sums = significance.added(self._sums, learner.model, kept)

    # ---- saved state

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "calls": self._calls.state_dict(),
            "helpers": self._helpers.state_dict(),
            "stored": [[batch.x, batch.y, batch.ids] for batch in self._stored],
            "sums": {c: dict(gradients) for c, gradients in self._sums.items()},
            "absorbed": {sender: list(key) for sender, key in self._absorbed.items()},
            "pending": {sender: came.state_dict() for sender, came in self._pending.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._calls.load_state_dict(state["calls"])
        self._helpers.load_state_dict(state["helpers"])
        self._stored = tuple(Batch(*parts) for parts in state["stored"])
        self._sums = dict(state["sums"])
        self._absorbed = {sender: list(key) for sender, key in state["absorbed"].items()}
        self._pending = {sender: Came.restored(came) for sender, came in state["pending"].items()}
