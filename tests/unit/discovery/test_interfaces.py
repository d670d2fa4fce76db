"""The interfaces of this machine, when they cannot be read."""

import errno

import ifaddr
import pytest

from peerlearn.discovery import interfaces as module
from peerlearn.discovery.interfaces import interfaces, own_hosts


def test_without_a_descriptor_left_the_interfaces_are_those_last_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before, hosts = interfaces(), own_hosts("0.0.0.0")
    assert before

    def exhausted() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ifaddr, "get_adapters", exhausted)
    assert interfaces() == before
    assert own_hosts("0.0.0.0") == hosts
    assert "cannot read the network interfaces (Too many open files)" in caplog.messages[0]
    monkeypatch.setattr(module, "_known", [])
    assert interfaces() == []
