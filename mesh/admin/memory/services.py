"""Services of the made-up mesh: what is registered here, and one of the node beta."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio

from mesh.admin.memory.clock import ID, Clock
from mesh.core import shards
from mesh.core.lookup import parse_lookup
from mesh.core.registry import Health, Instance, id_ok, parse
from mesh.errors import Conflict, Denied, NotFound, UsageError

Json = dict[str, Any]
BETA = "12D3KooWBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBbbb2"
KEYS = {ID: b"a" * 32, BETA: b"b" * 32}
NAMES = {ID: "alpha", BETA: "beta"}


class MemoryServices:
    """Registered and shown; nothing is checked, so everything is healthy until it reports otherwise."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._health: dict[str, Health] = {}
        self._held: dict[str, tuple[str, Instance]] = {}
        self._changes: list[tuple[str, str]] = []
        self._news = trio.Event()
        for owner, name, port in ((BETA, "orders", 8080), (ID, "seen", 9000)):
            self._put(owner, {"name": name, "port": port, "protocol": "http", "checks": [{"kind": "ttl"}]})

    def _put(self, owner: str, raw: Json) -> Instance:
        service = parse(raw).service(KEYS[owner], "default")
        labels = {"name": NAMES[owner], "zone": "default", "tier": "device"}
        instance = Instance(service, Health.HEALTHY, alive=True, labels=labels)
        self._held[service.id] = owner, instance
        return instance

    def _row(self, id_: str) -> Json:
        owner, instance = self._held[id_]
        service = instance.service
        plain = ("name", "version", "zone", "protocol", "type", "ttl_s", "weight")
        return {
            "id": service.id,
            **{name: getattr(service, name) for name in plain},
            "state": "live",
            "health": self._health.get(id_, instance.health).word,
            "why": "",
            "changed": None,
            "owner": owner,
            "owner_name": NAMES[owner],
            "endpoints": [f"{each.protocol}://{each.host}:{each.port}" for each in service.endpoints],
            "tags": list(service.tags),
            "meta": dict(service.meta),
            "checks": list(service.checks),
            "capabilities": list(service.capabilities),
            "tier": instance.tier,
            "labels": dict(instance.labels),
            "load": 0.1,
            "rtt_ms": 0.0 if owner == ID else 0.4,
            "draining": False,
            "summary": False,
            "source": "api" if owner == ID else None,
        }

    def _id(self, word: str) -> str:
        if id_ok(word) and word in self._held:
            return word
        ids = [id_ for id_, (_, each) in self._held.items() if each.service.name == word]
        if len(ids) > 1:
            raise UsageError(f"{len(ids)} services are named {word}", "name one by its id")
        if not ids:
            raise NotFound(f"no service {word:.80}", "`meshctl service ls --all` lists them")
        return ids[0]

    async def list(self, *, owner: str, everything: bool, near: bool, **asked: str) -> list[Json]:
        lookup = parse_lookup(owner=KEYS.get(owner, b"")[:16], everything=everything, **asked)
        rows = [self._row(id_) for id_, (_, each) in self._held.items() if lookup.takes(each)]
        return sorted(rows, key=lambda row: (row["rtt_ms"] if near else row["name"], row["id"]))

    async def show(self, service: str) -> Json:
        return {**self._row(self._id(service)), "results": []}

    async def watch(self, *, cursor: str | None, heartbeats: bool, **asked: str) -> AsyncIterator[Json]:
        place = len(self._changes)
        for row in await self.list(everything=True, near=False, **asked):
            yield self._line("present", row, place)
        yield self._line("ready", None, place)
        while True:
            news = self._news
            for change, id_ in self._changes[place:]:
                place += 1
                yield self._line(change, self._row(id_) if id_ in self._held else None, place)
            await news.wait()

    def _line(self, change: str, row: Json | None, place: int) -> Json:
        return {"change": change, "time": self._clock.now(), "cursor": f"m.{place}", "service": row}

    def _tell(self, change: str, id_: str) -> None:
        self._changes.append((change, id_))
        news, self._news = self._news, trio.Event()
        news.set()

    async def register(self, spec: Json, *, replace: bool) -> Json:
        service = parse(spec).service(KEYS[ID], "default")
        held = self._held.get(service.id)
        if held is not None and held[1].service != service and not replace:
            raise Conflict(f"{service.name} {service.version} is registered already by alpha", "--replace")
        self._put(ID, spec)
        self._tell("registered" if held is None else "updated", service.id)
        return self._row(service.id)

    def _own(self, service: str) -> str:
        id_ = self._id(service)
        if self._held[id_][0] != ID:
            raise Denied(f"service {service} is beta's", "only its owner can change it: run it there")
        return id_

    async def deregister(self, service: str) -> Json:
        id_ = self._own(service)
        row = self._row(id_)
        del self._held[id_]
        self._tell("deregistered", id_)
        return row

    async def report(self, service: str, status: str, output: str) -> Json:
        id_ = self._own(service)
        states = {"pass": Health.HEALTHY, "warn": Health.DEGRADED, "fail": Health.UNHEALTHY}
        self._health[id_] = states[status]
        self._tell("health", id_)
        return self._row(id_)


class MemoryShards:
    """Keys over alpha and beta."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def lookup(self, key: str, *, replicas: int, selector: str) -> Json:
        shard = shards.shard_of(key.encode())
        return {"key": key, "shard": shard, "nodes": self._nodes(shard, replicas)}

    def _nodes(self, shard: int, replicas: int) -> list[Json]:
        ids = {key[:16]: id_ for id_, key in KEYS.items()}
        found = shards.owners(shard, [shards.Owner(aid) for aid in ids], replicas)
        return [{"id": ids[aid], "name": NAMES[ids[aid]], "zone": "default"} for aid in found]

    async def watch(self, *, replicas: int, selector: str) -> AsyncIterator[Json]:
        now = self._clock.now()
        for shard in range(shards.SHARDS):
            after = self._nodes(shard, replicas)
            yield {"change": "present", "time": now, "shard": shard, "before": [], "after": after}
        yield {"change": "ready", "time": now, "shard": None, "before": [], "after": []}
        await trio.sleep_forever()
