"""The directory as a state machine: what must hold after any sequence of facts."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from peerlearn.config import Limits, Timing
from peerlearn.directory import START, Change, Directory, Lead, Leads, Liveness
from peerlearn.errors import ConfigError, PeerRefused, RefusalReason
from peerlearn.types import Address, Card, PeerId

TIMING = Timing(beat=1.0, suspect_after=4.0, gone_after=15.0)
OWN = PeerId("f" * 32)
AT = Address("192.0.2.1", 7411)
ELSEWHERE = Address("192.0.2.9", 7411)


def peer_id(n: int) -> PeerId:
    return PeerId(f"{n:x}" * 32)


def card(n: int = 1, session: str = "s1", **changes: object) -> Card:
    return replace(Card(id=peer_id(n), name=f"peer{n}", session=session), **changes)  # type: ignore[arg-type]


def directory(peers: int = 100, group_tag: str = "") -> tuple[Directory, list[Change]]:
    made = Directory(OWN, group_tag=group_tag, timing=TIMING, limits=Limits(peers=peers))
    changes: list[Change] = []
    made.listen(changes.append)
    return made, changes


def status(made: Directory, n: int = 1) -> Liveness:
    return next(contact.status for contact in made if contact.id == peer_id(n))


def test_silence_is_suspect_then_gone_and_a_beat_revives() -> None:
    made, changes = directory()
    made.confirm(card(), AT, 0.0, reached=True)
    made.tick(3.9)
    assert status(made) is Liveness.ALIVE
    made.tick(4.0)
    assert status(made) is Liveness.SUSPECT
    assert made.alive() == []
    made.beat(peer_id(1), "s1", 5.0)
    assert status(made) is Liveness.ALIVE
    made.tick(19.9)
    assert status(made) is Liveness.SUSPECT
    made.tick(20.0)
    assert status(made) is Liveness.GONE
    assert made.get(peer_id(1)) is None
    assert [change.what for change in changes] == ["confirmed", "suspect", "back", "suspect", "gone"]


def test_a_broken_watch_is_suspect_at_once_and_gone_counts_from_the_last_beat() -> None:
    made, changes = directory()
    made.confirm(card(), AT, 0.0, reached=True)
    made.beat(peer_id(1), "s1", 2.0)
    made.lost(peer_id(1), "s1", "reset by peer")
    assert (status(made), changes[-1].why) == (Liveness.SUSPECT, "reset by peer")
    made.tick(16.9)
    assert status(made) is Liveness.SUSPECT
    made.tick(17.0)
    assert status(made) is Liveness.GONE


def test_another_session_is_refused_while_the_first_lives_and_taken_when_it_does_not() -> None:
    made, changes = directory()
    made.confirm(card(), AT, 0.0, reached=True)
    with pytest.raises(PeerRefused) as refused:
        made.confirm(card(session="s2"), ELSEWHERE, 3.0, reached=True)
    assert refused.value.reason is RefusalReason.IDENTITY
    assert str(AT) in refused.value.said
    assert made.find("peer1").session == "s1"
    made.lost(peer_id(1), "s1", "killed")
    made.confirm(card(session="s2"), ELSEWHERE, 3.5, reached=True)
    assert (made.find("peer1").session, made.find("peer1").address) == ("s2", ELSEWHERE)
    assert changes[-1].what == "back"
    made.beat(peer_id(1), "s1", 9.0)
    assert made.find("peer1").last_beat == 3.5, "the former session has no more say"


def test_silence_that_no_tick_has_judged_yet_does_not_protect_a_dead_session() -> None:
    made, _ = directory()
    made.confirm(card(), AT, 0.0, reached=True)
    made.confirm(card(session="s2"), AT, 4.0, reached=True)
    assert made.find("peer1").session == "s2"


def test_who_takes_back_its_address_is_looked_for_where_it_was_seen() -> None:
    made, changes = directory()
    made.confirm(card(serial=1, addresses=(AT,)), AT, 0.0, reached=True)
    made.confirm(card(serial=2, addresses=(AT, ELSEWHERE)), ELSEWHERE, 1.0, reached=False)
    assert (made.find("peer1").address, made.find("peer1").reached) == (AT, True), "it says nothing against that one"
    made.confirm(card(serial=3, addresses=(ELSEWHERE,)), ELSEWHERE, 2.0, reached=False)
    assert (made.find("peer1").address, made.find("peer1").reached) == (ELSEWHERE, False)
    assert (status(made), changes[-1].what) == (Liveness.ALIVE, "reached")
    made.confirm(card(serial=3, addresses=(ELSEWHERE,)), ELSEWHERE, 3.0, reached=True)
    made.confirm(card(serial=4, addresses=()), AT, 4.0, reached=False)
    assert made.find("peer1").address == AT


def test_an_address_that_it_has_never_named_is_kept_as_long_as_it_answers() -> None:
    made, _ = directory()
    made.confirm(card(serial=1, addresses=(ELSEWHERE,)), AT, 0.0, reached=True)  # as behind a router
    made.confirm(card(serial=2, addresses=()), ELSEWHERE, 1.0, reached=False)
    assert (made.find("peer1").address, made.find("peer1").reached) == (AT, True)


def test_facts_of_another_session_change_nothing() -> None:
    made, changes = directory()
    made.confirm(card(), AT, 0.0, reached=True)
    before, told = made.find("peer1"), len(changes)
    made.beat(peer_id(1), "s2", 1.0)
    made.noticed_version(peer_id(1), "s2", 9)
    made.card_changed(card(session="s2", serial=9))
    made.goodbye(peer_id(1), "s2", "")
    made.lost(peer_id(1), "s2", "")
    made.beat(peer_id(2), "s1", 1.0)
    assert made.find("peer1") == before
    assert len(changes) == told


def test_serial_and_version_never_go_back_within_a_session() -> None:
    made, _ = directory()
    made.confirm(card(serial=5, version=7), AT, 0.0, reached=True)
    made.card_changed(card(serial=4, task="old"))
    made.confirm(card(serial=3, version=2, task="older"), AT, 1.0, reached=True)
    made.noticed_version(peer_id(1), "s1", 6)
    contact = made.find("peer1")
    assert (contact.card.serial, contact.card.task, contact.version) == (5, "", 7)
    made.card_changed(card(serial=6, task="new", version=9))
    assert (made.find("peer1").card.task, made.find("peer1").version) == ("new", 9)
    made.lost(peer_id(1), "s1", "")
    made.confirm(card(session="s2", serial=1, version=1), AT, 2.0, reached=True)
    assert (made.find("peer1").card.serial, made.find("peer1").version) == (1, 1)


def test_own_id_other_groups_and_crowds_stay_out() -> None:
    made, _ = directory(peers=2, group_tag="red")
    for stranger, reason in (
        (replace(card(), id=OWN, group_tag="red"), RefusalReason.IDENTITY),
        (card(group_tag="blue"), RefusalReason.GROUP),
    ):
        with pytest.raises(PeerRefused) as refused:
            made.confirm(stranger, AT, 0.0, reached=True)
        assert refused.value.reason is reason
    made.confirm(card(1, group_tag="red"), AT, 0.0, reached=True)
    made.confirm(card(2, group_tag="red"), AT, 1.0, reached=True)
    with pytest.raises(PeerRefused) as refused:
        made.confirm(card(3, group_tag="red"), AT, 2.0, reached=True)
    assert refused.value.reason is RefusalReason.LIMITS
    made.goodbye(peer_id(1), "s1", "")
    made.confirm(card(3, group_tag="red"), AT, 3.0, reached=True)
    assert [contact.name for contact in made] == ["peer2", "peer3"]


def test_one_that_only_calls_us_is_here_but_cannot_be_asked() -> None:
    made, changes = directory()
    made.confirm(card(), AT, 0.0, reached=False)
    assert ([c.name for c in made.here()], made.alive()) == (["peer1"], [])
    made.confirm(card(), ELSEWHERE, 1.0, reached=True)
    assert [c.address for c in made.alive()] == [ELSEWHERE]
    made.confirm(card(), AT, 2.0, reached=False)
    assert [c.address for c in made.alive()] == [ELSEWHERE], "its word does not displace what answers"
    assert [change.what for change in changes] == ["confirmed", "reached"]


def test_time_that_we_slept_is_nobodys_silence() -> None:
    made, _ = directory()
    made.confirm(card(), AT, 0.0, reached=True)
    made.excuse(20.0, 21.0)
    made.tick(21.0)
    assert status(made) is Liveness.ALIVE
    made.tick(24.0)
    assert status(made) is Liveness.SUSPECT


def test_who_was_heard_of_since_we_woke_gets_no_excuse_for_the_time_to_come() -> None:
    made, _ = directory()
    made.confirm(card(), AT, 0.0, reached=True)
    made.beat(card().id, card().session, 21.0)
    made.excuse(20.0, 21.0)
    made.tick(21.0 + TIMING.suspect_after)
    assert status(made) is Liveness.SUSPECT


def test_one_that_started_anew_while_we_slept_is_taken_at_once() -> None:
    made, _ = directory()
    made.confirm(card(), AT, 0.0, reached=True)
    made.excuse(20.0, 21.0)
    made.confirm(card(session="s2"), ELSEWHERE, 21.0, reached=True)
    assert [(c.session, c.address) for c in made.alive()] == [("s2", ELSEWHERE)]


def test_iteration_is_in_id_order_whoever_came_first() -> None:
    made, _ = directory()
    for n in (3, 1, 2):
        made.confirm(card(n), AT, 0.0, reached=True)
    assert [c.name for c in made] == [c.name for c in made.alive()] == ["peer1", "peer2", "peer3"]


def test_find_by_name_or_start_of_id_or_say_what_is_near() -> None:
    made, _ = directory()
    made.confirm(card(1), AT, 0.0, reached=True)
    made.confirm(replace(card(2), name="amber"), AT, 0.0, reached=True)
    made.confirm(replace(card(3), name="twin"), AT, 0.0, reached=True)
    made.confirm(replace(card(4), name="twin"), AT, 0.0, reached=True)
    assert made.find("amber").id == peer_id(2)
    assert made.find("222").name == "amber"
    assert made.expected("2222").name == "amber"  # type: ignore[union-attr]
    assert made.expected("") is None
    with pytest.raises(ConfigError, match="did you mean 'amber'"):
        made.find("ambre")
    with pytest.raises(ConfigError, match="2 peers"):
        made.find("twin")
    with pytest.raises(ConfigError, match="here are: amber, peer1, twin"):
        made.find("")
    made.goodbye(peer_id(4), "s1", "")
    assert made.find("twin").id == peer_id(3), "one that is here before one that is gone"


def test_a_listener_that_has_enough_hears_no_more() -> None:
    made, _ = directory()
    heard: list[Change] = []
    enough = made.listen(heard.append)
    made.confirm(card(1), AT, 0.0, reached=True)
    enough()
    made.confirm(card(2), AT, 0.0, reached=True)
    assert [change.contact.name for change in heard] == ["peer1"]


def test_leads_are_bounded_and_told_ones_push_out_found_ones() -> None:
    leads = Leads(most=2, most_addresses=1)
    found = [Lead(source="mdns", key=str(n), addresses=(AT, ELSEWHERE)) for n in range(3)]
    held = [leads.add(lead)[0] for lead in found]
    assert [h is not None for h in held] == [True, True, False]
    assert held[0] is not None
    assert held[0].addresses == (AT,)
    assert leads.add(found[0]) == (None, ()), "the same again is no news"
    told = Lead(source="static", key="t", addresses=(AT,), told=True)
    new, removed = leads.add(told)
    assert (new, [lead.key for lead in removed]) == (told, ["0"])
    moved = Lead(source="mdns", key="1", addresses=(ELSEWHERE,))
    assert leads.add(moved) == (moved, (held[1],))
    assert leads.add(Lead(source="mdns", key="empty", addresses=())) == (None, ())
    assert (leads.remove("static", "t"), leads.remove("static", "t"), len(leads)) == (told, None, 1)


def test_leads_to_a_peer_are_those_whose_start_of_an_id_is_its() -> None:
    leads, peer = Leads(most=10, most_addresses=1), "ab" * 16
    starts = {
        "all": peer,
        "short": peer[:START],
        "shorter": peer[:5],
        "unknown": "",
        "other": "cd" * 16,
        "twin": peer[:16],
    }
    for key, start in starts.items():
        leads.add(Lead(source="mdns", key=key, addresses=(AT,), id_prefix=start))
    assert {lead.key for lead in leads.to(peer)} == {"all", "short", "shorter", "twin"}
    assert {lead.key for lead in leads.to(peer[:20] + "0" * 12)} == {"short", "shorter", "twin"}
    for key in ("all", "shorter", "twin"):
        leads.remove("mdns", key)
    leads.add(Lead(source="mdns", key="short", addresses=(ELSEWHERE,), id_prefix="cd" * 16))
    assert leads.to(peer) == []
    assert [lead.key for lead in leads.to("cd" * 16)] == ["other", "short"]


@pytest.mark.parametrize("length", [1, START - 1, START, START + 1, 32])
def test_whom_a_start_of_an_id_is_expected_to_be(length: int) -> None:
    made, _ = directory(peers=2)
    ids = [PeerId("ab" * 6 + digit * 20) for digit in "12"]
    for peer in ids:
        made.confirm(Card(id=peer, name=peer[:14], session="s1"), AT, 0.0, reached=True)
    found = made.expected(ids[1][:length])
    assert found is not None
    assert found.id == ids[0 if length <= START else 1], "the first that is here"
    made.goodbye(ids[0], "s1", "")
    found = made.expected(ids[0][:length])
    assert (found.id if found is not None else None) == (ids[1] if length <= START else None)
    made.confirm(card(3), AT, 1.0, reached=True)  # takes the place of the one that is gone
    made.goodbye(ids[1], "s1", "")
    assert made.expected(ids[1][:length]) is None


class Life(RuleBasedStateMachine):
    """Any order of facts about a few peers with a few sessions, against a model that is told the same."""

    peers = st.integers(1, 5)
    sessions = st.sampled_from(["s1", "s2"])

    @initialize()
    def begin(self) -> None:
        self.made, self.changes = directory(peers=3)
        self.now = 0.0
        self.heard: dict[tuple[int, str], float] = {}
        self.serials: dict[tuple[PeerId, str], int] = {}

    @rule(n=peers, session=sessions, serial=st.integers(0, 5), version=st.integers(0, 5), reached=st.booleans())
    def confirm(self, n: int, session: str, serial: int, version: int, reached: bool) -> None:
        known = self.made.get(peer_id(n))
        try:
            self.made.confirm(card(n, session, serial=serial, version=version), AT, self.now, reached=reached)
        except PeerRefused as exc:
            twin = known is not None and known.session != session and known.alive
            full = known is None and len(self.made) == 3 and all(contact.here for contact in self.made)
            assert twin if exc.reason is RefusalReason.IDENTITY else full  # noqa: PT017  both outcomes are lawful
            return
        self.heard[n, session] = self.now
        assert self.made.get(peer_id(n)) is not None

    @rule(n=peers, session=sessions)
    def beat(self, n: int, session: str) -> None:
        known = self.made.get(peer_id(n))
        self.made.beat(peer_id(n), session, self.now)
        if known is not None and known.session == session:
            self.heard[n, session] = self.now
            assert status(self.made, n) is Liveness.ALIVE

    @rule(n=peers, session=sessions, version=st.integers(0, 9))
    def version(self, n: int, session: str, version: int) -> None:
        self.made.noticed_version(peer_id(n), session, version)

    @rule(n=peers, session=sessions, serial=st.integers(0, 9))
    def new_card(self, n: int, session: str, serial: int) -> None:
        self.made.card_changed(card(n, session, serial=serial))

    @rule(n=peers, session=sessions)
    def goodbye(self, n: int, session: str) -> None:
        self.made.goodbye(peer_id(n), session, "")

    @rule(n=peers, session=sessions)
    def lost(self, n: int, session: str) -> None:
        self.made.lost(peer_id(n), session, "broke")

    @rule(seconds=st.floats(0.1, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.made.tick(self.now)
        for contact in self.made.here():
            silent = self.now - contact.last_beat
            assert silent < TIMING.gone_after
            assert not contact.alive or silent < TIMING.suspect_after

    @invariant()
    def no_more_than_fit_and_never_oneself(self) -> None:
        assert len(self.made) <= 3
        assert [c.id for c in self.made] == sorted({c.id for c in self.made} - {OWN})
        assert all(c.reached and c.alive for c in self.made.alive())

    @invariant()
    def beats_are_those_that_were_given(self) -> None:
        for contact in self.made.here():
            assert contact.last_beat == self.heard[int(contact.id[0], 16), contact.session]

    @invariant()
    def serials_only_rise_within_a_session(self) -> None:
        before, self.serials = self.serials, {(c.id, c.session): c.card.serial for c in self.made}
        assert all(serial >= before.get(key, 0) for key, serial in self.serials.items())


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
