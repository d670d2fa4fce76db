"""The doctor's probes: each well on this machine, and each failing when its cause is there."""

import importlib.metadata
import os
import resource
import socket

import pytest

from peerlearn.cli.doctor import probes
from peerlearn.cli.doctor.probes import Probe
from peerlearn.discovery.interfaces import Interface


async def test_a_machine_with_loopback_hears_itself() -> None:
    heard = [probe for probe in await probes.multicast() if " lo " in f"{probe.name} "]
    found = [probe for probe in await probes.mdns() if " lo " in f"{probe.name} "]
    assert [probe.ok for probe in heard + found] == [True, True], heard + found


async def test_examine_says_what_to_do_wherever_it_fails() -> None:
    seen = await probes.examine("127.0.0.1")
    assert {"clock", "versions", "fork", "open files", "interfaces"} <= {probe.name for probe in seen}
    assert all(probe.detail for probe in seen)
    assert all(probe.fix for probe in seen if not probe.ok)


async def test_a_port_that_is_taken_is_tried_where_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (probe,) = await probes.reachable("127.0.0.1", port)
        assert probe.ok
        assert "somebody listens already" in probe.detail


async def test_an_address_that_is_not_here_cannot_be_listened_at() -> None:
    (probe,) = await probes.reachable("203.0.113.77")
    assert not probe.ok
    assert "--listen" in probe.fix


async def test_multicast_fails_where_the_interface_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "interfaces", lambda: [Interface("eth9", 9, "203.0.113.77", 24)])
    for probe in [*await probes.multicast(), *await probes.mdns()]:
        assert not probe.ok
        assert "eth9" in probe.fix


@pytest.mark.parametrize(
    ("mine", "ok", "said"),
    [
        ([], False, "only loopback"),
        ([Interface("docker0", 2, "172.17.0.1", 16)], False, "only container networks (docker0)"),
        ([Interface("wlan0", 3, "192.168.1.5", 24), Interface("docker0", 2, "172.17.0.1", 16)], True, "wlan0"),
    ],
)
def test_only_inward_interfaces_lead_nowhere(
    monkeypatch: pytest.MonkeyPatch, mine: list[Interface], ok: bool, said: str
) -> None:
    monkeypatch.setattr(probes, "interfaces", lambda: [Interface("lo", 1, "127.0.0.1", 8), *mine])
    probe = probes.reach_out()
    assert (probe.ok, said in probe.detail) == (ok, True), probe


async def test_a_clock_of_another_decade_or_one_that_jumps_is_found() -> None:
    assert (await probes.clock()).ok
    assert "1970" in (await probes.clock(lambda: 0.0)).detail
    jumping = iter([1.8e9, 1.8e9 + 5])
    probe = await probes.clock(lambda: next(jumping))
    assert not probe.ok
    assert "jumped by +4." in probe.detail


@pytest.mark.parametrize(
    ("requirement", "have", "met"),
    [
        ("torch<2.14,>=2.6", "2.13.0+cpu", True),
        ("torch<2.14,>=2.6", "2.14.0", False),
        ("torch<2.14,>=2.6", "2.5.1", False),
        ("anyio>=4.4", "4.10", True),
        ("protobuf>=6.31.1", "6.31", False),
        ("x~=1.4", "1.9", True),
        ("x~=1.4", "2.0", False),
        ("x==1.0", "1.0.0", True),
        ("matplotlib>=3.8; extra == 'plot'", "1.0", True),
    ],
)
def test_versions_are_held_against_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, requirement: str, have: str, met: bool
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [requirement])
    monkeypatch.setattr(importlib.metadata, "version", lambda name: have)
    probe = probes.versions()
    assert probe.ok is met, probe
    assert met or have in probe.detail


def test_what_is_missing_is_named() -> None:
    assert "is not installed" in probes.versions("no-such-distribution").detail


@pytest.mark.parametrize(("setting", "ok"), [("0", True), ("false", True), ("1", False), ("true", False)])
def test_fork_support_that_is_on_is_a_hazard(monkeypatch: pytest.MonkeyPatch, setting: str, ok: bool) -> None:
    monkeypatch.setitem(os.environ, "GRPC_ENABLE_FORK_SUPPORT", setting)
    assert probes.fork_hazard().ok is ok


@pytest.mark.parametrize(("limit", "ok"), [(256, False), (1024, True), (-1, True)])
def test_few_open_files_are_few_peers(monkeypatch: pytest.MonkeyPatch, limit: int, ok: bool) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    probe: Probe = probes.file_descriptors()
    assert (probe.ok, bool(probe.fix)) == (ok, not ok)
