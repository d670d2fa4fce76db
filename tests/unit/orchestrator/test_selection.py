"""Whom to learn from, whom not, and why; and how long one is put aside."""

from peerlearn.errors import PeerRefused, PeerUnreachable, RefusalReason
from peerlearn.orchestrator.consumer.backoff import Backoff
from peerlearn.orchestrator.consumer.selection import choose, merit
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.types import Card, Layer, PeerId


def card(letter: str, histogram: tuple[int, ...] = (), layers: tuple[Layer, ...] = (), **more: object) -> Card:
    return Card(id=PeerId(letter * 32), name=letter, session="s1", histogram=histogram, layers=layers, **more)  # type: ignore[arg-type]


ME = card("a", (0, 0, 100, 100), (Layer("penult", "Linear", (64, 64)), Layer("fc", "Linear", (10, 64))))


def test_classes_that_i_lack_make_a_better_provider_than_classes_that_i_know() -> None:
    stranger, twin = card("b", (100, 100, 0, 0)), card("c", (0, 0, 100, 100))
    assert merit(ME, stranger).difference == 1.0
    assert merit(ME, twin).difference == 0.0
    assert merit(ME, twin).intersection == 1.0
    assert choose(ME, [twin, stranger], aside={}, most=1).providers == (stranger.id,)


def test_shared_layers_break_a_tie() -> None:
    same, other = card("c", (9, 9, 0, 0), ME.layers), card("b", (9, 9, 0, 0), ())
    assert merit(ME, same).layers == 1.0
    assert choose(ME, [other, same], aside={}, most=1).providers == (same.id,)


def test_a_histogram_that_is_not_shown_is_neither_praise_nor_blame() -> None:
    hidden = merit(ME, card("b"))
    assert (
        merit(ME, card("c", (0, 0, 9, 9))).difference
        < hidden.difference
        < merit(ME, card("d", (9, 9, 0, 0))).difference
    )


def test_choice_is_in_id_order_independent_of_the_order_of_candidates_and_explains_itself() -> None:
    b, c, d = card("b", (9, 9, 0, 0)), card("c", (9, 0, 0, 0)), card("d", (0, 9, 0, 0))
    one = choose(ME, [b, c, d], aside={c.id: "no answer; again in 3.0 s"})
    two = choose(ME, [d, c, b], aside={c.id: "no answer; again in 3.0 s"})
    assert one == two
    assert one.providers == (b.id, d.id)
    assert "asking b" in one.why
    assert "not c (no answer; again in 3.0 s)" in one.why


def test_nobody_is_an_answer_too() -> None:
    assert choose(ME, [], aside={}).why == "nobody to learn from is here"


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


def test_gate_keeps_what_falls_little_and_rolls_back_what_falls_far() -> None:
    gate = Gate(tolerance=0.1)
    assert gate.judge(0.80, 0.71).kept
    assert not gate.judge(0.80, 0.69).kept
    assert not gate.judge(0.80, float("nan")).kept
    assert gate.judge(float("nan"), 0.5).kept  # nothing held out: nothing to judge by
    assert Gate(metric="off").judge(0.8, 0.1).kept


def test_being_busy_is_no_failure_and_does_not_lengthen_a_later_pause() -> None:
    watch, b = Watch(), card("b")
    aside = Backoff(watch, first=2.0, most=60.0)
    for _ in range(5):
        aside.put(b, PeerRefused("b", RefusalReason.BUSY, "32 exchanges"))
    aside.put(b, PeerUnreachable("b", "no progress"))
    assert "again in 2.0 s" in (aside.why(b) or "")


def test_a_lot_is_drawn_by_name_so_that_a_run_can_be_repeated_with_other_keys() -> None:
    def named(keys: str) -> list[Card]:
        return [Card(id=PeerId(k * 32), name=n, session="s") for k, n in zip(keys, ("fir", "oak", "yew"), strict=True)]

    def drawn(keys: str, lot: str) -> str:
        (chosen,) = choose(ME, named(keys), aside={}, most=1, lot=lot).providers
        return next(c.name for c in named(keys) if c.id == chosen)

    lots = [str(n) for n in range(20)]
    first = [drawn("bcd", lot) for lot in lots]
    assert first == [drawn("dbc", lot) for lot in lots]
    assert set(first) == {"fir", "oak", "yew"}
