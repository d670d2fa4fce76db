"""A small convnet and an MLP teach each other: their networks differ, so they exchange outputs on a public set.

Each peer has samples of five classes of Fashion-MNIST. Both have the same unlabelled images. No parameters are sent.

python examples/different_architectures.py [ROUNDS] [GROUP_TAG]
"""

import asyncio
import sys

import torch

import peerlearn as pl

HOLDS = {"conv": range(0, 5), "mlp": range(5, 10)}  # name of each peer: the classes it has samples of
PUBLIC = 800  # images in the public set: more of them teach more, and leave fewer for private training

train, test = pl.datasets.load("fashion-mnist-slice")
everything = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
images = train.subset(everything[:PUBLIC]).unlabelled("images")
labelled = train.subset(everything[PUBLIC:])
private = dict(zip(HOLDS, pl.partition.by_classes(labelled.y, list(HOLDS.values())), strict=True))


def learner(name: str) -> pl.Learner:
    model = pl.models.SmallCNN(w=8) if name == "conv" else pl.models.MLP()
    mine = labelled.subset(labelled.ids[private[name]])
    return pl.Learner(model, mine, public_sets=[images], batch_size=32)


def remote(confusion: torch.Tensor, name: str) -> float:
    return pl.evaluate.scores(confusion, HOLDS[name]).remote


async def main(rounds: str = "5", group_tag: str = "architectures") -> None:
    alone = {name: learner(name) for name in HOLDS}
    for twin in alone.values():
        # A fair comparison: a round of a peer is one epoch of local training and one of transfer.
        twin.fit(pl.epochs(2 * int(rounds)))

    async with (
        pl.Peer(
            learner("conv"),
            strategy=pl.Distillation(),
            name="conv",
            network=pl.Network(group_tag=group_tag),
            pace="lockstep",
        ) as conv,
        pl.Peer(
            learner("mlp"),
            strategy=pl.Distillation(),
            name="mlp",
            network=pl.Network(group_tag=group_tag),
            pace="lockstep",
        ) as mlp,
    ):
        await conv.meet(others=1, timeout=60)
        await mlp.meet(others=1, timeout=60)
        async with asyncio.TaskGroup() as learning:
            for peer in (conv, mlp):
                learning.create_task(peer.run(rounds=int(rounds)))
        for peer in (conv, mlp):
            together = pl.evaluate.confusion(await peer.predict(test.x), test.y, classes=10)
            before = remote(alone[peer.name].evaluate(test).confusion, peer.name)
            print(
                f"{peer.name}: of the classes it does not hold it recognises {remote(together, peer.name):.1%}", end=""
            )
            print(f", alone {before:.1%}")


asyncio.run(main(*sys.argv[1:]))
