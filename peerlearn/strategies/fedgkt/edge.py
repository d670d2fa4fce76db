"""The edge's side of FedGKT: a network in two named parts, its outputs on the private set, and checks of the hub's
answers."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError, LearnerError
from peerlearn.knowledge import Outputs, Params
from peerlearn.learning import plausible, state
from peerlearn.learning.learner import Learner
from peerlearn.strategies.fedgkt.feature_store import DATASET, mark_of
from peerlearn.strategies.shared import teacher_checks

FeatureDtype = Literal["float32", "float16"]
"""Dtype of features on the wire: float16 halves their bytes and rounds."""
LabelDtype = Literal["uint8", "int64"]
"""Dtype of labels on the wire: uint8 holds up to 256 classes."""
_TRIED_ON = 64
"""Private samples on which a network is tried."""
_MOST_CLASSES = {"uint8": 256, "int64": 1 << 62}
"""Classes that fit each label dtype."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The cut in an edge's network: names of two of its modules, where the classifier directly follows the
    extractor."""

    extractor: str
    classifier: str

    def parts(self, model: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Extractor and classifier. Raises LearnerError when the model has no such modules."""
        modules = dict(model.named_modules())
        for name in (self.extractor, self.classifier):
            if not name or name not in modules:
                raise LearnerError(
                    f"fedgkt needs an edge's model in two parts, {self.extractor!r} and {self.classifier!r}; it has no "
                    f"module {name!r}"
                )
        return modules[self.extractor], modules[self.classifier]

    def check(self, learner: Learner) -> None:
        """Raises LearnerError unless the model equals classifier(extractor(x))."""
        whole = learner.logits(x := learner.sample(_TRIED_ON))
        in_parts = learner.logits(x, model=nn.Sequential(*self.parts(learner.model)))
        if not torch.equal(whole, in_parts):
            raise LearnerError(f"fedgkt: the model is more than {self.classifier} after {self.extractor}")


def shown(learner: Learner, cut: Cut, features: FeatureDtype, labels: LabelDtype, version: int) -> Outputs:
    """The outputs that an edge brings to the hub: feature (N, ...), logits float32 (N, C) and label (N,) of all its
    private samples, ids rising, in eval mode."""
    extractor, classifier = cut.parts(learner.model)
    ids, h, z, y = [], [], [], []
    with state.in_mode(learner.model, training=False), torch.no_grad():
        for batch in learner.one_pass():
            feature = extractor(batch.x)
            ids.append(batch.ids)
            h.append(_as(feature, features).cpu())
            z.append(classifier(feature).float().cpu())
            y.append(batch.y.cpu())
    label = torch.cat(y)
    return Outputs(
        dataset=DATASET,
        fingerprint=mark_of(torch.cat(ids), label),
        ids=torch.cat(ids),
        tensors={"feature": torch.cat(h), "logits": torch.cat(z), "label": label.to(getattr(torch, labels))},
        version=version,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """An edge's private set under the fingerprint that `shown` uses: ids int64 (N,), rising, and label int64 (N,)."""

    fingerprint: str
    ids: Tensor
    label: Tensor


def identity(learner: Learner) -> Own:
    """The learner's private set as an `Own`. Reads the whole set."""
    passes = [(batch.ids, batch.y.cpu()) for batch in learner.one_pass()]
    ids, label = (torch.cat(part) for part in zip(*passes, strict=True))
    return Own(mark_of(ids, label), ids, label.long())


def check_reply(learner: Learner, own: Own, outputs: Outputs) -> None:
    """Raises KnowledgeError unless these are finite logits float32 (N, C) on all N of the edge's own samples, or on
    none. They must have a plausible scale and not contradict the edge's labels (learning/plausible.py)."""
    if outputs.dataset != DATASET or outputs.fingerprint != own.fingerprint:
        raise KnowledgeError("the hub's logits are on another private set than this edge's")
    if set(outputs.tensors) != {"logits"}:
        raise KnowledgeError(f"outputs named {', '.join(sorted(outputs.tensors)) or 'nothing'} came, not logits")
    if len(outputs.ids) and not torch.equal(outputs.ids, own.ids):
        raise KnowledgeError(
            f"logits on {len(outputs.ids)} ids came, not on this edge's {len(own.ids)} in rising order"
        )
    logits, wanted = outputs.tensors["logits"], (len(outputs.ids), learner.classes)
    if logits.dtype != torch.float32 or tuple(logits.shape) != wanted:
        raise KnowledgeError(f"logits must be float32 {wanted}, not {state.dtype_name(logits)} {tuple(logits.shape)}")
    state.check_finite("logits", logits)
    plausible.check_logits(logits, lambda: learner.logits(learner.sample(_TRIED_ON)))
    rows = plausible.some(len(logits))
    plausible.check_labels(logits[rows], own.label[rows], own=lambda: torch.zeros(len(rows), learner.classes))


def check_labels(classes: int, labels: LabelDtype) -> None:
    """Raises LearnerError when the class numbers do not fit the dtype in which they travel."""
    if classes > _MOST_CLASSES[labels]:
        raise LearnerError(f"fedgkt: {classes} classes do not fit labels of type {labels}; use labels 'int64'")


def check_hub_network(learner: Learner, cut: Cut, template: nn.Module, knowledge: Params) -> dict[str, Tensor]:
    """The tensors as a whole state of the hub's network. Raises KnowledgeError unless they fit the network expected
    here, are finite, and give finite and plausible logits (B, C) on the edge's own samples (learning/plausible.py)."""
    wanted = state.persistent(template)
    if knowledge.architecture != state.architecture(wanted):
        raise KnowledgeError(f"a hub network of another architecture came, {knowledge.architecture[:12]!r}")
    tensors = state.check_fit(teacher_checks.dense(knowledge), wanted, whole=True)
    network = state.frozen(template, tensors, learner.device)
    logits = stacked_logits(learner, cut, network, learner.sample(_TRIED_ON))
    if logits.shape[1:] != (learner.classes,) or not bool(torch.isfinite(logits).all()):
        raise KnowledgeError("the hub's network gives outputs that are not finite or not one per class")
    plausible.check_network(learner, nn.Sequential(cut.parts(learner.model)[0], network))
    return tensors


def stacked_logits(learner: Learner, cut: Cut, network: nn.Module, x: Tensor) -> Tensor:
    """f_s(f_e(x)): logits (B, C) on the CPU for inputs (B, ...), in eval mode."""
    extractor, _ = cut.parts(learner.model)
    return learner.logits(x, model=nn.Sequential(extractor, network))


def _as(feature: Tensor, dtype: FeatureDtype) -> Tensor:
    """The feature in this dtype. float16 ends at 65504, so larger values are clamped."""
    if dtype == "float32":
        return feature.float()
    most = torch.finfo(torch.float16).max
    return feature.clamp(-most, most).half()
