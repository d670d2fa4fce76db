"""Digests by which a test says "the same bits"."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from peerlearn.knowledge import Outputs, Params, Sparse
from peerlearn.learning.learner import Learner


def bits(value: Any) -> str:
    """SHA-256, in hex, of a tree of dicts, lists, tuples, tensors, knowledge and plain values: equal only for the same
    bits. The order of keys does not count."""
    digest = hashlib.sha256()

    def feed(node: Any) -> None:
        if isinstance(node, Tensor):
            digest.update(f"{node.dtype}{tuple(node.shape)}".encode())
            digest.update(node.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(node, Mapping):
            for key in sorted(node, key=str):
                digest.update(f"[{key}]".encode())
                feed(node[key])
        elif isinstance(node, list | tuple):
            for each in node:
                digest.update(b",")
                feed(each)
        elif isinstance(node, Params | Outputs | Sparse):
            feed({name: getattr(node, name) for name in node.__dataclass_fields__})
        else:
            digest.update(repr(node).encode())

    feed(value)
    return digest.hexdigest()


def everything(learner: Learner) -> str:
    """Digest of all that a strategy could change: state, buffers, gradients, modes, optimizer, generators, position."""
    model = learner.model
    return bits(
        [
            learner.state_dict(),
            dict(model.named_buffers()),
            [None if p.grad is None else p.grad for p in model.parameters()],
            [m.training for m in model.modules()],
            torch.get_rng_state(),
        ]
    )


def weights(learner: Learner) -> str:
    """Digest of the learner's parameters and persistent buffers."""
    return bits(learner.state)


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Whether both have the same names, and equal tensors for them."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
