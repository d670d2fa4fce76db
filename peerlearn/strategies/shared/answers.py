"""Answers from a snapshot that several methods give: its parameters, or its logits on a public set. Pure functions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from peerlearn.errors import KnowledgeError, RefusalReason
from peerlearn.knowledge import Json, Outputs, Params, Query, Refusal
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.snapshot import Snapshot

_BATCH = 512
"""Samples per forward pass: bounds the memory of the activations."""
_ID_MOST = (1 << 63) - 1
"""Largest sample id: ids are int64."""


def not_mine(strategy: str, query: Query) -> Refusal:
    """The refusal of a query that this strategy does not answer."""
    return Refusal(
        RefusalReason.STRATEGY,
        f"{strategy} does not answer a question for {query.want} by {', '.join(sorted(query.select)) or 'nothing'}",
    )


def whole_model(snapshot: Snapshot) -> Params:
    """All parameters and persistent buffers: the snapshot's own tensors, not copies."""
    return Params(tensors=snapshot.state, architecture=snapshot.architecture, version=snapshot.version)


def some_layers(snapshot: Snapshot, names: Json) -> Params | Refusal:
    """All tensors of the named modules. The query's select is `{"layers": ["penult", ...]}`."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return Refusal(RefusalReason.UNFIT, "layers must be a list of names of modules")
    tensors: dict[str, Tensor] = {}
    for name in names:
        of_layer = {key: t for key, t in snapshot.state.items() if key.startswith(f"{name}.")}
        if not of_layer:
            return Refusal(RefusalReason.UNFIT, f"my model has no layer {name!r}")
        tensors |= of_layer
    return Params(tensors=tensors, architecture=snapshot.architecture, version=snapshot.version)


def public_logits(snapshot: Snapshot, public_sets: Sequence[Unlabelled], query: Query) -> Outputs | Refusal:
    """Logits float (N, C) on a public set. The query's select is `{"dataset", "fingerprint", "ids"}`; ids None: all
    samples."""
    select = query.select
    public = next((p for p in public_sets if p.fingerprint == select.get("fingerprint")), None)
    if public is None:
        return Refusal(
            RefusalReason.UNFIT, f"I hold no public set {str(select.get('dataset'))[:64]!r} with that content"
        )
    try:
        ids = _ids(select.get("ids"), public)
        x = public.x[public.rows(ids)]
    except KnowledgeError as exc:
        return Refusal(RefusalReason.UNFIT, str(exc))
    module = snapshot.module()
    with torch.no_grad():
        logits = torch.cat([module(part) for part in x.split(_BATCH)])
    return Outputs(
        dataset=public.name,
        fingerprint=public.fingerprint,
        ids=ids,
        tensors={"logits": logits},
        version=snapshot.version,
    )


def _ids(asked: Json, public: Unlabelled) -> Tensor:
    if asked is None:
        return public.ids
    if not isinstance(asked, list) or not 0 < len(asked) <= len(public):
        raise KnowledgeError(f"ids must be a list of 1 to {len(public)} sample ids, or null for all of them")
    if not all(type(i) is int and 0 <= i <= _ID_MOST for i in asked) or len(set(map(str, asked))) < len(asked):
        raise KnowledgeError("ids must be whole numbers, none of them twice")
    return torch.tensor(asked, dtype=torch.int64)
