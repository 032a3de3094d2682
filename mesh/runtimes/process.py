"""The runtime `process`: native programs, each with a shim of its own (`shim.py`).

Start: take the instance's lock, prepare its directories and its control group, write down what is about to
run, and hand lock and order to a new shim. Whenever the agent is killed in that, either nothing runs and the
lock is free, or the shim has the lock: so a later start can neither double the instance nor lose it.

The command is an argument list, never a shell's line. Its environment is a short fixed one, the workload's
own, and MESH_*; nothing of the agent's. Its limits are the kernel's control groups where they may be written
(`cgroups.py`); else memory is measured and bounded by RLIMIT_DATA at twice the limit, so that a burst cannot
take the device, and a cpu limit is reported as not enforced.
"""

from __future__ import annotations

import fcntl
import grp
import json
import os
import pwd
import resource
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import trio

import mesh
from mesh.errors import Denied, Failed, NotFound, UsageError
from mesh.runtimes import cgroups, logreader
from mesh.runtimes.base import (
    Launch,
    Line,
    Opened,
    Opener,
    Running,
    check_instance,
    environment,
    filled,
    no_secrets,
    opened,
    secret_places,
    stop_number,
    word_of,
)
from mesh.runtimes.cgroups import Group
from mesh.runtimes.folders import Folder, State, all_folders, in_memory, reachable
from mesh.runtimes.instance import ProcessInstance, boot_id

SHIM = "import sys; sys.path.append(sys.argv[1]); from mesh.runtimes.shim import main; main()"
SOURCES = str(Path(mesh.__file__).resolve().parent.parent)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_S = 20.0
FILES = 4096
PROCESSES = 1024
MIB = 1024 * 1024


class LogLimits(msgspec.Struct, frozen=True):
    """How much of an instance's log is kept, and how fast it may grow."""

    bytes_max: int = 4 * MIB
    files: int = 3
    bytes_s: int = MIB


class Processes:
    """See `mesh.runtimes.base.Runtime`.

    Args:
        root: folder of all instances of this node.
        node: short word that keeps apart the agents of one device.
        now_ms: wall time.
        open_secret: the value of a secret, asked for at each start.
    """

    def __init__(
        self,
        root: Path,
        node: str,
        now_ms: Any,
        logs: LogLimits | None = None,
        open_secret: Opener = no_secrets,
    ) -> None:
        self._root = root
        self._node = node
        self._now_ms = now_ms
        self._logs = logs or LogLimits()
        self._open = open_secret

    # -- start ------------------------------------------------------------------------------------------

    async def start(self, launch: Launch) -> Running:
        """See `mesh.runtimes.base.Runtime`."""
        launch.check()
        owner = _owner(launch.user)
        told = opened(launch, self._open)
        folder = Folder(self._root, launch.instance)
        folder.make()
        lock = folder.lock()
        try:
            order = await trio.to_thread.run_sync(self._prepare, folder, launch, owner, told)
            answer = await self._spawn(order, lock)
        finally:
            os.close(lock)
        if answer["fault"]:
            await ProcessInstance(folder).wait()
            raise Failed(f"{launch.instance} cannot start: {answer['fault']}"[:1000])
        return ProcessInstance(folder)

    def _prepare(
        self, folder: Folder, launch: Launch, owner: tuple[int, int, list[int]] | None, told: Opened
    ) -> dict[str, Any]:
        folder.make_directories(launch.directories, owner[:2] if owner else None)
        folder.write_secrets(told.files, owner[:2] if owner else None)
        places = {each.name: str(folder.place_of(each)) for each in launch.directories}
        own = {
            **environment(launch, places),
            **secret_places(launch, str(folder.secrets)),
            "MESH_SCRATCH": str(folder.path / "scratch"),
        }
        digest, launch = launch.digest, filled(launch, own)
        home = next(iter(places.values()), "/")
        env = {**_environment(launch, home), **told.env, **own}
        if owner is not None:
            barrier = reachable(folder.path, owner[0], {owner[1], *owner[2]})
            if barrier is not None and launch.directories:
                raise Denied(
                    f"user {launch.user[:80]} cannot pass through {barrier}",
                    "set runtimes.directory to a place that all may pass through",
                )
        folder.write_deadline(launch.deadline_s)
        limits = msgspec.structs.replace(launch.limits, processes=launch.limits.processes or PROCESSES)
        group = cgroups.make(word_of(launch.instance), self._node, limits)
        state = State(
            phase="starting",
            boot=boot_id(),
            digest=digest,
            workload=launch.workload,
            epoch=launch.epoch,
            notes=_notes(launch, group, folder),
            kill=group.kill,
            usage=group.usage,
            groups=group.folders,
            stop_signal=stop_number(launch.stop_signal),
            grace_s=launch.grace_s,
            exclusive=launch.exclusive,
            began_ms=self._now_ms(),
        )
        folder.write_state(state)
        return self._order(folder, launch, owner, env, launch.cwd or home, group, state)

    def _order(
        self,
        folder: Folder,
        launch: Launch,
        owner: tuple[int, int, list[int]] | None,
        env: dict[str, str],
        cwd: str,
        group: Group,
        state: State,
    ) -> dict[str, Any]:
        uid, gid, groups = owner or (None, None, [])
        return {
            "folder": str(folder.path),
            "secrets": str(folder.secrets) if launch.secret_files else "",
            "argv": launch.argv,
            "env": env,
            "cwd": cwd,
            "uid": uid,
            "gid": gid,
            "groups": groups,
            "rlimits": _rlimits(launch, group),
            "procs": group.procs,
            "kill": group.kill,
            "oom": group.oom,
            "cgroups": group.folders,
            "log_bytes_max": self._logs.bytes_max,
            "log_files": self._logs.files,
            "log_bytes_s": self._logs.bytes_s,
            "stop_signal": state.stop_signal,
            "grace_s": launch.grace_s,
            "exclusive": launch.exclusive,
            "record": msgspec.to_builtins(state),
        }

    async def _spawn(self, order: dict[str, Any], lock: int) -> dict[str, Any]:
        """Start the shim with the lock, give it the order, and wait for its word on the command."""
        order_r, order_w = os.pipe()
        answer_r, answer_w = os.pipe()
        words = [sys.executable, "-I", "-S", "-c", SHIM, SOURCES, f"shim of {order['folder']}"]
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        # Copies with numbers above those that they are moved to, so that no move overwrites another.
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (order_r, answer_w, null, lock)]
        moves = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(copies)]
        try:
            os.posix_spawn(
                words[0], words, {"PATH": PATH, "LANG": "C.UTF-8"}, file_actions=moves, setsid=True
            )
        except OSError as error:
            os.close(order_w)
            os.close(answer_r)
            raise Failed(f"no shim can be started: {error.strerror}") from None
        finally:
            for fd in (order_r, answer_w, null, *copies):
                os.close(fd)
        async with trio.lowlevel.FdStream(answer_r) as answers:
            with trio.move_on_after(START_S):
                async with trio.lowlevel.FdStream(order_w) as orders:
                    await _send(orders, json.dumps(order).encode())
                data = b"".join([part async for part in answers])
                if data:
                    found: dict[str, Any] = json.loads(data)
                    return found
                raise Failed("the shim ended before it started the command")
        raise Failed(f"the shim did not start the command within {START_S:g} s")

    # -- what there is ----------------------------------------------------------------------------------

    async def adopt(self) -> list[Running]:
        """See `mesh.runtimes.base.Runtime`."""
        return [ProcessInstance(folder) for folder in all_folders(self._root) if folder.state().phase]

    def logs(self, instance: str, *, tail: int, follow: bool) -> AsyncGenerator[Line, None]:
        """See `mesh.runtimes.base.Runtime`."""
        folder = Folder(self._root, check_instance(instance))
        if not folder.path.is_dir():
            raise NotFound(f"there is no instance {instance[:80]!r} on this node")
        return logreader.read(folder.log, tail=tail, follow=follow)

    async def forget(self, instance: str, *, keep_data: bool) -> None:
        """See `mesh.runtimes.base.Runtime`."""
        folder = Folder(self._root, check_instance(instance))
        await trio.to_thread.run_sync(lambda: folder.remove(keep_data=keep_data))


