"""Real multicast DNS on loopback. Every test has a group of its own, so that runs side by side do not mix."""

import asyncio
import json
import secrets
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from peerlearn.discovery.base import Announcement, Hint
from peerlearn.discovery.interfaces import Interface, callable_from_afar, is_loopback, nearest_first, own_hosts
from peerlearn.discovery.mdns import SERVICE, Mdns
from peerlearn.errors import NetworkError
from peerlearn.testing import SOON, timed
from peerlearn.types import Address

LAN_PEER = Path(__file__).parents[1] / "support" / "lan_peer.py"


class Ear:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.hints: dict[str, Hint] = {}
        self.told: list[str] = []
        self._news = asyncio.Event()

    def hinted(self, hint: Hint) -> None:
        self.hints[hint.key] = hint
        self.told.append(hint.id_prefix)
        self._news.set()

    def withdrawn(self, source: str, key: str) -> None:
        del self.hints[key]
        self._news.set()

    async def hears(self, *prefixes: str) -> None:
        async with asyncio.timeout(SOON):
            while sorted(hint.id_prefix for hint in self.hints.values()) != sorted(prefixes):
                self._news.clear()
                await self._news.wait()


def announcement(group: str, port: int = 7411, major: int = 1) -> Announcement:
    return Announcement(id_prefix=secrets.token_hex(6), group_hash=group, port=port, protocol_major=major)


@pytest.fixture
def group() -> str:
    return secrets.token_hex(8)


async def test_two_announce_and_hear_each_other_and_not_themselves(group: str) -> None:
    one, two = announcement(group, 7001), announcement(group, 7002)
    ear1, ear2 = Ear(), Ear()
    async with Mdns("127.0.0.1").announcing(one, ear1), Mdns("127.0.0.1").announcing(two, ear2):
        await ear1.hears(two.id_prefix)
        await ear2.hears(one.id_prefix)
        (hint,) = ear1.hints.values()
        assert hint.addresses == (Address("127.0.0.1", 7002),)
        assert hint.source == "mdns"
    assert one.id_prefix not in ear1.told


async def test_leaving_withdraws_the_hint(group: str) -> None:
    ear = Ear()
    stays, leaves = announcement(group), announcement(group)
    async with Mdns("127.0.0.1").announcing(stays, ear):
        async with Mdns("127.0.0.1").announcing(leaves, Ear()):
            await ear.hears(leaves.id_prefix)
        await ear.hears()


async def test_who_comes_late_hears_of_those_there(group: str) -> None:
    first, late = announcement(group), announcement(group)
    async with Mdns("127.0.0.1").announcing(first, Ear()):
        await asyncio.sleep(0.8)  # its unasked announcements are over: only a question finds it now
        ear = Ear()
        with timed() as watch:
            async with Mdns("127.0.0.1").announcing(late, ear):
                await ear.hears(first.id_prefix)
        assert watch.seconds < 4


async def test_other_groups_and_other_majors_are_not_heard(group: str) -> None:
    ear = Ear()
    me, friend = announcement(group), announcement(group)
    async with Mdns("127.0.0.1").announcing(me, ear):
        async with (
            Mdns("127.0.0.1").announcing(announcement(secrets.token_hex(8)), Ear()),
            Mdns("127.0.0.1").announcing(announcement(group, major=2), Ear()),
            Mdns("127.0.0.1").announcing(friend, Ear()),
        ):
            await ear.hears(friend.id_prefix)
    assert set(ear.told) == {friend.id_prefix}


async def test_who_only_listens_is_not_heard(group: str) -> None:
    ear, silent_ear = Ear(), Ear()
    me = announcement(group)
    silent = Announcement(id_prefix="", group_hash=group, port=0, protocol_major=1)
    async with Mdns("127.0.0.1").announcing(me, ear), Mdns("127.0.0.1").announcing(silent, silent_ear):
        await silent_ear.hears(me.id_prefix)
    assert ear.told == []


