"""A model, its private data and its optimizer: trains, predicts, can be put back, and is shown by snapshots only."""

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
from peerlearn.types import Span

__all__ = ["Batch", "Facts", "Learner", "Loss", "Objective"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, C) and labels int64 (B,) to a scalar."""
Objective = Callable[[nn.Module, Batch], Tensor | None]
"""From the model in training and a batch to a scalar; None: nothing to add."""

_PREDICT = 512
_NUMBERED = "0123456789 "
"""What tells purposes of one kind apart: "member 3" draws as "member 4" does."""
_TRIAL_BYTES = 16 * 2**20
"""Of a network that is kept to be filled anew: to build its objects takes longer than to copy such tensors."""


class Learner:
    """Everything that one peer learns with. Belongs to one thread; only `interrupt()` may be called from another.

    `train_set`: any map-style data set of (x, y), a TensorDataset, a `Dataset`, or tensors (x, y); y are class indices.
    `held_out`: the share of it that is kept out of training for the gate (with at least one sample of every class that
    has two), or labelled data of its own, or 0. `loss` takes logits (B, C) and labels (B,); default: cross-entropy.
    `optimizer`: over parameters of this model; default: Adam, 1e-3. `public_sets`: unlabelled data that others hold
    too. `seed` decides the split, the order of batches and what is random in training (dropout), and nothing else.
    `start` names the weights that a model which was trained before it came here began from (`describe().start` of the
    learner that trained it): only models of one start can be averaged. Default: those that it comes with.
    Buffers that are not persistent stay at home: others, and snapshots, see them as they are at construction.

    Raises LearnerError, in one sentence, for a model or data that cannot be learned with.
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
        name: str = "",
        start: str = "",
    ) -> None:
        self.model, self.name, self.task, self.seed = model, name, task, seed
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
        """For whatever a strategy draws at random: saved, and rolled back, with the learner."""
        self.shown: Snapshot | None = None
        """The latest snapshot: what others are given of it now."""
        self._architecture = state.architecture(self.state)
        self._start = start or state.fingerprint(self.state)
        self._steps = 0
        self._stop = threading.Event()
        self.between: Callable[[], None] | None = None
        """Called between two steps of training, on the learner's thread: whoever saves on the way of a long span."""
        self._facts: Facts | None = None
        self._trial: nn.Module | None = None
        self._sampled: tuple[tuple[int, ...], Tensor] | None = None

    # ---- what it is

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name: live, not copies."""
        return state.persistent(self.model)

    @property
    def architecture(self) -> str:
        return self._architecture

    @property
    def steps(self) -> int:
        """Optimizer steps made so far."""
        return self._steps

    @property
    def held_out(self) -> Batch | None:
        """All held-out samples on the CPU, x (N, ...), y (N,); None when nothing is held out."""
        return self._held()

    def describe(self) -> Facts:
        """What a card says about this learner. The first call may have to read every label of a data set that does not
        keep them at hand in `targets`."""
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
        """The next batches of private samples, on the learner's device. An epoch is as many as one pass has.

        Raises Interrupted before a batch when `interrupt()` was called, LearnerError for a sample that cannot be used.
        """
        for _ in range(self._sampler.count(span)):
            self.check_interrupt()
            with self._reading():
                batch = self._samples.take(self._rows[self._sampler.next()])
            yield batch if batch.x.device == self.device else batch.to(self.device)

    def one_pass(self) -> Iterator[Batch]:
        """Every private sample once, ids rising, a few hundred at a time, on the learner's device; the order of
        training does not move. Raises as `batches` does."""
        for rows in self._rows.split(_PREDICT):
            self.check_interrupt()
            with self._reading():
                batch = self._samples.take(rows)
            yield batch.to(self.device)

    def _reading(self, purpose: str = "read") -> AbstractContextManager[None]:
        """A data set of the user's own may draw when it is read, to flip or to crop."""
        return nullcontext() if isinstance(self._samples, TensorSamples) else self.chance(purpose, foreign=True)

    def check_interrupt(self) -> None:
        """Between two steps of a loop of one's own: raises Interrupted when `interrupt()` was called."""
        if self._stop.is_set():
            self._stop.clear()
            raise Interrupted
        if self.between is not None:
            self.between()

    def count(self, span: Span) -> int:
        """Batches in a span."""
        return self._sampler.count(span)

    def preview(self, span: Span) -> tuple[Batch, Batch]:
        """The first and the last batch of a span that is yet to come; nothing moves."""
        last = max(0, self._sampler.count(span) - 1)
        with self._reading():
            first, final = (self._samples.take(self._rows[self._sampler.ahead(n)]) for n in (0, last))
        return first.to(self.device), final.to(self.device)

    def fit(self, span: Span, *, extra_loss: Objective | None = None, loss: Objective | None = None) -> Report:
        """Train on private samples in train mode. `loss` replaces the learner's own loss, `extra_loss` is added to it.

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
        """One optimizer step on a scalar loss; returns its value. Raises Diverged, before the step, if not finite."""
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
        """As `zero_grad(set_to_none=True)`, which takes as long as a small network's forward pass."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def interrupt(self) -> None:
        """Ask, from any thread, for training to stop: the span under way, or the next one, raises Interrupted before
        its next batch."""
        self._stop.set()

    def go_on(self) -> None:
        """Withdraw an interruption that nothing has met: training may go on."""
        self._stop.clear()

    def chance(self, purpose: str, *, foreign: bool = False) -> AbstractContextManager[None]:
        """Inside the block torch's global generators depend on this learner's seed and position alone, so that dropout
        is repeatable whoever else computes in this process; afterwards they are as they were. `foreign`: what runs
        inside may draw now and then, as a data set does; a step of a model draws always or never."""
        epoch, position = self._sampler.epoch, self._sampler.position
        kind = purpose.rstrip(_NUMBERED)
        if self._rng_guard.needless(kind, epoch):
            return nullcontext()
        seed = derived(self.seed, purpose, epoch, position)
        return self._rng_guard.block(kind, epoch, seed, foreign=foreign)

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
        """Of `predict` (default: the learner's own) on `data` (default: what is held out, which may be nothing)."""
        data = data if data is not None else self.held_out
        if data is None:
            nothing = torch.zeros(self.classes, self.classes, dtype=torch.int64)
            return evaluation.Evaluation(nothing, float("nan"))
        return evaluation.evaluation((predict or self.predict)(data.x), data.y, classes=self.classes)

    def sample(self, amount: int) -> Tensor:
        """Inputs of the first private samples, (k, ...) with k <= amount: to try somebody's model on."""
        where = (amount, *self._sampler.state())
        if self._sampled is None or self._sampled[0] != where:  # asked once per provider: a data set may be slow
            with self._reading("sample"):
                self._sampled = where, self._samples.take(self._rows[:amount]).x
        return self._sampled[1].clone()

    # ---- all or nothing

    def mark(self) -> RollbackPoint:
        """A point to go back to: model, optimizer, generator, position."""
        return marks.take(self.model, self.optimizer, self.rng.get_state(), self._sampler.state(), self._steps)

    def restore(self, mark: RollbackPoint) -> None:
        """Back to the mark, bit for bit."""
        marks.put_back(mark, self.model, self.optimizer)
        self.rng.set_state(mark.rng)
        self._sampler.go_to(*mark.sampler)
        self._steps = mark.steps

    @contextmanager
    def tentative(self) -> Iterator[RollbackPoint]:
        """When the block raises anything at all, the learner is bit for bit as it was before."""
        mark = self.mark()
        try:
            yield mark
        except BaseException:
            self.restore(mark)
            raise

    # ---- tensors in and out

    def overwrite(self, tensors: Mapping[str, Tensor]) -> None:
        """Write these tensors of the state from outside, and forget what the optimizer had gathered for them: stale
        momentum would drag them back. Raises KnowledgeError, before anything is changed, when one does not fit."""
        live = self.state
        fitting = state.check_fit(tensors, live, whole=False)
        for name, tensor in fitting.items():
            live[name].detach().copy_(tensor)
            self.optimizer.state.pop(live[name], None)

    def check_whole(self, tensors: Mapping[str, object]) -> dict[str, Tensor]:
        """The tensors as a whole state of this model. Raises KnowledgeError when they are not."""
        return state.check_fit(tensors, self.state, whole=True)

    def build(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """This learner's network with another state: eval mode, no gradients, on the learner's device."""
        return state.frozen(self.template, tensors, self.device)

    def trial(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The same for a look at it, until the next call: that may be given this very network, with other tensors."""
        if self._trial is None:
            network = self.build(tensors)
            if sum(tensor.nbytes for tensor in tensors.values()) <= _TRIAL_BYTES:
                self._trial = network
            return network
        state.refill(self._trial, self.template, tensors)
        return self._trial

    def snapshot(self, version: int, extras: Any = None) -> Snapshot:
        """An immutable copy of the model as it is now; call it between two steps."""
        self.shown = Snapshot(
            version, self.state, template=self.template, architecture=self._architecture, extras=extras
        )
        return self.shown

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything needed to go on to the same bits."""
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
        """Go on from `state_dict()`. Raises StateError, before anything is changed, when it is another learner's."""
        own = {"samples": len(self._rows), "batch_size": self._batch_size, "seed": self.seed}
        if saved.get("architecture") != self._architecture:
            raise StateError("this state is of another model; give the same model as when it was saved")
        for what, value in own.items():
            if saved.get(what) != value:
                raise StateError(f"this state was saved with {what} {saved.get(what)}, this learner has {value}")
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
