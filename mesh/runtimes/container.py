"""The runtime `container`: Docker or Podman, by its API (`engine.py`).

One container per instance, with a name that only this node's instance can have and labels that say what it
is: so the engine itself refuses a second one, and what runs is found again by asking it. The agent decides
about restarts, never the engine. A container that is over is kept, for its log, until the next start.

Network is none unless the launch says otherwise. Directories that the runtime makes lie where those of
processes do. Capabilities and seccomp are the engine's defaults; new privileges are refused.

Variables that are secrets are known to the engine, which shows them to whoever may inspect the container and
keeps them with it on its disk; files of secrets lie in memory and are mounted read-only.

An exclusive container has a watchdog process (`watchdog.py`), because the engine knows nothing of leases.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import trio

from mesh.errors import Conflict, Failed, MeshError, NotFound
from mesh.runtimes import watchdog
from mesh.runtimes.base import (
    SECRETS_INSIDE,
    Exit,
    Launch,
    Line,
    Opened,
    Opener,
    Running,
    Usage,
    check_instance,
    environment,
    filled,
    instance_of,
    no_secrets,
    opened,
    secret_places,
    word_of,
)
from mesh.runtimes.engine import Engine
from mesh.runtimes.folders import Folder

LABEL = "mesh."
ASK_AGAIN_S = 2.0
LOG_BYTES = "4m"
PIDS = 1024


class Containers:
    """See `mesh.runtimes.base.Runtime`.

    Args:
        socket: of the engine.
        root, node, open_secret: as for processes.
    """

    def __init__(self, socket: str, root: Path, node: str, open_secret: Opener = no_secrets) -> None:
        self._socket = socket
        self._engine = Engine(socket)
        self._root = root
        self._node = node
        self._open = open_secret

    def _name(self, instance: str) -> str:
        return f"mesh-{self._node}-{word_of(instance)}"

    async def start(self, launch: Launch) -> Running:
        """See `mesh.runtimes.base.Runtime`."""
        launch.check()
        told = opened(launch, self._open)
        try:
            return await self._start(launch, told)
        except MeshError as error:
            error.message = told.redacted(error.message)
            error.args = (error.message,)
            raise

    async def _start(self, launch: Launch, told: Opened) -> Running:
        name = self._name(launch.instance)
        await self._clear(name)
        folder, owner = Folder(self._root, launch.instance), _owner(launch.user)
        folder.make()
        await trio.to_thread.run_sync(folder.make_directories, launch.directories, owner)
        await trio.to_thread.run_sync(folder.write_secrets, told.files, owner)
        body = self._body(launch, folder, told)
        try:
            await self._engine.create(name, body)
        except NotFound:
            await self._engine.pull(launch.image)
            await self._engine.create(name, body)
        if launch.exclusive:
            folder.write_deadline(launch.deadline_s)
            watchdog.start(self._socket, name, folder.path)
        try:
            await self._engine.start(name)
        except MeshError as error:
            await self._engine.remove(name)
            raise Failed(f"{launch.instance} cannot start: {error.message}"[:600]) from None
        return Container(self._engine, name, folder, body["Labels"])

    async def _clear(self, name: str) -> None:
        """Remove one of the same name that is over. Raises Conflict when it runs."""
        try:
            found = await self._engine.inspect(name)
        except NotFound:
            return
        if found.get("State", {}).get("Running"):
            raise Conflict(f"container {name} runs already")
        await self._engine.remove(name)

    def _body(self, launch: Launch, folder: Folder, told: Opened) -> dict[str, Any]:
        """What the engine is asked to create."""
        places = {each.name: each.path or f"/mesh/{each.name}" for each in launch.directories}
        own = {**environment(launch, places), **secret_places(launch, SECRETS_INSIDE)}
        labels = {
            f"{LABEL}node": self._node,
            f"{LABEL}instance": launch.instance,
            f"{LABEL}workload": launch.workload,
            f"{LABEL}digest": launch.digest,
            f"{LABEL}epoch": str(launch.epoch),
            f"{LABEL}grace": str(launch.grace_s),
        }
        launch = filled(launch, own)
        words = list(launch.argv) or None
        return {
            "Image": launch.image,
            "Entrypoint": words if launch.entrypoint else None,
            "Cmd": [] if launch.entrypoint else words,
            "Env": [f"{name}={value}" for name, value in {**launch.env, **told.env, **own}.items()],
            "WorkingDir": launch.cwd,
            "User": launch.user,
            "Labels": labels,
            "StopSignal": launch.stop_signal,
            "ExposedPorts": {f"{port.container}/{port.protocol}": {} for port in launch.ports},
            "HostConfig": _host_config(launch, folder, places),
        }

    async def adopt(self) -> list[Running]:
        """See `mesh.runtimes.base.Runtime`."""
        found: list[Running] = []
        for row in await self._engine.list(f"{LABEL}node={self._node}"):
            labels = row.get("Labels") or {}
            with contextlib.suppress(MeshError):
                instance = check_instance(str(labels.get(f"{LABEL}instance", "")))
                name = self._name(instance)
                if f"/{name}" in row.get("Names", []) or name in row.get("Names", []):
                    over = row.get("State") not in ("running", "paused", "restarting")
                    folder = Folder(self._root, instance)
                    found.append(Container(self._engine, name, folder, labels, over=over))
        return sorted(found, key=lambda each: each.instance)

    def logs(self, instance: str, *, tail: int, follow: bool) -> AsyncGenerator[Line, None]:
        """See `mesh.runtimes.base.Runtime`."""
        return self._engine.logs(self._name(check_instance(instance)), tail=tail, follow=follow)

    async def forget(self, instance: str, *, keep_data: bool) -> None:
        """See `mesh.runtimes.base.Runtime`."""
        await self._clear(self._name(check_instance(instance)))
        folder = Folder(self._root, instance)
        await trio.to_thread.run_sync(lambda: folder.remove(keep_data=keep_data))


def _owner(user: str) -> tuple[int, int] | None:
    """Whose the directories are: a uid[:gid]; names are known inside the image only."""
    uid, _, gid = user.partition(":")
    if not uid.isdigit() or os.geteuid() != 0:
        return None
    return int(uid), int(gid) if gid.isdigit() else int(uid)


def _host_config(launch: Launch, folder: Folder, places: dict[str, str]) -> dict[str, Any]:
    limits = launch.limits
    ports: dict[str, list[dict[str, str]]] = {}
    for port in launch.ports:
        ports.setdefault(f"{port.container}/{port.protocol}", []).append({"HostPort": str(port.host)})
    config: dict[str, Any] = {
        "Binds": [
            f"{folder.place_of(each)}:{places[each.name]}{':ro' if each.read_only else ''}"
            for each in launch.directories
        ]
        + ([f"{folder.secrets}:{SECRETS_INSIDE}:ro"] if launch.secret_files else []),
        "NetworkMode": launch.network,
        "PortBindings": ports if launch.network not in ("none", "host") else {},
        "PidsLimit": limits.processes or PIDS,
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_BYTES}},
        "RestartPolicy": {"Name": "no"},
    }
    if limits.memory_bytes:
        config |= {"Memory": limits.memory_bytes, "MemorySwap": limits.memory_bytes}
    if limits.cpu_cores:
        config |= {"CpuPeriod": 100_000, "CpuQuota": max(1_000, int(limits.cpu_cores * 100_000))}
    if limits.files:
        config["Ulimits"] = [{"Name": "nofile", "Soft": limits.files, "Hard": limits.files}]
    return config


class Container:
    """See `mesh.runtimes.base.Running`."""

    def __init__(
        self, engine: Engine, name: str, folder: Folder, labels: dict[str, str], *, over: bool = False
    ) -> None:
        self._engine = engine
        self._name = name
        self._folder = folder
        self._asked = False
        self.instance = instance_of(word_of(folder.instance))
        self.digest = str(labels.get(f"{LABEL}digest", ""))
        epoch = str(labels.get(f"{LABEL}epoch", "0"))
        self.epoch = int(epoch) if epoch.isdigit() else 0
        self.notes: tuple[str, ...] = ()
        self.over = over
        try:
            self._grace_s = float(labels.get(f"{LABEL}grace", "10"))
        except ValueError:
            self._grace_s = 10.0

    async def wait(self) -> Exit:
        """See `mesh.runtimes.base.Running`. An engine that is restarted is asked again."""
        while True:
            try:
                state = (await self._engine.inspect(self._name)).get("State", {})
                if not state.get("Running"):
                    watchdog.reap()
                    self._folder.drop_secrets()
                    return self._exit(state)
                await self._engine.wait(self._name)
            except NotFound:
                return Exit(lost=True, why="its container was removed", asked=self._asked)
            except MeshError:
                await trio.sleep(ASK_AGAIN_S)

    def _exit(self, state: dict[str, Any]) -> Exit:
        if state.get("Status") in ("created", "configured"):
            return Exit(lost=True, why="its container was never started")
        code = state.get("ExitCode")
        late = self._folder.path / watchdog.KILLED
        if state.get("OOMKilled"):
            why = "out of memory"
        elif not self._asked and late.exists():
            why = "its lease was not renewed in time"
        else:
            why = str(state.get("Error") or f"exit status {code}")[:300]
        return Exit(code=code if isinstance(code, int) else None, why=why, asked=self._asked)

    async def stop(self, grace_s: float | None = None) -> Exit:
        """See `mesh.runtimes.base.Running`."""
        self._asked = True
        grace_s = self._grace_s if grace_s is None else grace_s
        with contextlib.suppress(NotFound, Conflict):
            try:
                await self._engine.stop(self._name, grace_s)
            except Failed:
                await self._engine.kill(self._name)
        return await self.wait()

    async def usage(self, *, storage: bool = False) -> Usage:
        """See `mesh.runtimes.base.Running`."""
        stats = await self._engine.stats(self._name)
        cpu_ns = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
        size = await trio.to_thread.run_sync(self._folder.storage_bytes) if storage else None
        return Usage(
            cpu_ns / 1e9 if isinstance(cpu_ns, int) else None,
            stats.get("memory_stats", {}).get("usage"),
            stats.get("pids_stats", {}).get("current"),
            size,
        )

    def renew(self, deadline_s: float) -> None:
        """See `mesh.runtimes.base.Running`."""
        self._folder.write_deadline(deadline_s)
