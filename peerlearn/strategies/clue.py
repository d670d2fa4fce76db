"""CLUE: learn from a stream, and on drift borrow the few parameters that matter for the classes one lacks.

Daga et al., "CLUE: Systems Support for Knowledge Transfer in Collaborative Learning with Neural Nets". Nothing moves
without drift. Parts: drift.py (when), neighbours.py (of whom), significance.py (what), helpers.py (what becomes of it).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from peerlearn.errors import ConfigError, KnowledgeError, RefusalReason
from peerlearn.knowledge import Answer, Json, Params, Query, Question, Received, Refusal
from peerlearn.learning import evaluate, state
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.strategies import answers, significance
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.drift import Change, Method, Watch
from peerlearn.strategies.helpers import OPERATORS, Helper, Operator, Pool, check, filled, merged
from peerlearn.strategies.neighbours import Likeness, covered, to_ask
from peerlearn.strategies.significance import Gradients, Shown
from peerlearn.types import Card, Exposure, Span, steps

Fill = Literal["target", "zero", "replace", "average"]
Picker = Literal["sensitivity", "random"]


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One request batch, counted per class, int64 (C,) each: requests, those answered wrongly, and those that one's
    own model alone would have answered wrongly."""

    requests: Tensor
    wrong: Tensor
    own_wrong: Tensor


