"""A model with its private data and optimizer: it trains, predicts, rolls back, and makes snapshots for other peers."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError, StateError
from peerlearn.learning import evaluate as evaluation
from peerlearn.learning import rollback as marks
from peerlearn.learning import setup, state
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.interruption import Diverged, Interrupted
from peerlearn.learning.report import Report
from peerlearn.learning.rng import RngGuard
from peerlearn.learning.rollback import RollbackPoint
from peerlearn.learning.sampler import Sampler, derived, seeded_rng
from peerlearn.learning.samples import Batch, Labelled, TensorSamples, WithLabels
from peerlearn.learning.setup import Facts
from peerlearn.learning.snapshot import Snapshot
from peerlearn.learning.trial import Trial
from peerlearn.types import Span

__all__ = ["Batch", "Facts", "Learner", "Loss", "Objective"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes logits (B, C) and labels int64 (B,), returns a scalar."""
Objective = Callable[[nn.Module, Batch], Tensor | None]
"""Takes the model in training and a batch, returns a scalar; None: nothing to add."""

_PREDICT = 512
"""Samples per forward pass without gradients; bounds the memory of the activations."""


class Learner:
    """The model, data and optimizer of one peer. Belongs to one thread; other threads may call `interrupt()` only.

    `train_set`: any map-style data set of (x, y), a TensorDataset, a `Dataset`, or tensors (x, y); y are class indices.
    `held_out`, for the gate: the share of `train_set` to keep out of training (at least one sample of every class that
    has two), or labelled data of its own, or 0. `loss` takes logits (B, C) and labels (B,); default: cross-entropy.
    `optimizer`: over parameters of this model; default: Adam, 1e-3. `public_sets`: unlabelled data that other peers
    hold too. `seed` decides the split, the order of batches and what is random in training (dropout), and nothing else.
    `start`: the fingerprint of the weights from which an already trained model began (`describe().start` of the learner
    that trained it); default: that of the present weights. Only models of one start can be averaged.

    Non-persistent buffers are not shared: snapshots have them as they are at construction. Raises LearnerError, with
    one sentence, for a model or data that cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        train_set: Labelled,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        classes: int | None = None,
        batch_size: int = 64,
        held_out: float | Labelled = 0.1,
        seed: int = 0,
        loss: Loss | None = None,
        task: str = "",
        public_sets: Sequence[Unlabelled] = (),
        device: torch.device | str | None = None,
        start: str = "",
    ) -> None:
        self.model, self.task, self.seed = model, task, seed
        self.loss: Loss = loss or F.cross_entropy
        self.device = setup.place(model, device)
        self.public_sets = setup.checked_public_sets(public_sets)
        data = setup.private_data(model, train_set, held_out, classes, seed=seed, device=self.device)
        self.classes = data.classes
        self._samples, self._rows, self._held = data.samples, data.rows, data.held_out
        self.optimizer = setup.checked_optimizer(model, optimizer)
        self.template = setup.template(model)
        self._rng_guard = RngGuard(model, self.device)
        self._sampler = Sampler(len(self._rows), setup.checked_batch_size(batch_size), seed=seed)
        self._batch_size = batch_size
        self.rng = seeded_rng("learner", seed)
        """The generator for all random draws of a strategy. It is saved and rolled back with the learner."""
        self.shown: Snapshot | None = None
        """The latest snapshot, from which other peers are answered; None before the first."""
        self._architecture = state.architecture(self.state)
        self._start = start or state.fingerprint(self.state)
        self._steps = 0
        self._stop = threading.Event()
        self.between: Callable[[], None] | None = None
        """Called between two training steps, on the learner's thread; used to save progress during a long span."""
        self._facts: Facts | None = None
        self._trial = Trial(self.template, self.device)
        self._sampled: tuple[tuple[int, ...], Tensor] | None = None

    # ---- facts about the learner

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name: live, not copies."""
        return state.persistent(self.model)

    @property
    def architecture(self) -> str:
        """sha256 over names, shapes and dtypes of the state: equal only for models whose states fit each other."""
        return self._architecture

    @property
    def steps(self) -> int:
        """Optimizer steps made so far."""
        return self._steps

    @property
    def held_out(self) -> Batch | None:
        """All held-out samples on the CPU, x (N, ...), y (N,); None when there are none."""
        return self._held()

    def describe(self) -> Facts:
        """The facts about this learner for a card. The first call may read every label, if the data set has no
        `targets`."""
        if self._facts is None:
            self._facts = Facts(
                classes=self.classes,
                histogram=setup.histogram(self._samples, self._rows, self.classes),
                architecture=self._architecture,
                start=self._start,
                layers=state.layers(self.model),
                task=self.task,
                public_sets=tuple(public.card for public in self.public_sets),
            )
        return self._facts

    # ---- training

    def batches(self, span: Span) -> Iterator[Batch]:
        """The next batches of private samples, on the learner's device. An epoch has as many as one pass needs.

        Raises Interrupted before a batch when `interrupt()` was called, LearnerError for a sample that cannot be used.
        """
        for _ in range(self._sampler.count(span)):
            self.check_interrupt()
            with self._reading():
                batch = self._samples.take(self._rows[self._sampler.next()])
            yield batch if batch.x.device == self.device else batch.to(self.device)

    def one_pass(self) -> Iterator[Batch]:
        """Every private sample once, ids rising, a few hundred at a time, on the learner's device. The position of
        training stays. Raises as `batches` does."""
        for rows in self._rows.split(_PREDICT):
            self.check_interrupt()
            with self._reading():
                batch = self._samples.take(rows)
            yield batch.to(self.device)

    def _reading(self, purpose: str = "read") -> AbstractContextManager[None]:
        """A user's own data set may draw random numbers when it is read, for example to flip or crop."""
        return nullcontext() if isinstance(self._samples, TensorSamples) else self.chance(purpose, foreign=True)

    def check_interrupt(self) -> None:
        """Call between two steps of your own training loop. Raises Interrupted when `interrupt()` was called."""
        if self._stop.is_set():
            self._stop.clear()
            raise Interrupted
        if self.between is not None:
            self.between()

    def count(self, span: Span) -> int:
        """Number of batches in a span."""
        return self._sampler.count(span)

    def preview(self, span: Span) -> tuple[Batch, Batch]:
        """The first and the last batch of a future span. The position of training does not move."""
        last = max(0, self._sampler.count(span) - 1)
        with self._reading():
            first, final = (self._samples.take(self._rows[self._sampler.ahead(n)]) for n in (0, last))
        return first.to(self.device), final.to(self.device)

    def fit(self, span: Span, *, extra_loss: Objective | None = None, loss: Objective | None = None) -> Report:
        """Train on private samples in train mode. `loss` replaces the learner's own loss; `extra_loss` is added to it.

        Raises Interrupted, Diverged or LearnerError.
        """
        total, samples, steps = 0.0, 0, 0
        with state.in_mode(self.model, training=True):
            for batch in self.batches(span):
                amount = len(batch.y)
                with self.chance("step"):
                    total += self.step(self._value(batch, loss, extra_loss)) * amount
                samples, steps = samples + amount, steps + 1
        return Report(steps=steps, samples=samples, loss=total / samples if samples else float("nan"))

    def step(self, loss: Tensor) -> float:
        """Make one optimizer step on a scalar loss; returns the loss. Raises Diverged, before the step, if not
        finite."""
        value = float(loss.detach())
        if value - value != 0:
            raise Diverged(f"the loss is {value} at step {self._steps}; lower the learning rate or scale the inputs")
        self._drop_gradients()
        loss.backward()
        self.optimizer.step()
        self._drop_gradients()
        self._steps += 1
        return value

    def _drop_gradients(self) -> None:
        """Does what `zero_grad(set_to_none=True)` does; that call takes as long as a small network's forward pass."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def interrupt(self) -> None:
        """Make the present or else the next span raise Interrupted before its next batch. Any thread may call this."""
        self._stop.set()

    def go_on(self) -> None:
        """Withdraw an interruption that has not been raised yet."""
        self._stop.clear()

    def chance(self, purpose: str, *, foreign: bool = False) -> AbstractContextManager[None]:
        """A block in which torch's global generators depend on this learner's seed and position alone, so that dropout
        is repeatable; they are restored afterwards. `purpose` is part of the seed. `foreign`: code in the block draws
        in some calls and not in others, as a data set may; a model's step draws always or never."""
        epoch, position = self._sampler.epoch, self._sampler.position
        if self._rng_guard.needless(purpose, epoch):
            return nullcontext()
        return self._rng_guard.block(purpose, epoch, derived(self.seed, purpose, epoch, position), foreign=foreign)

    def _value(self, batch: Batch, loss: Objective | None, extra_loss: Objective | None) -> Tensor:
        value = loss(self.model, batch) if loss else self.loss(self.model(batch.x), batch.y)
        extra = extra_loss(self.model, batch) if extra_loss else None
        if value is None:
            raise TypeError("the objective given as `loss` returned None; only `extra_loss` may")
        return value if extra is None else value + extra

    # ---- prediction

    def logits(self, x: Tensor, *, model: nn.Module | None = None) -> Tensor:
        """Logits float (B, C) on the CPU for inputs (B, ...), in eval mode without gradients, a few hundred at a time.

        `model`: another model than the learner's own, on the learner's device.
        """
        parts = state.outputs(model or self.model, x, self.device, chunk=_PREDICT)
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else torch.empty(0, self.classes)

    def predict(self, x: Tensor) -> Tensor:
        """Probabilities (B, C) on the CPU for inputs (B, ...)."""
        return self.logits(x).softmax(dim=1)

    def evaluate(
        self, data: WithLabels | None = None, *, predict: Callable[[Tensor], Tensor] | None = None
    ) -> evaluation.Evaluation:
        """Evaluate `predict` (default: the learner's own) on `data` (default: the held-out samples, possibly none)."""
        data = data if data is not None else self.held_out
        if data is None:
            return evaluation.nothing(self.classes)
        return evaluation.evaluation((predict or self.predict)(data.x), data.y, classes=self.classes)

    def sample(self, amount: int) -> Tensor:
        """Inputs of the first private samples, (k, ...) with k <= amount, on which a received model can be tried."""
        where = (amount, *self._sampler.state())
        if self._sampled is None or self._sampled[0] != where:  # called once per provider, and a data set may be slow
            with self._reading("sample"):
                self._sampled = where, self._samples.take(self._rows[:amount]).x
        return self._sampled[1].clone()

    # ---- all or nothing

    def mark(self) -> RollbackPoint:
        """A rollback point for `restore`: copies of model, optimizer, generator and position."""
        return marks.take(self.model, self.optimizer, self.rng.get_state(), self._sampler.state(), self._steps)

    def restore(self, mark: RollbackPoint) -> None:
        """Go back to the rollback point, bit for bit."""
        marks.put_back(mark, self.model, self.optimizer)
        self.rng.set_state(mark.rng)
        self._sampler.go_to(*mark.sampler)
        self._steps = mark.steps

    @contextmanager
    def tentative(self) -> Iterator[RollbackPoint]:
        """A block that is undone on failure: when it raises, the learner is again, bit for bit, as before it."""
        mark = self.mark()
        try:
            yield mark
        except BaseException:
            self.restore(mark)
            raise

    # ---- tensors in and out

    def overwrite(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace these tensors of the state, and drop what the optimizer holds for them: stale momentum would pull
        them back. Raises KnowledgeError, before anything is changed, when a tensor does not fit."""
        live = self.state
        fitting = state.check_fit(tensors, live, whole=False)
        for name, tensor in fitting.items():
            live[name].detach().copy_(tensor)
            self.optimizer.state.pop(live[name], None)

    def check_whole(self, tensors: Mapping[str, object]) -> dict[str, Tensor]:
        """The tensors, when they are a whole state of this model. Raises KnowledgeError otherwise."""
        return state.check_fit(tensors, self.state, whole=True)

    def build(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A copy of this learner's network with another state: eval mode, no gradients, on the learner's device."""
        return state.frozen(self.template, tensors, self.device)

    def trial(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Like `build`, for short use: the next call may fill the same network with other tensors."""
        return self._trial.of(tensors)

    def snapshot(self, version: int, extras: Any = None) -> Snapshot:
        """An immutable copy of the present model, with the strategy's `extras`. Call it between two steps."""
        architecture = self._architecture
        self.shown = Snapshot(version, self.state, template=self.template, architecture=architecture, extras=extras)
        return self.shown

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything needed to continue to the same bits."""
        return {
            "architecture": self._architecture,
            "start": self._start,
            "samples": len(self._rows),
            "batch_size": self._batch_size,
            "seed": self.seed,
            "steps": self._steps,
            "order": list(self._sampler.state()),
            "generator": self.rng.get_state(),
            "model": state.copied(self.state),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises StateError, before anything is changed, for another learner's state."""
        setup.check_saved(
            saved, self._architecture, samples=len(self._rows), batch_size=self._batch_size, seed=self.seed
        )
        with self.tentative():
            try:
                self.model.load_state_dict(self.check_whole(saved["model"]))
                self.optimizer.load_state_dict(saved["optimizer"])
                self.rng.set_state(saved["generator"])
                self._sampler.go_to(*map(int, saved["order"]))
                self._steps, self._start = int(saved["steps"]), str(saved["start"])
            except (KeyError, TypeError, ValueError, RuntimeError, KnowledgeError) as exc:
                raise StateError(f"this state does not fit the learner: {exc}") from exc
        self._facts = None
