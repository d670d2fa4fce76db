"""Group knowledge transfer: small edges and a large hub teach each other through outputs; weights need not travel.

He, Annavaram and Avestimehr 2020, "Group knowledge transfer: federated learning of large CNNs at the edge" (FedGKT).
Everything is addressed by sample id. The hub gets a feature map and the label of every private sample of its edges.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Answer, Params, Query, Question, Received
from peerlearn.learning import losses, state
from peerlearn.learning.interruption import Diverged, Interrupted
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.fedgkt import edge as gkt_edge
from peerlearn.strategies.fedgkt.edge import Cut, FeatureDtype, LabelDtype
from peerlearn.strategies.fedgkt.feature_store import DATASET, FeatureStore, Replies, Reply, check_brought
from peerlearn.strategies.fedgkt.hub_knowledge import Control, HeldOfHub
from peerlearn.strategies.fedgkt.hub_training import HubTraining, ReplyBy, Shuffle
from peerlearn.strategies.fedgkt.models import hub_network
from peerlearn.strategies.shared import answers, teacher_checks
from peerlearn.strategies.shared.options import check_choices, check_least
from peerlearn.strategies.shared.teacher_memory import conditional
from peerlearn.types import Card, Exposure, Span, epochs


@dataclass
class FedGKT(Base):
    """An edge minimises L_c = CE(z_c, y) + alpha * KD_T(Z_s -> z_c) (equation 7), the hub L_s = CE(z_s, y) + alpha *
    KD_T(Z_c -> z_s) (equation 6). Z are the other side's outputs: plain data without gradients.

    `role` edge: a model in two parts (`extractor`, `classifier`) trains `local_epochs` per round. It brings features,
    logits and labels of its private samples, and gets the hub's logits on them: those of the hub's next version, or
    with `wait` False the latest. `role` hub: its learner's model takes feature maps. It trains `hub_epochs` when
    `edges` edges have come since its last training (the number of all edges: synchronous; 1: asynchronous). An edge
    that comes a second time makes it train on what it has. `scope`: it trains on the whole `store`, or on the new
    arrivals only (`arrival`).

    `distil`: directions of the KD terms, `both`, `down` (hub to edge), `up`, or `none`. `shuffle`, `reply_by`,
    `batch_size`: of the hub's training (`hub_training.HubTraining`). `features`, `labels`: their dtypes on the wire.
    `predict_by` download: an edge also fetches the hub's `network` (a name in `models.HUBS`, or a module) and predicts
    by f_s after f_e; the hub must show its parameters. own: the edge predicts by its small network, and no weights
    travel. `control` misaligned, at an edge: the hub's logits are used for the wrong samples, which shows that ids
    matter.

    alpha 1 and T 3 are the defaults of the authors' code.
    """

    name: ClassVar[str] = "fedgkt"

    role: Literal["hub", "edge"] = "edge"
    distil: Literal["both", "down", "up", "none"] = "both"
    alpha: float = 1.0
    temperature: float = 3.0
    local_epochs: int = 1
    hub_epochs: int = 5
    edges: int = 1
    scope: Literal["store", "arrival"] = "store"
    shuffle: Shuffle = "across"
    reply_by: ReplyBy = "eval"
    batch_size: int = 64
    wait: bool = True
    features: FeatureDtype = "float32"
    labels: LabelDtype = "uint8"
    predict_by: Literal["download", "own"] = "download"
    network: str | nn.Module = "GKTLarge"
    extractor: str = "extractor"
    classifier: str = "classifier"
    control: Control = "none"

    _held: HeldOfHub = field(default_factory=HeldOfHub, init=False, repr=False)
    _brought: int = field(default=0, init=False, repr=False)
    _store: FeatureStore = field(default_factory=FeatureStore, init=False, repr=False)
    _replies: dict[str, Reply] = field(default_factory=dict, init=False, repr=False)
    _trainings: int = field(default=0, init=False, repr=False)
    _own: gkt_edge.Own | None = field(default=None, init=False, repr=False)
    _template: nn.Module | None = field(default=None, init=False, repr=False)
    _stacked: nn.Module | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        choices = {
            "role": ("hub", "edge"),
            "distil": ("both", "down", "up", "none"),
            "scope": ("store", "arrival"),
            "shuffle": get_args(Shuffle),
            "reply_by": get_args(ReplyBy),
            "features": get_args(FeatureDtype),
            "labels": get_args(LabelDtype),
            "predict_by": ("download", "own"),
            "control": get_args(Control),
        }
        check_choices(self.name, self, choices)
        least = {"local_epochs": 0, "hub_epochs": 0, "edges": 1, "batch_size": 1, "alpha": 0}
        check_least(self.name, self, least)
        teacher_checks.check_weights(self.name, 0, self.temperature)
        self._cut = Cut(self.extractor, self.classifier)
        self._training = HubTraining(
            alpha=self.alpha if self.distil in ("both", "up") else 0.0,
            temperature=self.temperature,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            reply_by=self.reply_by,
        )

    @property
    def needs(self) -> frozenset[Exposure]:
        return self._shown_by_hub if self.role == "edge" else frozenset()

    @property
    def exposes(self) -> frozenset[Exposure]:
        if self.role == "hub":
            return self._shown_by_hub
        return frozenset({Exposure.PRIVATE_FEATURES, Exposure.PRIVATE_LOGITS, Exposure.PRIVATE_LABELS})

    @property
    def _shown_by_hub(self) -> frozenset[Exposure]:
        weights = {Exposure.PARAMS_FULL} if self.predict_by == "download" else set()
        return frozenset({Exposure.PRIVATE_LOGITS, *weights})

    @property
    def schedule(self) -> Schedule:
        if self.role == "hub":
            train = Transfer(epochs(self.hub_epochs))
            return Schedule(cycle=(), on={"received": (train,), "replied": (Publish(),)})
        return Schedule(cycle=(Local(epochs(self.local_epochs)), Exchange(early=False)))

    def check(self, learner: Learner) -> None:
        if self.role == "edge":
            self._cut.check(learner)
            gkt_edge.check_labels(learner.classes, self.labels)
            self._large(learner)

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        if self.role == "hub":
            return "a hub asks nobody: edges bring what it learns from"
        if Exposure.PRIVATE_FEATURES in provider.exposes:
            return f"{provider.name} shows features of its own: it is an edge, not a hub"
        if provider.classes != learner.classes:
            return f"{provider.name} tells {provider.classes} classes apart, this learner {learner.classes}"
        expected = state.architecture(state.persistent(self._large(learner)))
        if self.predict_by == "download" and provider.architecture != expected:
            named = self.network if isinstance(self.network, str) else type(self.network).__name__
            return f"the network of {provider.name} is not the {named} that this edge expects of its hub"
        return None

    def histogram(self, learner: Learner) -> tuple[int, ...]:
        """At a hub: counts of the samples that its edges brought."""
        return self._store.histogram(learner.classes) if self.role == "hub" else super().histogram(learner)

    # ---- the edge's questions

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str]:
        """One hub only: the hub of the last exchange if it is a candidate, else the first candidate."""
        known = [card.id for card in candidates if card.id == self._held.hub]
        return known or [card.id for card in candidates[:1]]

    def ask(self, learner: Learner, provider: Card) -> Sequence[Question]:
        """Bring this round's outputs. Then ask for the hub's logits on them and, if predictions need it, for its
        network."""
        self._brought += 1
        mine = gkt_edge.shown(learner, self._cut, self.features, self.labels, self._brought)
        self._own = gkt_edge.Own(mine.fingerprint, mine.ids, mine.tensors["label"].long())
        after = self._held.next_version(provider) if self.wait else 0
        questions = [Question(Query(want="nothing"), mine, after=0)]
        if self._kd:
            query = Query(want="outputs", select={"dataset": DATASET, "fingerprint": mine.fingerprint})
            questions.append(Question(conditional(query, self._held.reply_version(provider), provider), after=after))
        if self.predict_by == "download":
            query = conditional(Query(want="params"), self._held.network_version(provider), provider)
            questions.append(Question(query, after=after))
        return questions

    def _large(self, learner: Learner) -> nn.Module:
        """The hub's network as the edge expects it, without the hub's weights."""
        if self._template is None:
            named = self.network
            network = hub_network(named, classes=learner.classes) if isinstance(named, str) else named
            self._template = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        return self._template

    # ---- the hub's answers

    def publish(self, learner: Learner) -> Replies | None:
        return Replies(learner.classes, dict(self._replies)) if self.role == "hub" else None

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query, replies = asked.question.query, snapshot.extras
        if not isinstance(replies, Replies):
            return answers.not_mine(self.name, query)
        if query.want == "params" and not query.select and Exposure.PARAMS_FULL in self.exposes:
            return answers.whole_model(snapshot)
        if query.want != "outputs" or set(query.select) != {"dataset", "fingerprint"}:
            return answers.not_mine(self.name, query)
        return replies.on(asked.consumer.id, str(query.select["fingerprint"]), snapshot.version)

    # ---- received knowledge

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        if self.role == "hub":
            shape = tuple(learner.sample(1).shape[1:])
            new = [(e, check_brought(e.knowledge, shape, learner.classes)) for e in received if self._store.is_new(e)]
            for each, outputs in new:
                self._store.check_sense(learner, each.sender.id, outputs, logits=self._training.alpha > 0)
            for each, outputs in new:
                self._store.keep(each, outputs)
            return
        for each in received:
            self._check(learner, each)
        for each in received:
            self._held.keep(each)
        self._stacked = None

    def _check(self, learner: Learner, each: Received) -> None:
        kind = "params" if isinstance(each.knowledge, Params) else "outputs"
        if each.asked is None or each.asked.want != kind:
            raise KnowledgeError(f"{kind} came that this edge has not asked for")
        if isinstance(each.knowledge, Params):
            gkt_edge.check_hub_network(learner, self._cut, self._large(learner), each.knowledge)
            return
        self._own = self._own or gkt_edge.identity(learner)
        gkt_edge.check_reply(learner, self._own, each.knowledge)

    def forget(self, provider: str) -> None:
        """At an edge, for its hub: drop the logits and train on labels alone; a downloaded network still predicts. At
        the hub: drop what this edge brought."""
        if provider == self._held.hub:
            self._held.drop_reply()
        self._store.forget(provider)

    # ---- training

    def local(self, learner: Learner, span: Span) -> Report:
        if self.role == "hub":
            return Report()
        if not self._held.has_reply or not self._kd:
            return learner.fit(span)

        def joint(model: nn.Module, batch: Batch) -> Tensor:
            z = model(batch.x)
            return learner.loss(z, batch.y) + self._agreement(z, batch)

        return learner.fit(span, loss=joint)

    def extra_loss(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """The KD term of equation (7), for an app that trains an edge by its own loop."""
        if self.role == "hub" or not self._held.has_reply or not self._kd:
            return None
        return self._agreement(model(batch.x), batch)

    def _agreement(self, z: Tensor, batch: Batch) -> Tensor:
        """alpha * KD_T(Z_s[ids] -> z), a scalar, for logits z (B, C)."""
        said = self._held.logits(batch.ids, self.control).to(z.device)
        return self.alpha * losses.distill_kl(said, z, self.temperature)

    @property
    def _kd(self) -> bool:
        """True if the hub's logits teach this edge."""
        return self.distil in ("both", "down")

    def transfer(self, learner: Learner, span: Span) -> Report:
        """At the hub, when a training is due: train on the entries in `scope`, and make a reply for each of their
        edges."""
        if self.role == "edge" or not self._store.due(self.edges):
            return Report()
        entries = self._store.all() if self.scope == "store" else self._store.fresh()
        before = self._store.settle()
        providers = tuple(entry.sender for entry in entries)
        mark = learner.mark()
        try:
            report, replies = self._training.run(learner, entries, span, self._trainings)
        except Interrupted:
            self._store.reopen(before)
            raise
        except Diverged:
            learner.restore(mark)
            return Report(providers=providers, committed=False, events=("replied",))
        self._trainings += 1
        self._replies |= dict(zip(providers, replies, strict=True))
        notes = {"edges": float(len(entries)), "starts": float(len({entry.start for entry in entries}))}
        return replace(report, providers=providers, events=("replied",), notes=notes)

    # ---- prediction and state

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Probabilities (B, C): softmax of f_s(f_e(x)) at an edge that holds the hub's network, else of the learner's
        own model."""
        network = self._held.network
        if network is None:
            return learner.predict(x)
        if self._stacked is None:
            self._stacked = state.frozen(self._large(learner), network, learner.device)
        return gkt_edge.stacked_logits(learner, self._cut, self._stacked, x).softmax(dim=1)

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "held": self._held.state_dict(),
            "brought": self._brought,
            "store": self._store.state_dict(),
            "replies": {
                edge: {"fingerprint": r.fingerprint, "ids": r.ids, "logits": r.logits}
                for edge, r in self._replies.items()
            },
            "trainings": self._trainings,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._held.load_state_dict(state["held"])
        self._brought, self._trainings = int(state["brought"]), int(state["trainings"])
        self._store.load_state_dict(state["store"])
        self._replies = {edge: Reply(**kept) for edge, kept in state["replies"].items()}
        self._stacked = None
