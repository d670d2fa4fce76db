"""What a FedGKT edge holds of its hub: logits on the edge's samples, the large network, and the latest version."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from peerlearn.knowledge import Outputs, Params, Received
from peerlearn.learning.sampler import seeded_rng
from peerlearn.strategies.shared import teacher_checks
from peerlearn.types import Card

Control = Literal["none", "misaligned"]
"""misaligned: a control that uses each reply for the wrong sample."""


class HeldOfHub:
    """Knowledge of one hub at a time. Only `keep` and `drop_reply` change it."""

    def __init__(self) -> None:
        self._reply: dict[str, Any] = {}
        self._network: dict[str, Any] = {}
        self._seen: tuple[str, str, int] = ("", "", 0)

    @property
    def hub(self) -> str:
        """The hub's id; empty before its first knowledge."""
        return self._seen[0]

    @property
    def has_reply(self) -> bool:
        """True if logits of the hub are held."""
        return bool(self._reply)

    @property
    def network(self) -> Mapping[str, Tensor] | None:
        """State of the hub's network, if held."""
        return self._network["tensors"] if self._network else None

    def logits(self, ids: Tensor, control: Control = "none") -> Tensor:
        """The hub's logits (B, C) for the edge's sample ids int64 (B,). With `control` misaligned: logits of other
        samples, by a fixed permutation."""
        said: Tensor = self._reply["logits"]
        rows = torch.searchsorted(self._reply["ids"], ids)
        if control == "misaligned":
            rows = torch.randperm(len(said), generator=seeded_rng("misaligned", len(said)))[rows]
        return said[rows]

    def next_version(self, provider: Card) -> int:
        """The version that follows the hub's latest known one."""
        return (self._seen[2] if self._knows(provider) else provider.version) + 1

    def reply_version(self, provider: Card) -> int | None:
        """Version of the logits held from this session of the hub; None when there are none."""
        return self._reply["version"] if self._reply and self._knows(provider) else None

    def network_version(self, provider: Card) -> int | None:
        """Version of the network held from this session of the hub; None when there is none."""
        return self._network["version"] if self._network and self._knows(provider) else None

    def keep(self, received: Received) -> None:
        """Keep checked knowledge, unless newer knowledge of the same kind and session is held."""
        knowledge, version = received.knowledge, received.knowledge.version
        known = self._knows(received.sender)
        self._seen = (received.sender.id, received.sender.session, max(version, self._seen[2]) if known else version)
        held = self._network if isinstance(knowledge, Params) else self._reply
        if known and held and version < held["version"]:
            return
        if isinstance(knowledge, Params):
            self._network = {"version": version, "tensors": teacher_checks.dense(knowledge)}
        else:
            self._reply = _reply_of(knowledge)

    def drop_reply(self) -> None:
        """Drop the logits; the network stays."""
        self._reply = {}

    def _knows(self, provider: Card) -> bool:
        return self._seen[:2] == (provider.id, provider.session)

    def state_dict(self) -> dict[str, Any]:
        return {"reply": dict(self._reply), "network": dict(self._network), "seen": list(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._reply, self._network = dict(state["reply"]), dict(state["network"])
        peer, session, version = state["seen"]
        self._seen = str(peer), str(session), int(version)


def _reply_of(outputs: Outputs) -> dict[str, Any]:
    """The reply as plain values; empty when the hub had no logits yet."""
    if not len(outputs.ids):
        return {}
    return {"version": outputs.version, "ids": outputs.ids, "logits": outputs.tensors["logits"]}