async def test_records_that_are_none_are_passed_over_and_a_change_of_address_is_heard(
    group: str, caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear()
    good = secrets.token_hex(6)
    suffix = secrets.token_hex(4)

    def record(name: str, port: int, **text: str | bytes) -> AsyncServiceInfo:
        info = AsyncServiceInfo(
            SERVICE,
            f"{name}.{SERVICE}",
            server=f"{name}.local.",
            addresses=[socket.inet_aton("127.0.0.1")],
            port=port,
            properties=text,
        )
        return info

    other = secrets.token_hex(6)
    bad = [
        record("some printer", 9, v="1", id=other, g=group),
        record(f"{other}-{suffix}", 9, v="one", id=other, g=group),
        record(f"{other}-{suffix[::-1]}0"[:21], 9, v="1", id=good, g=group),
        record(f"{other}-00000000", 9, v="1", id=b"\xff\xfe", g=group),
        record(f"{other}-00000001", 0, v="1", id=other, g=group),
        record(f"{other}-00000002", 9),
    ]
    async with Mdns("127.0.0.1").announcing(announcement(group), ear), AsyncZeroconf(interfaces=["127.0.0.1"]) as zc:
        sent = [await zc.async_register_service(info, cooperating_responders=True) for info in bad]
        for sending in sent:
            await sending
        name = f"{good}-{suffix}"
        sending = await zc.async_register_service(
            record(name, 7001, v="1", id=good, g=group, newer="field"), cooperating_responders=True
        )
        await ear.hears(good)
        await sending
        await (await zc.async_update_service(record(name, 7002, v="1", id=good, g=group)))
        async with asyncio.timeout(SOON):
            while ear.hints[name].addresses != (Address("127.0.0.1", 7002),):
                ear._news.clear()
                await ear._news.wait()
        await (await zc.async_update_service(record(name, 7002, v="1", id=good, g="another")))
        await ear.hears()
    assert set(ear.told) == {good}
    assert not [line for line in caplog.records if line.levelname in ("WARNING", "ERROR")]


async def test_an_address_that_is_not_here_is_an_error_with_the_fix() -> None:
    with pytest.raises(NetworkError, match=r"no interface.*--peer HOST:PORT"):
        async with Mdns("203.0.113.77").announcing(announcement("g"), Ear()):
            pytest.fail("nobody can be heard there")


async def test_the_callers_exception_comes_out_as_it_went_in(group: str) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with Mdns("127.0.0.1").announcing(announcement(group), Ear()):
            raise KeyError("mine")


def test_which_addresses_a_peer_names() -> None:
    assert own_hosts("192.0.2.7") == ["192.0.2.7"]
    everywhere = own_hosts("0.0.0.0")
    assert everywhere
    assert everywhere == ["127.0.0.1"] or not any(map(is_loopback, everywhere))
    assert all(":" not in host for host in everywhere)


def test_nearest_first_and_what_means_nothing_abroad() -> None:
    mine = [Interface("eth0", 2, "192.0.2.2", 24), Interface("lo", 1, "127.0.0.1", 8)]
    assert nearest_first(["fd00::9", "10.0.0.9", "192.0.2.9", "10.0.0.9"], mine) == ["192.0.2.9", "10.0.0.9", "fd00::9"]
    some = [Address("127.0.0.1", 1), Address("0.0.0.0", 1), Address("192.0.2.9", 0), Address("192.0.2.9", 1)]
    assert callable_from_afar(some, "192.0.2.5") == [Address("192.0.2.9", 1)]
    assert callable_from_afar(some, "127.0.0.1") == [Address("127.0.0.1", 1), Address("192.0.2.9", 1)]


# ---------------------------------------------------------------- whole peers, in processes of their own


@asynccontextmanager
async def process(name: str, group: str, *more: str) -> AsyncIterator[Process]:
    made = await asyncio.create_subprocess_exec(
        sys.executable, str(LAN_PEER), name, group, "127.0.0.1:0", *more, stdout=PIPE
    )
    try:
        yield made
    finally:
        if made.returncode is None:
            made.kill()
        await made.communicate()


async def says(process: Process, name: str, *statuses: str) -> dict[str, str]:
    assert process.stdout is not None
    async with asyncio.timeout(SOON):
        while line := await process.stdout.readline():
            fact: dict[str, str] = json.loads(line)
            if fact["name"] == name and fact["status"] in statuses:
                return fact
    raise AssertionError(f"the process ended without saying that {name} is {statuses}")


async def test_processes_find_one_another_and_notice_kill_return_and_goodbye(group: str, tmp_path: Path) -> None:
    async with process("amber", group) as amber:
        async with process("birch", group, str(tmp_path)) as birch:
            first = await says(amber, "birch", "confirmed")
            await says(birch, "amber", "confirmed")
            birch.send_signal(signal.SIGKILL)
            await says(amber, "birch", "suspect")
        async with process("birch", group, str(tmp_path)) as birch:
            again = await says(amber, "birch", "back")
            assert again["address"] != first["address"]
            await says(birch, "amber", "confirmed")
            birch.send_signal(signal.SIGKILL)
            await says(amber, "birch", "suspect")
            await says(amber, "birch", "gone")
        async with process("birch", group, str(tmp_path)) as birch:
            await says(amber, "birch", "back")
            await says(birch, "amber", "confirmed")
            birch.send_signal(signal.SIGUSR1)
            await says(amber, "birch", "version")
            birch.terminate()
            await says(amber, "birch", "left")
            assert await birch.wait() == 0


async def test_a_copied_state_directory_is_found_out(group: str, tmp_path: Path) -> None:
    import shutil

    async with process("amber", group) as amber, process("birch", group, str(tmp_path / "state")) as birch:
        await says(amber, "birch", "confirmed")
        await says(birch, "amber", "confirmed")
        async with process("again", group, str(tmp_path / "state")) as again:
            assert "in use by another process" in (await says(again, "again", "IdentityError"))["why"]
            assert await again.wait() == 5
        (tmp_path / "state" / "identity.lock").unlink()
        shutil.copytree(tmp_path / "state", tmp_path / "copy")
        async with process("copy", group, str(tmp_path / "copy")) as copy:
            assert "in use elsewhere" in (await says(copy, "copy", "IdentityError"))["why"]
            assert await copy.wait() == 5
