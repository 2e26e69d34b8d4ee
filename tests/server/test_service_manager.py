"""What a service manager is told (systemd's protocol: datagrams to NOTIFY_SOCKET)."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from server.net.service_manager import READY, tell
from tests.support.node import running_node


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """A service manager's socket."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.settimeout(10)
    listening.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return listening


async def test_start_and_stop_are_told_with_a_line_for_people(manager: socket.socket) -> None:
    with manager:
        async with running_node("") as node:
            assert manager.recv(1000).decode() == f"READY=1\nSTATUS=Serving on 127.0.0.1:{node.listener.port}.\n"
        assert manager.recv(1000).startswith(b"STOPPING=1\n")


def test_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = f"forebay-test-{tmp_path.name}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        listening.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        tell(READY, "x")
        assert listening.recv(100) == b"READY=1\nSTATUS=x\n"


def test_manager_that_is_gone_costs_a_warning_and_none_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    tell(READY, "x")
    assert caplog.records == []
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        tell(READY, "x")
    assert [record.getMessage() for record in caplog.records] == [
        "the service manager at NOTIFY_SOCKET cannot be told: No such file or directory"
    ]
