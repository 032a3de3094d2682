"""What this node itself offers: registering, changing and withdrawing its services, and keeping them.

A service comes from one of three places, and only there can it be changed or taken back:

    file       services.d/*.toml; the file is its memory (`agent/servicefiles.py`)
    api        a local program, or `meshctl service register`; kept in the store beside its record
    workload   what runs here registers itself (`agent/workloads.py`); kept by nobody

A restarted agent takes up what api had registered, and finds the others again when their files are read and
their workloads adopted. Records of its own that nobody has claimed ORPHAN_S after the start are deleted.

Command checks run programs on this device, so only its owner's files may define them: neither a local
program that may use the admin socket nor anything replicated can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import trio

from mesh.agent.author import Statement
from mesh.agent.checks import Checks
from mesh.agent.insist import insist
from mesh.agent.node import Node
from mesh.core.checks import COMMAND, TTL
from mesh.core.health import Result, shown
from mesh.core.log import Log
from mesh.core.record import ZONE, Kind, Op
from mesh.core.registry import PREFIX, Service, Spec, parse, path_of, value_of
from mesh.errors import Conflict, Denied, NotFound, PeerError, UsageError
from mesh.store.store import Txn
from mesh.wire import codec

API, FILE, WORKLOAD = "api", "file", "workload"
META = "service/"
ORPHAN_S = 15.0
REPORTS = {"pass": Result.PASS, "warn": Result.WARN, "fail": Result.FAIL}


class Offer(msgspec.Struct, frozen=True):
    """One service of ours.

    Attributes:
        origin: api, file or workload; `source` is the file's path or the workload's name.
    """

    spec: Spec
    service: Service
    origin: str
    source: str = ""

    @property
    def where(self) -> str:
        """Where it comes from, for people."""
        return f"{self.origin} {self.source}".strip()


class Offers:
    """See the module.

    Args:
        permit: refuses a service that this node may not offer.
        name_of: name of a member.
        owner_of: the owner of any service known, or None.
    """

    def __init__(
        self,
        node: Node,
        checks: Checks,
        permit: Callable[[Service], None],
        name_of: Callable[[bytes], str],
        owner_of: Callable[[str], bytes | None],
        services_max: int,
    ) -> None:
        self._node = node
        self._checks = checks
        self._permit = permit
        self._name_of = name_of
        self._owner_of = owner_of
        self._max = services_max
        self._offers: dict[str, Offer] = {}
        self._lock = trio.Lock()

    def get(self, id_: str) -> Offer | None:
        """One of ours."""
        return self._offers.get(id_)

    def ids_of(self, word: str) -> list[str]:
        """Our services of this id or name, by id."""
        return sorted(id_ for id_, each in self._offers.items() if word in (id_, each.service.name))

    def of(self, origin: str, source: str = "") -> list[Offer]:
        """Those from one place; without a source all of that origin."""
        found = (each for each in self._offers.values() if each.origin == origin)
        return [each for each in found if not source or each.source == source]

    async def register(
        self, raw: Mapping[str, Any] | Spec, *, origin: str = API, source: str = "", replace: bool = False
    ) -> Service:
        """Offer a service; saying the same again changes nothing.

        Raises:
            UsageError: the spec is wrong.
            Conflict: this node offers it already, differently (and `replace` is not set) or from elsewhere.
            Denied: this node may not, or the spec has a command check and is from no file.
        """
        spec = raw if isinstance(raw, Spec) else parse(dict(raw))
        if origin != FILE and any(check.kind == COMMAND for check in spec.checks):
            raise Denied(
                f"service {spec.name}: command checks are taken from this device's own files only",
                "put the service into a file of the services directory (`meshctl config` shows it)",
            )
        service = spec.service(self._node.key.public, self._node.zone)
        async with self._lock:
            offer = Offer(spec, service, origin, source)
            held = self._offers.get(service.id)
            if held is not None:
                if held == offer:
                    return service
                self._refuse_duplicate(held, offer, replace)
            elif len(self._offers) >= self._max:
                raise Conflict(
                    f"this node offers {len(self._offers)} services, as many as it may",
                    "deregister some, or raise services.per_node_max",
                )
            self._permit(service)
            if held is None or (held.spec.checks, held.spec.ttl_s) != (spec.checks, spec.ttl_s):
                self._checks.offer(service.id, spec.checks, spec.ttl_s)
            await self._write(offer)
            self._offers[service.id] = offer
        return service

    def _refuse_duplicate(self, held: Offer, offer: Offer, replace: bool) -> None:
        service = held.service
        what = f"{service.name} {service.version} is registered already by {self._node.home.name}"
        if (held.origin, held.source) != (offer.origin, offer.source):
            raise Conflict(f"{what}, from {held.where}", "change it there, or give another name or version")
        if not replace:
            raise Conflict(
                f"{what}, as {service.id}", "use --replace to change it, or another name or version"
            )

    async def _write(self, offer: Offer) -> None:
        path, value = path_of(offer.service), value_of(offer.service)
        packed = codec.encode(msgspec.to_builtins(offer.spec))

        def note(txn: Txn) -> None:
            if offer.origin == API:
                txn.put_meta(META + offer.service.id, packed)

        def build(slots: Log) -> list[Statement]:
            mine = (rec for rec in slots.slots(path) if rec.aid == self._node.me)
            held = next((rec for rec in mine if rec.op == Op.PUT), None)
            return [] if held is not None and held.val == value else [Statement(path, Kind.ALL, value)]

        await self._node.author.say(ZONE, build, beside=note)

    async def deregister(self, id_: str, *, origin: str = API, source: str = "") -> Service:
        """Offer a service no more.

        Raises:
            NotFound: nobody offers it.
            Denied: another node does.
            Conflict: it comes from elsewhere on this node.
        """
        async with self._lock:
            offer = self._mine(id_)
            if (offer.origin, offer.source) != (origin, source):
                raise Conflict(
                    f"{offer.service.name} is registered from {offer.where}",
                    "take it away there" if offer.origin != FILE else "remove the file, or its entry",
                )
            await self._delete([id_])
            del self._offers[id_]
            self._checks.withdraw(id_)
        return offer.service

    def _mine(self, id_: str) -> Offer:
        offer = self._offers.get(id_)
        if offer is not None:
            return offer
        owner = self._owner_of(id_)
        if owner is not None and owner != self._node.me:
            raise Denied(
                f"service {id_} is {self._name_of(owner)}'s", "only its owner can change it: run it there"
            )
        raise NotFound(f"this node offers no service {id_:.64}", "`meshctl service ls` lists them")

    async def _delete(self, ids: list[str]) -> None:
        paths = [f"{PREFIX}{self._node.me.hex()}/{id_}" for id_ in ids]

        def build(slots: Log) -> list[Statement]:
            held = {rec.path for path in paths for rec in slots.slots(path) if rec.aid == self._node.me}
            return [Statement(path, Kind.ALL, None, Op.DEL) for path in paths if path in held]

        noted = [id_ for id_ in ids if self._node.store.meta(META + id_) is not None]

        def forget(txn: Txn) -> None:
            for id_ in noted:
                txn.put_meta(META + id_, None)

        await self._node.author.say(ZONE, build, raw=True, beside=forget)

    def report(self, id_: str, status: str, output: str = "") -> Service:
        """The program of a service says how it is.

        Raises:
            NotFound, Denied: it is not ours.
            UsageError: no such status, or the service has no check that reports.
        """
        offer = self._mine(id_)
        if status not in REPORTS:
            raise UsageError(f"status {status!r:.40} is unknown", f"one of {', '.join(REPORTS)}")
        if all(check.kind != TTL for check in offer.spec.checks):
            raise UsageError(
                f"{offer.service.name} has no check of kind ttl, so nothing is reported", 'kind = "ttl"'
            )
        self._checks.report(id_, REPORTS[status], shown(output) or f"reported {status}")
        return offer.service

    async def run(self) -> None:
        """Take up what was registered before the restart; later delete what nobody claimed."""
        for id_ in await self._noted():  # a store that was moved to another zone has the notes only
            packed = self._node.store.meta(META + id_)
            spec = _unpack(packed) if packed is not None else None
            if spec is not None:
                await insist(self._take_up, spec)
        await trio.sleep(ORPHAN_S)
        await insist(self._delete_orphans)

    async def _noted(self) -> list[str]:
        names = await self._node.store.write(lambda txn: list(txn.names(META)), early=True, spare=True)
        return [name.removeprefix(META) for name in names]

    async def _take_up(self, spec: Spec) -> None:
        try:
            await self.register(spec)
        except (Conflict, Denied) as error:
            self._node.alarm("service", self._node.me, error.message)

    async def _delete_orphans(self) -> None:
        async with self._lock:
            orphans = [id_ for id_ in self._own_ids() if id_ not in self._offers]
            if orphans:
                await self._delete(orphans)

    def _own_ids(self) -> list[str]:
        prefix = f"{PREFIX}{self._node.me.hex()}/"
        with self._node.store.read(ZONE) as slots:
            return [
                path.removeprefix(prefix)
                for path in slots.paths(prefix)
                if any(rec.aid == self._node.me and rec.op == Op.PUT for rec in slots.slots(path))
            ]


def _unpack(packed: bytes) -> Spec | None:
    try:
        return msgspec.convert(codec.decode(packed), Spec)
    except (PeerError, msgspec.ValidationError):
        return None