async def _send(orders: trio.lowlevel.FdStream, data: bytes) -> None:
    try:
        await orders.send_all(data)
    except trio.BrokenResourceError:
        pass  # the answer's end tells


def _environment(launch: Launch, home: str) -> dict[str, str]:
    user = {"USER": launch.user.partition(":")[0]} if launch.user else {}
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, **user, **launch.env}


def _owner(user: str) -> tuple[int, int, list[int]] | None:
    """(uid, gid, groups) of a user's name or uid[:gid]; None for the agent's own.

    Raises:
        UsageError: there is no such user.
        Denied: only root can start programs as somebody else.
    """
    if not user:
        return None
    try:
        if user.replace(":", "", 1).isdigit():
            uid, _, gid = user.partition(":")
            found: tuple[int, int, list[int]] = (int(uid), int(gid or uid), [int(gid or uid)])
        else:
            entry = pwd.getpwnam(user)
            groups = sorted({entry.pw_gid, *(g.gr_gid for g in grp.getgrall() if user in g.gr_mem)})
            found = (entry.pw_uid, entry.pw_gid, groups)
    except (KeyError, ValueError):
        raise UsageError(f"there is no user {user[:80]!r} on this device") from None
    if found[0] == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise Denied(f"this agent cannot start programs as {user[:80]}", "only one that runs as root can")
    return found


def _rlimits(launch: Launch, group: Group) -> list[tuple[int, int]]:
    limits = launch.limits
    found = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits.files or FILES),
    ]
    if limits.processes and "pids" not in group.enforced:
        found.append((resource.RLIMIT_NPROC, limits.processes))
    if limits.memory_bytes and "memory" not in group.enforced:
        found.append((resource.RLIMIT_DATA, 2 * limits.memory_bytes))
    if limits.storage_bytes:
        found.append((resource.RLIMIT_FSIZE, limits.storage_bytes))
    return found


def _notes(launch: Launch, group: Group, folder: Folder) -> tuple[str, ...]:
    notes = []
    if launch.secret_files and not in_memory(str(folder.secrets.parent.parent)):
        notes.append("its secrets lie on disk while it runs: there is no tmpfs at /dev/shm")
    if launch.limits.cpu_cores and "cpu" not in group.enforced:
        notes.append("the cpu limit is not enforced: control groups cannot be written here")
    if launch.limits.memory_bytes and "memory" not in group.enforced:
        notes.append("the memory limit is enforced by measuring: control groups cannot be written here")
    return tuple(notes)
