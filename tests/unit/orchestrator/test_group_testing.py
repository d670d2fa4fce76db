"""Who is to blame for a rollback: halves, then one, then strikes, then a pause; and what an owner gets to hear."""

import copy
import itertools
import json
import random
from typing import Any

import pytest

from peerlearn.events import Complaint, MemorySink
from peerlearn.orchestrator.consumer.group_testing import FAILURES, FIRST_PAUSE, REMEMBERED, Exclusion, GroupTesting
from peerlearn.orchestrator.provider.complaints import CHARS, EVERY, Complaints
from peerlearn.types import Card, PeerId


def card(name: str, *, session: str = "s1", version: int = 0) -> Card:
    return Card(id=PeerId(name * 32), name=name, session=session, version=version)


def trials(names: str, liars: str, *, most: int = 200) -> tuple[dict[str, Exclusion], list[str]]:
    """Exchange after exchange, all who may be asked teach; a transfer fails when a liar is among them. The sentences
    by name, and who taught in each exchange."""
    suspicion, sentences, taught = GroupTesting(), {}, []
    for version in range(most):
        free = {name: card(name, version=version) for name in names if suspicion.why(card(name), version) is None}
        ids = {c.id for c in free.values()}
        limited = suspicion.trial(ids) or ids
        asked = [c for c in free.values() if c.id in limited]
        taught.append("".join(c.name for c in asked))
        if set(taught[-1]).isdisjoint(liars):
            suspicion.kept(c.id for c in asked)
        elif (sentence := suspicion.failed(asked, "harm")) is not None:
            sentences[sentence.provider[0]] = sentence
        if set(sentences) == set(liars):
            break
    return sentences, taught


@pytest.mark.parametrize("liar", "abc")
def test_of_three_the_poisoned_one_is_put_aside_within_eleven_exchanges_and_no_other(liar: str) -> None:
    sentences, taught = trials("abc", liar)
    assert list(sentences) == [liar]
    assert len(taught) <= 11
    assert len([who for who in taught if liar not in who]) >= 2, "the others teach meanwhile"


@pytest.mark.parametrize(("amount", "liars"), [(1, 1), (2, 1), (5, 1), (8, 1), (8, 2), (8, 7), (16, 1), (16, 3)])
def test_however_many_lie_among_however_many_all_of_them_are_found_and_nobody_else(amount: int, liars: int) -> None:
    names = "abcdefghijklmnop"[:amount]
    for lying in itertools.islice(itertools.combinations(names, liars), 40):
        sentences, taught = trials(names, "".join(lying), most=60 * liars + 60)
        assert sorted(sentences) == sorted(lying)
        assert len(taught) <= 2 * liars * (2 * amount.bit_length() + FAILURES) + 2


def test_the_honest_go_on_together_once_the_liar_is_aside_and_it_is_tried_again_alone_later() -> None:
    suspicion, liar = GroupTesting(), card("b", version=4)
    others = [card("a"), card("c")]
    for _ in range(FAILURES - 1):
        assert suspicion.failed([liar], "harm") is None
    sentence = suspicion.failed([liar], "harm")
    assert sentence == Exclusion(liar.id, "harm", 4 + FIRST_PAUSE)
    assert suspicion.trial([c.id for c in others]) is None
    assert "put aside until its version 12: harm" in (suspicion.why(liar, 11) or "")
    assert suspicion.why(liar, 12) is None
    everybody = [liar.id, *(c.id for c in others)]
    assert suspicion.trial(everybody) == frozenset({liar.id})
    again = suspicion.failed([card("b", version=12)], "harm")
    assert again == Exclusion(liar.id, "harm", 12 + 2 * FIRST_PAUSE)
    assert suspicion.why(card("b", session="s2"), 13) is None, "a new session is a clean slate"


def test_one_success_wipes_the_strikes_out() -> None:
    suspicion, peer = GroupTesting(), card("b")
    for _ in range(5):
        for _ in range(FAILURES - 1):
            assert suspicion.failed([peer], "chance") is None
        suspicion.kept([peer.id])
    assert suspicion.suspects == frozenset()


