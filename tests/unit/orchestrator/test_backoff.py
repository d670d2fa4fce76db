"""Backoff: how long a provider that failed is not asked."""

import pytest

from peerlearn.errors import PeerRefused, PeerUnreachable, RefusalReason
from peerlearn.orchestrator.consumer.backoff import Backoff
from peerlearn.types import Card, PeerId


def card(letter: str, *, session: str = "s1", serial: int = 0) -> Card:
    return Card(id=PeerId(letter * 32), name=letter, session=session, serial=serial)


class Watch:
    time = 0.0

    def __call__(self) -> float:
        return self.time


def test_a_provider_that_fails_is_put_aside_for_longer_each_time_and_forgiven_when_it_answers() -> None:
    watch, b = Watch(), card("b")
    aside = Backoff(watch, first=2.0, most=7.0)
    pauses = []
    for _ in range(4):
        aside.put(b, PeerUnreachable("b", "no progress"))
        start = watch.time
        while aside.why(b) is not None:
            watch.time += 0.5
        pauses.append(watch.time - start)
    assert pauses == [2.0, 4.0, 7.0, 7.0]
    aside.clear(b.id)
    aside.put(b, PeerUnreachable("b", "no progress"))
    assert "again in 2.0 s" in (aside.why(b) or "")


def test_a_restarted_provider_starts_with_a_clean_slate() -> None:
    aside = Backoff(Watch(), first=2.0, most=8.0)
    aside.put(card("b"), PeerUnreachable("b", "killed"))
    assert aside.why(card("b")) is not None
    restarted = Card(id=PeerId("b" * 32), name="b", session="s2")
    assert aside.why(restarted) is None


def test_a_refusal_for_good_holds_until_the_card_changes_and_busy_does_not_hold_at_all() -> None:
    watch = Watch()
    aside = Backoff(watch, first=2.0, most=8.0)
    aside.put(card("b"), PeerRefused("b", RefusalReason.EXPOSURE, "not shown"))
    aside.put(card("c"), PeerRefused("c", RefusalReason.BUSY, "32 exchanges"))
    watch.time = 1e6
    assert "not shown" in (aside.why(card("b")) or "")
    assert aside.why(card("b", serial=1)) is None
    assert aside.why(card("c")) is None


def test_being_busy_is_no_failure_and_does_not_lengthen_a_later_pause() -> None:
    watch, b = Watch(), card("b")
    aside = Backoff(watch, first=2.0, most=60.0)
    for _ in range(5):
        aside.put(b, PeerRefused("b", RefusalReason.BUSY, "32 exchanges"))
    aside.put(b, PeerUnreachable("b", "no progress"))
    assert "again in 2.0 s" in (aside.why(b) or "")


# ---------------------------------------------------------------- to the second


FAILURE = PeerUnreachable("b", "no progress")
PASSING = (RefusalReason.BUSY, RefusalReason.VERSION, RefusalReason.UNKNOWN_PEER, RefusalReason.LEAVING)


@pytest.mark.parametrize("first", [0.5, 2.0, 3.0])
def test_the_pause_doubles_from_first_to_most_and_ends_at_its_moment(first: float) -> None:
    watch, peer = Watch(), card("b")
    watch.time = 100.0
    backoff = Backoff(watch, first=first, most=20.0)
    for pause in (first, 2 * first, 4 * first, min(8 * first, 20.0), min(16 * first, 20.0)):
        backoff.put(peer, FAILURE)
        assert backoff.why(peer) == f"b: no progress; again in {pause:.1f} s"
        watch.time += pause - 0.25
        assert backoff.why(peer) == "b: no progress; again in 0.2 s"
        watch.time += 0.25
        assert backoff.why(peer) is None


def test_a_provider_that_never_failed_may_be_asked() -> None:
    backoff = Backoff(Watch(), first=2.0, most=7.0)
    backoff.put(card("b"), FAILURE)
    assert backoff.why(card("c")) is None
    backoff.clear(card("c").id)
    assert backoff.why(card("b")) is not None


@pytest.mark.parametrize("reason", PASSING)
def test_a_passing_refusal_costs_no_pause_and_keeps_the_count(reason: RefusalReason) -> None:
    watch, peer = Watch(), card("b")
    backoff = Backoff(watch, first=2.0, most=60.0)
    for failure in (FAILURE, FAILURE, PeerRefused("b", reason, "not now")):
        backoff.put(peer, failure)
    assert backoff.why(peer) is None
    backoff.put(peer, FAILURE)
    assert backoff.why(peer) == "b: no progress; again in 8.0 s", "the third failure in a row"


@pytest.mark.parametrize("reason", sorted(set(RefusalReason) - set(PASSING)))
def test_any_other_refusal_holds_for_this_card_and_counts(reason: RefusalReason) -> None:
    watch, refusal = Watch(), PeerRefused("b", reason, "not for you")
    backoff = Backoff(watch, first=2.0, most=60.0)
    backoff.put(card("b", serial=3), refusal)
    for watch.time in (0.0, 1e9):
        assert backoff.why(card("b", serial=3)) == str(refusal)
        assert backoff.why(card("b", serial=4)) is None
        assert backoff.why(card("b", serial=2)) is None
    backoff.put(card("b", serial=4), FAILURE)
    assert backoff.why(card("b", serial=4)) == "b: no progress; again in 4.0 s", "the second failure in a row"
    assert backoff.why(card("b", serial=5)) == "b: no progress; again in 4.0 s", "a new card does not end a failure"


def test_a_restart_ends_a_refusal_and_the_count_and_is_not_forgotten() -> None:
    watch = Watch()
    backoff = Backoff(watch, first=2.0, most=60.0)
    for _ in range(3):
        backoff.put(card("b"), PeerRefused("b", RefusalReason.EXPOSURE, "not shown"))
    backoff.put(card("b", session="s2"), FAILURE)
    assert backoff.why(card("b", session="s2")) == "b: no progress; again in 2.0 s"
    assert backoff.why(card("b")) is None, "of another session than the one that failed"
    assert backoff.why(card("b", session="s2")) is None, "which wipes the slate"


def test_so_many_are_remembered_and_the_oldest_is_forgotten_first() -> None:
    def peer(number: int) -> Card:
        return Card(id=PeerId(f"{number:032x}"), name="p", session="s1")

    backoff = Backoff(Watch(), first=2.0, most=7.0)
    for number in range(1024):
        backoff.put(peer(number), FAILURE)
    backoff.put(peer(0), FAILURE)  # known: nobody has to go
    assert [n for n in range(1024) if backoff.why(peer(n)) is None] == []
    backoff.put(peer(1024), FAILURE)
    assert [n for n in range(1025) if backoff.why(peer(n)) is None] == [0]
    backoff.put(peer(1025), FAILURE)
    assert [n for n in range(1026) if backoff.why(peer(n)) is None] == [0, 1]
