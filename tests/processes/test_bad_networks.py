"""Networks that do not work, as a user of the command line meets them: one sentence, the fix, the exit code."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator

import pytest

from peerlearn.config import brisk
from peerlearn.transport.base import Caller
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import PROTOCOL
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.command_line import app, tag, up

__all__ = ["app", "tag"]  # fixtures


def test_without_multicast_up_says_so_and_what_to_do(app):
    """In a network namespace of its own, where not even loopback is up; skipped, and why, where none can be made."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare` command here")
    if (tried := subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True, text=True)).returncode:
        pytest.skip(f"network namespaces cannot be made here: {tried.stderr.strip()}")
    command = ["unshare", "-n", sys.executable, "-m", "peerlearn", "up", f"{app}:learner"]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 4
    (sentence,) = run.stderr.splitlines()
    assert "mDNS cannot be used" in sentence
    assert "peerlearn doctor" in sentence
    assert "--peer HOST:PORT" in sentence


class FromTheFuture:
    """A peer that speaks the next major version."""

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        return pb.Introduction(protocol=pb.Protocol(major=PROTOCOL[0] + 1), group_tag=introduction.group_tag)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: object) -> None:
        raise AssertionError("nobody watches here who tells")

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncGenerator[pb.Notice, None]:
        yield pb.Notice()

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        return caller

    async def answer(self, question: Message, caller: Caller) -> Message:
        return question


async def test_a_peer_of_another_protocol_version_is_one_sentence_and_costs_nothing_else(app, tag):
    async with GrpcTransport(timing=brisk()).serving(FromTheFuture()) as address:
        async with up(app, "--group-tag", tag, "--peer", str(address)) as amber, asyncio.timeout(100):
            line = await amber.until(str(address))
            assert f"speaks protocol {PROTOCOL[0] + 1}" in line
            await amber.until("round 2")  # it learns on
            assert (await amber.interrupt())[0] == 0
