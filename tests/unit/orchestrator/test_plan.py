"""plan() as a table: what a peer knows, what it does next."""

import pytest

from peerlearn.errors import ConfigError
from peerlearn.orchestrator.plan import Ask, Collect, MakeSnapshot, Receive, Rest, Skip, Step, Train, View, Wait, plan
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.types import PeerId, epochs, steps

PAPER = Schedule(cycle=(Local(epochs(1)), Exchange(), Transfer(epochs(1))))
LATE = Schedule(cycle=(Local(epochs(1)), Exchange(early=False), Transfer(epochs(1))))
AVERAGING = Schedule(cycle=(Local(epochs(1)), Publish(), Exchange(), Transfer(steps(0))))
HUB = Schedule(cycle=(), on={"received": (Transfer(epochs(2)), Publish())})
LOCAL, TRANSFER = Train(Local(epochs(1))), Train(Transfer(epochs(1)))
EARLY = Exchange()
BIRCH = PeerId("b" * 32)


@pytest.mark.parametrize(
    ("schedule", "view", "step"),
    [
        (PAPER, View(), Ask(EARLY)),  # prefetch: asked before local training, so that both run at once
        (PAPER, View(asked=True, in_flight=2), LOCAL),
        (PAPER, View(nobody=True), LOCAL),  # alone: learning goes on
        (PAPER, View(nobody=True, cursor=1), Ask(EARLY)),  # somebody may have come during the local span
        (PAPER, View(asked=True, in_flight=1, cursor=1), Wait("answers")),
        (PAPER, View(asked=True, cursor=1), Collect()),
        (PAPER, View(cursor=2), TRANSFER),
        (PAPER, View(cursor=3), MakeSnapshot()),  # published after the transfer, where the method is at its best
        (PAPER, View(round=5, goal=5), Rest()),
        (PAPER, View(round=5, goal=5, arrivals=1), Receive()),  # others are served after the goal, too
        (PAPER, View(round=4, goal=5), Ask(EARLY)),
        (LATE, View(), LOCAL),
        (LATE, View(cursor=1), Ask(Exchange(early=False))),
        (AVERAGING, View(), LOCAL),  # a Publish stands before the exchange: nothing to ask ahead of it
        (AVERAGING, View(cursor=1), MakeSnapshot()),
        (AVERAGING, View(cursor=2), Ask(EARLY)),
        (PAPER, View(behind=(BIRCH,)), Wait("the others: lockstep", (BIRCH,))),
        (PAPER, View(behind=(BIRCH,), asked=True), LOCAL),  # a round that has begun is finished
        (PAPER, View(behind=(BIRCH,), cursor=1, asked=True), Collect()),
        (PAPER, View(app_trains=True, asked=True), Skip()),  # the app has trained already
        (PAPER, View(app_trains=True, round=1, goal=1), Ask(EARLY)),  # its next answers travel while it trains
        (PAPER, View(app_trains=True, round=1, goal=1, asked=True, in_flight=1), Rest()),
        (LATE, View(app_trains=True, round=1, goal=1), Rest()),
        (HUB, View(), Wait("an event: this schedule has no cycle of its own")),
        (HUB, View(arrivals=1), Receive()),
        (HUB, View(triggered=(Transfer(epochs(2)), Publish())), Train(Transfer(epochs(2)))),
        (HUB, View(triggered=(Publish(),)), MakeSnapshot()),
        (PAPER, View(triggered=(Exchange(),), cursor=2), Ask(EARLY)),
        (PAPER, View(triggered=(Exchange(),), cursor=2, asked=True, in_flight=1), Wait("answers")),
        (PAPER, View(triggered=(Local(steps(3)),), app_trains=True), Train(Local(steps(3)))),
    ],
)
def test_next_step(schedule: Schedule, view: View, step: Step) -> None:
    assert plan(view, schedule) == step


def test_a_cycle_that_names_no_publish_publishes_at_its_end() -> None:
    assert PAPER.phases == (*PAPER.cycle, Publish())
    assert AVERAGING.phases == AVERAGING.cycle


def test_a_schedule_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="cycle or a trigger"):
        Schedule(cycle=())


def test_resized_changes_spans_and_nothing_else() -> None:
    sized = PAPER.resized(local=steps(7), transfer=steps(3))
    assert sized.cycle == (Local(steps(7)), Exchange(), Transfer(steps(3)))
    assert HUB.resized(transfer=steps(1)).on["received"] == (Transfer(steps(1)), Publish())
