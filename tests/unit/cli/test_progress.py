"""What a peer's events say of where it stands, and what its owner is told of them."""

import math

import pytest

from peerlearn.cli.demo.child_events import Finished, Hello
from peerlearn.cli.demo.progress import DemoProgress
from peerlearn.cli.live import sentence
from peerlearn.cli.progress import PeerProgress
from peerlearn.events import (
    Complaint,
    Evaluated,
    Event,
    Fetched,
    FetchFailed,
    Gated,
    Opening,
    PeerChanged,
    PhaseStarted,
    Published,
    Quarantined,
    Refused,
    Resumed,
    SaveFailed,
    Started,
    Stopped,
    Trained,
    Unfit,
    Unknown,
)


def started(name: str) -> Started:
    return Started(name=name, id="a" * 32, address="127.0.0.1:1", strategy="pairwise")


def fetched(provider: str, received: int) -> Fetched:
    return Fetched(
        round=5, provider=provider, version=1, received_bytes=received, sent_bytes=1, body_bytes=1, seconds=0.1
    )


def trained(phase: str, *providers: str) -> Trained:
    return Trained(round=5, phase=phase, steps=1, samples=1, loss=0.5, seconds=0.1, providers=providers)


def changed(status: str, peer: str = "b1", why: str = "") -> PeerChanged:
    return PeerChanged(peer=peer, name="birch", status=status, why=why)


def test_progress_follows_events():
    row = PeerProgress(rounds=3)
    for event in (
        Opening(id="a" * 32, name="amber"),
        Published(round=4, version=4),
        started("amber"),
        changed("confirmed"),
        PhaseStarted(round=5, phase="transfer"),
        fetched("birch", 500),
        fetched("birch", 700),
        trained("local", "cedar"),
        trained("transfer", "birch"),
        Evaluated(round=5, phase="local", metrics={"shared": 0.5, "remote": math.nan}),
        Unknown(called="of-a-later-version", fields={"what": "ever"}),
    ):
        row.seen(event)
    assert (row.name, row.address) == ("amber", "127.0.0.1:1")
    assert (row.received_bytes, row.taught_by, row.accuracy) == (1200, {"birch"}, 0.5)
    assert row.metrics == {"shared": 0.5}
    assert "round 5/7" in row.line(), "resumed after four rounds, for three more"
    row.seen(Published(round=5, version=6))
    assert "round 6/7" in row.line()
    assert "learns from birch" in row.line()
    moved = changed("moved", why="found at 10.0.0.2:1")
    row.seen(moved)
    assert (row.others, row.company(moved)) == ({"b1": "birch"}, "birch has moved: found at 10.0.0.2:1")
    row.seen(changed("gone"))
    row.seen(Stopped(round=6, why="left the block"))
    assert (row.others, row.phase, row.round) == ({}, "left", 6)


def test_a_row_of_the_demo_takes_what_its_process_says_too():
    row = DemoProgress(name="peer 0")
    row.seen(Hello(name="amber", classes=(1, 2), rounds=7))
    row.seen(Published(round=0, version=0))
    row.seen(Published(round=0, version=1))
    assert (row.name, row.classes, row.rounds, row.round) == ("amber", (1, 2), 7, 1)
    row.seen(Finished())
    assert row.phase == "done"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (started("amber"), "amber (aaaaaaaaaaaa) listens on 127.0.0.1:1, learns by pairwise"),
        (changed("back"), "birch is back"),
        (changed("unreachable", peer="", why="nobody answers there"), "nobody answers there"),
        (FetchFailed(round=0, provider="birch", why="slow", seconds=1.0), "no answer from birch: slow"),
        (Unfit(provider="birch", why="another task"), "cannot learn from birch: another task"),
        (Gated(round=0, before=0.5, after=0.4, kept=False, why="worse"), "transfer rolled back: worse"),
        (Gated(round=0, before=0.5, after=0.6, kept=True, why="better"), None),
        (SaveFailed(round=0, why="disk full"), "nothing saved: disk full; learning goes on"),
        (Resumed(round=3, version=4), "goes on from round 3"),
        (Resumed(round=3, version=4, why="one is damaged"), "goes on from round 3: one is damaged"),
        (Quarantined(round=0, provider="birch", why="harm", until=9), "put aside birch until its version 9: harm"),
        (Complaint(by="birch", why="harm"), "birch does not use what this peer teaches: harm"),
        (Refused(consumer="c" * 32, reason="busy", detail="full"), "refused cccccccccccc: full"),
        (Published(round=0, version=1), None),
        (fetched("birch", 1), None),
    ],
)
def test_what_an_owner_is_told(event: Event, said: str | None):
    assert sentence(event) == said
