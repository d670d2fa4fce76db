"""What a FedGKT edge holds of its hub: logits on its own samples, the large network, and the version seen last."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from peerlearn.knowledge import Outputs, Params, Received
from peerlearn.learning.sampler import seeded_rng
from peerlearn.strategies.shared import teacher_checks
from peerlearn.types import Card

Control = Literal["none", "misaligned"]


class HeldOfHub:
    """One hub at a time. Changed by `keep` and `drop_reply` only."""

    def __init__(self) -> None:
        self._reply: dict[str, Any] = {}
        self._network: dict[str, Any] = {}
        self._seen: tuple[str, str, int] = ("", "", 0)

    @property
    def hub(self) -> str:
        """Its id; empty before it was first heard of."""
        return self._seen[0]

    @property
    def has_reply(self) -> bool:
        return bool(self._reply)

    @property
    def network(self) -> Mapping[str, Tensor] | None:
        """The state of its network, if held."""
        return self._network["tensors"] if self._network else None

    def logits(self, ids: Tensor, control: Control = "none") -> Tensor:
        """What the hub says, (B, C), on sample ids int64 (B,) of one's own; misaligned: on others, always the same."""
        said: Tensor = self._reply["logits"]
        rows = torch.searchsorted(self._reply["ids"], ids)
        if control == "misaligned":
            rows = torch.randperm(len(said), generator=seeded_rng("misaligned", len(said)))[rows]
        return said[rows]

    def next_version(self, provider: Card) -> int:
        """The hub's version that will be the next after what is known of it here."""
        return (self._seen[2] if self._knows(provider) else provider.version) + 1

    def reply_version(self, provider: Card) -> int | None:
        """Of the logits held of just this session of the hub; None when it would have to send them."""
        return self._reply["version"] if self._reply and self._knows(provider) else None

    def network_version(self, provider: Card) -> int | None:
        return self._network["version"] if self._network and self._knows(provider) else None

    def keep(self, received: Received) -> None:
        """Knowledge that was found fitting. What is older than the like of it that is held of this session is not."""
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
    """Nothing, when the hub had nothing to say yet."""
    if not len(outputs.ids):
        return {}
    return {"version": outputs.version, "ids": outputs.ids, "logits": outputs.tensors["logits"]}
