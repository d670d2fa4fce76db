"""One peer's right tower as a process of its own: prints what happens to it, a JSON object a line. For tests.

python lan_peer.py NAME GROUP_TAG LISTEN [STATE [HOST:PORT ...]]
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from peerlearn.config import Limits, brisk
from peerlearn.directory import Change, Directory
from peerlearn.discovery.mdns import Mdns
from peerlearn.errors import PeerlearnError, PeerRefused, RefusalReason
from peerlearn.events import Event, PeerChanged
from peerlearn.membership import Membership
from peerlearn.security import Identity
from peerlearn.transport.base import Caller
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import Address, Card
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb


class Service:
    def __init__(self, membership: Membership) -> None:
        self.introduce = membership.introduce
        self.watch = membership.watch
        self.told = membership.told

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        raise PeerRefused("test", RefusalReason.STRATEGY, "nothing is asked here")

    async def answer(self, question: Message, caller: Caller) -> Message:
        raise PeerRefused("test", RefusalReason.STRATEGY, "nothing is asked here")


def say(**facts: str) -> None:
    print(json.dumps(facts), flush=True)


def hear(change: Change) -> None:
    if change.contact.version and change.contact.here:
        say(name=change.contact.name, status="version", address="", why=change.why)


def state(event: Event) -> None:
    if isinstance(event, PeerChanged):
        say(name=event.name, status=event.status, address=event.address, why=event.why)


async def live(name: str, group: str, listen: Address, where: str, peers: list[Address]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    timing, limits = brisk(), Limits()
    with Identity.load_or_create(Path(where)) if where else Identity.ephemeral() as me:
        transport = GrpcTransport(listen, timing=timing, limits=limits)
        directory = Directory(me.id, group_tag=group, timing=timing, limits=limits)
        directory.listen(hear)
        discoveries = [] if peers else [Mdns(listen.host)]
        membership = Membership(
            me,
            directory,
            transport,
            discoveries,
            timing=timing,
            limits=limits,
            group_tag=group,
            record=state,
            peers=peers,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, membership.announce_version, 1)
        card = Card(id=me.id, name=name, session=os.urandom(8).hex())
        async with transport.serving(Service(membership)) as address, membership.running(address, card):
            say(name=name, status="listening", address=str(address), why="")
            await stop.wait()


if __name__ == "__main__":
    name, group, listen, where, *peers = [*sys.argv[1:], *[""] * (5 - len(sys.argv))]
    assert "torch" not in sys.modules
    try:
        asyncio.run(live(name, group, Address.parse(listen), where, [Address.parse(peer) for peer in peers if peer]))
    except PeerlearnError as exc:
        say(name=name, status=type(exc).__name__, address="", why=str(exc))
        sys.exit(exc.exit_code)