def test_what_is_refused_before_use_needs_no_trial() -> None:
    suspicion, peer = GroupTesting(), card("b")
    for _ in range(FAILURES - 1):
        assert suspicion.refused(peer, "not finite") is None
        assert suspicion.trial([peer.id, card("a").id]) is None
    assert suspicion.refused(peer, "not finite") is not None


def test_those_who_have_nothing_new_to_be_judged_by_are_not_waited_for_without_end() -> None:
    suspicion, peers = GroupTesting(), [card(name) for name in "abcd"]
    assert suspicion.failed(peers, "harm") is None
    ids = [peer.id for peer in peers]
    limits = [suspicion.trial(ids) for _ in range(12)]
    assert limits[0] is not None
    assert limits[-1] is None


def test_a_complaint_is_one_line_of_printable_text_and_is_heard_now_and_then() -> None:
    sink, clock = MemorySink(), itertools.count(0.0, EVERY / 2)
    complaints = Complaints(sink, lambda: next(clock))
    for said in ("line\nbreak \x1b[31mred\u202e", "too soon", "x" * 10_000, "\x00\x07"):
        complaints.heard(card("b"), said)
    first, second = sink.of(Complaint)
    assert first == Complaint(by="b", why="line break  [31mred")
    assert second.why == "x" * CHARS
    assert complaints.latest == (second,)


def test_who_complains_is_bounded() -> None:
    complaints = Complaints(MemorySink(), lambda: 0.0)
    for n in range(1000):
        complaints.heard(Card(id=PeerId(f"{n:032x}"), name=f"p{n}", session="s"), "why not")
    assert len(complaints.latest) == 256
    assert complaints.latest[-1].by == "p999"


# ---- kept across a restart


def saved(suspicion: GroupTesting) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(json.dumps(suspicion.as_tree()))
    return tree


@pytest.mark.parametrize("seed", range(20))
def test_what_is_read_back_from_disk_after_any_history_goes_on_as_if_nothing_had_happened(seed: int) -> None:
    draw, kept = random.Random(seed), GroupTesting()
    restarted = GroupTesting()
    for version in range(60):
        session = "s2" if version > 40 and draw.random() < 0.1 else "s1"
        everybody = [card(name, version=version, session=session) for name in "abcdef"]
        free = [c for c in everybody if kept.why(c, version) is None]
        assert free == [c for c in everybody if restarted.why(c, version) is None]
        ids = [c.id for c in free]
        limited = kept.trial(ids)
        assert restarted.trial(ids) == limited
        asked = [c for c in free if limited is None or c.id in limited]
        match draw.choice(("kept", "failed", "failed", "refused", "unheard")):
            case "kept":
                kept.kept([c.id for c in asked])
                restarted.kept([c.id for c in asked])
            case "failed" if asked:
                assert kept.failed(asked, "harm") == restarted.failed(asked, "harm")
            case "refused" if asked:
                assert kept.refused(asked[0], "nonsense") == restarted.refused(asked[0], "nonsense")
        tree = saved(restarted)
        assert tree == saved(kept)
        restarted = GroupTesting()
        restarted.restore(tree)


def test_what_is_no_state_of_a_suspicion_changes_nothing() -> None:
    sound = GroupTesting()
    for _ in range(FAILURES):
        sound.refused(card("a"), "harm")
    sound.failed([card("b"), card("c"), card("d")], "harm")
    tree = saved(sound)
    (entry,) = tree["standing"]
    spoiled = [
        {}, {**tree, "standing": "a"}, {**tree, "standing": [entry[:-1]]},
        {**tree, "standing": [["amber", *entry[1:]]]},
        {**tree, "standing": [[*entry[:2], -1, *entry[3:]]]}, {**tree, "standing": [[*entry[:4], "soon", "harm"]]},
        {**tree, "standing": [[*entry[:5], None]]}, {**tree, "groups": [[["a" * 32], "x"]]},
        {**tree, "groups": [[["a" * 32], 0], [["a" * 32], 1]]}, {**tree, "groups": [[["x"], 0]]},
        {**tree, "standing": [entry] * (REMEMBERED + 1)}, {**tree, "groups": [[[], 0]] * (REMEMBERED + 1)},
    ]  # fmt: skip
    for nonsense in spoiled:
        with pytest.raises((ValueError, TypeError, KeyError)):
            sound.restore(nonsense)
        assert saved(sound) == tree


