"""Telling the service manager how we are: systemd's notification protocol, sd_notify(3).

One datagram to the unix socket named by NOTIFY_SOCKET. Without one (no systemd) nothing happens. A manager
that does not listen must not stop the agent, so failures are swallowed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

import trio


class Notifier:
    """Speaks to the service manager.

    Args:
        environ: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A leading @ names an abstract socket, written with a leading NUL byte.
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_s = _watchdog_s(environ)

    def ready(self, status: str = "") -> None:
        """The agent serves."""
        self._send(f"READY=1\nSTATUS={_line(status)}" if status else "READY=1")

    def status(self, text: str) -> None:
        """One line that `systemctl status` shows."""
        self._send(f"STATUS={_line(text)}")

    def stopping(self) -> None:
        """The agent is shutting down on purpose."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """The agent is alive."""
        self._send("WATCHDOG=1")

    async def keep_alive(self, healthy: Callable[[], bool] = lambda: True) -> None:
        """Feed the manager's watchdog at half its time while `healthy`, if it has one. Until cancelled."""
        if self.watchdog_s is None or not self._path:
            return
        while True:
            if healthy():
                self.watchdog()
            await trio.sleep(self.watchdog_s / 2)

    def _send(self, text: str) -> None:
        if not self._path:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), self._path)
        except OSError:
            pass


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    try:
        usec = int(environ.get("WATCHDOG_USEC", "0"))
        pid = int(environ.get("WATCHDOG_PID", "0"))
    except ValueError:
        return None
    return usec / 1e6 if usec > 0 and pid in (0, os.getpid()) else None
