"""No test may reach the network: every socket beyond this machine is refused."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from commandline import endpoint, run
from hypothesis import settings

__all__ = ["endpoint", "run"]

settings.register_profile("untimed", deadline=None)  # no test measures seconds: another program may be busy
settings.load_profile("untimed")


def _is_here(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"


@pytest.fixture(autouse=True)
def plotless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reports be written without plots, as where matplotlib is absent: hundreds of runs would draw in vain."""
    if not request.path.name.startswith("test_report"):
        monkeypatch.setattr("promptopt.report.drawing.can_draw", lambda: False)


@pytest.fixture(autouse=True)
def shut_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def refuse(address: Any) -> None:
        if not _is_here(address):
            raise AssertionError(f"a test tried to reach {address}; live calls are impossible in tests")

    def guarded(self: socket.socket, address: Any) -> None:
        refuse(address)
        connect(self, address)

    def guarded_ex(self: socket.socket, address: Any) -> int:
        refuse(address)
        return connect_ex(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_ex)
    monkeypatch.setattr(socket, "getaddrinfo", _guard_lookup(socket.getaddrinfo))


def _guard_lookup(lookup: Any) -> Any:
    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (None, "localhost", "127.0.0.1", "::1"):
            raise AssertionError(f"a test tried to look up {host}; live calls are impossible in tests")
        return lookup(host, *args, **kwargs)

    return guarded
