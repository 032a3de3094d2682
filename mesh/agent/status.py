"""The feature `status`: the node itself, in one answer, and what is wrong with it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import trio

import mesh
from mesh import settings
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.words import iso
from mesh.config import Config
from mesh.core.judgement import Verdict
from mesh.core.lease import Status as Flag
from mesh.core.record import MESH, SCOPES
from mesh.errors import Conflict, UsageError
from mesh.observe.logs import Faults
from mesh.store import backup
from mesh.wire import protocols

Json = dict[str, Any]
Rows = list[Json]

SCOPE_NAMES = {"m": "mesh", "z": "zone", "l": "live"}
PIECE_BYTES = 256 << 10
DISK_FREE_WARN = 0.05
LEVELS = ("debug", "info", "warning", "error")


class Logs(Protocol):
    """The part of `mesh.observe.logs.Logs` that is asked for."""

    level: str
    faults: Faults

    def set_level(self, level: str) -> str: ...

    @property
    def recent(self) -> list[str]: ...


class Status:
    """See `mesh.admin.features.Status`.

    Args:
        start_anew: stops the agent once the answer is out, and starts it again.
    """

    def __init__(
        self,
        node: Node,
        members: Members,
        logs: Logs,
        config: Callable[[], Config],
        start_anew: Callable[[], None],
    ) -> None:
        self._node = node
        self._members = members
        self._logs = logs
        self._config = config
        self._start_anew = start_anew
        self._started = iso(node.wall_ms())
        self.more_checks: list[Callable[[], Json]] = []

    async def status(self) -> Json:
        node = self._node
        own = next(row for row in self._members.rows() if row["id"] == node.key.peer_id)
        states = [row["state"] for row in self._members.rows()]
        return {
            "id": node.key.peer_id,
            "name": node.home.name,
            "mesh": {"id": node.mesh_id.hex(), "name": node.home.mesh.name},
            "zone": node.zone,
            "tier": own["tier"],
            "roles": own["roles"],
            "labels": own["labels"],
            "state": self._state(own["state"]),
            "incarnation": node.vitality.machine.incarnation,
            "version": mesh.__version__,
            "pid": os.getpid(),
            "started": self._started,
            "uptime_s": round(trio.current_time() - node.started_at, 1),
            "data_dir": str(node.home.path),
            "addresses": own["addresses"],
            "members": {state: states.count(state) for state in ("alive", "suspect", "dead", "left")},
            "links": len(node.links.sessions),
            "scopes": [self._scope(scope) for scope in SCOPES],
            "clock": self._clock(),
            "store": self._store(),
            "certificate_expires": own["certificate_expires"],
            "problems": self._problems(),
        }

    def _state(self, state: str) -> str:
        if self._refusals():
            return "refused"
        flag = self._node.vitality.status[0]
        if flag == Flag.LEFT:
            return "leaving"
        return "draining" if flag == Flag.DRAIN else state

    def _refusals(self) -> list[str]:
        node = self._node
        verdict = node.directory.standing(node.me).verdict
        refused = sorted(set(node.refused.values())) if not node.links.sessions else []
        if verdict not in (Verdict.MEMBER, Verdict.UNADMITTED, Verdict.UNKNOWN):
            refused.append(node.directory.explain(node.me).message)
        return refused

    def _scope(self, scope: str) -> Json:
        machine = self._node.spread.machine
        heads = machine.heads[scope]
        live = self._node.store.live
        records = sum(state.count for state in heads.values()) if scope != "l" else len(live)
        return {
            "scope": SCOPE_NAMES[scope],
            "root": machine.root(scope).hex(),
            "authors": len(heads),
            "records": records,
            "behind": machine.behind(scope),
        }

    def _clock(self) -> Json:
        node = self._node
        state = node.clock.status(node.wall_ms(), trio.current_time())
        word = {"agreed": "ok", "two": "ok", "disputed": "off"}.get(state, state)
        return {"state": word, "offset_ms": round(node.clock.offset_ms, 1)}

    def _store(self) -> Json:
        store = self._node.store
        return {**store.stats()}

    def _problems(self) -> list[str]:
        node = self._node
        problems = [f"refused by the members: {text}" for text in self._refusals()]
        problems += [f"{kind} ({aid.hex()[:8]}): {text}" for (kind, aid), text in node.alarms.items()]
        if damaged := node.store.stats()["damaged"]:
            problems.append(f"{damaged} damaged rows are being mended from the members")
        return problems

    # -- doctor -----------------------------------------------------------------------------------------

    async def doctor(self) -> Rows:
        checks = [
            self._check_admission(),
            self._check_links(),
            self._check_sync(),
            self._check_clock(),
            self._check_disk(),
            self._check_certificate(),
            self._check_alarms(),
            self._check_faults(),
            self._check_names(),
            *(check() for check in self.more_checks),
        ]
        order = {"failed": 0, "warning": 1, "ok": 2}
        return sorted(checks, key=lambda check: (order[check["result"]], check["check"]))

    def _check_admission(self) -> Json:
        refusals = self._refusals()
        if refusals:
            return _check("admission", "failed", refusals[0], "ask an admin for a new invite")
        if not self._node.directory.is_member(self._node.me):
            return _check("admission", "warning", "no member has let this node in yet", "see `meshctl links`")
        return _check("admission", "ok", "this node is a member")

    def _check_links(self) -> Json:
        node = self._node
        others = len(node.directory.members()) - 1
        missing = node.links.wanted - node.links.sessions.keys()
        alive = [aid for aid in missing if str(node.vitality.machine.state(aid)) == "alive"]
        if others > 0 and not node.links.sessions:
            return _check(
                "links", "failed", "no neighbour is connected", "see `meshctl links` for each error"
            )
        if alive:
            text = f"{len(alive)} live neighbours are not connected"
            return _check("links", "warning", text, "a firewall? one port number, TCP and UDP, must pass")
        trouble = [*self._mute(), *self._relayed()]
        if trouble:
            hint = "`meshctl links`; does its port, TCP and UDP, pass both ways between the two?"
            return _check("links", "warning", "; ".join(trouble), hint)
        return _check("links", "ok", f"{len(node.links.sessions)} neighbours are connected")

    def _mute(self) -> list[str]:
        """Neighbours whose link stands and does not answer."""
        node, patience = self._node, self._node.vitality.machine.config.misses
        views = node.vitality.machine.links(trio.current_time())
        mute = [view.aid for view in views if view.aid in node.links.sessions and view.misses >= patience]
        return [f"nothing comes back from {self._names(mute)}"] if mute else []

    def _relayed(self) -> list[str]:
        relayed = [aid for aid, session in self._node.links.sessions.items() if session.relayed]
        return [f"reached only through others: {self._names(relayed)}"] if relayed else []

    def _names(self, aids: Iterable[bytes]) -> str:
        return ", ".join(sorted(map(self._members.name_of, aids)))

    def _check_sync(self) -> Json:
        behind = sum(self._node.spread.machine.behind(scope) for scope in SCOPES)
        if behind:
            return _check(
                "replication", "warning", f"behind on {behind} authors", "wait, or see `meshctl links`"
            )
        return _check("replication", "ok", "nothing that a neighbour announced is missing")

    def _check_clock(self) -> Json:
        state = self._clock()
        if state["state"] in ("unset", "off"):
            return _check(
                "clock", "warning", f"the clock is {state['state']}", "set the time, or run an NTP client"
            )
        return _check("clock", "ok", f"mesh time differs by {state['offset_ms']} ms from this machine's")

    def _check_disk(self) -> Json:
        usage = shutil.disk_usage(self._node.home.path)
        if self._node.store.full:
            return _check("disk", "failed", "the disk is full: only deletes are taken", "free some space")
        if usage.free < usage.total * DISK_FREE_WARN:
            return _check("disk", "warning", f"{usage.free >> 20} MiB are free", "free some space")
        return _check("disk", "ok", f"{usage.free >> 20} MiB are free")

    def _check_certificate(self) -> Json:
        own = next(row for row in self._members.rows() if row["id"] == self._node.key.peer_id)
        expires = own["certificate_expires"]
        if "expired" in own["flags"]:
            return _check("certificate", "failed", f"expired at {expires}", "ask an admin for a new invite")
        if "expiring" in own["flags"]:
            return _check("certificate", "warning", f"expires at {expires}", "is an admin node in reach?")
        return _check("certificate", "ok", f"valid until {expires}")

    def _check_alarms(self) -> Json:
        alarms = self._node.alarms
        if alarms:
            (kind, aid), text = next(reversed(alarms.items()))
            newest = f"{len(alarms)}, newest: {kind} by {aid.hex()[:8]}: {text}"
            return _check("alarms", "warning", newest, "all of them: `meshctl status`, `meshctl events`")
        return _check("alarms", "ok", "none")

    def _check_faults(self) -> Json:
        faults = self._logs.faults
        if faults.count:
            text = f"errors that nobody foresaw since the start: {faults.count}, newest: {faults.newest}"
            return _check(
                "faults", "warning", text, "the rest goes on; to report them: `meshctl debug bundle`"
            )
        return _check("faults", "ok", "no error that nobody foresaw since the start")

    def _check_names(self) -> Json:
        twice = sorted(name for name, aids in self._node.directory.names().items() if len(aids) > 1)
        if twice:
            return _check(
                "names", "warning", f"claimed by several nodes: {', '.join(twice)}", "rename or forget one"
            )
        return _check("names", "ok", "each name is one node's")

    # -- the rest ---------------------------------------------------------------------------------------

    async def version(self) -> Json:
        return {
            "version": mesh.__version__,
            "python": platform.python_version(),
            "libp2p": _libp2p_version(),
            "protocols": [protocols.LINK, protocols.CALL],
        }

    async def config_show(self) -> Rows:
        return settings.show(self._config())

    async def log_level(self, level: str | None) -> Json:
        previous = self._logs.level
        if level is not None:
            if level not in LEVELS:
                raise UsageError(f"no log level {level!r}", "one of " + ", ".join(LEVELS))
            self._logs.set_level(level)
        return {"level": self._logs.level, "previous": previous}

    async def debug_bundle(self) -> AsyncIterator[bytes]:
        """A .tar.gz without keys and tokens."""
        files: dict[str, Any] = {
            "status.json": await self.status(),
            "doctor.json": await self.doctor(),
            "members.json": self._members.rows(),
            "links.json": await self._members.links(),
            "reachability.json": await self._members.reachability(),
            "config.json": await self.config_show(),
            "counts.json": {
                "dissemination": dict(self._node.spread.counts + self._node.spread.drive.counts),
                "liveness": dict(self._node.vitality.drive.counts),
            },
        }
        from mesh.agent import archives

        texts = {name: json.dumps(content, indent=1, default=repr) for name, content in files.items()}
        data = archives.bundle({**texts, "recent.log": "\n".join(self._logs.recent)})
        for start in range(0, len(data), PIECE_BYTES):
            yield data[start : start + PIECE_BYTES]

    async def backup(self) -> AsyncIterator[bytes]:
        """A consistent copy of the store as one .tar, made beside it first."""
        from mesh.agent import archives

        with tempfile.TemporaryDirectory(prefix=".backup-", dir=self._node.home.path) as folder:
            copy, archive = Path(folder) / "store", Path(folder) / "store.tar"
            await self._node.store.backup(copy, self._node.now_ms())
            await trio.to_thread.run_sync(archives.pack, archive, copy)
            async with await trio.open_file(archive, "rb") as file:
                while piece := await file.read(PIECE_BYTES):
                    yield piece

    async def restore(self, chunks: AsyncIterator[bytes], *, force: bool) -> Json:
        """Take a backup, check it whole, and start anew with it.

        Raises:
            UsageError: not a backup, damaged, or of another mesh.
            Conflict: there are keys here and `force` is not set.
        """
        from mesh.agent import archives

        node = self._node
        with node.store.read(MESH) as slots:
            used = next(iter(slots.paths("kv/")), None) is not None
        if used and not force:
            raise Conflict("the store holds keys already", "give --force to replace them with the backup's")
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=node.home.path) as folder:
            archive, copy = Path(folder) / "store.tar", Path(folder) / "store"
            async with await trio.open_file(archive, "wb") as file:
                async for piece in chunks:
                    await file.write(piece)
            await trio.to_thread.run_sync(archives.unpack, archive, copy)
            lay = partial(backup.stage, copy, node.home.store, mesh=node.mesh_id, zone=node.zone)
            manifest = await trio.to_thread.run_sync(lay)
        self._start_anew()
        return {"bytes": manifest.size, "started": self._started}


@cache
def _libp2p_version() -> str:
    """As its package says: milliseconds to find out, and half a megabyte of zipfile and email."""
    from importlib.metadata import version as version_of

    return version_of("libp2p")


def _check(name: str, result: str, message: str, hint: str = "") -> Json:
    return {"check": name, "result": result, "message": message, "hint": hint}
