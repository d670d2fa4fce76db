"""A peer in an app with a training loop of its own. Start this twice, as `amber` and `birch`; neither needs the other.

python examples/own_loop.py NAME [EPOCHS] [GROUP_TAG]
"""

import asyncio
import sys

import torch.nn.functional as F

import peerlearn as pl

HOLDS = {"amber": range(0, 5), "birch": range(5, 10)}  # name of each peer: the classes it has samples of


async def main(name: str, epochs: str = "5", group_tag: str = "example") -> None:
    train, test = pl.datasets.load("fashion-mnist-slice")
    mine = train.subset(pl.partition.by_classes(train.y, list(HOLDS.values()))[list(HOLDS).index(name)])
    model = pl.models.Net()
    learner = pl.Learner(model, mine)

    def train_one_epoch() -> None:  # your own code: any loop over your model and your optimizer
        for x, y in zip(mine.x.split(64), mine.y.split(64), strict=True):
            learner.optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            learner.optimizer.step()

    async with pl.Peer(learner, strategy=pl.Distillation(), name=name, network=pl.Network(group_tag=group_tag)) as peer:
        for epoch in range(int(epochs)):
            await peer.train(train_one_epoch)
            report = await peer.transfer()  # learn from the peers that are there; does nothing if there are none
            right = (await peer.predict(test.x)).argmax(dim=1) == test.y
            print(f"{name} {epoch}: {right.float().mean():.1%}, taught by {len(report.providers)}", flush=True)


asyncio.run(main(*sys.argv[1:]))
