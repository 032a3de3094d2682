"""The feature `services`: what is offered in the mesh, shown, watched, registered and reported on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from mesh.agent.changes import Kind, Moved
from mesh.agent.checks import Checks
from mesh.agent.offers import Offers
from mesh.agent.registry import Registry
from mesh.agent.words import iso, nearest, rounded
from mesh.core.health import Gauge, Health, overall, why
from mesh.core.lookup import Lookup, parse_lookup
from mesh.core.registry import Endpoint, Instance, Service, id_ok
from mesh.errors import NotFound, UsageError

Json = dict[str, Any]
Rows = list[Json]
FAR = float("inf")


class Services:
    """See `mesh.admin.features.Services`.

    Args:
        who: (id, name) of a member.
        aid_of: of a member's id. NotFound.
        rtt_ms: to a member, None when nothing is known of the way.
    """

    def __init__(
        self,
        registry: Registry,
        offers: Offers,
        checks: Checks,
        who: Callable[[bytes], tuple[str, str]],
        aid_of: Callable[[str], bytes],
        rtt_ms: Callable[[bytes], float | None],
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._offers = offers
        self._checks = checks
        self._who = who
        self._aid_of = aid_of
        self._rtt_ms = rtt_ms
        self._now_ms = now_ms

    # -- looking ------------------------------------------------------------------------------------------

    def _lookup(
        self, name: str, owner: str, tags: str, labels: str, tier: str, version: str, everything: bool
    ) -> Lookup:
        aid = self._aid_of(owner) if owner else b""
        return parse_lookup(
            name=name,
            owner=aid,
            tags=tags,
            labels=labels,
            tier=tier,
            version=version,
            everything=everything,
        )

    async def list(
        self,
        *,
        name: str,
        owner: str,
        tags: str,
        labels: str,
        tier: str,
        version: str,
        everything: bool,
        near: bool,
    ) -> Rows:
        """`shapes.Service` of each that matches, by name, or the nearest first."""
        lookup = self._lookup(name, owner, tags, labels, tier, version, everything)
        rows: Rows = []
        for number, each in enumerate(self._registry.everything(name, expired=everything)):
            if lookup.takes(each):
                rows.append(self._row(each))
            if number % 256 == 255:
                await trio.lowlevel.checkpoint()
        if near:
            rows.sort(key=lambda row: FAR if row["rtt_ms"] is None else row["rtt_ms"])
        else:
            rows.sort(key=lambda row: (row["name"], row["owner_name"], row["version"], row["id"]))
        return rows

    async def show(self, service: str) -> Json:
        """`shapes.ServiceDetail` of an id, or of a name that has one instance, or one of ours. NotFound."""
        instance = self._find(service)
        gauges = self._checks.gauges(instance.service.id)
        return {**self._row(instance), "results": [self._result(gauge) for gauge in gauges]}

    def _find(self, word: str) -> Instance:
        if id_ok(word):
            found = self._registry.service(word)
            if found is not None:
                return found
        named = self._registry.instances(word)
        own = [each for each in named if self._offers.get(each.service.id) is not None]
        if len(own) == 1:
            return own[0]
        if len(named) > 1:
            ids = ", ".join(f"{each.service.id} ({self._who(each.service.owner)[1]})" for each in named[:8])
            raise UsageError(f"{len(named)} services are named {word}", f"name one by its id: {ids}")
        if not named:
            raise NotFound(
                f"no service {word:.80}",
                nearest(word, self._registry.names(), "`meshctl service ls --all` lists them"),
            )
        return named[0]

    def _row(self, instance: Instance) -> Json:
        service = instance.service
        owner, owner_name = self._who(service.owner)
        offer = self._offers.get(service.id)
        return {
            "id": service.id,
            "name": service.name,
            "version": service.version,
            "state": self._state(instance),
            "health": instance.health.word,
            "why": instance.why,
            "changed": iso(instance.changed_ms) if instance.changed_ms else None,
            "owner": owner,
            "owner_name": owner_name,
            "zone": service.zone,
            "protocol": service.protocol,
            "endpoints": [_url(each) for each in service.endpoints],
            "type": service.type,
            "tags": list(service.tags),
            "meta": dict(service.meta),
            "ttl_s": service.ttl_s,
            "weight": service.weight,
            "checks": list(service.checks),
            "capabilities": list(service.capabilities),
            "tier": instance.tier,
            "labels": dict(instance.labels),
            "load": rounded(instance.load),
            "rtt_ms": rounded(self._rtt_ms(service.owner)),
            "draining": instance.draining,
            "summary": instance.summary,
            "source": offer.where if offer is not None else None,
        }

    def _state(self, instance: Instance) -> str:
        if instance.alive:
            return "live"
        return "expired" if self._registry.expired(instance.service) else "lost"

    def _result(self, gauge: Gauge) -> Json:
        check, last = gauge.check, gauge.last
        age_s = None if gauge.last_at is None else trio.current_time() - gauge.last_at
        asks = {
            "http": f"{check.scheme}://{_authority(check.host, check.port)}{check.path}",
            "command": " ".join(check.argv),
            "ttl": "",
        }
        return {
            "kind": check.kind,
            "target": asks.get(check.kind, _authority(check.host, check.port)),
            "health": gauge.health.word,
            "output": last.output if last is not None else "",
            "took_ms": rounded(last.took_s * 1000) if last is not None else None,
            "age_s": rounded(age_s, 1),
            "interval_s": check.interval_s,
            "passes": gauge.passes,
            "failures": gauge.failures,
        }

    # -- watching -----------------------------------------------------------------------------------------

    async def watch(
        self,
        *,
        name: str,
        owner: str,
        tags: str,
        labels: str,
        tier: str,
        version: str,
        cursor: str | None,
        heartbeats: bool,
    ) -> AsyncIterator[Json]:
        """`shapes.ServiceChange`: those there as "present", one "ready", then what happens.

        A cursor: what happened since; "rescan" and everything anew when that is no longer known.
        """
        lookup = self._lookup(name, owner, tags, labels, tier, version, True)
        changes = self._registry.changes
        place = None if cursor is None else changes.parse(cursor)
        if cursor is not None and (place is None or changes.since(place) is None):
            yield self._line("rescan", None, changes.place)
            place = None
        beats = self._registry.beats() if heartbeats else None
        try:
            while True:
                found = None if place is None else changes.since(place)
                if found is None:
                    place = changes.place
                    for each in self._registry.everything(name):
                        if lookup.takes(each):
                            yield self._line("present", each, place)
                    yield self._line("ready", None, place)
                    continue
                for moved in found:
                    place = moved.number
                    instance = self._now(moved)
                    if lookup.takes(instance):
                        yield self._line(moved.kind, instance, place, moved)
                for aid in beats.take() if beats is not None else ():
                    for each in self._registry.offered_by(aid):
                        if lookup.takes(each):
                            yield self._line("heartbeat", each, place or 0)
                assert place is not None
                await changes.news(place, beats)
        finally:
            if beats is not None:
                beats.close()

    def _now(self, moved: Moved) -> Instance:
        """The instance that a change is about, as it is now, or as it was if it is gone."""
        found = self._registry.service(moved.service.id) if moved.kind != Kind.DEREGISTERED else None
        return found or Instance(moved.service, Health.UNKNOWN, alive=False)

    def _line(self, change: str, instance: Instance | None, place: int, moved: Moved | None = None) -> Json:
        at_ms = moved.at_ms if moved is not None else self._now_ms()
        return {
            "change": str(change),
            "time": iso(at_ms),
            "cursor": self._registry.changes.cursor(place),
            "service": self._row(instance) if instance is not None else None,
        }

    # -- our own ------------------------------------------------------------------------------------------

    async def register(self, spec: Json, *, replace: bool) -> Json:
        """`shapes.Service`. UsageError naming the field, Conflict saying whose it is, Denied."""
        return self._shown(await self._offers.register(spec, replace=replace))

    async def deregister(self, service: str) -> Json:
        """`shapes.Service` as it was. NotFound; Denied: another node's; Conflict: it is from a file."""
        id_ = self._own_id(service)
        instance = self._registry.service(id_)
        row = self._row(instance) if instance is not None else None
        gone = await self._offers.deregister(id_)
        return row or self._shown(gone)

    async def report(self, service: str, status: str, output: str) -> Json:
        """`shapes.Service`. A program says how it is: pass, warn or fail."""
        reported = self._offers.report(self._own_id(service), status, output)
        gauges = self._checks.gauges(reported.id)  # what is told to all, this node among them, comes later
        return {**self._shown(reported), "health": overall(gauges).word, "why": why(gauges)}

    def _own_id(self, word: str) -> str:
        """The id that a word means among our own: itself, or that of the only one of this name."""
        ids = self._offers.ids_of(word)
        if len(ids) > 1:
            raise UsageError(f"this node offers {len(ids)} versions of {word}", f"one of {', '.join(ids)}")
        if ids:
            return ids[0]
        return word if id_ok(word) else self._find(word).service.id

    def _shown(self, service: Service) -> Json:
        found = self._registry.service(service.id)
        return self._row(found or Instance(service, Health.UNKNOWN, alive=True))


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _url(endpoint: Endpoint) -> str:
    return f"{endpoint.protocol}://{_authority(endpoint.host, endpoint.port)}"
