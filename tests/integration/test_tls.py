"""Groups over real gRPC: who gets in, who is whom, and what becomes of those who are shut out."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from peerlearn.arguments import Network
from peerlearn.blocking import BlockingPeer
from peerlearn.config import Limits
from peerlearn.directory import Directory
from peerlearn.errors import ConfigError, GroupError, PeerRefused, PeerUnreachable, RefusalReason
from peerlearn.events import Answered, Fetched, PeerChanged, Refused
from peerlearn.membership import Observer
from peerlearn.membership.trust import Trust
from peerlearn.security import Group, Identity, Passport, authority, revocation, sign_card
from peerlearn.security.revocation import Revocations
from peerlearn.testing import SOON, PeerNetwork, blob_learner, gathered, timed, until
from peerlearn.transport.base import Caller
from peerlearn.transport.grpc.tls import speaks_tls
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import Address, Card, Exposure, PeerId
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.certificates import unreadable
from tests.support.command_line import app, listing, look, up
from tests.support.tls_guests import LAB, LOCAL, PROTO, TIMING, Guest, guest, introduction, meet, revoked

__all__ = ["app"]  # a fixture
OTHER = Group.new("other")


@asynccontextmanager
async def raw(to: Address, passport: Passport | None, *, own: bool = True) -> AsyncIterator[grpc.aio.Channel]:
    """A channel as any program may open one: without TLS, with TLS and no certificate, or with this one's."""
    if passport is None:
        async with grpc.aio.insecure_channel(str(to)) as channel:
            yield channel
        return
    key, chain = (passport.key, passport.certificate) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(passport.authority, key, chain)
    named = [("grpc.ssl_target_name_override", passport.server_name), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(str(to), credentials, options=named) as channel:
        yield channel


async def health(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    status: int = (await stub.Check(health_pb2.HealthCheckRequest(), timeout=SOON)).status
    return status


async def services(channel: grpc.aio.Channel) -> list[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=SOON)
    return [service.name async for reply in call for service in reply.list_services_response.service]


# ---------------------------------------------------------------- who gets in


async def test_two_peers_of_one_group_learn_from_each_other() -> None:
    village = PeerNetwork("grpc")
    amber = village.peer("amber", blob_learner([0, 1], 1), group=LAB, listen=LOCAL)
    birch = village.peer("birch", blob_learner([2, 3], 2), group=LAB, listen=LOCAL)
    async with gathered(amber, birch), asyncio.TaskGroup() as both:
        both.create_task(amber.run(2))
        both.create_task(birch.run(2))
    for name, peer in (("amber", amber), ("birch", birch)):
        assert village.events[name].of(Fetched)
        assert village.events[name].of(Answered)
        assert not village.events[name].of(Refused)
        assert len(peer.card.certificate_sha256) == 32
    assert amber.card.certificate_sha256 != birch.card.certificate_sha256


async def test_a_member_without_the_key_learns_too(tmp_path: Path) -> None:
    village = PeerNetwork("grpc")
    _, issued = LAB.issue("pi", days=1)
    issued.save(tmp_path / "pi.member")
    amber = village.peer("amber", blob_learner([0, 1], 1), group=LAB, listen=LOCAL)
    pi = village.peer("pi", blob_learner([2, 3], 2), group=tmp_path / "pi.member", listen=LOCAL)
    async with gathered(amber, pi):
        await pi.run(1)
    assert village.events["pi"].of(Fetched)


async def test_old_and_new_members_meet_during_a_rotation() -> None:
    async with guest("old") as old, guest("new", LAB.rotate(days=9, overlap_days=1), old) as new:
        await meet(old, new)
        await old.ask(new)
        await new.ask(old)


@pytest.mark.parametrize("call", [health, services])
async def test_every_call_needs_a_certificate_health_and_reflection_included(call: Any) -> None:
    key = authority.new_key()
    expired = Passport(LAB)
    past = authority.mint(LAB.signer, LAB.authorities[0], key.public_key(), now=time.time(), until=time.time() - 60)
    expired._held = replace(expired._held, key=key, certificate=past)
    foreign = Passport(OTHER)
    forger = replace(LAB, authorities=LAB.authorities[:1], key=None, member=OTHER.credential())
    async with guest("amber") as amber:
        async with raw(amber.address, Passport(LAB)) as channel:
            assert await call(channel)
        for passport, own in (
            (None, False), (Passport(LAB), False), (foreign, True), (Passport(forger), True), (expired, True),
        ):  # fmt: skip
            async with raw(amber.address, passport, own=own) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(channel)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_tls_1_2_is_refused_even_with_a_certificate_of_the_group(tmp_path: Path) -> None:
    passport = Passport(LAB)
    (tmp_path / "both.pem").write_bytes(passport.certificate + passport.key)
    async with guest("amber") as amber:
        for newest, answered in ((ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, False)):
            assert await _asks_health(amber.address, tmp_path / "both.pem", newest) is answered


async def _asks_health(to: Address, certificate: Path, newest: ssl.TLSVersion) -> bool:
    """By hand, over HTTP/2, since gRPC itself cannot be kept to an old TLS: whether the answer is not a refusal."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, newest
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(to.host, to.port, ssl=context)

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    headers = {
        b":method": b"POST", b":scheme": b"https", b":path": b"/grpc.health.v1.Health/Check", b":authority": b"x",
        bytes.fromhex("7465"): b"trailers", b"content-type": b"application/grpc",
    }  # fmt: skip
    block = b"".join(literal(name, value) for name, value in headers.items())
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
    writer.write(frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5)))
    seen = b""
    try:
        async with asyncio.timeout(SOON):
            while b"grpc-status" not in seen and (part := await reader.read(4096)):
                seen += part
    finally:
        writer.transport.abort()
    assert b"grpc-status" in seen
    assert (b"TLS 1.3" in seen) is not (b"\x08\x01" in seen)
    return b"TLS 1.3" not in seen


async def test_a_group_and_none_tell_each_other_at_once_in_a_clear_sentence() -> None:
    async with guest("amber") as amber, guest("plain", None) as plain:
        with timed() as watch, pytest.raises(PeerRefused, match="speaks only TLS: it is of a group") as refused:
            await plain.transport.introduce(amber.address, introduction(plain.card))
        assert refused.value.reason is RefusalReason.GROUP
        with timed() as again, pytest.raises(PeerRefused, match="speaks without TLS: it has no group") as refused:
            await amber.transport.introduce(plain.address, introduction(amber.card))
        assert refused.value.reason is RefusalReason.GROUP
        assert watch.seconds + again.seconds < 2
        assert await speaks_tls(amber.address)
        assert not await speaks_tls(plain.address)


async def test_another_group_is_told_at_once_and_the_user_is_told_the_fix() -> None:
    async with guest("amber") as amber, guest("stranger", OTHER, amber) as stranger:
        with pytest.raises(PeerRefused, match="not of this side's group"):
            await amber.transport.introduce(stranger.address, introduction())
        await until(lambda: bool(stranger.membership.problems))
        assert "start both with the same --group" in stranger.membership.problems[0]
        assert not amber.alive


async def test_the_same_sentences_reach_whoever_runs_a_peer() -> None:
    village = PeerNetwork("grpc")
    amber = village.peer("amber", blob_learner([0], 1), group=LAB, listen=LOCAL)
    async with amber:
        plain = village.peer("plain", blob_learner([1], 2), peers=[amber.address])
        async with plain:
            await until(lambda: any("speaks only TLS" in problem for problem in plain.problems))


def test_the_blocking_twin_takes_a_group_too(tmp_path: Path) -> None:
    LAB.save(tmp_path / "lab.group")
    common: dict[str, Any] = {"group": tmp_path / "lab.group", "listen": LOCAL, "timing": TIMING}
    with BlockingPeer(blob_learner([0, 1], 1), name="amber", network=Network(**common)) as amber:
        told = Network(peers=[amber.address], **common)
        with BlockingPeer(blob_learner([2, 3], 2), name="birch", network=told) as birch:
            birch.meet(1, timeout=30)
            assert birch.transfer().providers == (amber.id,)


async def test_commands_of_a_group_from_start_to_revocation(app: str, tmp_path: Path) -> None:
    """`up` finds its group by mDNS, `ls` needs the group, `group revoke` tells running peers, TLS 1.2 gets nowhere."""
    LAB.save(tmp_path / "lab.group")
    common = ("--group", str(tmp_path / "lab.group"))
    local = (*common, "--listen", "127.0.0.1:0")
    async with up(app, "--name", "amber", *local, "--limit", "body_bytes=1MiB") as amber:
        where = re.search(r"127\.0\.0\.1:(\d+)", await amber.until("listens on 127.0.0.1:"))
        async with up(app, "--name", "birch", *local) as birch:
            assert where is not None
            await birch.until("amber is here")
            await birch.until("learns from amber")
            listed = await listing(2, *common)
            assert {peer["name"] for peer in listed["peers"]} == {"amber", "birch"}
            assert (await look("ls", "--seconds", "1"))["peers"] == []
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
            with pytest.raises(OSError):  # noqa: PT011  whichever way it is hung up
                await asyncio.open_connection("127.0.0.1", int(where[1]), ssl=old)
            told = await look("group", "revoke", "birch", *common)
            assert "amber" in told["told"]
            await amber.until("birch left")
            listed = await listing(1, *common)
            assert [peer["name"] for peer in listed["peers"]] == ["amber"]


# ---------------------------------------------------------------- who is whom


async def test_a_replayed_card_is_refused() -> None:
    async with guest("amber") as amber, guest("birch", LAB, amber) as birch:
        await meet(amber, birch)
        thief = GrpcTransport(timing=TIMING, credentials=(own := Passport(LAB)), guard=own)
        async with thief:
            with pytest.raises(PeerRefused, match="not that of this connection") as refused:
                await thief.introduce(amber.address, introduction(birch.card))
            assert refused.value.reason is RefusalReason.IDENTITY
        assert amber.alive == ["birch"]
        assert any(event.reason == "identity" for event in amber.events.of(Refused)), "every refusal is recorded"


async def test_an_altered_card_is_refused() -> None:
    async with guest("amber") as amber:
        eve, own = Identity.ephemeral(), Passport(LAB)
        card = Card(id=eve.id, name="eve", session="s1", certificate_sha256=own.fingerprint)
        good = sign_card(eve, card, own.chain)
        altered = pb.SignedCard()
        altered.CopyFrom(good)
        altered.card = good.card.replace(b"eve", b"bob")
        unbound = sign_card(eve, replace(card, certificate_sha256=b""), own.chain)
        async with GrpcTransport(timing=TIMING, credentials=own, guard=own) as transport:
            for bad, sentence in ((altered, "not signed by"), (unbound, "names another certificate")):
                with pytest.raises(PeerRefused, match=sentence) as refused:
                    await transport.introduce(amber.address, introduction(bad))
                assert refused.value.reason is RefusalReason.IDENTITY
            assert not list(amber.membership.directory)
            assert (await transport.introduce(amber.address, introduction(good))).HasField("card")
        assert [contact.name for contact in amber.membership.directory] == ["eve"]


class Impostor:
    """A member that answers introductions with the card and the certificate of another, or with its card alone."""

    def __init__(self, card: pb.SignedCard) -> None:
        self.card = card

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        return pb.Introduction(protocol=PROTO, card=self.card)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: Any) -> None:
        raise AssertionError("nobody watches here who tells")

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        yield pb.Notice()

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        return caller

    async def answer(self, question: Message, caller: Caller) -> Message:
        return Message(pb.Header(protocol=PROTO, sender=question.header.sender))


@asynccontextmanager
async def impostor(service: Impostor, listen: Address = LOCAL) -> AsyncIterator[tuple[Address, Passport]]:
    own = Passport(LAB)
    async with GrpcTransport(listen, timing=TIMING, credentials=own, guard=own).serving(service) as address:
        yield address, own


async def test_who_answers_with_anothers_card_is_refused() -> None:
    async with guest("amber") as amber, guest("birch", LAB, amber) as birch:
        await meet(amber, birch)
        service = Impostor(birch.card)
        async with impostor(service) as (address, own):
            with pytest.raises(PeerRefused, match="not that of its connection") as refused:
                await amber.transport.introduce(address, introduction(amber.card))
            assert refused.value.reason is RefusalReason.IDENTITY
            alone = pb.SignedCard()
            alone.CopyFrom(birch.card)
            del alone.certificates[:]
            service.card = alone
            with pytest.raises(PeerRefused, match="does not say which certificate"):
                await amber.transport.introduce(address, introduction(amber.card))
            # With its own certificate beside the other's card the connection is sound, but the card is not its own.
            alone.certificates.extend(own.chain)
            answer = await amber.transport.introduce(address, introduction(amber.card))
            with pytest.raises(PeerRefused, match="names another certificate"):
                amber.membership._introductions.read(answer, str(address), answer.card.certificates)


async def test_a_question_in_anothers_name_is_refused() -> None:
    async with guest("amber") as amber, guest("birch", LAB, amber) as birch, guest("mallory", LAB, amber, birch) as m:
        await meet(amber, birch, m)
        await m.ask(amber)
        with pytest.raises(PeerRefused, match="this connection is not that of") as refused:
            await m.transport.exchange(amber.address, birch.question())
        assert refused.value.reason is RefusalReason.IDENTITY
        mine = m.question()
        mine.header.session = "another"
        with pytest.raises(PeerRefused, match="introduce yourself first"):
            await m.transport.exchange(amber.address, mine)
        request = pb.WatchRequest(id=birch.identity.id, session=birch.membership.card.session)
        with pytest.raises(PeerRefused, match="this connection is not that of"):
            await anext(m.transport.watch(amber.address, request))


async def test_whoever_takes_over_an_address_gets_no_questions_of_its_former_holder() -> None:
    async with guest("amber") as amber:
        async with guest("birch", LAB, amber) as birch:
            await meet(amber, birch)
            await amber.ask(birch)
            holders, where = amber.membership.certificates_of(birch.identity.id), birch.address
        service = Impostor(birch.card)
        async with impostor(service, where):
            with pytest.raises(PeerUnreachable):
                await amber.transport.exchange(where, amber.question(), certificates=holders)
            amber.transport._pins.put(where, Passport(LAB).chain)
            with pytest.raises(PeerUnreachable, match="another peer is there now"):
                await amber.transport.exchange(where, amber.question(), certificates=holders)


async def test_a_pin_ends_when_another_proves_to_be_at_the_address_even_one_that_is_not_welcome() -> None:
    async with guest("amber") as amber:
        async with guest("birch", LAB, amber) as birch:
            await meet(amber, birch)
            where = birch.address
        assert where in amber.transport._pins, "one that has left may come back, and is recognised"
        eve, own = Identity.ephemeral(), Passport(LAB)
        card = Card(id=eve.id, name="eve", session="s1", certificate_sha256=own.fingerprint)
        service = Impostor(sign_card(eve, card, own.chain))
        amber.membership._trust.learn(revoked(LAB, certificates=[own.fingerprint]), "admin")  # type: ignore[union-attr]
        async with GrpcTransport(where, timing=TIMING, credentials=own, guard=own).serving(service):
            with pytest.raises(PeerRefused, match="revoked"):
                await amber.transport.introduce(where, introduction(amber.card))
            assert where not in amber.transport._pins
            with pytest.raises(PeerUnreachable, match="nobody has proved there who it is"):
                await amber.transport.exchange(where, amber.question())


# ---------------------------------------------------------------- who is shut out


async def test_a_revoked_certificate_is_refused_everywhere_and_its_calls_end() -> None:
    async with guest("amber") as amber, guest("birch", LAB, amber) as birch, guest("eve", LAB, amber, birch) as eve:
        await meet(amber, birch, eve)
        assert eve.passport is not None
        amber.slow = birch.slow = eve.slow = asyncio.Event()  # questions to and from eve are under way
        async with asyncio.TaskGroup() as asking:
            asked = [asking.create_task(_fails(one.ask(other))) for one, other in ((eve, amber), (birch, eve))]
            await until(lambda: amber.asked == 1 and eve.asked == 1)
            with timed() as watch:
                # Only amber is told; birch hears of it from amber.
                amber.membership._trust.learn(revoked(LAB, certificates=[eve.passport.fingerprint]), "admin")  # type: ignore[union-attr]
                await until(lambda: amber.alive == ["birch"] and birch.alive == ["amber"])
        assert watch.seconds < TIMING.beat + 1
        assert all(isinstance(task.result(), PeerRefused | PeerUnreachable) for task in asked)
        async with raw(amber.address, eve.passport) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
                await health(channel)
        for host in (amber, birch):
            with pytest.raises(PeerRefused, match="revoked") as refused:
                await eve.transport.introduce(host.address, introduction(eve.card))
            assert refused.value.reason is RefusalReason.REVOKED
            with pytest.raises(PeerRefused, match="revoked"):
                await host.transport.introduce(eve.address, introduction(host.card))
        await until(lambda: [e.status for e in amber.events.of(PeerChanged) if e.name == "eve"][-1] == "left")


async def _fails(asking: Any) -> BaseException | None:
    try:
        await asking
    except (PeerRefused, PeerUnreachable) as error:
        return error
    return None


async def test_a_revoked_peer_id_is_refused_everywhere() -> None:
    async with guest("amber") as amber, guest("birch", LAB, amber) as birch, guest("eve", LAB, amber, birch) as eve:
        await meet(amber, birch, eve)
        birch.membership._trust.learn(revoked(LAB, peers=[eve.identity.id]), "admin")  # type: ignore[union-attr]
        await until(lambda: amber.alive == ["birch"] and birch.alive == ["amber"])
        for host in (amber, birch):
            with pytest.raises(PeerRefused, match="revoked"):
                await eve.transport.introduce(host.address, introduction(eve.card))
    async with guest("eve", LAB, identity=eve.identity) as again, guest("cedar") as cedar:
        cedar.membership._trust.learn(revoked(LAB, peers=[eve.identity.id]), "admin")  # type: ignore[union-attr]
        with pytest.raises(PeerRefused, match="revoked the peer"):
            await again.transport.introduce(cedar.address, introduction(again.card))


async def test_who_comes_later_hears_of_it_at_the_introduction_and_so_does_who_only_looks() -> None:
    async with guest("amber") as amber:
        listed = revoked(LAB, peers=["0" * 32])
        amber.membership._trust.learn(listed, "admin")  # type: ignore[union-attr]
        async with guest("birch", LAB, amber) as birch:
            await meet(amber, birch)
            assert birch.passport is not None
            assert birch.passport.revocations.peers == {"0" * 32}
            own = Passport(LAB)
            newer = Revocations(2**50).also(LAB, peers=["1" * 32])
            assert newer.signed is not None
            own.learn(newer.signed)
            transport = GrpcTransport(timing=TIMING, credentials=own, guard=own)
            directory = Directory(PeerId(""), group_tag="", timing=TIMING, limits=Limits())
            observer = Observer(
                directory, transport, [], timing=TIMING, limits=Limits(), peers=[amber.address],
                trust=Trust(own, recheck=transport.recheck),
            )  # fmt: skip
            async with transport, observer.looking():
                await until(lambda: birch.passport.revocations.peers == {"1" * 32})  # type: ignore[union-attr]
                await until(lambda: sorted(c.name for c in directory.here()) == ["amber", "birch"])


async def test_a_list_that_the_group_has_not_signed_is_refused() -> None:
    async with guest("amber") as amber:
        own = Passport(LAB)
        async with GrpcTransport(timing=TIMING, credentials=own, guard=own) as transport:
            await transport.introduce(amber.address, introduction())
            said = introduction()
            said.revocations.CopyFrom(revoked(replace(OTHER, id=LAB.id), certificates=[own.fingerprint]))
            with pytest.raises(PeerRefused, match="not signed by the group"):
                await transport.introduce(amber.address, said)
            said.revocations.list = b"x" * (Limits().revocation_bytes + 1)
            with pytest.raises(PeerRefused, match="at most"):
                await transport.introduce(amber.address, said)
            await transport.introduce(amber.address, introduction())


async def test_a_member_cannot_take_others_down_by_a_certificate_that_cannot_be_read() -> None:
    """Neither by what it says when it introduces itself, nor by what it answers, nor by a word to those who watch."""
    said = revoked(LAB, peers=["1" * 32])
    said.list += b"\x00"  # not the one that is known already
    said.links.append(unreadable(authority.der(LAB.authorities[0]))["curve"])
    async with guest("amber") as amber, guest("mallory", LAB, amber) as mallory:
        await meet(amber, mallory)
        honest, greet = mallory.introduce, mallory.membership._introductions.greet

        async def answer(introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
            given = await honest(introduction, caller)
            given.revocations.CopyFrom(said)
            return given

        def introduce(host: str) -> pb.Introduction:
            given = greet(host)
            given.revocations.CopyFrom(said)
            return given

        vars(mallory)["introduce"] = answer
        vars(mallory.membership._introductions)["greet"] = introduce
        with pytest.raises(PeerRefused, match="no certificate"):
            await mallory.transport.introduce(amber.address, introduce("127.0.0.1"))
        async with guest("birch", LAB, mallory, amber) as birch:
            await until(lambda: birch.alive == ["amber"])
            await until(lambda: any("no certificate" in problem for problem in birch.membership.problems))
            assert (await birch.ask(amber)).header.sender == amber.identity.id


async def test_a_member_that_says_ever_more_is_read_at_a_bounded_pace_and_starts_no_more_than_one_task() -> None:
    """Each of its cards names another certificate, so that each is a reason to meet it anew."""
    said, heard, most = [0], [0], 0
    async with guest("mallory") as mallory, guest("amber", LAB, mallory, limits=Limits(calls=20)) as amber:
        await meet(mallory, amber)
        card = mallory.membership.card

        async def flood(request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
            while True:
                said[0] += 1
                other = replace(card, serial=card.serial + said[0], certificate_sha256=said[0].to_bytes(32, "big"))
                yield pb.Notice(card=sign_card(mallory.identity, other))

        watcher = amber.membership._at_home().watcher
        apply = watcher._incoming.apply

        def counted(*args: Any, **more: Any) -> None:
            heard[0] += 1
            apply(*args, **more)

        vars(mallory)["watch"], vars(watcher._incoming)["apply"] = flood, counted
        watcher.renew()
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 2:
            most = max(most, sum(task.get_name().startswith("rebind:") for task in asyncio.all_tasks()))
            await asyncio.sleep(0.005)
        assert most == 1
        assert 50 < heard[0] < 5 * 20 + 4 * 20, "a burst of five seconds, and then no more than the pace"
        assert amber.alive == ["mallory"]


async def test_a_revocation_in_the_file_reaches_running_peers_without_a_restart(tmp_path: Path) -> None:
    LAB.save(tmp_path / "lab.group")
    here = Group.load(tmp_path / "lab.group")
    async with guest("amber", here) as amber, guest("birch", LAB, amber) as birch, guest("eve", LAB, amber) as eve:
        await meet(amber, birch, eve)
        listed = Revocations().also(LAB, peers=[eve.identity.id])
        revocation.save(listed, revocation.path_of(tmp_path / "lab.group"))
        await until(lambda: amber.alive == ["birch"] and birch.alive == ["amber"])


async def test_certificates_are_renewed_while_peers_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(LAB, lifetime=9.0)  # renewed after 6: a pause of 3 is borne
    async with guest("amber", short) as amber, guest("birch", short, amber) as birch:
        await meet(amber, birch)
        first = {amber.membership.card.certificate_sha256, birch.membership.card.certificate_sha256}
        while not {one.membership.card.certificate_sha256 for one in (amber, birch)}.isdisjoint(first):
            await amber.ask(birch)
            await birch.ask(amber)
            await asyncio.sleep(0.1)
        for _ in range(10):  # and on, when those of before have run out of use
            await amber.ask(birch)
            await birch.ask(amber)
            await asyncio.sleep(0.1)
        for one in (amber, birch):
            assert [event.status for event in one.events.of(PeerChanged)] == ["confirmed"], "nobody was ever in doubt"
        contacts = amber.membership.directory
        await until(lambda: contacts.find("birch").card.certificate_sha256 == birch.membership.card.certificate_sha256)


async def test_a_wall_clock_that_jumps_is_not_noticed_and_after_days_of_the_wrong_date_all_is_well_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, off = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + off[0])
    async with guest("amber") as amber, guest("birch", LAB, amber) as birch:
        await meet(amber, birch)
        before = len(amber.events.of(PeerChanged)), len(birch.events.of(PeerChanged))
        for minutes in (30, -30, 0):  # an hour is allowed for
            off[0] = 60.0 * minutes
            await asyncio.sleep(10 * TIMING.beat)
            assert (await birch.ask(amber)).header.sender == amber.identity.id
        assert (len(amber.events.of(PeerChanged)), len(birch.events.of(PeerChanged))) == before
        for days in (3, -3):  # certificates made meanwhile are not valid by anybody else's clock
            off[0] = 86_400.0 * days
            await asyncio.sleep(10 * TIMING.beat)
            off[0] = 0.0
            async with asyncio.timeout(20):
                while not (await answers(birch, amber) and await answers(amber, birch)):  # noqa: ASYNC110  no event
                    await asyncio.sleep(TIMING.beat)
        await meet(amber, birch)


async def answers(asker: Guest, asked: Guest) -> bool:
    try:
        return (await asker.ask(asked)).header.sender == asked.identity.id
    except PeerUnreachable:
        return False


def test_only_certificates_and_what_is_printed_read_the_wall_clock() -> None:
    """So no jump of it can matter to beats, deadlines, pauses or rounds."""
    package = Path(__file__).parents[2] / "peerlearn"
    reads = re.compile(r"\btime\.time\b|\bdatetime\.(?:now|today|utcnow)\b|from time import .*\btime\b")
    readers = {str(path.relative_to(package)) for path in package.rglob("*.py") if reads.search(path.read_text())}
    allowed = {"events/sinks.py", "cli/doctor/probes.py"}
    assert {path for path in readers if not path.startswith(("security/", "cli/", "bench/", "experiments/"))} <= allowed


async def test_an_expired_certificate_ends_what_goes_on_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with guest("amber") as amber:
        _, issued = LAB.issue("pi", days=3 / 86_400)
        async with guest("pi", issued, amber) as pi:
            await meet(amber, pi)
            await until(lambda: not amber.alive)
            with pytest.raises((PeerRefused, PeerUnreachable)):
                await pi.ask(amber)


# ---------------------------------------------------------------- who may see what, and how much


async def test_what_is_not_exposed_to_a_peer_is_refused_and_recorded() -> None:
    village = PeerNetwork("grpc")
    amber = village.peer(
        "amber", blob_learner([0, 1], 1), group=LAB, listen=LOCAL, strategy="distillation",
        expose={"*": ["card.histogram", "outputs.public"], "birch": ["params.full"]},
    )  # fmt: skip
    birch = village.peer("birch", blob_learner([2, 3], 2), group=LAB, listen=LOCAL)
    cedar = village.peer("cedar", blob_learner([2, 3], 3), group=LAB, listen=LOCAL)
    async with gathered(amber, birch, cedar):
        await birch.run(1)
        await cedar.run(1)
    assert {event.provider for event in village.events["birch"].of(Fetched)} == {"amber", "cedar"}
    assert {event.provider for event in village.events["cedar"].of(Fetched)} == {"birch"}
    (refused,) = village.events["amber"].of(Refused)
    assert (refused.consumer, refused.reason) == ("cedar", RefusalReason.EXPOSURE)
    assert Exposure.PARAMS_FULL in amber.card.exposes


def test_a_group_excludes_what_would_undo_it(tmp_path: Path) -> None:
    village, its = PeerNetwork("memory"), blob_learner([0], 1)
    with pytest.raises(ConfigError, match="exclude one another"):
        PeerNetwork("grpc").peer("amber", its, group=LAB, insecure=True)
    with pytest.raises(ConfigError, match="leave out one of group and transport"):
        village.peer("amber", its, group=LAB)
    with pytest.raises(GroupError, match="peerlearn group new"):
        PeerNetwork("grpc").peer("amber", its, group=tmp_path / "missing")


async def test_one_caller_cannot_keep_a_peer_busy() -> None:
    async with guest("amber", LAB, limits=Limits(calls=2)) as amber, raw(amber.address, Passport(LAB)) as channel:
        codes = [await _code(health(channel)) for _ in range(30)]
        assert 10 <= codes.count(grpc.StatusCode.OK) <= 14
        assert codes.count(grpc.StatusCode.FAILED_PRECONDITION) >= 16
        async with raw(amber.address, Passport(LAB)) as other:
            assert await health(other)


async def _code(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_what_questions_bring_together_is_bounded() -> None:
    body = np.zeros(600_000, np.uint8)

    def bringing(one: Guest) -> Message:
        made = one.question()
        made.header.knowledge.params.architecture = "a"
        made.header.tensors.add(name="w", dtype="uint8", shape=[len(body)], stored=len(body))
        made.header.body_bytes = len(body)
        return Message(made.header, (body.data,))

    limits = Limits(held_bytes=1_000_000)
    async with guest("amber", LAB, limits=limits) as amber, guest("birch", LAB, amber) as birch:
        await meet(amber, birch)
        amber.slow = asyncio.Event()
        async with asyncio.TaskGroup() as asking:
            first = asking.create_task(birch.transport.exchange(amber.address, bringing(birch)))
            await until(lambda: amber.asked == 1)
            with pytest.raises(PeerRefused, match="try again later") as refused:
                await birch.transport.exchange(amber.address, bringing(birch))
            assert refused.value.reason is RefusalReason.BUSY
            amber.slow.set()
        assert first.result()
        assert await birch.transport.exchange(amber.address, bringing(birch))
