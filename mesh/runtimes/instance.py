"""One instance of the runtime `process`, started by this agent or by one before it: there is no difference.

Whether it lives is asked of its lock; when it ends is told by the kernel (a pidfd of its shim). A shim that
was killed leaves processes that hold the lock or carry the instance's environment: they are swept away
before the instance counts as over.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import trio

from mesh.runtimes import cgroups
from mesh.runtimes.base import Exit, Usage
from mesh.runtimes.folders import LOCK, Folder, State
from mesh.runtimes.shim import start_ticks

POLL_S = 0.02
STUCK_S = 10.0


def boot_id() -> str:
    """Names this start of the device."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


class ProcessInstance:
    """See `mesh.runtimes.base.Running`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        state = folder.state()
        self.instance = folder.instance
        self.digest = state.digest
        self.epoch = state.epoch
        self.notes = state.notes
        self.over = not folder.held()

    # -- end --------------------------------------------------------------------------------------------

    async def wait(self) -> Exit:
        """See `mesh.runtimes.base.Running`."""
        since = trio.current_time()
        while self._folder.held():
            state = self._folder.state()
            if state.phase == "running" and _is(state):
                await _ended(state.shim, state.shim_start)
                since = trio.current_time()
            elif state.phase == "running" or trio.current_time() - since > STUCK_S:
                await trio.to_thread.run_sync(self._sweep, state)
                await trio.sleep(POLL_S)
            else:  # it is just starting, or just ending
                await trio.sleep(POLL_S)
        state = self._folder.state()
        if state.phase != "over" and state.boot == boot_id():
            await trio.to_thread.run_sync(self._sweep, state)
            cgroups.remove(state.groups)
        self._folder.drop_secrets()
        return _exit(state)

    async def stop(self, grace_s: float | None = None) -> Exit:
        """See `mesh.runtimes.base.Running`."""
        state = self._folder.state()
        grace_s = state.grace_s if grace_s is None else grace_s
        with trio.move_on_after(STUCK_S):
            while state.phase == "starting" and self._folder.held():
                await trio.sleep(POLL_S)
                state = self._folder.state()
        self._folder.command(f"stop {state.stop_signal} {grace_s} stopped")
        with trio.move_on_after(grace_s + STUCK_S):
            return await self.wait()
        if _is(state):  # stopped itself, or stuck: without it the kernel ends the command
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.shim, signal.SIGKILL)
        return await self.wait()

    def renew(self, deadline_s: float) -> None:
        """See `mesh.runtimes.base.Running`."""
        self._folder.write_deadline(deadline_s)

    def _sweep(self, state: State) -> None:
        """Kill what is left of an instance whose shim is gone."""
        if state.kill:
            with contextlib.suppress(OSError):
                Path(state.kill).write_text("1")
        marker = f"MESH_SCRATCH={self._folder.path / 'scratch'}".encode()
        lock = str(self._folder.path / LOCK)
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid() and _belongs(Path("/proc", name), marker, lock):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(int(name), signal.SIGKILL)

    # -- use --------------------------------------------------------------------------------------------

    async def usage(self, *, storage: bool = False) -> Usage:
        """See `mesh.runtimes.base.Running`."""
        return await trio.to_thread.run_sync(self._usage, storage)

    def _usage(self, storage: bool) -> Usage:
        state = self._folder.state()
        cpu_s, memory, count = 0.0, 0, 0
        for process in _processes(state):
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                cpu_s += times.user + times.system + times.children_user + times.children_system
                memory += process.memory_info().rss
                count += 1
        with contextlib.suppress(OSError, ValueError):
            memory = int(Path(state.usage).read_text()) if state.usage else memory
        return Usage(cpu_s, memory, count, self._folder.storage_bytes() if storage else None)


def _is(state: State) -> bool:
    """Whether the shim that wrote this lives."""
    return state.shim > 0 and start_ticks(state.shim) == state.shim_start and state.boot == boot_id()


async def _ended(pid: int, start: int) -> None:
    """Wait until a process is over; one of ours is reaped."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        await trio.sleep(POLL_S)
        return
    try:
        if start_ticks(pid) == start:
            await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _processes(state: State) -> list[Any]:
    """From its control group, which is one small file, else by looking through all processes."""
    if not _is(state):
        return []
    try:
        if state.kill:
            pids = Path(state.kill).with_name("cgroup.procs").read_text().split()
            return [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
    except (OSError, ValueError, psutil.Error):
        pass
    try:
        return list(psutil.Process(state.shim).children(recursive=True))
    except psutil.Error:
        return []


def _belongs(process: Path, marker: bytes, lock: str) -> bool:
    """Whether a process holds the lock, or was started with the instance's environment."""
    try:
        if marker in (process / "environ").read_bytes().split(b"\0"):
            return True
        return any(os.readlink(fd) == lock for fd in (process / "fd").iterdir())
    except OSError:
        return False


def _exit(state: State) -> Exit:
    common = {"at_ms": state.at_ms, "ran_s": state.ran_s, "asked": state.asked}
    if state.phase != "over":
        if state.boot != boot_id():
            return Exit(lost=True, why="the device was restarted")
        if state.phase == "starting":
            return Exit(lost=True, why="its start was interrupted")
        return Exit(signal=signal.SIGKILL, why="its shim was killed", at_ms=state.began_ms)
    if state.left:
        why = f"left {state.left} processes behind, which were ended: keep the command in the foreground"
        return Exit(why=why, at_ms=state.at_ms, ran_s=state.ran_s)
    return Exit(code=state.code, signal=state.signal, why=state.why or _words(state), **common)  # type: ignore[arg-type]


def _words(state: State) -> str:
    if state.signal is None:
        return f"exit status {state.code}"
    if state.signal == signal.SIGXFSZ:
        return "wrote a file larger than its storage limit"
    try:
        return f"ended by {signal.Signals(state.signal).name}"
    except ValueError:
        return f"ended by signal {state.signal}"
