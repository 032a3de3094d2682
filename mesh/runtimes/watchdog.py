"""Kills an exclusive container when its lease ends and nobody has renewed it: the agent may be gone or hang.

A process of its own, on the standard library alone. It reads the deadline (CLOCK_BOOTTIME) that the agent
moves on in the instance's folder, and when it has passed leaves a note and asks the engine to kill the
container, again and again until that is so. It also ends when the container is over. It outlives
the agent, as the shim of a process does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

WATCH_S = 0.2
LOOK_S = 5.0
TIMEOUT_S = 10.0
KILLED = "killed-by-watchdog"
_STARTED: set[int] = set()
PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from mesh.runtimes.watchdog import main; main(*sys.argv[2:])"
)


def start(engine: str, name: str, folder: Path) -> None:
    """Start the watchdog of a container that is about to start."""
    (folder / KILLED).unlink(missing_ok=True)
    sources = str(Path(__file__).resolve().parents[2])
    words = [sys.executable, "-I", "-S", "-c", PROGRAM, sources, engine, name, str(folder)]
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    reap()
    pid = os.posix_spawn(words[0], words, {"LANG": "C.UTF-8"}, file_actions=null, setsid=True)
    _STARTED.add(pid)


def reap() -> None:
    """Let go of watchdogs that have ended."""
    for pid in list(_STARTED):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                continue
        _STARTED.discard(pid)


def ask(engine: str, method: str, target: str) -> tuple[int, bytes]:
    """One request to the engine; status 0 when it cannot be asked."""
    with contextlib.suppress(OSError, ValueError, IndexError), socket.socket(socket.AF_UNIX) as conn:
        conn.settimeout(TIMEOUT_S)
        conn.connect(engine)
        head = "Host: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        conn.sendall(f"{method} /v1.41{target} HTTP/1.1\r\n{head}".encode())
        data = b""
        while len(data) < 1_000_000 and (piece := conn.recv(65536)):
            data += piece
        return int(data.split(b" ", 2)[1]), data
    return 0, b""


def late(folder: str) -> bool:
    """Whether the deadline has passed. Without a deadline it has."""
    try:
        with open(os.path.join(folder, "deadline"), "rb") as file:
            deadline_ns = int.from_bytes(file.read(8), "little")
    except OSError:
        return True
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= deadline_ns


def over(engine: str, name: str) -> bool:
    """Whether the container has run and ended, or is gone; one that is created may still be started."""
    status, data = ask(engine, "GET", f"/containers/{name}/json")
    data = data.replace(b" ", b"")
    return status == 404 or any(b'"Status":"%s"' % word in data for word in (b"exited", b"stopped", b"dead"))


def main(engine: str, name: str, folder: str) -> None:
    """Watch until the container is over."""
    looked = time.monotonic()
    while True:
        if late(folder):
            with contextlib.suppress(OSError):
                Path(folder, KILLED).touch()
            status, _ = ask(engine, "POST", f"/containers/{name}/kill")
            if status in (204, 404) or over(engine, name):
                return
        elif time.monotonic() - looked > LOOK_S:
            looked = time.monotonic()
            if over(engine, name):
                return
        time.sleep(WATCH_S)  # noqa: TID251  a process of its own, without a loop