def test_of_ever_new_liars_no_more_are_remembered_than_that_and_those_put_aside_go_last() -> None:
    suspicion, first = GroupTesting(), card("f")
    for _ in range(FAILURES):
        suspicion.refused(first, "harm")
    most = REMEMBERED + 50
    for n in range(most):
        suspicion.refused(Card(id=PeerId(f"{n:032x}"), name="new", session="s1"), "harm")
        suspicion.failed([Card(id=PeerId(f"{n:016x}{k:016x}"), name="x", session="s1") for k in (1, 2)], "harm")
    tree = copy.deepcopy(suspicion.as_tree())
    assert len(tree["standing"]) == REMEMBERED
    assert len(tree["groups"]) == REMEMBERED
    assert suspicion.why(first, 0) is not None
    last = Card(id=PeerId(f"{most - 1:032x}"), name="new", session="s1")
    suspicion.refused(last, "harm")
    assert suspicion.refused(last, "harm") is not None, "who came last is known, and can be put aside"


# ---- which group comes next


def ids(names: str) -> frozenset[PeerId]:
    return frozenset(card(name).id for name in names)


def groups(tests: GroupTesting) -> list[tuple[str, int]]:
    return [("".join(peer[0] for peer in members), times) for members, times in tests.as_tree()["groups"]]


def test_at_the_start_nobody_is_suspected_and_nothing_is_held_against_anybody() -> None:
    tests = GroupTesting()
    assert tests.as_tree() == {"standing": [], "groups": [], "turn": False}
    assert tests.trial(ids("ab")) is None
    assert tests.why(card("a"), 0) is None


@pytest.mark.parametrize(
    ("names", "halves"),
    [("ab", ["a", "b"]), ("abc", ["ab", "c"]), ("abcd", ["ab", "cd"]), ("gfedcba", ["abcd", "efg"])],
)
def test_suspects_are_split_into_halves_by_id_and_the_first_half_is_tried_at_once(
    names: str, halves: list[str]
) -> None:
    tests = GroupTesting()
    tests.failed([card("x")], "harm")
    assert tests.trial(ids("xy")) == ids("x"), "it is the turn of others now"
    assert tests.failed([card(name) for name in names], "harm") is None
    assert groups(tests) == [*((half, 0) for half in halves), ("x", 1)]
    assert tests.suspects == ids(names + "x")
    assert tests.trial(ids(names + "xy")) == ids(halves[0])


def test_trials_take_turns_with_exchanges_among_those_who_are_not_suspected() -> None:
    tests = GroupTesting()
    tests.failed([card(name) for name in "abcd"], "harm")
    asked = [tests.trial(ids("abcdyz")) for _ in range(4)]
    assert asked == [ids("ab"), ids("yz"), ids("cd"), ids("yz")]
    assert tests.trial(ids("abcd")) == ids("ab"), "nobody else is here: suspects are tried out of turn"
    assert tests.trial(ids("abcd")) == ids("cd")


def test_of_a_group_those_who_are_here_are_tried_and_groups_of_which_nobody_is_here_wait() -> None:
    tests = GroupTesting()
    tests.failed([card(name) for name in "abcd"], "harm")
    assert tests.trial(ids("dyz")) == ids("d")
    assert groups(tests) == [("ab", 0), ("cd", 1)]
    assert tests.trial(ids("yz")) is None


def test_an_exchange_without_suspects_takes_no_turn() -> None:
    tests = GroupTesting()
    tests.failed([card(name) for name in "abcd"], "harm")
    for _ in range(3):
        assert tests.trial(ids("yz")) is None
    assert tests.trial(ids("abyz")) == ids("ab")


