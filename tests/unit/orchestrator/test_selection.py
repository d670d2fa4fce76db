"""Selection: which providers are asked, which are not, and why."""

import pytest

from peerlearn.orchestrator.consumer.selection import Merit, choose, merit
from peerlearn.types import Card, Layer, PeerId


def card(letter: str, histogram: tuple[int, ...] = (), layers: tuple[Layer, ...] = (), **more: object) -> Card:
    return Card(id=PeerId(letter * 32), name=letter, session="s1", histogram=histogram, layers=layers, **more)  # type: ignore[arg-type]


ME = card("a", (0, 0, 100, 100), (Layer("penult", "Linear", (64, 64)), Layer("fc", "Linear", (10, 64))))


def test_classes_that_i_lack_make_a_better_provider_than_classes_that_i_know() -> None:
    stranger, twin = card("b", (100, 100, 0, 0)), card("c", (0, 0, 100, 100))
    assert merit(ME, stranger).difference == 1.0
    assert merit(ME, twin).difference == 0.0
    assert merit(ME, twin).intersection == 1.0
    assert choose(ME, [twin, stranger], unavailable={}, most=1).providers == (stranger.id,)


def test_shared_layers_break_a_tie() -> None:
    same, other = card("c", (9, 9, 0, 0), ME.layers), card("b", (9, 9, 0, 0), ())
    assert merit(ME, same).layers == 1.0
    assert choose(ME, [other, same], unavailable={}, most=1).providers == (same.id,)


def test_a_histogram_that_is_not_shown_is_neither_praise_nor_blame() -> None:
    hidden = merit(ME, card("b"))
    assert (
        merit(ME, card("c", (0, 0, 9, 9))).difference
        < hidden.difference
        < merit(ME, card("d", (9, 9, 0, 0))).difference
    )


def test_choice_is_in_id_order_independent_of_the_order_of_candidates_and_explains_itself() -> None:
    b, c, d = card("b", (9, 9, 0, 0)), card("c", (9, 0, 0, 0)), card("d", (0, 9, 0, 0))
    one = choose(ME, [b, c, d], unavailable={c.id: "no answer; again in 3.0 s"})
    two = choose(ME, [d, c, b], unavailable={c.id: "no answer; again in 3.0 s"})
    assert one == two
    assert one.providers == (b.id, d.id)
    assert "asking b" in one.why
    assert "not c (no answer; again in 3.0 s)" in one.why


def test_nobody_is_an_answer_too() -> None:
    assert choose(ME, [], unavailable={}).why == "nobody to learn from is here"


def test_a_lot_is_drawn_by_name_so_that_a_run_can_be_repeated_with_other_keys() -> None:
    def named(keys: str) -> list[Card]:
        return [Card(id=PeerId(k * 32), name=n, session="s") for k, n in zip(keys, ("fir", "oak", "yew"), strict=True)]

    def drawn(keys: str, lot: str) -> str:
        (chosen,) = choose(ME, named(keys), unavailable={}, most=1, draw=lot).providers
        return next(c.name for c in named(keys) if c.id == chosen)

    lots = [str(n) for n in range(20)]
    first = [drawn("bcd", lot) for lot in lots]
    assert first == [drawn("dbc", lot) for lot in lots]
    assert set(first) == {"fir", "oak", "yew"}


# ---------------------------------------------------------------- merit, in figures


LAYERS = tuple(Layer(name, "Linear", (4, 4)) for name in "pqrs")


@pytest.mark.parametrize(
    ("mine", "theirs", "difference", "amount"),
    [
        ((1, 2, 4), (3, 3, 0), 0.625, 6 / 13),  # lacked: three quarters of the first class, half of the second
        ((10, 20, 40), (30, 30, 0), 0.625, 60 / 130),  # counts are compared as shares of each side's largest class
        ((4, 0), (1, 3), 0.75, 0.5),
        ((0, 0), (2, 6), 1.0, 1.0),  # all is new to a peer without samples
        ((2, 6), (0, 0), 0.0, 0.0),
        ((0, 0), (0, 0), 0.0, 0.0),
    ],
)
def test_merit_of_class_counts(
    mine: tuple[int, ...], theirs: tuple[int, ...], difference: float, amount: float
) -> None:
    got = merit(card("a", mine), card("b", theirs))
    assert got.difference == pytest.approx(difference)
    assert got.intersection == pytest.approx(1 - difference)
    assert got.amount == pytest.approx(amount)


