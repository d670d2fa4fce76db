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
    for n in range(2 * REMEMBERED):
        suspicion.refused(Card(id=PeerId(f"{n:032x}"), name="new", session="s1"), "harm")
        suspicion.failed([Card(id=PeerId(f"{n:016x}{k:016x}"), name="x", session="s1") for k in (1, 2)], "harm")
    tree = copy.deepcopy(suspicion.as_tree())
    assert len(tree["standing"]) == REMEMBERED
    assert len(tree["groups"]) == REMEMBERED
    assert suspicion.why(first, 0) is not None
    last = Card(id=PeerId(f"{2 * REMEMBERED - 1:032x}"), name="new", session="s1")
    suspicion.refused(last, "harm")
    assert suspicion.refused(last, "harm") is not None, "who came last is known, and can be put aside"
