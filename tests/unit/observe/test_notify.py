"""Telling the service manager."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mesh.observe.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def test_states_reach_the_manager(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready("3 members\nforged=1")
    notifier.status("4 members")
    notifier.stopping()
    assert [manager.recv(1000) for _ in range(3)] == [
        b"READY=1\nSTATUS=3 members forged=1",
        b"STATUS=4 members",
        b"STOPPING=1",
    ]


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0mesh-test-{os.getpid()}")
        sock.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@mesh-test-{os.getpid()}"}).ready()
        assert sock.recv(100) == b"READY=1"


async def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    silent = Notifier({})
    silent.ready()
    await silent.keep_alive()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


async def test_the_watchdog_is_fed_at_half_its_time_while_healthy(
    manager: socket.socket, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    environ = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "2000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    notifier = Notifier(environ)
    healthy = True
    nursery.start_soon(notifier.keep_alive, lambda: healthy)
    await trio.sleep(2.5)
    assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    healthy = False
    await trio.sleep(10)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


@pytest.mark.parametrize("environ", [{"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, {}])
def test_anothers_watchdog_is_not_ours(environ: dict[str, str]) -> None:
    assert Notifier(environ).watchdog_s is None
