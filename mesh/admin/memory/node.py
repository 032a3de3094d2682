"""The node and its made-up mesh: three members, one of them dead."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import trio

from mesh import __version__
from mesh.admin.features import Json, Rows
from mesh.admin.memory.clock import ID, Clock, iso
from mesh.errors import Conflict, NotFound, TimedOut, UsageError

_OTHERS = (
    ("12D3KooWBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBbbb2", "beta", "alive"),
    ("12D3KooWCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCccc3", "gamma", "dead"),
)
_MESH = {"id": "00112233445566778899aabbccddeeff", "name": "home"}


class MemoryMembers:
    """Three members that can be drained, labelled and removed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.left = False
        self._changes: list[trio.MemorySendChannel[Json]] = []
        self.all: dict[str, Json] = {}
        for id_, name, state in ((ID, "alpha", "alive"), *_OTHERS):
            self.all[id_] = self._member(id_, name, state)

    def _member(self, id_: str, name: str, state: str) -> Json:
        own = id_ == ID
        return {
            "id": id_,
            "name": name,
            "state": state,
            "incarnation": 1,
            "addresses": [f"/ip4/192.0.2.{len(self.all) + 1}/tcp/6374"],
            "labels": {},
            "zone": "default",
            "tier": "device",
            "roles": ["admin"] if own else ["member"],
            "rtt_ms": None if own or state != "alive" else 0.4,
            "last_seen_s": 0.0 if own else 3.0 if state == "alive" else 4000.0,
            "state_s": 7200.0,
            "software": __version__,
            "flags": ["self"] if own else [],
            "certificate_expires": iso(self._clock.wall_s() + 86_400 * 60),
        }

    def names(self) -> Sequence[tuple[str, str]]:
        return [(id_, member["name"]) for id_, member in self.all.items()]

    async def list(self) -> Rows:
        return sorted(self.all.values(), key=lambda member: (member["name"], member["id"]))

    async def watch(self) -> AsyncIterator[Json]:
        send, receive = trio.open_memory_channel[Json](64)
        self._changes.append(send)
        try:
            for member in await self.list():
                yield {"change": "present", "time": self._clock.now(), "member": member}
            yield {"change": "ready", "time": self._clock.now(), "member": None}
            async for change in receive:
                yield change
        finally:
            self._changes.remove(send)

    def _find(self, node: str) -> Json:
        found = self.all.get(node)
        if found is None:
            raise NotFound(f"no member has the id {node}")
        return found

    def _changed(self, member: Json, change: str = "changed") -> Json:
        for channel in self._changes:
            channel.send_nowait({"change": change, "time": self._clock.now(), "member": member})
        return member

    async def show(self, node: str) -> Json:
        more: Json = {"card": {"cpu_cores": 2}, "certificate": None, "links": [], "monitors": []}
        return {**self._find(node), **more, "accused_by": []}

    def _flag(self, node: str, flag: str, *, on: bool) -> Json:
        member = self._find(node)
        flags = set(member["flags"]) - {flag} | ({flag} if on else set())
        member["flags"] = sorted(flags)
        return self._changed(member)

    async def drain(self, node: str) -> Json:
        return self._flag(node, "drain", on=True)

    async def undrain(self, node: str) -> Json:
        return self._flag(node, "drain", on=False)

    async def cordon(self, node: str) -> Json:
        return self._flag(node, "cordon", on=True)

    async def uncordon(self, node: str) -> Json:
        return self._flag(node, "cordon", on=False)

    async def label(self, node: str, labels: Mapping[str, str | None]) -> Json:
        member = self._find(node)
        merged = {**member["labels"], **labels}
        member["labels"] = {name: value for name, value in sorted(merged.items()) if value is not None}
        return self._changed(member)

    async def force_leave(self, node: str) -> Json:
        member = self._find(node)
        if member["state"] == "alive":
            raise Conflict(f"{member['name']} is alive", "stop it first, or drain it")
        member["state"] = "left"
        return self._changed(member)

    async def forget(self, node: str) -> Json:
        if node == ID:
            raise Conflict("a node cannot forget itself", "use `meshctl leave`")
        member = self._find(node)
        del self.all[node]
        self._changed(member, "removed")
        return {key: member[key] for key in ("id", "name", "state", "state_s")}

    async def prune(self, *, older_than_s: float, dry_run: bool) -> Rows:
        gone = [m for m in self.all.values() if m["state"] != "alive" and m["state_s"] >= older_than_s]
        if not dry_run:
            return [await self.forget(member["id"]) for member in gone]
        return [{key: member[key] for key in ("id", "name", "state", "state_s")} for member in gone]

    async def move_zone(self, node: str, zone: str) -> Json:
        member = self._find(node)
        member["zone"] = zone
        return self._changed(member)

    async def leave(self) -> Json:
        self.left = True
        return {"id": ID, "name": self.all[ID]["name"]}

    async def ping(self, node: str, *, timeout_s: float) -> Json:
        member = self._find(node)
        if member["state"] != "alive":
            await trio.sleep(min(timeout_s, 0.01))
            raise TimedOut(f"{member['name']} did not answer within {timeout_s:g} s")
        return {"id": node, "name": member["name"], "rtt_ms": member["rtt_ms"] or 0.0, "via": "datagram"}

    async def rtt(self, a: str, b: str) -> Json:
        one, other = self._find(a), self._find(b)
        pair = {"a": a, "b": b, "a_name": one["name"], "b_name": other["name"]}
        return {**pair, "rtt_ms": 0.4, "error_ms": 0.1, "method": "estimated", "age_s": 2.0}

    async def reachability(self) -> Rows:
        return [
            {
                "observer": ID,
                "observer_name": "alpha",
                "subject": member["id"],
                "subject_name": member["name"],
                "reachable": member["state"] == "alive",
                "rtt_ms": member["rtt_ms"],
                "via": "datagram",
                "age_s": 1.0,
            }
            for member in self.all.values()
            if member["id"] != ID
        ]

    async def links(self) -> Rows:
        return [self._link(member) for member in self.all.values() if member["id"] != ID]

    def _link(self, member: Json) -> Json:
        up = member["state"] == "alive"
        return {
            "id": member["id"],
            "name": member["name"],
            "state": "connected" if up else "disconnected",
            "relay": None,
            "address": member["addresses"][0],
            "dialled": True,
            "since_s": 7200.0 if up else None,
            "rtt_ms": member["rtt_ms"],
            "jitter_ms": 0.1 if up else None,
            "loss_percent": 0.0 if up else None,
            "last_check_s": 0.4 if up else None,
            "bytes_in": 1000,
            "bytes_out": 2000,
            "datagrams": up,
            "error": "" if up else "connection refused",
        }