def test_a_group_without_a_verdict_is_tried_three_times_and_then_given_up() -> None:
    tests = GroupTesting()
    tests.failed([card("a")], "harm")
    assert [tests.trial(ids("a")) for _ in range(4)] == [ids("a")] * 3 + [None]
    tests.failed([card("a")], "harm")
    assert groups(tests) == [("a", 0)], "a new failure starts the count again"


def test_a_verdict_on_some_of_a_group_keeps_the_count_of_the_rest() -> None:
    tests = GroupTesting()
    tests.failed([card(name) for name in "abcd"], "harm")
    tests.trial(ids("abcd"))
    tests.kept(ids("ac"))
    assert groups(tests) == [("d", 0), ("b", 1)]


def test_who_failed_alone_is_tried_last_and_who_is_quarantined_no_more() -> None:
    tests = GroupTesting()
    tests.failed([card(name) for name in "abc"], "harm")
    for _ in range(FAILURES - 1):
        assert tests.failed([card("a")], "harm") is None
        assert groups(tests) == [("b", 0), ("c", 0), ("a", 0)]
    assert tests.failed([card("a")], "harm") is not None
    assert groups(tests) == [("b", 0), ("c", 0)]


def test_who_returns_from_quarantine_is_tried_last_and_alone() -> None:
    tests = GroupTesting()
    for name in "ba":
        for _ in range(FAILURES):
            tests.refused(card(name), "harm")
    tests.failed([card("c"), card("d")], "harm")
    assert tests.trial(ids("abcd")) == ids("c")
    assert groups(tests) == [("d", 0), ("a", 0), ("b", 0), ("c", 1)]
    assert tests.trial(ids("abcd")) == ids("d"), "its quarantine ends once"
    assert groups(tests) == [("a", 0), ("b", 0), ("c", 1), ("d", 1)]


def test_who_returns_is_quarantined_again_by_one_failure_for_twice_as_long_up_to_a_bound() -> None:
    tests, version, pauses = GroupTesting(failures=2), 0, []
    tests.refused(card("a"), "harm")
    for _ in range(10):
        exclusion = tests.failed([card("a", version=version)], f"harm at {version}")
        assert exclusion is not None
        assert exclusion.why == f"harm at {version}"
        pauses.append(exclusion.until - version)
        why = f"put aside until its version {exclusion.until}: harm at {version}"
        assert tests.why(card("a"), exclusion.until - 1) == why
        version = exclusion.until
        assert tests.trial(ids("a")) == ids("a")
    assert pauses == [8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]


def test_what_was_kept_clears_those_who_are_not_quarantined_and_nobody_else() -> None:
    tests = GroupTesting()
    for _ in range(FAILURES):
        tests.refused(card("a"), "harm")
    tests.refused(card("b"), "harm")
    tests.failed([card("c")], "harm")
    tests.kept(ids("abx"))
    assert [entry[0][0] for entry in tests.as_tree()["standing"]] == ["a", "c"]
    assert tests.why(card("a"), 0) is not None
    assert tests.suspects == ids("c")


def test_a_new_session_is_out_of_its_group_and_starts_at_no_failure() -> None:
    tests = GroupTesting(failures=2)
    tests.failed([card("a")], "harm")
    assert tests.why(card("a", session="s2"), 0) is None
    assert tests.as_tree() == {"standing": [], "groups": [], "turn": False}
    assert tests.refused(card("a", session="s2"), "harm") is None
    assert tests.as_tree()["standing"] == [[card("a").id, "s2", 1, 0, None, "harm"]]


# ---- bounds


def numbered(number: int) -> Card:
    return Card(id=PeerId(f"{number:032x}"), name="p", session="s1")


