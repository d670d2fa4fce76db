"""A strategy of your own in one file: deep mutual learning (Zhang et al., CVPR 2018), and two peers that use it.

python examples/own_strategy.py

peerlearn itself does not contain it. To use it by name too (`peerlearn up ... --strategy mutual`), put the class into a
package of yours, name it in that package's pyproject.toml, and install the package beside peerlearn:

    [project.entry-points."peerlearn.strategies"]
    mutual = "my_package.mutual:Mutual"

Whether it keeps to the contract of a strategy is shown by `peerlearn.testing.conformance.strategy(Mutual)`.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import peerlearn as pl
import peerlearn.extending as ext


@dataclass
class Mutual(ext.Base):
    """Deep mutual learning with the loss of the paper: CE(p, y) + weight * mean over the others of KL(p_other || p).
    The networks of the others are those of their last answers."""

    name: ClassVar[str] = "mutual"
    shares_answers: ClassVar[bool] = True  # `answer` gives every consumer the same: it is made once and shared
    needs = exposes = frozenset({pl.Exposure.PARAMS_FULL})
    schedule = pl.Schedule(cycle=(pl.Local(pl.epochs(1)), pl.Exchange(), pl.Transfer(pl.epochs(1))))

    weight: float = 1.0
    _others: ext.TeacherMemory = field(default_factory=ext.TeacherMemory, init=False, repr=False)

    def misfit(self, learner: pl.Learner, provider: ext.Card) -> str | None:
        same = provider.architecture == learner.architecture
        return None if same else f"{provider.name} has another architecture"

    def ask(self, learner: pl.Learner, provider: ext.Card) -> ext.Question:
        return ext.Question(ext.Query(want="params"))

    def answer(self, snapshot: ext.Snapshot, asked: ext.Asked) -> ext.Answer:
        # in a thread beside training: change nothing
        query = asked.question.query
        mine = query.want == "params" and not query.select
        return ext.whole_model(snapshot) if mine else ext.not_mine(self.name, query)

    def absorb(self, learner: pl.Learner, received: Sequence[ext.Received]) -> None:  # check all before keeping any
        new = [each for each in received if self._others.is_new(each)]
        for each in new:
            if not isinstance(each.knowledge, ext.Params):
                raise pl.KnowledgeError("outputs came where parameters were asked for")
            ext.check_teacher(learner, each.knowledge)
        for each in new:
            self._others.keep(each)

    def forget(self, provider: str) -> None:
        self._others.forget(provider)

    def transfer(self, learner: pl.Learner, span: pl.Span) -> pl.Report:
        others = [learner.build(ext.dense(kept.knowledge)) for kept in self._others]
        if not others:
            return pl.Report()

        def loss(model: nn.Module, batch: ext.Batch) -> Tensor:
            logits = model(batch.x)
            mimicry = [ext.distill_kl(other(batch.x), logits).double() for other in others]
            return learner.loss(logits, batch.y) + self.weight * torch.stack(mimicry).mean().to(logits.dtype)

        return replace(learner.fit(span, loss=loss), providers=tuple(kept.sender for kept in self._others))

    def state_dict(self) -> Mapping[str, Any]:
        return self._others.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._others.load_state_dict(state)


async def main(rounds: int = 3) -> None:
    train, test = pl.datasets.load("fashion-mnist-slice")
    own = [train.subset(rows) for rows in pl.partition.iid(train.y, 8)[:2]]
    one, two = (pl.Learner(pl.models.Net(seed=i), its, batch_size=32, seed=i) for i, its in enumerate(own))
    tag = f"mutual-{secrets.token_hex(4)}"
    async with (
        pl.Peer(one, strategy=Mutual(), name="amber", network=pl.Network(group_tag=tag)) as amber,
        pl.Peer(
            two,
            strategy=Mutual(),
            name="birch",
            network=pl.Network(group_tag=tag, peers=[amber.address]),
        ) as birch,
    ):
        await amber.meet(1, timeout=30)
        await birch.meet(1, timeout=30)
        async with asyncio.TaskGroup() as running:
            for peer in (amber, birch):
                running.create_task(peer.run(rounds))
        for peer in (amber, birch):
            right = (await peer.predict(test.x)).argmax(dim=1) == test.y
            print(f"{peer.name}: {right.float().mean():.1%} after {rounds} rounds with one other", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
