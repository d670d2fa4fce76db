"""Multi-headed distillation: peers with several heads learn from each other's outputs on a public unlabelled set.

Zhmoginov et al. 2023, "Decentralized learning with multi-headed distillation". Works between different architectures
and over any links (`Peer(learn_from=...)`). Head k learns from other peers' heads k-1, so that knowledge passes on from
peer to peer, while the main head, 0, learns from own labels alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from peerlearn.errors import ConfigError, KnowledgeError, LearnerError, RefusalReason, StateError
from peerlearn.knowledge import Answer, Outputs, Params, Query, Question, Received, Refusal
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.interruption import Diverged
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.sampler import seeded_rng
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Exchange, Local, Phase, Publish, Schedule, Transfer
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.mhd.heads import MultiHead, heads_on_card
from peerlearn.strategies.mhd.joint_step import Joint
from peerlearn.strategies.mhd.loss import Aims, TeacherRule
from peerlearn.strategies.mhd.options import check_options
from peerlearn.strategies.mhd.public_window import Shown, Wanted, Window, check_table
from peerlearn.strategies.mhd.teacher_pool import Entry, FrozenTeacher, TeacherPool, check_network
from peerlearn.strategies.shared import answers
from peerlearn.strategies.shared.optim import paced
from peerlearn.types import Card, Exposure, Span, epochs, steps


@dataclass
class MHD(Base):
    """Loss of a joint step, with x' a batch of the public set:

    CE(h_0(x), y) + nu_emb * mean_j mean_x' || e(x')/|e(x')| - e_j(x')/|e_j(x')| ||^2
                  + nu_aux * sum_{k=1..m} mean_x' H(q_{k-1}(x'), softmax h_k(x'))

    q_{k-1}(x'): probabilities of the most confident head k-1 among the teachers and, with `include_self`, the own one.

    The model is a `MultiHead`. `heads`: m, at most its number of auxiliary heads (None: all); 0: plain distillation,
    head 0 from other peers' heads 0. `nu_aux` None: 1/m, because a total far above 1 destroyed models. `teacher`:
    confident; random and mean are controls. `same_level`: other peers' heads k are candidates for head k too.
    `skip_confident`: ignore samples on which the head is more confident than every candidate. `teachers_per_step`:
    number of teachers drawn for each step.

    `refresh` (S_P): steps between two exchanges. `pool` (N_P): number of frozen teachers kept; each exchange adds one
    from a randomly drawn provider, in place of the oldest. None: each exchange renews the teachers of all providers.
    `mode` outputs: providers send embedding and logits on the public samples of the coming steps, and never show
    parameters; checkpoint: they send parameters, of one architecture. Both train to the same bits. `half`: float16 on
    the wire, which rounds. `public_set`: its name; "": the learner's first. `public_batch`: its samples per step;
    `public_seed`: their order, to be equal at all peers.

    `warm_up`: first epochs on own labels, during which a peer does not teach. Fewer than about eight, or classes that
    are frequent at one peer only, give confident wrong teachers. Afterwards each round is `refresh` steps, joint ones
    with teachers and own-label ones without; a local span does nothing when a transfer follows. `cosine`: steps in
    which the learning rate falls to 0. `clip`: largest gradient norm. `predict_head`: head that predicts: 0 (main) for
    the private task, -1 (the last) for the task that all peers share.
    """

    name: ClassVar[str] = "mhd"
    shares_answers: ClassVar[bool] = True

    heads: int | None = None
    nu_emb: float = 0.3
    nu_aux: float | None = None
    include_self: bool = True
    teacher: TeacherRule = "confident"
    same_level: bool = False
    skip_confident: bool = False
    teachers_per_step: int | None = None
    pool: int | None = None
    refresh: int = 20
    mode: Literal["outputs", "checkpoint"] = "outputs"
    half: bool = False
    public_set: str = ""
    public_batch: int = 64
    public_seed: int = 0
    warm_up: int = 8
    cosine: int | None = None
    clip: float | None = None
    predict_head: int = 0

    _pool: TeacherPool = field(init=False, repr=False)
    _asked: set[str] = field(default_factory=set, init=False, repr=False)
    _position: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    _expects: int = field(default=-1, init=False, repr=False)

    def __post_init__(self) -> None:
        check_options(vars(self))
        self._pool = TeacherPool(self.pool)

    @property
    def needs(self) -> frozenset[Exposure]:
        return frozenset({Exposure.PUBLIC_OUTPUTS if self.mode == "outputs" else Exposure.PARAMS_FULL})

    @property
    def exposes(self) -> frozenset[Exposure]:
        return self.needs

    @property
    def schedule(self) -> Schedule:
        span = steps(self.refresh)
        first: tuple[Phase, ...] = (Local(epochs(self.warm_up)), Publish()) if self.warm_up else ()
        return Schedule(cycle=(Exchange(), Local(span), Transfer(span)), first=first)

    # ---- which models and providers fit

    def check(self, learner: Learner) -> None:
        model = learner.model
        if not isinstance(model, MultiHead):
            raise LearnerError(
                f"multi-headed distillation needs a model with heads, not a {type(model).__name__}: "
                f"wrap it, MultiHead.over(model, aux=2)"
            )
        if self.heads is not None and self.heads > model.aux:
            raise LearnerError(f"mhd: heads={self.heads}, but the model has {model.aux} auxiliary heads")
        self._answering(learner, self.predict_head)
        self._public(learner)

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        public, model = self._public(learner), _network(learner)
        if provider.classes != learner.classes:
            return f"{provider.name} tells {provider.classes} classes apart, this learner {learner.classes}"
        if public.fingerprint not in {held.fingerprint for held in provider.public_sets}:
            return f"{provider.name} does not hold the public set {public.name!r}: give both the same one"
        if self.mode == "checkpoint":
            if provider.architecture == learner.architecture:
                return None
            return f"{provider.name} has another architecture, and checkpoints need one: use mode='outputs'"
        count, width = heads_on_card(provider.layers)
        if count < self._asked_heads(learner):
            return f"{provider.name} has {count} heads, and {self._asked_heads(learner)} are wanted of a teacher"
        if self.nu_emb and not model.follows(width):
            return (
                f"{provider.name} has embeddings of width {width}, this model of {model.width}: give the model a "
                f"projection, MultiHead(projections=[{width}]), or leave embeddings out with nu_emb=0"
            )
        return None

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str] | None:
        self._asked = set()
        if self.pool is None:
            return None
        rng = seeded_rng("mhd pool", learner.seed, *self._position, learner.steps)
        drawn = torch.randperm(len(candidates), generator=rng)[: self._pool.missing()]
        return [candidates[i].id for i in drawn.tolist()]

    # ---- questions, answers and received knowledge

    def ask(self, learner: Learner, provider: Card) -> Question:
        self._asked.add(provider.id)
        cast: Literal["", "float16"] = "float16" if self.half else ""
        if self.mode == "outputs":
            return Question(Query(want="outputs", select=self._wanted(learner).select(), cast=cast))
        query = Query(want="params", cast=cast)
        held = self._pool.version_of(provider.id, provider.session)
        if (
            self.pool is None and held is not None
        ):  # a rolling pool accepts the same version again, for later public samples
            query = replace(query, have=held, have_session=provider.session)
        return Question(query)

    def publish(self, learner: Learner) -> Shown:
        return Shown(learner.public_sets)

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query = asked.question.query
        if query.want == "params" and not query.select and self.mode == "checkpoint":
            return self._too_early(snapshot) or answers.whole_model(snapshot)
        if query.want != "outputs" or self.mode != "outputs":
            return answers.not_mine(self.name, query)
        try:
            wanted = Wanted.read(query.select)
            shown = snapshot.extras if isinstance(snapshot.extras, Shown) else Shown(())
            return self._too_early(snapshot) or shown.outputs(snapshot, wanted)
        except KnowledgeError as exc:
            return Refusal(RefusalReason.UNFIT, str(exc))

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        entries = [self._entry(learner, each) for each in received]
        new = [entry for entry in entries if self._pool.is_new(entry)]
        public = self._public(learner)
        for entry in new:
            if isinstance(entry.knowledge, Outputs):
                check_table(learner, _network(learner), entry.knowledge, entry.wanted, public)
            else:
                check_network(learner, entry.knowledge, entry.wanted, public)
        for entry in sorted(new, key=lambda entry: (entry.sender, entry.stamp)):
            if self._pool.is_new(entry):
                self._pool.add(entry)

    def forget(self, provider: str) -> None:
        """From a rolling pool drop only a provider that was asked and did not answer: the other entries are frozen, and
        stay valid."""
        if self.pool is None or provider in self._asked:
            self._pool.forget(provider)

    # ---- training

    def local(self, learner: Learner, span: Span) -> Report:
        """Train on own labels, unless there are teachers: the transfer that follows then makes these steps jointly.
        When the last expected transfer was rolled back, train on own labels too, so that it is not repeated from the
        same state."""
        failed = self._expects == learner.steps
        taught = bool(self._taught(learner))
        report = Report()
        if failed or not taught:
            with paced(learner, clip=self.clip, cosine=self.cosine):
                report = learner.fit(span)
        self._expects = learner.steps if taught else -1
        return report

    def transfer(self, learner: Learner, span: Span) -> Report:
        entries = self._taught(learner)
        if not entries or not span.amount:
            return Report()
        providers = tuple(sorted({entry.sender for entry in entries}))
        joint = self._joint(learner, entries)
        mark = learner.mark()
        try:
            with paced(learner, clip=self.clip, cosine=self.cosine):
                report = learner.fit(span, loss=joint)
        except Diverged:
            learner.restore(mark)
            return Report(providers=providers, committed=False)
        self._position = joint.position
        return replace(report, providers=providers, notes={"teachers": float(len(entries))})

    def predict(self, learner: Learner, x: Tensor, head: int | None = None) -> Tensor:
        """Probabilities (B, C) by `head`; None: by `predict_head`."""
        network = self._answering(learner, self.predict_head if head is None else head)
        return learner.logits(x, model=network).softmax(dim=1)

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "pool": self._pool.state_dict(),
            "public_batch": self.public_batch,
            "position": list(self._position),
            "expects": self._expects,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if int(state["public_batch"]) != self.public_batch:
            raise StateError(f"this state was saved with public_batch {state['public_batch']}, not {self.public_batch}")
        self._pool.load_state_dict(state["pool"])
        epoch, position = state["position"]
        self._position = int(epoch), int(position)
        self._expects = int(state["expects"])

    # ---- helpers

    def _taught(self, learner: Learner) -> list[Entry]:
        """Teachers of the pool that have outputs on the next public batch."""
        public = self._public(learner)
        rows = self._window(learner).order(public).next()
        return [entry for entry in self._pool if entry.speaks_of(public, rows)]

    def _joint(self, learner: Learner, entries: Sequence[Entry]) -> Joint:
        public, start, m = self._public(learner), self._window(learner), self._heads(learner)
        aims = Aims(
            heads=m,
            nu_emb=self.nu_emb,
            nu_aux=1 / max(1, m) if self.nu_aux is None else self.nu_aux,
            teacher=self.teacher,
            include_self=self.include_self,
            same_level=self.same_level,
            skip_confident=self.skip_confident,
        )
        teachers = [FrozenTeacher(learner, public, entry, start) for entry in entries]
        return Joint(learner, public, start, teachers=teachers, aims=aims, per_step=self.teachers_per_step)

    def _entry(self, learner: Learner, received: Received) -> Entry:
        kind = Outputs if self.mode == "outputs" else Params
        if not isinstance(received.knowledge, kind) or received.asked is None:
            raise KnowledgeError(f"{type(received.knowledge).__name__.lower()} came that nobody had asked for")
        wanted = Wanted.read(received.asked.select) if self.mode == "outputs" else self._wanted(learner)
        return Entry(received.sender.id, received.sender.session, wanted, received.knowledge)

    def _wanted(self, learner: Learner) -> Wanted:
        return Wanted(self._window(learner), self._asked_heads(learner), bool(self.nu_emb))

    def _window(self, learner: Learner) -> Window:
        """The public samples of the next steps, for as long as an entry lives."""
        lives = self.refresh * (self.pool or 1)
        fingerprint = self._public(learner).fingerprint
        return Window(fingerprint, self.public_seed, self.public_batch, *self._position, lives)

    def _heads(self, learner: Learner) -> int:
        """The number m of trained auxiliary heads."""
        return _network(learner).aux if self.heads is None else self.heads

    def _answering(self, learner: Learner, head: int) -> nn.Module:
        """The network that answers by this head, 0 to m; -1 is the last of these. Raises LearnerError."""
        m = self._heads(learner)
        if not -m <= head + 1 <= m + 1:
            raise LearnerError(f"mhd: heads 0 to {m} are trained, and -1 is the last of them; there is no head {head}")
        return _network(learner).by_head(head if head >= 0 else m + 1 + head)

    def _asked_heads(self, learner: Learner) -> int:
        """Number of heads to ask for. The last one can teach its own level only."""
        m = self._heads(learner)
        return max(1, m + 1 if self.same_level else m)

    def _public(self, learner: Learner) -> Unlabelled:
        for public in learner.public_sets:
            if self.public_set in ("", public.name):
                return public
        wanted = f" named {self.public_set!r}" if self.public_set else ""
        raise ConfigError(f"mhd needs a public set{wanted}: give one with Learner(public_sets=[...])")

    def _too_early(self, snapshot: Snapshot) -> Refusal | None:
        if self.warm_up and snapshot.version == 0:
            return Refusal(RefusalReason.VERSION, "still in the warm-up: nothing worth teaching yet")
        return None


def _network(learner: Learner) -> MultiHead:
    assert isinstance(learner.model, MultiHead)
    return learner.model