class MemoryStatus:
    """The node itself."""

    def __init__(self, clock: Clock, members: MemoryMembers) -> None:
        self._clock = clock
        self._members = members
        self._level = "info"
        self.restored = b""
        self.starts = 1
        self.comes_back = True

    async def status(self) -> Json:
        own = self._members.all[ID]
        states = [member["state"] for member in self._members.all.values()]
        return {
            **{key: own[key] for key in ("id", "name", "zone", "tier", "roles", "labels", "state")},
            "mesh": _MESH,
            "incarnation": 1,
            "version": __version__,
            "pid": 4242,
            "started": self._started(),
            "uptime_s": 7200.0,
            "data_dir": "/var/lib/meshd",
            "addresses": own["addresses"],
            "members": {state: states.count(state) for state in ("alive", "suspect", "dead", "left")},
            "links": 1,
            "scopes": [{"scope": "mesh", "root": "ab" * 16, "authors": 2, "records": 7, "behind": 0}],
            "clock": {"state": "ok", "offset_ms": 0.0},
            "store": {"bytes": 65_536},
            "certificate_expires": own["certificate_expires"],
            "problems": [],
        }

    async def doctor(self) -> Rows:
        return [
            {"check": "clock", "result": "warning", "message": "2 s behind the mesh", "hint": "run NTP"},
            {"check": "store", "result": "ok", "message": "writable, 1 GiB free", "hint": ""},
        ]

    async def version(self) -> Json:
        return {"version": __version__, "python": "3.11", "libp2p": "", "protocols": ["/mesh/link/1"]}

    async def config_show(self) -> Rows:
        row: Json = {"key": "log.level", "value": self._level, "origin": "default"}
        return [{**row, "default": "info", "reloadable": True, "pending": []}]

    async def log_level(self, level: str | None) -> Json:
        previous, self._level = self._level, level or self._level
        return {"level": self._level, "previous": previous}

    async def debug_bundle(self) -> AsyncIterator[bytes]:
        yield b"bundle: "
        yield json.dumps(await self.status()).encode()

    async def backup(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"backup" * 1000

    async def restore(self, chunks: AsyncIterator[bytes], *, force: bool) -> Json:
        self.restored = b"".join([chunk async for chunk in chunks])
        if not self.restored.startswith(b"backup"):
            raise UsageError("this is no backup of a mesh store")
        done = {"bytes": len(self.restored), "started": self._started()}
        self.starts += self.comes_back
        return done

    def _started(self) -> str:
        return f"2026-01-01T00:00:{self.starts:02d}.000Z"


class MemoryEvents:
    """A ring of events, to which tests may add."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ring: list[Json] = []
        self._added = trio.Event()
        self.add("node_registered", ID, "alpha", "alpha is a member")

    def add(self, type: str, node: str | None, name: str | None, message: str) -> None:
        event: Json = {"id": str(len(self._ring) + 1), "time": self._clock.now(), "type": type}
        self._ring.append({**event, "node": node, "name": name, "message": message, "data": {}})
        self._added.set()
        self._added = trio.Event()

    async def list(self, *, last_s: float | None, type: str | None, node: str | None, limit: int) -> Rows:
        since = "" if last_s is None else iso(self._clock.wall_s() - last_s)
        return [event for event in self._ring if event["time"] >= since and _matches(event, type, node)][
            -limit:
        ]

    async def watch(self, *, type: str | None, node: str | None, cursor: str | None) -> AsyncIterator[Json]:
        at = len(self._ring) if cursor is None else int(cursor)
        while True:
            for event in self._ring[at:]:
                if _matches(event, type, node):
                    yield event
            at = len(self._ring)
            await self._added.wait()


def _matches(event: Json, type: str | None, node: str | None) -> bool:
    if node is not None and event["node"] != node:
        return False
    found: str = event["type"]
    return type is None or found == type or (type.endswith("*") and found.startswith(type[:-1]))


class MemoryMetrics:
    """One sample."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def now(self) -> Json:
        groups: Json = {"cpu": {"usage_percent": 12.5, "count": 2}, "storage": {"error": "no such disk"}}
        return {"time": self._clock.now(), "groups": groups}

    async def history(self, metric: str, *, last_s: float) -> Rows:
        if metric != "cpu.usage_percent":
            raise NotFound(f"no metric {metric}", "`meshctl metrics` lists them")
        return [{"time": self._clock.now(), "value": 12.5}]


class MemoryInvites:
    """Invites that nobody uses."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: list[Json] = []

    async def create(self, *, uses: int, ttl_s: float | None, **granted: Any) -> Json:
        invite: Json = {
            "id": f"invite-{len(self._all) + 1:04d}",
            "state": "open",
            "roles": list(granted["roles"]) or ["member"],
            "zone": granted["zone"] or "default",
            "tier": granted["tier"] or "device",
            "labels": dict(granted["labels"]),
            "uses": uses,
            "used": 0,
            "created": self._clock.now(),
            "created_by": ID,
            "expires": iso(self._clock.wall_s() + (ttl_s or 86_400)),
            "admitted": [],
        }
        self._all.insert(0, invite)
        return {**invite, "token": "mesh1-" + "a" * 40}

    async def list(self) -> Rows:
        return self._all

    async def revoke(self, invite: str, *, remove_admitted: bool) -> Json:
        found = [row for row in self._all if row["id"].endswith(invite)]
        if not found:
            raise NotFound(f"no invite {invite}", "`meshctl invite ls` lists them")
        if len(found) > 1:
            raise UsageError(f"{invite} is the end of {len(found)} invites", "give more of the id")
        found[0]["state"] = "revoked"
        return found[0]


class MemoryCerts:
    """Certificates of the members."""

    def __init__(self, clock: Clock, members: MemoryMembers) -> None:
        self._clock = clock
        self._members = members

    async def show(self, node: str) -> Json:
        member = await self._members.show(node)
        return {
            **{key: member[key] for key in ("id", "name", "roles", "zone", "tier", "labels")},
            "not_before": self._clock.now(),
            "expires": member["certificate_expires"],
            "admitted_by": None,
            "countersigned_by": None,
            "valid": True,
            "reason": "",
        }

    async def revoke(self, node: str, *, reason: str) -> Json:
        return await self._members.forget(node)
