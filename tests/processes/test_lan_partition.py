"""LANs of two to five machines: cables pulled, halves that part and meet, interfaces that come, go and move."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.support.lans import Lan, Voice, lan, peer

NAMES = ("amber", "birch", "cedar", "dahlia", "elder")


@asynccontextmanager
async def everybody(on: Lan) -> AsyncIterator[list[Voice]]:
    """One peer on every host; all have met."""
    async with AsyncExitStack() as stack:
        voices = [await stack.enter_async_context(peer(on, host, NAMES[host])) for host in range(on.hosts)]
        await all_see_all(voices)
        yield voices


async def all_see_all(voices: list[Voice]) -> None:
    for voice in voices:
        await voice.sees(*(other.name for other in voices))


async def test_of_five_machines_one_loses_its_cable_the_others_stay_and_it_finds_all_of_them_again() -> None:
    with lan(5) as made:
        async with everybody(made) as voices:
            *others, lost = voices
            made.pull(4)
            await lost.sees()
            for voice in others:
                await voice.until(lambda own: own.statuses["elder"] == "gone")
            await all_see_all(others)
            made.plug(4)
            await all_see_all(voices)


async def test_two_halves_of_a_lan_part_and_meet_again() -> None:
    with lan(4) as made:
        async with everybody(made) as voices:
            made.part([2, 3])
            await all_see_all(voices[:2])
            await all_see_all(voices[2:])
            for voice in voices:
                await voice.until(lambda own: list(own.statuses.values()).count("gone") == 2)
                assert len(voice.here) == 1, "who is on this side has not been lost for a moment"
            made.join([2, 3])
            await all_see_all(voices)


async def test_who_comes_while_the_lan_is_parted_is_known_to_all_once_it_is_whole() -> None:
    with lan(3) as made:
        made.part([2])
        async with peer(made, 0, "amber") as amber, peer(made, 1, "birch") as birch, peer(made, 2, "cedar") as cedar:
            await amber.sees("birch")
            await birch.sees("amber")
            assert not cedar.here
            made.join([2])
            await all_see_all([amber, birch, cedar])


async def test_an_interface_that_appears_while_the_peer_runs_is_spoken_on_and_one_that_goes_is_given_up() -> None:
    with lan(2, connected=False) as made:
        async with peer(made, 0, "amber") as amber, peer(made, 1, "birch") as birch:
            made.connect(0)
            made.connect(1)
            await all_see_all([amber, birch])
            assert birch.addresses["amber"].startswith(made.address(0))
            made.disconnect(1)
            await amber.sees()
            await birch.sees()
            await asyncio.sleep(0.5)
            made.connect(1)  # the same address on a new interface
            await all_see_all([amber, birch])


async def test_a_machine_that_gets_another_address_is_found_there() -> None:
    with lan(2) as made:
        async with everybody(made) as (amber, birch):
            made.readdress(0, "10.77.0.99")
            await birch.until(lambda own: own.addresses["amber"].startswith("10.77.0.99") and "amber" in own.here)
            await amber.sees("birch")
