"""Groups on one machine: files, certificates, revocations, rotation, who may see what; and the commands for them."""

import base64
import dataclasses
import json
import os
import random
import re
import stat
import subprocess
import sys
import time
import tokenize
from collections.abc import Mapping
from pathlib import Path
from tokenize import COMMENT, ENCODING, STRING
from typing import Any

import pytest
import torch
from cryptography import x509

from peerlearn import arguments
from peerlearn.cli import options
from peerlearn.cli.group import commands
from peerlearn.cli.output import Output
from peerlearn.config import Limits
from peerlearn.errors import ConfigError, Corrupt, GroupError, IdentityError, Oversized, PeerRefused, RefusalReason
from peerlearn.knowledge import NotModified, Outputs, Params, Query, Refusal, Sparse
from peerlearn.membership.introductions import announcement
from peerlearn.orchestrator.exposure import Allowance, Showing
from peerlearn.security import Group, Identity, Passport, authority, groupfile, revocation
from peerlearn.security.authority import fingerprint_of
from peerlearn.security.group import DAY, _rendered
from peerlearn.security.revocation import Revocations, open_revocations
from peerlearn.strategies.distillation import Distillation
from peerlearn.testing import tiny_id
from peerlearn.types import Address, Card, Exposure
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.certificates import unreadable

LIMITS = Limits()


def saved(group: Group, path: Path) -> Group:
    group.save(path)
    return Group.load(path)


@pytest.fixture
def lab(tmp_path: Path) -> Group:
    """A group in a file."""
    return saved(Group.new("lab"), tmp_path / "lab.group")


def lets_in(host: Passport, guest: Passport) -> bool:
    try:
        host.check(guest.chain, "guest")
    except PeerRefused:
        return False
    return True


# ---------------------------------------------------------------- the file


def test_a_group_file_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    made, path = Group.new("lab"), tmp_path / "lab.group"
    before = os.umask(0)
    try:
        made.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["lab.group"], "no draft is left behind"
    again = Group.load(path)
    assert (again.name, again.id, again.authorities) == (made.name, made.id, made.authorities)
    assert lets_in(Passport(again), Passport(made))


def test_nothing_is_overwritten(lab: Group) -> None:
    assert lab.path is not None
    content = lab.path.read_bytes()
    with pytest.raises(GroupError, match="nothing is overwritten"):
        Group.new("other").save(lab.path)
    assert lab.path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o666])
def test_a_file_that_others_can_read_is_refused_with_the_fix(lab: Group, mode: int) -> None:
    assert lab.path is not None
    lab.path.chmod(mode)
    with pytest.raises(GroupError, match="chmod 600"):
        Group.load(lab.path)