def test_one_more_than_the_bound_forgets_the_oldest_that_is_free_and_never_the_newest() -> None:
    tests = GroupTesting(failures=2)
    for _ in range(2):
        tests.refused(numbered(0), "harm")
    for number in range(1, REMEMBERED):
        tests.refused(numbered(number), "harm")
    assert len(tests.as_tree()["standing"]) == REMEMBERED
    tests.refused(numbered(REMEMBERED), "harm")
    assert {entry[0] for entry in tests.as_tree()["standing"]} == {
        numbered(number).id for number in range(REMEMBERED + 1) if number != 1
    }


def test_where_all_are_quarantined_the_oldest_is_forgotten_and_the_newest_is_known() -> None:
    tests = GroupTesting(failures=2)
    for number in range(REMEMBERED):
        for _ in range(2):
            tests.refused(numbered(number), "harm")
    tests.refused(numbered(REMEMBERED), "harm")
    assert tests.why(numbered(0), 0) is None
    assert tests.why(numbered(1), 0) is not None
    assert tests.refused(numbered(REMEMBERED), "harm") is not None


def test_groups_are_as_many_as_the_bound_and_new_ones_push_the_last_out() -> None:
    tests = GroupTesting()
    for number in range(REMEMBERED):
        tests.failed([numbered(number)], "harm")
    assert len(tests.as_tree()["groups"]) == REMEMBERED
    tests.failed([card("a"), card("b")], "harm")
    left = groups(tests)
    assert len(left) == REMEMBERED
    assert left[:2] == [("a", 0), ("b", 0)]
    assert tests.suspects == ids("ab") | {numbered(number).id for number in range(REMEMBERED - 2)}


# ---- what is no state, in words


TOO_MANY = f"what is held against others is no list of at most {REMEMBERED}"
GOOD = ["a" * 32, "s1", 1, 0, None, "harm"]
NO_STATE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"standing": [["x" * 50, *GOOD[1:]]]}, ValueError, f"{'x' * 40!r} is no id of a peer"),
    ({"standing": [[7, *GOOD[1:]]]}, ValueError, "'7' is no id of a peer"),
    ({"standing": [[GOOD[0], 7, *GOOD[2:]]]}, TypeError, "what is held against somebody is no text"),
    ({"standing": [[*GOOD[:5], None]]}, TypeError, "what is held against somebody is no text"),
    ({"standing": [[*GOOD[:2], -1, *GOOD[3:]]]}, ValueError, "'-1' is no count"),
    ({"standing": [[*GOOD[:3], "9" * 50, *GOOD[4:]]]}, ValueError, f"{'9' * 40!r} is no count"),
    ({"standing": [[*GOOD[:4], -1, "harm"]]}, ValueError, "'-1' is no count"),
    ({"groups": [[["b" * 32], -1]]}, ValueError, "'-1' is no count"),
    ({"groups": [[["b" * 32], 0], [["b" * 32, "c" * 32], 0]]}, ValueError, "somebody is in two groups of suspects"),
    ({"groups": "abc"}, ValueError, TOO_MANY),
    ({"standing": [GOOD] * (REMEMBERED + 1)}, ValueError, TOO_MANY),
]  # fmt: skip


@pytest.mark.parametrize(("spoiled", "error", "why"), NO_STATE, ids=range(len(NO_STATE)))
def test_what_is_no_state_is_refused_with_the_reason(spoiled: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=f"^{why}$"):
        GroupTesting().restore({"standing": [], "groups": [], "turn": False, **spoiled})


@pytest.mark.parametrize("missing", ["standing", "groups", "turn"])
def test_a_tree_without_one_of_its_parts_is_refused(missing: str) -> None:
    tree = {"standing": [], "groups": [], "turn": False}
    del tree[missing]
    with pytest.raises(KeyError, match=missing):
        GroupTesting().restore(tree)


def test_a_full_state_at_its_bounds_is_restored() -> None:
    peers = [f"{number:032x}" for number in range(REMEMBERED)]
    tree = {
        "standing": [[peer, "s1", 0, 0, 0, ""] for peer in peers],
        "groups": [[[peer], 0] for peer in peers],
        "turn": True,
    }
    tests = GroupTesting()
    tests.restore(tree)
    assert tests.as_tree() == tree
