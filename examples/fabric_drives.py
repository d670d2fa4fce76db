"""A peer that trains and exchanges by its schedule. Start this twice, on one machine or two, as `amber` and as `birch`.

python examples/fabric_drives.py NAME [ROUNDS] [GROUP_TAG]
"""

import asyncio
import sys

import peerlearn as pl

HOLDS = {"amber": range(0, 5), "birch": range(5, 10)}  # name of each peer: the classes it has samples of


async def main(name: str, rounds: str = "5", group_tag: str = "example") -> None:
    train, test = pl.datasets.load("fashion-mnist-slice")
    mine = pl.partition.by_classes(train.y, list(HOLDS.values()))[list(HOLDS).index(name)]
    learner = pl.Learner(pl.models.Net(), train.subset(mine))

    async with pl.Peer(
        learner, strategy=pl.Pairwise(layer="penult"), name=name, network=pl.Network(group_tag=group_tag)
    ) as peer:
        await peer.meet(others=1, timeout=60)
        await peer.run(rounds=int(rounds))
        right = (await peer.predict(test.x)).argmax(dim=1) == test.y
    print(f"{name} holds five classes and recognises {right.float().mean():.1%} of all ten")


asyncio.run(main(*sys.argv[1:]))