def edited(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda p: p.unlink(), "peerlearn group new"),
        (lambda p: (p.unlink(), p.mkdir(0o700)), "not a file"),
        (lambda p: p.write_bytes(b""), "not a group file"),
        (lambda p: p.write_bytes(p.read_bytes()[:400]), "not a group file"),
        (lambda p: p.write_bytes(b"\x00\xff" * 50), "not a group file"),
        (lambda p: p.write_bytes(b"[" * 100_000), "not a group file"),
        (lambda p: p.write_bytes(b"x" * ((1 << 20) + 1)), "larger than any"),
        (lambda p: p.write_text("[]"), "not a group file"),
        (lambda p: edited(p, format=2), "newer release"),
        (lambda p: edited(p, name=""), "its name"),
        (lambda p: edited(p, name="a\x1b[31m"), "its name"),
        (lambda p: edited(p, id="../../x"), "its id"),
        (lambda p: edited(p, authorities=[]), "no authority"),
        (lambda p: edited(p, authorities=["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]), "damaged"),
        (lambda p: edited(p, key=None), "either a key or"),
        (lambda p: edited(p, key="x"), "damaged"),
        (lambda p: edited(p, key=authority.key_pem(authority.new_key()).decode()), "not that of its authority"),
        (lambda p: edited(p, member={}), "either a key or"),
        (lambda p: edited(p, issued=[{"name": "pi", "fingerprint": "00", "until": 1e300}]), "what was issued"),
        (lambda p: edited(p, issued=[{"name": "\x1b[2J", "fingerprint": "00", "until": 1}]), "what was issued"),
    ],
)
def test_a_bad_file_is_an_error_with_the_fix_and_stays_as_it_is(lab: Group, spoil: Any, sentence: str) -> None:
    path = lab.path
    assert path is not None
    spoil(path)
    content = path.read_bytes() if path.is_file() else None
    if content is not None:
        path.chmod(0o600)
    with pytest.raises(GroupError, match=sentence):
        Group.load(path)
    assert (path.read_bytes() if path.is_file() else None) == content


@pytest.mark.parametrize("what", unreadable(b""))
def test_a_certificate_that_somebody_has_made_up_is_no_more_than_refused(lab: Group, what: str) -> None:
    made_up = unreadable(authority.der(lab.authorities[0]))[what]
    with pytest.raises(ValueError, match="cannot be read"):
        authority.read(made_up)
    signed = _signed(Revocations().also(lab, peers=[tiny_id("eve")]))
    signed.links.append(made_up)
    with pytest.raises(Corrupt, match="no certificate"):
        open_revocations(signed, lab, LIMITS)
    host, guest = Passport(lab), Passport(lab)
    for chain in ((made_up,), (guest.chain[0], made_up), (made_up, guest.chain[0])):
        with pytest.raises(PeerRefused):
            host.check(chain, "eve")
    host.check(guest.chain, "ada")


def test_whatever_is_changed_in_a_group_file_it_is_read_or_refused_in_a_sentence(lab: Group, tmp_path: Path) -> None:
    entered, member = lab.issue("pi", days=9)
    draw, path = random.Random(0), tmp_path / "changed.group"
    whole = [_rendered(entered.rotate(days=9, overlap_days=1)), _rendered(member)]
    for _ in range(1500):
        content = json.loads(draw.choice(whole))
        if draw.random() < 0.3:
            field = draw.choice(list(content))
            content[field] = draw.choice([None, -1, 1e308, "", [], {}, [{}], ["x"], {"chain": [], "key": ""},
                                          [{"name": "x", "fingerprint": "00", "until": 1e300}],
                                          [{"name": "\x1b", "fingerprint": "00", "until": 1}]])  # fmt: skip
            data = json.dumps(content).encode()
        elif draw.random() < 0.2:
            raw = bytearray(json.dumps(content).encode())
            raw[draw.randrange(len(raw))] = draw.randrange(256)
            data = bytes(raw)
        else:
            data = json.dumps(with_a_changed_pem(content, draw)).encode()
        path.write_bytes(data)
        path.chmod(0o600)
        try:
            read = Group.load(path)
        except GroupError:
            continue
        commands.show(path, Output(as_json=True))
        read.until(read.credential().chain, time.time())


def with_a_changed_pem(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A byte of a key or a certificate in it, below the PEM, is another."""
    places: list[tuple[Any, Any]] = [(content["authorities"], 0)]
    places += [(content["links"], 0)] if content["links"] else []
    places += (
        [(content["member"], "key"), (content["member"]["chain"], 0)] if "member" in content else [(content, "key")]
    )
    where, at = draw.choice(places)
    head, *body, tail = where[at].strip().split("\n")
    raw = bytearray(base64.b64decode("".join(body)))
    raw[draw.randrange(len(raw))] = draw.randrange(256)
    where[at] = "\n".join([head, base64.b64encode(raw).decode(), tail]) + "\n"
    return content


def test_what_is_no_file_is_said_at_once_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(GroupError, match="name the group file itself"):
            Group.load(place)
    os.mkfifo(tmp_path / "identity.key", 0o600)
    with pytest.raises(IdentityError, match="is not a file"):
        Identity.load_or_create(tmp_path)


def test_an_expired_group_is_refused_and_so_is_one_of_the_future(monkeypatch: pytest.MonkeyPatch, lab: Group) -> None:
    now = time.time()
    for when, sentence in ((now + 6 * 365 * DAY, "has expired"), (now - 2 * DAY, "clock is behind")):
        monkeypatch.setattr(time, "time", lambda when=when: when)
        with pytest.raises(GroupError, match=sentence):
            Group.load(lab.path or "")
        with pytest.raises(GroupError, match=sentence):
            Passport(lab)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_names_that_spoil_a_line_are_refused(name: str) -> None:
    with pytest.raises(GroupError, match="printable"):
        Group.new(name)


def test_outsiders_learn_nothing_but_a_hash(lab: Group) -> None:
    shown = Passport(lab).chain[0] + authority.der(lab.authorities[0])
    assert b"lab" not in shown
    assert lab.id.encode() not in shown
    me = announcement("ab" * 16, "", 7411, group=lab.id)
    assert (me.id_prefix, me.port) == ("ab" * 6, 7411)
    assert lab.id not in me.group_hash
    assert len(me.group_hash) == 16
    others = {announcement("x", "", 1).group_hash, announcement("x", "tag", 1, group=lab.id).group_hash}
    assert me.group_hash not in others


# ---------------------------------------------------------------- who is in


def test_members_believe_one_another_and_nobody_else(lab: Group) -> None:
    one, two, stranger = Passport(lab), Passport(lab), Passport(Group.new("lab"))
    assert one.fingerprint != two.fingerprint
    assert lets_in(one, two)
    assert not lets_in(one, stranger)
    with pytest.raises(PeerRefused, match="not of this group") as refused:
        one.check((), "nobody")
    assert refused.value.reason is RefusalReason.GROUP
    with pytest.raises(PeerRefused):
        one.check((b"no certificate",), "nobody")


def test_a_members_certificate_is_no_authority(lab: Group) -> None:
    member = Passport(lab)._held
    key = authority.new_key()
    forged = authority.mint(member.key, member.certificate, key.public_key(), now=time.time(), until=time.time() + DAY)
    with pytest.raises(PeerRefused, match="not of this group"):
        Passport(lab).check((authority.der(forged), authority.der(member.certificate)), "forger")


def test_a_members_file_lets_in_one_machine_which_lets_in_nobody(lab: Group, tmp_path: Path) -> None:
    entered, made = lab.issue("pi", days=1)
    member = saved(made, tmp_path / "pi.member")
    assert b"group key" not in (tmp_path / "pi.member").read_bytes()
    assert member.key is None
    assert lets_in(Passport(lab), Passport(member))
    assert lets_in(Passport(member), Passport(lab))
    assert [each.name for each in entered.issued] == ["pi"]
    assert entered.issued[0].fingerprint == Passport(member).fingerprint
    for forbidden in (lambda: member.issue("x", days=1), lambda: Revocations().also(member, peers=["0" * 32])):
        with pytest.raises(GroupError, match="does not hold the group's key"):
            forbidden()


def test_a_members_file_expires(lab: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = lab.issue("pi", days=1)
    host, guest = Passport(lab), Passport(saved(made, tmp_path / "pi.member"))
    now = time.time()
    host.check(guest.chain, "pi")
    monkeypatch.setattr(time, "time", lambda: now + 1.1 * DAY)
    with pytest.raises(PeerRefused, match="expired"):
        host.check(guest.chain, "pi")
    with pytest.raises(GroupError, match="peerlearn group issue"):
        Group.load(tmp_path / "pi.member")


def test_a_certificate_is_renewed_before_it_expires(lab: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    passport, host = Passport(lab), Passport(lab)
    first, now = passport.fingerprint, time.time()
    assert not passport.refresh().renewed
    monkeypatch.setattr(time, "time", lambda: now + 0.7 * DAY)
    assert passport.refresh().renewed
    assert passport.fingerprint != first
    assert not passport.refresh().renewed
    monkeypatch.setattr(time, "time", lambda: now + 1.5 * DAY)
    host.check(passport.chain, "renewed")
    monkeypatch.setattr(time, "time", lambda: now - 60)
    assert passport.refresh().renewed, "the clock was set back: what was made then is not valid now"


# ---------------------------------------------------------------- rotation


def test_after_a_rotation_old_and_new_believe_one_another_until_the_overlap_ends(
    lab: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, issued = lab.issue("pi", days=300)
    second = lab.rotate(days=1000, overlap_days=5)
    third = saved(second.rotate(days=1000, overlap_days=5), tmp_path / "third")
    everybody = [Passport(group) for group in (lab, issued, second, third)]
    for host in everybody:
        for guest in everybody:
            assert lets_in(host, guest)
    assert {p.group.id for p in everybody} == {lab.id}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6 * DAY)
    old, new, pi = Passport(lab), Passport(third), everybody[1]
    assert not lets_in(new, old)
    assert not lets_in(old, new)
    assert not lets_in(new, pi), "also what was issued for longer"
    assert lets_in(new, Passport(Group.load(tmp_path / "third")))
    assert not lets_in(everybody[3], pi), "also by one that judged it before"


def test_a_rotation_without_overlap_parts_with_the_old_key_at_once(lab: Group) -> None:
    old, new = Passport(lab), Passport(lab.rotate(days=10, overlap_days=0))
    assert not lets_in(old, new)
    assert not lets_in(new, old)


# ---------------------------------------------------------------- revocations


def test_a_revoked_certificate_and_a_revoked_peer_are_refused(lab: Group) -> None:
    host, guest = Passport(lab), Passport(lab)
    listed = Revocations().also(lab, certificates=[guest.fingerprint], peers=[tiny_id("eve")])
    assert listed.signed is not None
    assert host.learn(listed.signed)
    assert not host.learn(listed.signed)
    with pytest.raises(PeerRefused, match="revoked") as refused:
        host.check(guest.chain, "guest")
    assert refused.value.reason is RefusalReason.REVOKED
    with pytest.raises(PeerRefused, match="revoked"):
        host.check_peer(tiny_id("eve"), "eve")
    host.check_peer(tiny_id("ada"), "ada")


def test_the_newest_list_wins_and_only_the_groups(lab: Group) -> None:
    host = Passport(lab)
    first = Revocations().also(lab, peers=[tiny_id("eve")])
    second = first.also(lab, peers=[tiny_id("mallory")])
    assert second.serial > first.serial
    assert second.peers == {tiny_id("eve"), tiny_id("mallory")}
    assert host.learn(_signed(second))
    assert not host.learn(_signed(first))
    stranger = Group.new("lab")
    for group in (stranger, dataclasses.replace(stranger, id=lab.id)):
        with pytest.raises(Corrupt, match="not signed"):
            host.learn(_signed(second.also(group, peers=[tiny_id("ada")])))
    assert host.revocations.peers == second.peers


def _signed(listed: Revocations) -> pb.SignedRevocations:
    assert listed.signed is not None
    return listed.signed


def test_a_list_that_others_would_not_take_is_not_made(lab: Group) -> None:
    with pytest.raises(GroupError, match="is full"):
        Revocations().also(lab, certificates=[i.to_bytes(32, "big") for i in range(3000)])


def test_a_chain_without_its_link_does_not_spoil_the_whole_one(lab: Group) -> None:
    host, guest = Passport(lab), Passport(lab.rotate(days=9, overlap_days=1))
    with pytest.raises(PeerRefused):
        host.check(guest.chain[:1], "somebody who shows it in part")
    host.check(guest.chain, "guest")


def test_an_altered_list_is_refused(lab: Group) -> None:
    signed = _signed(Revocations().also(lab, peers=[tiny_id("eve")]))
    for field in ("list", "signature"):
        data = bytearray(getattr(signed, field))
        for at in range(len(data)):
            altered = pb.SignedRevocations()
            altered.CopyFrom(signed)
            setattr(altered, field, bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]]))
            with pytest.raises(Corrupt):
                open_revocations(altered, lab, LIMITS)
    with pytest.raises(Oversized):
        open_revocations(signed, lab, Limits(revocation_bytes=10))
    signed.links.extend([b"x"] * 17)
    with pytest.raises(Oversized):
        open_revocations(signed, lab, LIMITS)
    del signed.links[:]
    signed.links.append(b"no certificate")
    with pytest.raises(Corrupt):
        open_revocations(signed, lab, LIMITS)


def test_a_list_signed_after_a_rotation_is_believed_by_those_who_know_only_the_old_key(lab: Group) -> None:
    new = lab.rotate(days=100, overlap_days=5)
    assert Passport(lab).learn(_signed(Revocations().also(new, peers=[tiny_id("eve")])))
    assert Passport(new.rotate(days=9, overlap_days=1)).learn(_signed(Revocations(1 << 42).also(lab, peers=["0" * 32])))
    cut_off = lab.rotate(days=100, overlap_days=0)
    with pytest.raises(Corrupt):
        Passport(lab).learn(_signed(Revocations().also(cut_off, peers=[tiny_id("eve")])))


def test_what_is_heard_is_kept_beside_the_file_and_read_at_the_next_start(lab: Group) -> None:
    assert lab.path is not None
    listed = Revocations().also(lab, peers=[tiny_id("eve")])
    Passport(lab).learn(_signed(listed))
    assert Passport(Group.load(lab.path)).revocations.peers == {tiny_id("eve")}
    path = revocation.path_of(lab.path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(GroupError, match="delete it when others"):
        Passport(lab)


def test_a_revoked_member_cannot_start(lab: Group, tmp_path: Path) -> None:
    _, made = lab.issue("pi", days=1)
    member = saved(made, tmp_path / "pi.member")
    revocation.save(
        Revocations().also(lab, certificates=[Passport(member).fingerprint]),
        revocation.path_of(tmp_path / "pi.member"),
    )
    with pytest.raises(GroupError, match="is revoked"):
        Passport(member)


def test_a_running_peer_notices_what_changes_in_the_files(lab: Group, caplog: pytest.LogCaptureFixture) -> None:
    assert lab.path is not None
    passport = Passport(lab)
    first = passport.fingerprint
    revocation.save(Revocations().also(lab, peers=[tiny_id("eve")]), revocation.path_of(lab.path))
    news = passport.refresh()
    assert (news.revoked, news.renewed) == (True, False)
    lab.rotate(days=100, overlap_days=5).save(lab.path, replace=True)
    news = passport.refresh()
    assert news.renewed
    assert passport.fingerprint != first
    assert lets_in(passport, Passport(lab))
    held = passport.fingerprint
    Group.new("other").save(lab.path, replace=True)
    assert not passport.refresh().renewed
    assert "another group's now" in caplog.text
    assert passport.fingerprint == held


# ---------------------------------------------------------------- who may see what

ADA = Card(id=tiny_id("ada"), name="ada", session="s")
FULL = Params(tensors={"a.w": torch.zeros(2), "b.w": torch.zeros(2)}, architecture="a", version=1)
LAYER = Params(tensors={"a.w": torch.zeros(2)}, architecture="a", version=1)
SHARE = Params(tensors={"a.w": Sparse((2,), torch.tensor([0]), torch.zeros(1))}, architecture="a", version=1)
NAMED = Query(want="params", select={"layers": ["a", "b"]})


def outputs(fingerprint: str, *names: str) -> Outputs:
    tensors = {name: torch.zeros(1) for name in names}
    return Outputs(dataset="d", fingerprint=fingerprint, ids=torch.tensor([0]), tensors=tensors, version=1)


def showing(*everybody: Exposure, namesakes: int = 1, rules: Mapping[str, set[Exposure]] | None = None) -> Showing:
    allowance = Allowance(frozenset(everybody), {who: frozenset(what) for who, what in (rules or {}).items()})
    return Showing(allowance, state={"a.w", "b.w"}, public={"public"}, namesakes=lambda name: namesakes)


def allowed(judge: Showing, knowledge: Any, query: Query | None = None, peer: Card = ADA) -> bool:
    try:
        judge.check_answer(knowledge, query or Query(want="params"), peer)
    except PeerRefused as refused:
        return refused.reason is not RefusalReason.EXPOSURE
    return True


@pytest.mark.parametrize(
    ("knowledge", "query", "needed"),
    [
        (FULL, None, Exposure.PARAMS_FULL),
        (FULL, NAMED, Exposure.PARAMS_LAYERS),
        (LAYER, None, Exposure.PARAMS_LAYERS),
        (SHARE, None, Exposure.PARAMS_SIGNIFICANT),
        (outputs("public", "logits", "anything"), None, Exposure.PUBLIC_OUTPUTS),
        (outputs("mine", "logits"), None, Exposure.PRIVATE_LOGITS),
        (outputs("mine", "logits/3"), None, Exposure.PRIVATE_LOGITS),
        (outputs("mine", "feature"), None, Exposure.PRIVATE_FEATURES),
        (outputs("mine", "embedding"), None, Exposure.PRIVATE_FEATURES),
        (outputs("mine", "label"), None, Exposure.PRIVATE_LABELS),
    ],
)
def test_each_kind_of_knowledge_needs_just_its_exposure(knowledge: Any, query: Query, needed: Exposure) -> None:
    covers = {needed} | ({Exposure.PARAMS_FULL} if needed.value.startswith("params") else set())
    for exposure in Exposure:
        assert allowed(showing(exposure), knowledge, query) is (exposure in covers), exposure
    assert not allowed(showing(), knowledge, query)


def test_what_has_no_exposure_is_shown_to_nobody() -> None:
    everything = showing(*Exposure)
    assert not allowed(everything, outputs("mine", "logits", "inputs"))
    assert not allowed(everything, outputs("mine", "x"))
    assert allowed(showing(), NotModified(3))
    assert allowed(showing(), Refusal(RefusalReason.BUSY, "later"))
    assert allowed(showing(), Params(tensors={}, architecture="a", version=1)), "a receipt shows nothing"


def test_a_query_is_refused_when_nothing_of_its_kind_may_be_shown() -> None:
    judge = showing(Exposure.PUBLIC_OUTPUTS)
    judge.check_query("outputs", ADA)
    judge.check_query("nothing", ADA)
    with pytest.raises(PeerRefused, match="no params are shown to ada"):
        judge.check_query("params", ADA)


def test_a_rule_for_one_peer_stands_instead_of_that_for_all() -> None:
    by_name = showing(Exposure.PARAMS_FULL, rules={"ada": {Exposure.PUBLIC_OUTPUTS}})
    bob = dataclasses.replace(ADA, id=tiny_id("bob"), name="bob")
    assert allowed(by_name, FULL, peer=bob)
    assert not allowed(by_name, FULL)
    by_id = showing(rules={ADA.id: {Exposure.PARAMS_FULL}, "ada": set()})
    assert allowed(by_id, FULL), "an id goes before a name"
    assert not allowed(by_id, FULL, peer=bob)


def test_a_name_that_two_have_grants_nothing_more() -> None:
    judge = showing(Exposure.PUBLIC_OUTPUTS, namesakes=2, rules={"ada": {Exposure.PARAMS_FULL}})
    assert not allowed(judge, FULL)
    assert not allowed(judge, outputs("public", "logits"))
    named_like_an_id = dataclasses.replace(ADA, id=tiny_id("eve"), name=tiny_id("bob"))
    assert not allowed(showing(rules={tiny_id("bob"): {Exposure.PARAMS_FULL}}), FULL, peer=named_like_an_id)


def test_the_allow_list_must_cover_the_strategy() -> None:
    strategy = Distillation(via="params")
    assert arguments.allowance(strategy, None).everybody == strategy.exposes
    with pytest.raises(ConfigError, match=r"allow card.histogram too"):
        arguments.allowance(strategy, ["params.full"])
    with pytest.raises(ConfigError, match=r"'params\.ful' is not a valid"):
        arguments.allowance(strategy, ["params.ful"])
    with pytest.raises(ConfigError, match="in the card, which all see"):
        arguments.allowance(strategy, {"amber": ["params.full", "card.histogram"]})
    made = arguments.allowance(strategy, {"*": ["card.histogram"], "amber": ["params.full"]})
    assert made.anybody == strategy.exposes
    assert made.everybody == {Exposure.HISTOGRAM}


def test_the_lan_is_listened_on_only_with_a_group_or_insecurely() -> None:
    assert arguments.listen_address(None, insecure=False) == Address("127.0.0.1", 0)
    assert arguments.listen_address(None, insecure=False, group=True) == Address("0.0.0.0", 0)
    assert arguments.listen_address("0.0.0.0:7411", insecure=False, group=True).port == 7411
    with pytest.raises(ConfigError, match="peerlearn group new"):
        arguments.listen_address("192.168.1.2:7411", insecure=False)
    with pytest.raises(ConfigError, match="exclude one another"):
        arguments.listen_address(None, insecure=True, group=True)
    with pytest.raises(ConfigError, match="empty"):
        arguments.group_of("")


# ---------------------------------------------------------------- options


def test_limits_are_read_with_units() -> None:
    read = options.limits(["body_bytes=1GiB", "peers=7", "card_bytes=32 KiB", "held_bytes=2mb"])
    assert (read.body_bytes, read.peers, read.card_bytes, read.held_bytes) == (1 << 30, 7, 32768, 2_000_000)
    assert options.limits([]) == Limits()
    for wrong, sentence in (
        ("body=1", "did you mean 'body_bytes'"),
        ("peers=many", "write peers=VALUE"),
        ("peers", "write peers=VALUE"),
        ("peers=0", "must be positive"),
        ("peers=-1", "write peers=VALUE"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            options.limits([wrong])


def test_exposures_are_read_for_all_and_for_one() -> None:
    assert options.exposures([]) is None
    read = options.exposures(["card.histogram", "amber=params.full,outputs.public", "amber=params.layers"])
    assert read == {"*": ("card.histogram",), "amber": ("params.full", "outputs.public", "params.layers")}
    with pytest.raises(ConfigError, match="PEER=WHAT"):
        options.exposures(["=params.full"])


# ---------------------------------------------------------------- the commands


def run(*arguments: str, cwd: Path, code: int = 0, **env: str) -> dict[str, Any]:
    """`peerlearn ... --json` in a process of its own; its object."""
    done = subprocess.run(
        [sys.executable, "-m", "peerlearn", *arguments, "--json"],
        cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200", **env},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("command", ["new", "show", "issue", "revoke", "rotate"])
def test_help_is_light_and_every_command_speaks_json(command: str) -> None:
    probe = (
        "import sys; from peerlearn.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(code or any(m in sys.modules for m in ('torch', 'grpc', 'zeroconf', 'cryptography')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, "group", command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


def test_the_life_of_a_group_by_commands(tmp_path: Path) -> None:
    made = run("group", "new", "lab", cwd=tmp_path)
    path = tmp_path / "lab.group"
    assert made["file"] == "lab.group"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run("group", "new", "lab", cwd=tmp_path, code=10)["error"]["kind"] == "GroupError"

    shown = run("group", "show", cwd=tmp_path, PEERLEARN_GROUP="lab.group")
    assert shown["id"] == made["id"]
    assert "PRIVATE KEY" not in json.dumps(shown)

    issued = run("group", "issue", "pi", "--group", "lab.group", "--days", "30", cwd=tmp_path)
    assert stat.S_IMODE((tmp_path / "pi.member").stat().st_mode) == 0o600
    assert run("group", "show", "--group", "pi.member", cwd=tmp_path)["certificate"] == issued["fingerprint"]
    assert "before" in run("group", "issue", "pi", "--group", "lab.group", cwd=tmp_path, code=2)["error"]["message"]
    refused = run("group", "issue", "x", "--group", "pi.member", cwd=tmp_path, code=10)["error"]["message"]
    assert "where the group was made" in refused

    quiet = ("--group", "lab.group", "--seconds", "0")
    revoked = run("group", "revoke", "pi", *quiet, cwd=tmp_path)
    assert revoked["revoked_certificates"] == [issued["fingerprint"]]
    revoked = run("group", "revoke", tiny_id("eve"), "ab" * 32, *quiet, cwd=tmp_path)
    assert revoked["revoked_peers"] == [tiny_id("eve")]
    assert set(revoked["revoked_certificates"]) == {issued["fingerprint"], "ab" * 32}
    assert "no issued" in run("group", "revoke", "nobody", *quiet, cwd=tmp_path, code=2)["error"]["message"]
    run("group", "revoke", "pi", "--group", "pi.member", "--seconds", "0", cwd=tmp_path, code=10)

    rotated = run("group", "rotate", "--group", "lab.group", "--overlap", "3", cwd=tmp_path)
    assert rotated["id"] == made["id"]
    assert rotated["authority"] != made["authority"]
    assert len(rotated["older_keys_until"]) == 1
    shown = run("group", "show", "--group", "lab.group", cwd=tmp_path)
    assert set(shown["revoked_certificates"]) == {issued["fingerprint"], "ab" * 32}
    run("group", "rotate", "--group", "lab.group", "--overlap", "0", cwd=tmp_path)
    assert run("group", "show", "--group", "lab.group", cwd=tmp_path)["older_keys_until"] == []


@pytest.mark.parametrize("command", [["group", "show"], ["up", "x:y"], ["ls", "--seconds", "0.1"]])
def test_every_command_fails_closed_on_a_bad_group_file(command: list[str], tmp_path: Path) -> None:
    saved(Group.new("lab"), tmp_path / "open.group").path.chmod(0o644)  # type: ignore[union-attr]
    groupless = (tmp_path / "junk.group", tmp_path / "missing.group")
    groupless[0].write_text("junk")
    groupless[0].chmod(0o600)
    for name, sentence in (("open", "chmod 600"), ("junk", "not a group file"), ("missing", "group new")):
        error = run(*command, "--group", f"{name}.group", cwd=tmp_path, code=10)["error"]
        assert error["kind"] == "GroupError"
        assert sentence in error["message"]
    error = run(*command, cwd=tmp_path, code=2, PEERLEARN_GROUP="")["error"]
    assert "PEERLEARN_GROUP is set, but empty" in error["message"]


def test_doctor_looks_at_the_group_file(tmp_path: Path) -> None:
    saved(Group.new("lab"), tmp_path / "lab.group")
    for mode, ok in ((0o600, True), (0o644, False)):
        (tmp_path / "lab.group").chmod(mode)
        done = subprocess.run(
            [sys.executable, "-m", "peerlearn", "doctor", "--group", "lab.group", "--json"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        probe = json.loads(done.stdout.splitlines()[-1])["probes"][-1]
        assert (probe["name"], probe["ok"]) == ("group", ok)
        assert ok or "chmod 600" in probe["fix"]


# ---------------------------------------------------------------- nothing received is executed

PACKAGE = Path(__file__).parents[2] / "peerlearn"
DANGER = re.compile(
    r"\b(?:pickle|marshal|shelve|dill|cloudpickle|joblib|yaml\.(?:unsafe_)?load|__import__)\b"
    r"|(?<![.\w])(?:eval|exec|compile)\(|\btorch\.(?:load|jit|hub|package)\b|\bimportlib\b|\bimport_module\b"
    r"|\bweights_only\s*=\s*False|\ballow_pickle\s*=\s*True"
    r"|\bsubprocess\b|\bos\.(?:system|exec\w*|popen)\b|\bimport ctypes\b"
)
AT_HOME = {
    "__init__.py": "import_module of this package's own rooms",
    "cli/importing.py": "import of the module that this machine's user names",
    "cli/demo/children.py": "subprocess for the demo's own peers",
    "cli/choices.py": "importlib.metadata, names of installed strategies",
    "cli/doctor/probes.py": "importlib.metadata, versions installed",
    "strategies/registry.py": "importlib.metadata, strategies that this machine's user installed",
    "tuning/malloc.py": "ctypes for glibc's mallopt",
}
RECEIVING = ("wire", "transport", "membership", "directory", "discovery", "security", "orchestrator", "knowledge.py")


def code_of(path: Path) -> list[str]:
    """The lines of a module without what is only said: strings and comments."""
    with path.open("rb") as file:
        tokens = [each for each in tokenize.tokenize(file.readline) if each.type not in (STRING, COMMENT, ENCODING)]
    lines: dict[int, str] = {}
    for token in tokens:
        before = lines.get(token.start[0], "")
        lines[token.start[0]] = before.ljust(token.start[1]) + token.string
    return [line.strip() for line in lines.values()]


def test_nothing_received_is_ever_unpickled_imported_or_executed() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if hits := [line for line in code_of(path) if DANGER.search(line)]:
            found[str(path.relative_to(PACKAGE))] = hits
    assert found.keys() >= {"cli/importing.py", "strategies/registry.py"}, "the search finds what is there"
    receiving = {name: hits for name, hits in found.items() if name.startswith(RECEIVING) and name not in AT_HOME}
    assert not receiving
    everywhere = re.compile(r"pickle|torch\.load|(?<![.\w])(?:eval|exec)\(")
    assert not [name for name, hits in found.items() if any(map(everywhere.search, hits))]


def test_the_linter_forbids_it_too() -> None:
    settings = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    for rule in ('"S301"', '"S302"', '"S307"', '"torch.load".msg', '"pickle".msg'):
        assert rule in settings


def test_no_certificate_of_the_group_signs_another_for_longer_than_itself() -> None:
    short = Group.new("short", days=0.5)
    minted = x509.load_der_x509_certificate(Passport(short).chain[0])
    assert minted.not_valid_after_utc <= short.authorities[0].not_valid_after_utc
    assert fingerprint_of(Passport(short).chain[0]) != Passport(short).fingerprint, "each peer mints its own"
    assert groupfile.parse(_rendered(short), Path("x"))["id"] == short.id
    assert Identity.ephemeral().id != Identity.ephemeral().id
