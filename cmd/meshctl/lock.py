"""lock: run a command while holding a lock, as `consul lock` does.

The command gets MESH_LOCK_TOKEN and MESH_LOCK_NAME. It is a process group of its own: SIGTERM when the lock
is lost or we are told to end, SIGKILL a second later, which is within what others still wait. It also ends
when we do, and at the end of the lease by our own clock, should the agent have stopped.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from typing import Any

from mesh.errors import Conflict, Failed, MeshError, NotFound, UsageError
from meshctl import parse
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.lease import LOCK, QUORUM, TTL
from meshctl.terminal import note

GRACE_S = 1.0
CHECK_S = 1.0
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class _Told(Exception):
    """A signal asks us to end."""


def lock(context: Context, args: Namespace) -> int:
    if not args.command:
        raise UsageError("which command?", "meshctl lock NAME -- COMMAND [ARGUMENT]...")
    ttl_s = parse.duration_ms(args.ttl, "--ttl") / 1000
    wait_s = parse.seconds(args.wait, "--wait")
    for number in _SIGNALS:
        signal.signal(number, _told)
    try:
        with context.client.hold(args.name, quorum=args.quorum, ttl_s=ttl_s, wait_s=wait_s) as lines:
            return _run(args.name, lines, next(lines), args.command)
    except _Told as told:
        return 128 + int(told.args[0])


def _told(number: int, frame: object) -> None:
    raise _Told(number)


def _boot_s() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _die_with_us() -> None:
    """In the child: killed when its parent ends, where the system can."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run(name: str, lines: Any, held: dict[str, Any], command: list[str]) -> int:
    happened: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    for number in _SIGNALS:  # from here on they are for the command, and we wait for its end
        signal.signal(number, lambda number, frame: happened.put(("told", number)))
    env = {**os.environ, "MESH_LOCK_TOKEN": str(held["token"]), "MESH_LOCK_NAME": name}
    try:
        child = subprocess.Popen(command, env=env, start_new_session=True, preexec_fn=_die_with_us)
    except FileNotFoundError:
        raise NotFound(f"there is no command {command[0]}", "check the path") from None
    except OSError as error:
        raise Failed(f"cannot run {command[0]}: {error.strerror}", "check its permissions") from None
    threading.Thread(target=_watch, args=(lines, happened), daemon=True).start()
    threading.Thread(target=lambda: happened.put(("ended", child.wait())), daemon=True).start()
    try:
        return _follow(name, child, happened, held["until_boot_s"])
    finally:
        _end(child, signal.SIGTERM)


def _watch(lines: Any, happened: queue.SimpleQueue[tuple[str, Any]]) -> None:
    try:
        for line in lines:
            happened.put((line["state"], line))
    except (MeshError, OSError, ValueError):
        pass
    happened.put(("gone", None))


def _follow(
    name: str, child: subprocess.Popen[bytes], happened: queue.SimpleQueue[tuple[str, Any]], until: float
) -> int:
    """Until the command ends, or must."""
    while (left_s := until - _boot_s()) > 0:
        try:
            what, about = happened.get(timeout=min(left_s, CHECK_S))
        except queue.Empty:
            continue
        if what == "ended":
            return int(about) if about >= 0 else 128 - int(about)
        if what == "told":
            _end(child, about)
            return 128 + int(about)
        if what == "renewed":
            until = about["until_boot_s"]
        elif what == "lost":
            raise Conflict(f"lock {name} was lost: {about['why']}; the command was ended", "run it again")
        elif what == "gone":
            note("the agent is gone")
            break
    raise Conflict(f"lock {name} was lost: nobody renews it; the command was ended", "meshctl quorum show")


def _end(child: subprocess.Popen[bytes], number: int) -> None:
    """End the command and all it started."""
    try:
        os.killpg(child.pid, number)
    except OSError:
        return
    end = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < end:
        threading.Event().wait(0.02)
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        pass


COMMANDS: Commands = {
    "lock": Verb(
        "lock",
        lock,
        args=(
            LOCK,
            arg("command", metavar="COMMAND", nargs="*", help="and its arguments, after --"),
            QUORUM,
            TTL,
            arg("--wait", metavar="TIME", help="give up after this time; by default it waits for ever"),
        ),
        text="Waits for the lock, runs the command with MESH_LOCK_TOKEN in its environment, and releases the "
        "lock when it ends. The command must give the token with every write to what the lock guards, and "
        "that must refuse smaller tokens than it has seen. When the lock is lost the command gets SIGTERM, "
        "and SIGKILL a second later. The exit status is the command's; 5: the lock was held by another, or "
        "lost; 7: no majority of the voters answers.",
        examples=(
            ("meshctl lock jobs -- ./nightly.sh", "on one machine of all that try"),
            ("meshctl lock jobs --ttl 10s --wait 1m -- sh -c 'echo $MESH_LOCK_TOKEN'", "a shorter lease"),
        ),
    )
}