@pytest.mark.parametrize(("mine", "theirs"), [((), ()), ((), (1, 2)), ((1, 2), ()), ((1, 2), (1, 2, 3))])
def test_class_counts_that_are_not_shown_or_not_of_the_same_classes_are_in_the_middle(
    mine: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    assert merit(card("a", mine, LAYERS), card("b", theirs, LAYERS[:1])) == Merit(0.5, 0.5, 0.25, 0.5)


def test_layers_count_as_a_share_of_my_own() -> None:
    assert merit(card("a", layers=LAYERS[:2]), card("b", layers=LAYERS[1:])).layers == 0.5
    assert merit(card("a"), card("b", layers=LAYERS)).layers == 0.0


@pytest.mark.parametrize(
    ("parts", "score"),
    [((1, 0, 0, 0), 1.0), ((0, 1, 0, 0), 0.25), ((0, 0, 1, 0), 0.15), ((0, 0, 0, 1), 0.1), ((1, 1, 1, 1), 1.5)],
)
def test_weights_of_the_score(parts: tuple[float, float, float, float], score: float) -> None:
    assert Merit(*parts).score == pytest.approx(score)


# ---------------------------------------------------------------- the choice, in words


FIR, OAK, YEW = (
    Card(id=PeerId(letter * 32), name=name, session="s", histogram=counts)
    for letter, name, counts in (("c", "fir", (4, 4, 0)), ("b", "oak", (0, 4, 4)), ("d", "", (0, 4, 4)))
)
HERE = Card(id=PeerId("a" * 32), name="ash", session="s", histogram=(4, 0, 0))


def test_merit_ranks_and_ids_break_ties_and_each_place_is_explained() -> None:
    chosen = choose(HERE, [FIR, YEW, OAK], unavailable={}, most=2)
    assert chosen.providers == (OAK.id, YEW.id)
    assert chosen.why == (
        "asking oak (score 1.07: classes I lack 1.00, shared 0.00, layers 0.00, amount 0.67); "
        "asking dddddddd (score 1.07: classes I lack 1.00, shared 0.00, layers 0.00, amount 0.67); "
        "not fir (score 0.69: classes I lack 0.50, shared 0.50, layers 0.00, amount 0.67; 2 at most)"
    )
    assert choose(HERE, [FIR, YEW, OAK], unavailable={}, most=1).providers == (OAK.id,)
    assert choose(HERE, [FIR, YEW, OAK], unavailable={}, most=0).providers == ()
    assert choose(HERE, [FIR, YEW, OAK], unavailable={}).providers == (OAK.id, FIR.id, YEW.id)


def test_the_ranking_of_a_strategy_overrides_merit_lots_and_pairs() -> None:
    wish = [FIR.id, PeerId("e" * 32), OAK.id, YEW.id]
    chosen = choose(HERE, [OAK, FIR, YEW], unavailable={OAK.id: "busy"}, preferred=wish, most=1, draw="x", pairs="y")
    assert chosen.providers == (FIR.id,)
    assert chosen.why == (
        "asking fir (choice 1 of the strategy); not dddddddd (choice 2 of the strategy; 1 at most); not oak (busy)"
    )
    nobody = choose(HERE, [OAK], unavailable={}, preferred=[], draw="x")
    assert nobody == choose(HERE, [OAK], unavailable={}, preferred=[FIR.id])
    assert nobody.providers == ()
    assert nobody.why == "nobody to learn from is here"


def test_a_lot_is_named_as_the_reason_and_unavailable_strangers_are_not_named() -> None:
    gone = {YEW.id: "suspect", PeerId("e" * 32): "gone", FIR.id: "no answer"}
    chosen = choose(HERE, [OAK, FIR, YEW], unavailable=gone, draw="x")
    assert chosen.providers == (OAK.id,)
    assert chosen.why == "asking oak (by lot); not fir (no answer); not dddddddd (suspect)"


@pytest.mark.parametrize("amount", [2, 3, 4, 5])
def test_pairs_agree_and_only_one_of_an_odd_number_sits_out(amount: int) -> None:
    cards = [Card(id=PeerId(letter * 32), name=letter, session="s") for letter in "abcde"[:amount]]
    met: set[frozenset[PeerId]] = set()
    for number in range(20):
        partners = {}
        for me in cards:
            others = [other for other in cards if other is not me]
            found = choose(me, others, unavailable={}, pairs=f"round {number}", draw="x", most=2)
            partners[me.id] = found.providers
            if found.providers:
                (partner,) = found.providers
                assert found.why == f"asking {partner[0]} (drawn as a pair)"
            else:
                assert found.why == "sitting out: the number of peers is odd"
        assert sum(not partner for partner in partners.values()) == amount % 2
        assert all(partners[partner] == (me,) for me, (partner,) in ((m, p) for m, p in partners.items() if p))
        met |= {frozenset({me, *partner}) for me, partner in partners.items() if partner}
    assert len(met) == amount * (amount - 1) // 2, "over the rounds each pair is drawn"


def test_alone_there_is_no_pair_to_sit_out_of() -> None:
    assert choose(HERE, [], unavailable={}, pairs="x").why == "nobody to learn from is here"
    assert choose(HERE, [OAK], unavailable={OAK.id: "busy"}, pairs="x").why == "not oak (busy)"


def test_lots_of_peers_of_one_name_go_by_id() -> None:
    one, two = (Card(id=PeerId(letter * 32), name="twin", session="s") for letter in "bc")
    for lot in "xyz":
        assert choose(HERE, [two, one], unavailable={}, draw=lot, most=1).providers == (one.id,)


def test_pairs_of_a_text_are_the_same_in_every_version_on_every_machine() -> None:
    names = ["fir", "oak", "yew", "elm", "ash"]
    cards = {name: Card(id=PeerId(name[0] * 32), name=name, session="s") for name in names}
    pairs = {}
    for name, me in cards.items():
        found = choose(me, [other for other in cards.values() if other is not me], unavailable={}, pairs="7")
        pairs[name] = [peer[0] for peer in found.providers]
    assert pairs == {"fir": ["o"], "oak": ["f"], "elm": ["a"], "ash": ["e"], "yew": []}