@dataclass
class Clue(Base):
    """A local step is one request batch: answer it by the ensemble, measure the error, test for drift, train on it.

    Peers share an architecture and a common ancestor: parameters of models that started apart do not mix.

    Drift: `detector`, `window` W, `reference`, `margin`, `threshold`, `tolerance` as in drift.py; `delay`: batches
    between drift and request; `cool_down`: batches before the next request while the error is still high, which goes to
    the next-best provider; a request that nobody answered is repeated after `window` batches. Requested are the
    classes with at least `min_samples` requests in the last W batches of which a share above `missed` went wrong.
    Providers: `likeness`, and `providers`, at most so many at once of those that have all the classes.

    Parameters: the top `top_percent` of each tensor, by `picker` (`random`: a control). `shows_percent`: the most that
    is shown to others, by default as much as is asked of them. `selection` continuous: sensitivities are summed over
    all batches as they come (memory: classes x parameters) and looked up; on-demand: computed when somebody asks, on
    the last `stored_batches`. `refuse_unseen`: whether a question for a class of which no sample was seen is refused.
    Subclass and override `scores` for another way of picking.

    Helpers: `fill` target, as in the paper; controls: zero (the rest of the helper is zero), replace and average (no
    helper: the own model itself gets what came, or the mean of both). `operator` makes one prediction of several
    models' logits. `retry` replace: a helper for classes that are asked for again has failed, and leaves when the next
    comes; add: it stays. At most `pool` helpers live. `discard` dynamic: when the own model is back at its error from
    before the drift, or, with several helpers, does as well on a helper's classes over `memory` batches (L), but not
    before a helper is W batches old; static: `lifetime` batches after it was made.

    Training: `passes` over each request batch, in optimizer steps on `minibatch` samples (0: on all of it at once).
    Cards tell the class counts of the last `card_window` batches, and go out every `card_every` batches.
    """

    name: ClassVar[str] = "clue"

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

    _watch: Watch = field(init=False, repr=False)
    _helpers: Pool = field(default_factory=Pool, init=False, repr=False)
    _history: list[Served] = field(default_factory=list, init=False, repr=False)
    _stored: tuple[Batch, ...] = field(default=(), init=False, repr=False)
    _sums: dict[int, Gradients] = field(default_factory=dict, init=False, repr=False)
    _now: int = field(default=0, init=False, repr=False)
    _request: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _tried: list[str] = field(default_factory=list, init=False, repr=False)
    _absorbed: dict[str, list[Any]] = field(default_factory=dict, init=False, repr=False)
    _pending: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

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
        self._watch = Watch(
            self.detector, window=self.window, reference=self.reference, margin=self.margin,
            threshold=self.threshold, tolerance=self.tolerance,
        )  # fmt: skip

    # ---- what the fabric asks

    @property
    def needs(self) -> frozenset[Exposure]:
        return frozenset({Exposure.HISTOGRAM, Exposure.PARAMS_SIGNIFICANT})

    @property
    def exposes(self) -> frozenset[Exposure]:
        return frozenset({Exposure.HISTOGRAM, Exposure.PARAMS_SIGNIFICANT})

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            cycle=(*[Local(steps(1))] * self.card_every, Publish()),
            on={"drift": (Exchange(early=False), Transfer(steps(0)))},
        )

    @property
    def helpers(self) -> tuple[Helper, ...]:
        """Those alive, oldest first."""
        return tuple(self._helpers)

    @property
    def history(self) -> tuple[Served, ...]:
        """The latest request batches, oldest first: as many as any window looks back."""
        return tuple(self._history)

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        if provider.architecture != learner.architecture:
            return f"clue mixes parameters of one architecture; {provider.name} has another"
        if provider.classes != learner.classes:
            return f"{provider.name} tells {provider.classes} classes apart, this learner {learner.classes}"
        return None

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str]:
        """Nobody without drift. Those that have helped against this drift come last: when all have, the round begins
        again, for their models have moved on."""
        if not (wanted := self._wanted):
            return []
        fresh = [card for card in candidates if card.id not in self._tried]
        chosen: list[str] = []
        for cards in (fresh, candidates):
            likeness = "similar" if self.likeness == "least-first" and self._tried else self.likeness
            lot = f"{learner.seed}:{self._request['number']}"
            chosen = chosen or to_ask(
                self.histogram(learner), wanted, cards, likeness=likeness, most=self.providers, lot=lot
            )
        return chosen

    def ask(self, learner: Learner, provider: Card) -> Question:
        if not (wanted := self._wanted):
            return Question(Query(want="nothing"))
        classes: list[Json] = [*(covered(provider, wanted) or wanted)]
        select: dict[str, Json] = {"classes": classes, "top_percent": self.top_percent, "picker": self.picker}
        return Question(Query(want="params", select=select))

    def histogram(self, learner: Learner) -> tuple[int, ...]:
        recent = [served.requests for served in self._history[-self.card_window :]]
        return tuple(torch.stack(recent).sum(dim=0).tolist()) if recent else learner.describe().histogram

    def publish(self, learner: Learner) -> Shown:
        sums = self._sums if self.selection == "continuous" else None
        return Shown(self._stored, learner.describe().histogram, sums)

    # ---- the provider's side

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query, shown = asked.question.query, snapshot.extras
        if query.want != "params" or set(query.select) != {"classes", "top_percent", "picker"}:
            return answers.not_mine(self.name, query)
        if not isinstance(shown, Shown) or not shown.batches:
            return Refusal(RefusalReason.UNFIT, "I have served no request batch yet")
        classes, share, picker = (query.select[key] for key in ("classes", "top_percent", "picker"))
        most = self.top_percent if self.shows_percent is None else self.shows_percent
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 100:
            return Refusal(RefusalReason.UNFIT, "top_percent must be a number from 0 to 100")
        if share > most:
            return Refusal(RefusalReason.EXPOSURE, f"I show at most {most:g} % of my parameters, not {share:g} %")
        if picker not in get_args(Picker):
            return Refusal(RefusalReason.UNFIT, f"picker must be one of {', '.join(get_args(Picker))}")
        named = _classes(classes, len(shown.seen))
        if not named:
            return Refusal(RefusalReason.UNFIT, f"classes must be a list of different numbers below {len(shown.seen)}")
        if self.refuse_unseen and (unseen := [c for c in named if not shown.seen[c]]):
            return Refusal(RefusalReason.UNFIT, f"I have seen no sample of class {unseen[0]}")
        return significance.significant(snapshot, self.scores(snapshot, shown, named, str(picker)), share)

    def scores(self, snapshot: Snapshot, shown: Shown, classes: Sequence[int], picker: str) -> Mapping[str, Tensor]:
        """By name of each parameter, its shape: the higher, the sooner a value is picked. Pure."""
        if picker == "random":
            return significance.by_lot(snapshot, classes)
        return significance.by_sensitivity(snapshot, shown, classes)

    # ---- the consumer's side

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        keys = {each.sender.id: _key(each) for each in received}
        new = [each for each in received if self._absorbed.get(each.sender.id) != keys[each.sender.id]]
        for each in new:
            if not isinstance(each.knowledge, Params) or each.asked is None:
                raise KnowledgeError(f"{each.sender.name} brought what no helper can be made of")
            check(learner, each.knowledge, self.top_percent)
        for each in new:
            self._absorbed[each.sender.id] = keys[each.sender.id]
            if isinstance(each.knowledge, Params) and each.asked is not None:
                self._pending[each.sender.id] = {
                    "request": self._request.get("number", 0),
                    "version": each.knowledge.version,
                    "classes": each.asked.select["classes"],
                    "tensors": dict(each.knowledge.tensors),
                }

    def forget(self, provider: str) -> None:
        """What it gave and is not used yet. A helper is a model of one's own, and stays."""
        self._pending.pop(provider, None)

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Make the helpers; no step is trained, whatever the span."""
        number = self._request.get("number", 0)
        came = {peer: p for peer, p in sorted(self._pending.items()) if p["request"] == number}
        if not came:
            return Report()
        self._pending.clear()
        self._request["answered"] = True
        self._tried += [peer for peer in came if peer not in self._tried]
        if self.fill in ("replace", "average"):
            given = [p["tensors"] for p in came.values()]
            learner.overwrite(merged(learner.state, given, average=self.fill == "average"))
        else:
            self._make_helpers(learner, came, "zero" if self.fill == "zero" else "target")
        return Report(providers=tuple(came), notes={"helpers": len(self._helpers)})

    def _make_helpers(
        self, learner: Learner, came: Mapping[str, Mapping[str, Any]], fill: Literal["target", "zero"]
    ) -> None:
        if self.retry == "replace":
            again = {c for p in came.values() for c in p["classes"]}
            self._helpers.keep_if(lambda helper: again.isdisjoint(helper.classes))
        for peer, p in came.items():
            whole = filled(learner.state, p["tensors"], fill=fill)
            self._helpers.add(Helper(peer, p["version"], tuple(p["classes"]), self._now, whole), most=self.pool)

    # ---- one request batch

    def local(self, learner: Learner, span: Span) -> Report:
        """Serve and learn `span` request batches. Events: "drift", when help is to be asked for; "recovered". Notes:
        the mean `error` per batch, `own_error` (of the own model alone), `base`, `drifting`, `helpers`."""
        events: list[str] = []
        taken = samples = steps_made = 0
        loss = error = own_error = 0.0
        for batch in learner.batches(span):
            change = self._serve(learner, batch)
            events += self._events(change)
            made, mean = self._retrain(learner, batch)
            self._discard_helpers()
            self._store(learner, batch)
            served = self._history[-1]
            error += float(served.wrong.sum()) / len(batch)
            own_error += float(served.own_wrong.sum()) / len(batch)
            loss += mean * len(batch)
            taken, samples, steps_made = taken + 1, samples + len(batch), steps_made + made
        if not taken:
            return Report()
        notes = {
            "error": error / taken, "own_error": own_error / taken, "base": self._watch.base,
            "drifting": float(self._watch.drifting), "helpers": float(len(self._helpers)),
        }  # fmt: skip
        return Report(steps=steps_made, samples=samples, loss=loss / samples, events=tuple(events), notes=notes)

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """By one's own model and all helpers."""
        return self._combined(learner.logits(x), self._helpers.logits(learner, x))

    def _combined(self, own: Tensor, others: Sequence[Tensor]) -> Tensor:
        if not others:
            return own.softmax(dim=1)
        operator = OPERATORS[self.operator] if isinstance(self.operator, str) else self.operator
        return operator(torch.stack([own, *others]))

    def _serve(self, learner: Learner, batch: Batch) -> Change:
        self._now += 1
        y, own = batch.y.cpu(), learner.logits(batch.x)
        given = self._combined(own, self._helpers.logits(learner, batch.x))
        together, alone = (evaluate.confusion(p, y, classes=learner.classes) for p in (given, own))
        requests = together.sum(dim=1)
        self._history.append(Served(requests, requests - together.diagonal(), requests - alone.diagonal()))
        del self._history[: -max(self.window, self.memory, self.card_window)]
        return self._watch.observe(given.argmax(dim=1) != y, own.argmax(dim=1) != y)

    def _events(self, change: Change) -> list[str]:
        """What this batch triggers."""
        if change == "recovered":
            self._request, self._tried = {"number": self._request.get("number", 0)}, []
            return ["recovered"]
        if change == "drift":
            self._request = {"number": self._request.get("number", 0), "due": self._now + self.delay}
        if "due" not in self._request or not (change == "drift" or self._watch.high):
            return []
        due = self._request["due"]
        if "wanted" in self._request:
            due += self.cool_down if self._request["answered"] else self.window
        wanted = self._failing()
        if self._now < due or not wanted:
            return []
        number = self._request["number"] + 1
        self._request = {"number": number, "due": self._now, "wanted": list(wanted), "answered": False}
        return ["drift"]

    @property
    def _wanted(self) -> tuple[int, ...]:
        return tuple(self._request.get("wanted", ()))

    def _failing(self) -> tuple[int, ...]:
        """The classes to ask for; if none is missed that much, those that go wrong more often than the mean."""
        recent = self._history[-self.window :]
        requests = torch.stack([served.requests for served in recent]).sum(dim=0)
        wrong = torch.stack([served.wrong for served in recent]).sum(dim=0)
        share = wrong.double() / requests.clamp(min=1)
        failing = (requests >= self.min_samples) & (share > self.missed)
        if not bool(failing.any()):
            failing = (requests >= self.min_samples) & (share > float(wrong.sum()) / float(requests.sum()))
        return tuple(torch.nonzero(failing).reshape(-1).tolist())

    def _retrain(self, learner: Learner, batch: Batch) -> tuple[int, float]:
        """Optimizer steps made, and the mean loss per sample; one whole step is just what `Learner.fit` does."""
        parts = _parts(batch, self.minibatch)
        total = 0.0
        with state.in_mode(learner.model, training=True):
            for n, part in enumerate(parts * self.passes):
                with learner.chance(f"step {n}" if n else "step"):
                    total += learner.descend(learner.loss(learner.model(part.x), part.y)) * len(part)
        return len(parts) * self.passes, total / (len(batch) * self.passes)

    def _discard_helpers(self) -> None:
        if self.discard == "static":
            self._helpers.keep_if(lambda helper: self._now - helper.born < self.lifetime)
            return
        back, several = self._watch.back, len(self._helpers) > 1
        self._helpers.keep_if(
            lambda helper: (
                self._now - helper.born < self.window or not (back or (several and self._learned(helper.classes)))
            )
        )

    def _learned(self, classes: Sequence[int]) -> bool:
        """Whether the own model is back at its old level on these classes, over the last L batches."""
        recent, chosen = self._history[-self.memory :], list(classes)
        requests = sum(int(served.requests[chosen].sum()) for served in recent)
        wrong = sum(int(served.own_wrong[chosen].sum()) for served in recent)
        return requests > 0 and wrong / requests <= self._watch.level

    def _store(self, learner: Learner, batch: Batch) -> None:
        """For those who will ask."""
        kept = Batch(batch.x.cpu(), batch.y.cpu(), batch.ids)
        self._stored = (*self._stored, kept)[-self.stored_batches :]
        if self.selection == "continuous":
            self._sums = significance.added(self._sums, learner.model, kept)

    # ---- on disk

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "watch": self._watch.state_dict(),
            "helpers": self._helpers.state_dict(),
            "history": [[served.requests, served.wrong, served.own_wrong] for served in self._history],
            "stored": [[batch.x, batch.y, batch.ids] for batch in self._stored],
            "sums": {c: dict(grads) for c, grads in self._sums.items()},
            "now": self._now,
            "request": dict(self._request),
            "tried": list(self._tried),
            "absorbed": {peer: list(key) for peer, key in self._absorbed.items()},
            "pending": {peer: significance.saved(p) for peer, p in self._pending.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self._watch.load_state_dict(saved["watch"])
        self._helpers.load_state_dict(saved["helpers"])
        self._history = [Served(*counts) for counts in saved["history"]]
        self._stored = tuple(Batch(*parts) for parts in saved["stored"])
        self._sums = dict(saved["sums"])
        self._now, self._request = saved["now"], dict(saved["request"])
        self._tried = list(saved["tried"])
        self._absorbed = {peer: list(key) for peer, key in saved["absorbed"].items()}
        self._pending = {peer: significance.restored(p) for peer, p in saved["pending"].items()}


def _key(received: Received) -> list[Any]:
    """One piece of knowledge: other classes of the same version are another."""
    asked = received.asked.select.get("classes") if received.asked is not None else None
    member = received.knowledge.member if isinstance(received.knowledge, Params) else 0
    return [received.sender.session, received.knowledge.version, member, asked]


def _classes(asked: Json, classes: int) -> tuple[int, ...]:
    """Empty when they are not different classes."""
    if not isinstance(asked, list) or not all(type(c) is int and 0 <= c < classes for c in asked):
        return ()
    named = tuple(dict.fromkeys(c for c in asked if isinstance(c, int)))
    return named if len(named) == len(asked) else ()


def _parts(batch: Batch, size: int) -> list[Batch]:
    """The batch in parts of `size`, in order; 0: as one."""
    if not size:
        return [batch]
    whole = (batch.x.split(size), batch.y.split(size), batch.ids.split(size))
    return [Batch(*part) for part in zip(*whole, strict=True)]
