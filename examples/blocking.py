"""A peer in a program without asyncio. Start this twice, as `amber` and as `birch`.

python examples/blocking.py NAME [ROUNDS] [GROUP_TAG]
"""

import sys

import peerlearn as pl

HOLDS = {"amber": range(0, 5), "birch": range(5, 10)}  # name of each peer: the classes it has samples of


def main(name: str, rounds: str = "5", group_tag: str = "example") -> None:
    train, test = pl.datasets.load("fashion-mnist-slice")
    mine = pl.partition.by_classes(train.y, list(HOLDS.values()))[list(HOLDS).index(name)]
    learner = pl.Learner(pl.models.Net(), train.subset(mine))

    with pl.BlockingPeer(learner, strategy="distillation", name=name, network=pl.Network(group_tag=group_tag)) as peer:
        peer.meet(others=1, timeout=60)
        for _ in range(int(rounds)):
            learner.fit(pl.epochs(1))  # on this thread, for any length of time: the peer answers others meanwhile
            report = peer.transfer()
            print(f"{name}: {report.samples} samples with {len(report.providers)} teachers", flush=True)
        right = peer.predict(test.x).argmax(dim=1) == test.y
    print(f"{name} holds five classes and recognises {right.float().mean():.1%} of all ten")


main(*sys.argv[1:])
